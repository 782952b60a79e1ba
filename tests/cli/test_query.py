"""Queries read a run's rows and nothing else, within limits, and their answers cannot steer a terminal."""

from __future__ import annotations

import csv
import io
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from pertbound.cli import answers, sql
from pertbound.cli.answers import as_csv_lines, as_json_lines, as_table
from pertbound.errors import InputError
from pertbound.records import CERTIFIED, table

pytest.importorskip("duckdb")
ROWS = table({"sample": [0, 1], "method": ["a\x1b[31m", "b"], "guarantee": [CERTIFIED] * 2, "l2": [0.5, 2.0]})


def ask(text: str, seconds: float = 30.0) -> tuple[list[str], list[tuple[Any, ...]]]:
    with sql.asked(ROWS, text, seconds) as (names, lines):
        return names, list(lines)


def test_rows_are_asked() -> None:
    assert ask("SELECT sum(l2) AS s, count(*) AS n FROM rows;") == (["s", "n"], [(2.5, 2)])
    assert len(ask("DESCRIBE rows")[1]) == len(ROWS.column_names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is nothing"), (" ;; ", "this is nothing"), ("-- only a remark", "this is nothing"),
        ("SELECT 1; SELECT 2", "this is SELECT, SELECT"), ("SELECT 1; DROP TABLE rows", "this is SELECT, DROP"),
        ("CREATE TABLE t AS FROM rows", "CREATE"), ("DELETE FROM rows", "DELETE"), ("PRAGMA version", "PRAGMA"),
        ("SET threads = 4", "SET"), ("ATTACH 'there.db'", "ATTACH"), ("COPY rows TO 'there.csv'", "COPY"),
        ("EXPORT DATABASE 'there'", "EXPORT"), ("INSTALL httpfs", "LOAD"), ("LOAD httpfs", "LOAD"),
        ("SELECT * FROM query('COPY rows TO there')", "SELECT"),
        ("SELECT * FROM read_csv('there.csv')", "disabled by configuration"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM glob('*')", "disabled by configuration"),
        ("SELECT * FROM 'there.parquet'", "disabled by configuration|does not exist"),
        ("SELECT * FROM ROWS_", "does not exist"),
        ("SELECT nothing FROM rows", "its columns are sample, label"), ("SELEC", "its columns are sample, label"),
        ("SELECT 'a\0b'", "NUL"), ("SELECT '\udcff'", "not text in UTF-8"), ("SELECT '" + "x" * 10**5 + "'", "100,009"),
        ("SELECT " + "(" * 9000 + "1" + ")" * 9000, "depth"),
        ("SELECT error('a' || chr(27) || '[31m')", r"a\\x1b\[31m"),
    ],
)  # fmt: skip
def test_odd_queries_get_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=said) as caught:
        ask(text)
    assert len(str(caught.value).splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_query_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would take years; one whose lines would never end; and one that is read too slowly."""
    for text in (
        "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
        "SELECT * FROM range(1000000000000)",
    ):
        with pytest.raises(InputError, match=r"took more than 0.2 seconds; ask for less, or give more with --timeout"):
            ask(text, 0.2)
    monkeypatch.setattr(sql.threading, "Timer", _Never)
    with pytest.raises(InputError, match="took more than"):
        ask("SELECT * FROM range(5000)", 1e-9)


class _Never(sql.threading.Timer):
    """A timer that does not come."""

    def start(self) -> None:
        pass


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say how much memory there is")
def test_a_query_takes_little_memory() -> None:
    """DuckDB's own limit, and what it does not count: a cell of four billion characters."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    for text in ("SELECT repeat('x', 4000000000)", "SELECT repeat('x', 2000000000) FROM range(9)"):
        with pytest.raises(InputError, match="needs more than 1 GiB of memory"):
            ask(text)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_answers_of_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    names, lines = ["a\x1b[2J", "b"], [("[red]x[/red]\x9b31m\u202e", float("nan")), (None, [1.5, {"k": b"\x00"}])]
    from rich.console import Console

    shown = Console(file=io.StringIO(), width=200)
    found, left_out = as_table(names, iter(lines))
    shown.print(found)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert left_out == ""
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert r"a\x1b[2J" in text
    assert r"[red]x[/red]\x9b31m\u202e" in text
    read = json.loads("\n".join(as_json_lines(names, iter(lines))), parse_constant=pytest.fail)
    assert read == [{names[0]: lines[0][0], "b": None}, {names[0]: None, "b": [1.5, {"k": "b'\\x00'"}]}]
    assert json.loads("\n".join(as_json_lines(names, iter([])))) == []
    rows = list(csv.reader(io.StringIO("\n".join(as_csv_lines([names], iter(lines))))))
    assert rows[0] == names
    assert rows[1] == [lines[0][0], "nan"]
    with pytest.raises(InputError, match="two columns are called l2"):
        list(as_json_lines(["l2", "l2"], iter([])))
    with pytest.raises(InputError, match="51 columns"):
        as_table(["x"] * 51, iter([]))
    monkeypatch.setattr(answers, "SHOWN", (3, 50, 5))
    found, left_out = as_table(["n"], iter([("123456789",)] * 5))
    assert found.row_count == 3
    assert left_out.startswith("The first 3 lines")
    assert next(iter(found.columns[0].cells)).plain == "12345..."  # type: ignore[union-attr]


def test_the_timer_and_the_limit_reach_the_command(cli: Any, tmp_path: Path) -> None:
    from contracts.folders import begun

    run = tmp_path / "run"
    begun(run)
    endless = "SELECT * FROM range(1000000000000)"
    assert cli("query", run, endless, "--format", "csv", "--timeout", 0.1).code == 2
    assert cli("query", run, "FROM rows", "--timeout", 0).code == 2
    assert json.loads(cli("query", run, "SELECT count(*) AS n FROM rows", "--format", "json").out) == [{"n": 9}]
