"""The page's table of samples: one line per sample, with exact values behind the rounded ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from pertbound.records import Run
from pertbound.report.rounding import MISSING, down, nearest, up
from pertbound.report.samples import brackets


@final
@dataclass(frozen=True)
class Cell:
    """A cell of the per-sample table: what is shown, and the exact value for sorting and download."""

    shown: str
    exact: str
    number: bool = True


def sample_table(run: Run) -> list[list[Cell]]:
    """A line of cells per sample: sample, label, prediction, lower, by, upper, by, ratio."""
    best = brackets(run)
    ratio = best.ratio
    return [
        [
            _whole(int(best.sample[i])),
            _whole(best.label[i]),
            _whole(best.predicted[i]),
            _real(float(best.lower[i]), down(float(best.lower[i]))),
            Cell(best.lower_method[i] or MISSING, best.lower_method[i], number=False),
            _real(float(best.upper[i]), up(float(best.upper[i]))),
            Cell(best.upper_method[i] or MISSING, best.upper_method[i], number=False),
            _real(float(ratio[i]), nearest(float(ratio[i]))),
        ]
        for i in range(len(best))
    ]


def _whole(value: int | None) -> Cell:
    return Cell(MISSING, "") if value is None else Cell(str(value), str(value))


def _real(value: float, shown: str) -> Cell:
    return Cell(shown, "" if math.isnan(value) else repr(value))
