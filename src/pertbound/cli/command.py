"""A command of ours: what is given on the command line is looked at, once for all options, before anything is done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, final

from typer.core import TyperCommand

from pertbound.cli.screen import plain
from pertbound.errors import InputError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_NAMES = ("data",)
"""Parameters that may be names of files, though they are text."""


@final
class Command(TyperCommand):
    """Refuses names that no file can have, or that cannot be written into a run's record.

    These are text with a zero byte, text that is not UTF-8, and paths that are too long, that go in circles, or that
    lead through folders that cannot be read. Messages about options show what was given without obeying it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, then the look at the values."""
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            if hasattr(error, "message"):
                cast("Any", error).message = plain(str(cast("Any", error).message))
            raise
        for parameter in self.params:
            name = str(parameter.name)
            for value in _texts(ctx.params.get(name)):
                _require_name(value, max([*parameter.opts, name], key=len), name in _NAMES)
        return rest


def _texts(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, list | tuple):
        for part in cast("list[Any]", value):
            yield from _texts(part)


def _require_name(value: str | Path, option: str, named: bool) -> None:
    text = str(value)
    if "\0" in text:
        raise InputError(f"{option} has a zero byte in {_shown(text)}; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{option} {_shown(text)} is no UTF-8 text; rename the file, or give another name") from error
    if isinstance(value, Path) or named:
        try:
            Path(value).lstat()
        except OSError as error:
            if error.errno not in _ABSENT:
                raise InputError(f"{option} {_shown(text)} cannot be looked at: {error.strerror}") from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}")
