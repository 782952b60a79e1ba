"""The paper's Tables 1 and 2, and runs beside them.

J. Peck, J. Roels, B. Goossens, Y. Saeys, Lower bounds on the robustness to adversarial perturbations, NIPS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report import about
from pertbound.report.grid import Grid
from pertbound.report.rounding import nearest
from pertbound.report.tables import Summary, checks, normalised, summary

_HEADER = ("mean", "median", "std", "min", "max")
_DATA_SETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar-10": "CIFAR-10"}


@final
@dataclass(frozen=True)
class PaperRow:
    """One line of the paper's tables: norms in pixel units (0 to 255) divided by the dimension."""

    mean: float
    median: float
    std: float
    min: float
    max: float


@final
@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, the guarantees that belong beside it, and its rows by data set."""

    caption: str
    guarantees: tuple[str, ...]
    rows: Mapping[str, PaperRow]


PAPER_TABLES: Mapping[int, PaperTable] = MappingProxyType(
    {
        1: PaperTable(
            "Normalized summary of norms of adversarial perturbations found by FGS on MNIST and CIFAR-10 test sets",
            (WITNESS,),
            MappingProxyType(
                {
                    "MNIST": PaperRow(0.933448, 0.884287, 0.4655439, 0.000023, 3.306903),
                    "CIFAR-10": PaperRow(0.0218984, 0.0091399, 0.06103627, 0.0000012, 1.6975207),
                }
            ),
        ),
        2: PaperTable(
            "Normalized summary of theoretical bounds on MNIST and CIFAR-10 test sets",
            (CERTIFIED, ESTIMATE),
            MappingProxyType(
                {
                    "MNIST": PaperRow(7.274e-8, 6.547e-8, 4.229566e-8, 4.073e-10, 2.932e-7),
                    "CIFAR-10": PaperRow(4.812e-13, 4.445e-13, 2.605381e-13, 7.563e-15, 2.098e-12),
                }
            ),
        ),
    }
)
"""Tables 1 and 2 as printed, by number. The text says how they were normalised: divided by 28 x 28 and 3 x 32 x 32."""


def data_set(run: Run) -> str | None:
    """The paper's name of the run's data set; None for any that the paper does not use, and for other norms.

    >>> import pyarrow as pa
    >>> data_set(Run(pa.table({}), {"data": {"name": "mnist test"}}))
    'MNIST'
    """
    words = about.text(run, "data", "name").lower().split() if about.norm(run) == "L2" else []
    return _DATA_SETS.get(words[0]) if words else None


def paper_grid(runs: Sequence[Run], number: int) -> Grid | None:
    """The paper's Table 1 or 2 with the runs' own statistics below each of its rows; None where none belong.

    A run belongs when it is about MNIST or CIFAR-10 and its `run.json` gives the pixel scale and input shape.
    """
    table = PAPER_TABLES[number]
    lines: list[tuple[str, ...]] = []
    for name, row in table.rows.items():
        ours = [line for run in runs if data_set(run) == name for line in _ours(run, name, table)]
        if ours:
            lines += [(name, "the paper", "test set", *_numbers(row)), *ours]
    header = ("data", "source", "samples", *_HEADER)
    caption = f"Beside the paper's Table {number}: {table.caption}"
    return Grid(caption, header, tuple(lines), text_columns=2) if lines else None


def summary_grid(run: Run) -> Grid:
    """The statistics of every method, in the units of the classifier's input."""
    rows = tuple(
        (
            s.method,
            s.guarantee,
            str(s.samples),
            str(s.found),
            str(s.none_found),
            str(s.infinite),
            str(s.zero),
            *_numbers(s),
            nearest(s.seconds),
        )
        for s in summary(run)
    )
    counts = ("samples", "found", "none found", "infinite", "zero")
    header = ("method", "guarantee", *counts, *_HEADER, "s / sample")
    return Grid(f"{about.title(run)}: {about.norm(run)} in units of the input", header, rows, text_columns=2)


def normalised_grid(run: Run) -> Grid | None:
    """The statistics of every method in `about.normalised_unit`, as in the paper's tables; None where it is unknown."""
    unit = about.normalised_unit(run)
    if about.pixel_scale(run) is None or not about.shape(run):
        return None
    rows = tuple((s.method, s.guarantee, *_numbers(normalised(s, 1, unit.factor))) for s in summary(run))
    return Grid(f"{about.title(run)}: {unit.name}", ("method", "guarantee", *_HEADER), rows, text_columns=2)


def check_grid(run: Run) -> Grid:
    """How often each lower bound lies above the distance to the sample's nearest witness."""
    rows = tuple((c.method, c.guarantee, str(c.exceeded), str(c.compared)) for c in checks(run))
    caption = "Violations: bounds above the distance to the sample's own witness"
    return Grid(caption, ("method", "guarantee", "violations", "of"), rows, text_columns=2)


def _ours(run: Run, name: str, table: PaperTable) -> list[tuple[str, ...]]:
    scale, sizes = about.pixel_scale(run), about.shape(run)
    if scale is None or not sizes:
        return []
    return [
        (name, f"{s.method} ({s.guarantee})", _counted(s), *_numbers(normalised(s, math.prod(sizes), scale)))
        for s in summary(run)
        if s.guarantee in table.guarantees
    ]


def _counted(of: Summary) -> str:
    return str(of.found) if of.found == of.samples else f"{of.found} of {of.samples}"


def _numbers(row: PaperRow | Summary) -> tuple[str, ...]:
    return tuple(nearest(v) for v in (row.mean, row.median, row.std, row.min, row.max))
