"""Where everything that a person reads goes through: no name can move the cursor, colour the text, or look like more.

Names of files, classes, tensors, nodes, devices and answers to queries come from strangers. `Screen` shows them as they
are, but for characters that a terminal obeys, which it shows as escapes: "\\x1b[2J" instead of a cleared screen. Markup
and emoji codes are off; what is to be coloured is a `rich.text.Text` with a style.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the line feed, marks that turn the direction of text, and halves of characters, which stand
for bytes of names that are no text."""
_WIDE = 150
"""Columns where there is no terminal: enough for every table."""


def plain(text: str) -> str:
    """The same text with escapes in place of what a terminal obeys; one line stays one line.

    >>> plain("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _OBEYED.sub(lambda found: _escaped(found.group()), text)


def copyable(words: Iterable[object]) -> str:
    """A command to be copied into a shell: each word quoted where it must be, and nothing in it that a terminal obeys.

    >>> copyable(["pertbound", "report", "my run", "$(reboot)"])
    "pertbound report 'my run' '$(reboot)'"
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if not _OBEYED.search(word) and "\n" not in word:
        return shlex.quote(word)
    inside = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "$'" + _OBEYED.sub(lambda found: _bytes(found.group()), inside) + "'"  # as bash and zsh read it


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _bytes(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


@final
class Screen(Console):
    """A console that prints text as it is, and obeys nothing in it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is printed comes through here: tables, bars and lines."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)

    def say(self, *texts: str, style: str = "") -> None:
        """One line, whatever the texts hold; a line that is too long is left to the terminal."""
        self.print(Text(plain("".join(texts)).replace("\n", "\\n"), style=style), soft_wrap=True)


def console(*, quiet: bool = False, stderr: bool = False) -> Screen:
    """The only maker of consoles: as wide as the terminal, or wide enough for every table when there is none."""
    options: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "quiet": quiet, "stderr": stderr}
    standard = Screen(**options)
    return standard if standard.is_terminal or stderr else Screen(**options, width=_WIDE)


def cell(value: str, style: str = "") -> Text:
    """A cell of a table, as wide as it will be shown."""
    return Text(plain(value), style=style)


def emit(text: str) -> None:
    """Data for other programs on standard output: as they are, but shown as on a `Screen` where that is a terminal."""
    typer.echo(plain(text) if sys.stdout.isatty() else text, nl=False)


def header(names: Sequence[str]) -> list[str]:
    """The names of a table's columns."""
    return [plain(name) for name in names]
