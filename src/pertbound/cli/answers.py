"""What a query found, as a table, as CSV, or as JSON; each written while the lines are computed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pertbound.cli.screen import plain
from pertbound.errors import InputError

SHOWN = (1000, 50, 200)
"""Lines, columns, and characters of a cell that a table shows, at most."""


def as_table(names: Sequence[str], lines: Iterator[tuple[Any, ...]]) -> tuple[Table, str]:
    """A table for a terminal, and what it leaves out, "" for nothing. Raises `InputError` for too many columns."""
    most, columns, _ = SHOWN
    if len(names) > columns:
        raise InputError(f"the answer has {len(names):,} columns; a table shows {columns}: use --format csv or json")
    table = Table()
    for name in names:
        table.add_column(Text(_cell(name)))
    for line in itertools.islice(lines, most):
        table.add_row(*(Text(_cell(value)) for value in line))
    more = next(lines, None) is not None
    return table, f"The first {most:,} lines; --format csv or json prints all." if more else ""


def as_csv_lines(names: Sequence[Sequence[str]], lines: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    """The lines of CSV, the names first."""
    for line in itertools.chain(names, lines):
        stream = io.StringIO()
        csv.writer(stream, lineterminator="").writerow(line)
        yield stream.getvalue()


def as_json_lines(names: Sequence[str], lines: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    """A list of objects, in parts. NaN and infinity become null, what JSON does not know text.

    Raises `InputError` where two columns have one name.
    """
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InputError(f"two columns are called {plain(twice)}; give one another name, with AS")
    before = "["
    for line in lines:
        yield before
        text = json.dumps(dict(zip(names, map(_plain, line), strict=True)), indent=2, allow_nan=False)
        before = "  " + text.replace("\n", "\n  ") + ","
    yield before.rstrip(",") + ("" if before != "[" else "]")
    if before != "[":
        yield "]"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return {str(name): _plain(one) for name, one in value.items()} if isinstance(value, dict) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    most = SHOWN[2]
    return plain(text[:most]).replace("\n", "\\n") + ("..." if len(text) > most else "")
