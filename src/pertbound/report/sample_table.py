"""The table of samples: rounded for the page, exact behind that, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from pertbound.records import Run
from pertbound.report.rounding import MISSING, down, nearest, up
from pertbound.samples import brackets


@final
@dataclass(frozen=True)
class Cell:
    """What is shown, and the exact value for sorting and download, empty where there is none."""

    shown: str
    exact: str


@final
@dataclass(frozen=True)
class Column:
    """One column for all samples: numbers, or words."""

    name: str
    number: bool
    cells: Sequence[Cell]


def sample_columns(run: Run) -> list[Column]:
    """Sample, label, prediction, lower and upper bound with who gave them, and their ratio, for every sample."""
    best = brackets(run)
    lower, upper, ratio = (values.tolist() for values in (best.lower, best.upper, best.ratio))
    return [
        Column("sample", True, [Cell(str(i), str(i)) for i in best.sample.tolist()]),
        Column("label", True, [_whole(value) for value in best.label]),
        Column("prediction", True, [_whole(value) for value in best.predicted]),
        Column("lower", True, [_real(value, down(value)) for value in lower]),
        Column("certified by", False, [Cell(name or MISSING, name) for name in best.lower_method]),
        Column("upper", True, [_real(value, up(value)) for value in upper]),
        Column("found by", False, [Cell(name or MISSING, name) for name in best.upper_method]),
        Column("ratio", True, [_real(value, nearest(value)) for value in ratio]),
    ]


def as_json(columns: Sequence[Column]) -> str:
    """The columns for the page's script, safe inside a `<script>` element; words are numbered, as few of them differ.

    A column is {name, shown} with `exact` where that says more, or {name, words, at}; numbers are separated by blanks.
    """
    found: list[dict[str, Any]] = []
    for column in columns:
        shown, exact = [cell.shown for cell in column.cells], [cell.exact for cell in column.cells]
        if column.number:
            more = {} if exact == shown else {"exact": " ".join(exact)}
            found.append({"name": column.name, "shown": " ".join(shown)} | more)
        else:
            words = list(dict.fromkeys(exact))
            place = {word: i for i, word in enumerate(words)}
            found.append({"name": column.name, "words": words, "at": [place[word] for word in exact]})
    return json.dumps(found, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def as_csv(columns: Sequence[Column]) -> str:
    """The exact values as CSV (RFC 4180): what the page's button downloads."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([column.name for column in columns])
    writer.writerows(zip(*([cell.exact for cell in column.cells] for column in columns), strict=True))
    return stream.getvalue()


def _whole(value: int | None) -> Cell:
    return Cell(MISSING, "") if value is None else Cell(str(value), str(value))


def _real(value: float, shown: str) -> Cell:
    return Cell(shown, "" if math.isnan(value) else repr(value))
