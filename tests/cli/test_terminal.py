"""What a terminal would obey is shown, not obeyed: in names, titles, answers, errors, bars and commands to copy."""

from __future__ import annotations

import ast
import io
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

import pertbound.cli
from pertbound.cli import screen
from pertbound.cli.screen import Screen, cell, copyable, plain

NASTY = "\x1b]0;owned\x07\x1b[2J[/red][bold]:smile:\u202egnp.exe\x9b31m\r"
"""Sets the title, clears the screen, closes a style, draws a face, turns the direction of text, and begins anew."""
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J[/red][bold]:smile:\\u202egnp.exe\\x9b31m\\x0d"


def printed(show: Callable[[Screen], object], *, terminal: bool = True) -> str:
    stream = io.StringIO()
    show(Screen(file=stream, force_terminal=terminal, width=400, markup=False, emoji=False, highlight=False))
    return stream.getvalue()


def obeyed(text: str) -> set[str]:
    """The characters that a terminal obeys, but for line feeds and the colours that rich itself writes."""
    import re

    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return {letter for letter in text if letter != "\n" and plain(letter) != letter}


def a_table(to: Screen) -> None:
    table = Table(title=cell(NASTY))
    table.add_column(plain(NASTY))
    table.add_column("raw " + NASTY)
    table.add_row(cell(NASTY, "green"), NASTY)
    to.print(table)


WAYS: dict[str, Callable[[Screen], object]] = {
    "say": lambda to: to.say(NASTY, style="red"),
    "print": lambda to: to.print(NASTY),
    "table": a_table,
    "log": lambda to: to.print("error:", NASTY, style="red"),
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_printed_is_obeyed(way: str, terminal: bool) -> None:
    text = printed(WAYS[way], terminal=terminal)
    assert obeyed(text) == set()
    assert "[/red][bold]:smile:" in text


def test_a_screen_without_the_look_at_each_segment_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "plain", lambda text: text)
    assert obeyed(printed(WAYS["print"]))


def test_one_line_stays_one_line() -> None:
    assert printed(lambda to: to.say("a\nThis run can be trusted."), terminal=False) == "a\\nThis run can be trusted.\n"


def test_the_makers_of_consoles_know_of_nothing_to_obey() -> None:
    for made in (screen.console(), screen.console(stderr=True), screen.console(quiet=True)):
        assert made.render_str("[red]:smile:[/red] 1.5 'a'").spans == []
        assert made.render_str("[red]:smile:[/red]").plain == "[red]:smile:[/red]"


def test_bars_describe_stages_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from pertbound.cli import show

    made: list[TextColumn] = []
    inner = show.TextColumn

    def column(*arguments: object, **options: object) -> TextColumn:
        made.append(inner(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(show, "TextColumn", column)
    with show.progress() as tell:
        tell(NASTY, 1, 2)
    assert made
    for one in made:
        text = printed(lambda to, one=one: _bar(to, one))
        assert "[/red][bold]:smile:" in text or "left" in text
        assert not {"\x07", "\x9b", "\u202e"} & set(text)


def _bar(to: Screen, column: TextColumn) -> None:
    with Progress(column, console=to) as bars:
        bars.add_task(NASTY, total=2, completed=1)


@pytest.mark.parametrize(
    "words", [["a b"], ["$(reboot)", ";", "`x`"], ["it's"], [""], ["-"], ["*"], ["a\\b"], ["!"], ["\u00e9"], ["a\nb"]]
)
def test_commands_are_read_by_a_shell_as_they_were_given(words: list[str]) -> None:
    if "\n" not in words[0]:
        assert shlex.split(copyable(words)) == words
    text = f"printf '%s\\0' {copyable(words)}"
    assert (
        subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout
        == "".join(f"{word}\0" for word in words).encode()
    )


def test_commands_with_control_characters_too() -> None:
    word = "a'\\\x1b[31m\u202e\t\udcff"
    text = copyable([word])
    assert obeyed(text) == set()
    found = subprocess.run(["bash", "-c", f"printf '%s' {text}"], capture_output=True, check=True).stdout
    assert found == word.encode("utf-8", "surrogateescape")


def test_no_console_is_made_elsewhere() -> None:
    """`Console(` and `print(` of the library are in screen.py alone; markup is never switched on."""
    folder = Path(pertbound.cli.__file__).parents[1]
    for path in folder.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            plain_print = isinstance(call.func, ast.Name) and name == "print"
            assert path.name == "screen.py" or (name not in ("Console", "from_markup") and not plain_print), path
            switched = [
                k for k in call.keywords if k.arg in ("markup", "emoji") and getattr(k.value, "value", 0) is True
            ]
            assert not switched, path


def test_a_run_with_nasty_names(cli, files: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Through the commands themselves: the data's name stands in the title, the model's in errors."""
    name = NASTY.replace("/", "|").replace("\r", "")
    path = tmp_path / f"{name}.npz"
    path.write_bytes((files / "plain.npz").read_bytes())
    out = tmp_path / "my run"
    asked = ("attack", "--model", files / "digits.safetensors", "--architecture", "digits", "--data", path)
    done = cli(*asked, "--limit", 2, "--attack", "fgs", "--out", out)
    assert done.code == 0, done.err
    assert obeyed(done.out) == set()
    assert f"Look at it with: pertbound report '{out}'" in done.out
    done = cli(*asked[:-1], tmp_path / f"{name}.npy", "--out", out)
    assert done.code == 2
    assert obeyed(done.err) == set()
    done = cli("certify", f"--{NASTY}", "x")
    assert done.code == 2
    assert obeyed(done.err) == set()


def test_answers_to_queries_are_shown_and_not_obeyed(cli, files: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("duckdb")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1, 8, 8), np.float32))
    model = ("--model", files / "digits.safetensors", "--architecture", "digits")
    assert cli("attack", *model, "--data", tmp_path / "x.npz", "--attack", "fgs", "--out", tmp_path / "run").code == 0
    sql = f"SELECT '{NASTY}' AS \"{NASTY}\" FROM rows"
    done = cli("query", tmp_path / "run", sql)
    assert done.code == 0, done.err
    assert obeyed(done.out) == set()
    assert done.out.count("[/red]") == 2
