"""Rows regrouped: all answers of one method, and the best answers for one sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pertbound.errors import ContradictionError, RunError, contradicts
from pertbound.records import CERTIFIED, ESTIMATE, NONE, WITNESS, Run

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ORDER = (CERTIFIED, ESTIMATE, WITNESS)
"""The kinds of methods in the order in which reports list them."""


@final
@dataclass(frozen=True, eq=False)
class Method:
    """All answers of one method: `size`, in the norm of the run, is NaN where it gave none, and may be infinite."""

    name: str
    guarantee: str
    sample: Integers
    size: Floats
    seconds: Floats
    notes: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Brackets:
    """The best certificate below and the best witness above, for each sample in ascending order.

    `lower` is NaN where nothing was certified. `upper` is infinite where every attack failed and NaN where
    none was tried. Estimates take no part.
    """

    sample: Integers
    label: tuple[int | None, ...]
    reference: tuple[int | None, ...]
    predicted: tuple[int | None, ...]
    lower: Floats
    lower_method: tuple[str, ...]
    upper: Floats
    upper_method: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def ratio(self) -> Floats:
        """Upper / lower: NaN where one of them is missing, or both are 0."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.upper / self.lower


def methods(run: Run) -> list[Method]:
    """The methods of a run: certificates, then estimates, then attacks, each in the order of the rows.

    Raises `RunError` for rows without a sample and for guarantees that are none of the four in `records`.
    """
    name, guarantee = _texts(run.rows, "method"), _texts(run.rows, "guarantee")
    nothing = guarantee == NONE
    guarantee = np.where(nothing, WITNESS, guarantee)
    column = str(run.about.get("norm", "L2")).lower()
    if column not in ("l1", "l2", "linf"):
        raise RunError(f"the run is about the norm {column!r}; known are L1, L2 and Linf")
    size = np.where(nothing, np.nan, _floats(run.rows, column))
    sample, seconds, note = _samples(run.rows), _floats(run.rows, "seconds"), _texts(run.rows, "note")
    if unknown := set(guarantee.tolist()) - set(ORDER):
        raise RunError(f"unknown guarantees {sorted(unknown)} in the rows; known are {[*ORDER, NONE]}")
    found: list[Method] = []
    pairs = dict.fromkeys(zip(guarantee.tolist(), name.tolist(), strict=True))
    for kind, title in sorted(pairs, key=lambda pair: ORDER.index(pair[0])):
        mine = (guarantee == kind) & (name == title)
        notes = tuple(text for text in dict.fromkeys(note[mine].tolist()) if text)
        found.append(Method(title, kind, sample[mine], size[mine], seconds[mine], notes))
    return found


def brackets(run: Run) -> Brackets:
    """One line per sample: the largest certified radius and the nearest witness, and who gave them."""
    samples, first = np.unique(_samples(run.rows), return_index=True)
    lower, upper = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    lower_method, upper_method = np.full(len(samples), "", object), np.full(len(samples), "", object)
    for method in methods(run):
        if method.guarantee == CERTIFIED:
            values = aligned(samples, method, smallest=False)
            wins = ~np.isnan(values) & ~(values <= lower)
            lower[wins], lower_method[wins] = values[wins], method.name
        elif method.guarantee == WITNESS:
            tried = replace(method, size=np.where(np.isnan(method.size), np.inf, method.size))
            values = aligned(samples, tried, smallest=True)
            wins = ~np.isnan(values) & ~(values >= upper)
            upper[wins], upper_method[wins] = values[wins], method.name
    upper_method[~np.isfinite(upper)] = ""
    columns = {
        name: tuple(run.rows.column(name).take(pa.array(first)).to_pylist())
        for name in ("label", "reference", "predicted")
    }
    return Brackets(
        sample=samples,
        lower=lower,
        lower_method=tuple(lower_method.tolist()),
        upper=upper,
        upper_method=tuple(upper_method.tolist()),
        **columns,
    )


def contradictions(run: Run) -> list[ContradictionError]:
    """For each sample whose largest certified radius lies above its nearest witness, the two methods, as an error."""
    best = brackets(run)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(contradicts(best.lower, best.upper))
    return [
        ContradictionError(
            best.lower_method[i], best.upper_method[i], int(best.sample[i]), float(best.lower[i]), float(best.upper[i])
        )
        for i in wrong.tolist()
    ]


def aligned(samples: Integers, method: Method, *, smallest: bool) -> Floats:
    """The method's values in the order of `samples`, the smallest or largest of several; NaN where it has none."""
    values = np.full(len(samples), np.nan)
    merge = np.fmin if smallest else np.fmax
    merge.at(values, np.searchsorted(samples, method.sample), method.size)
    return values


def _texts(rows: pa.Table, name: str) -> NDArray[np.object_]:
    return np.array([text or "" for text in rows.column(name).to_pylist()], dtype=object)


def _floats(rows: pa.Table, name: str) -> Floats:
    return np.array(rows.column(name).to_numpy(), dtype=np.float64)


def _samples(rows: pa.Table) -> Integers:
    column = rows.column("sample")
    if column.null_count:
        raise RunError(f"{column.null_count} rows do not say which sample they are about")
    return np.array(column.to_numpy(), dtype=np.int64)
