"""Whether runs may be compared. What would make a comparison mean something else is refused with `RunError`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, TypeVar, cast, final

import numpy as np
from numpy.typing import NDArray

from pertbound.errors import RunError
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.samples import Brackets, methods

Integers = NDArray[np.int64]
Kind = TypeVar("Kind", np.float64, np.int64)

NO_CLASS = -1
"""In place of a class or label that is not known."""


@final
@dataclass(frozen=True, eq=False)
class Named:
    """A run, where it was read from, and what to call its model."""

    name: str
    place: str
    run: Run


def require_bounds(named: Named) -> None:
    """Refuse a run without certificates and attacks."""
    kinds = {method.guarantee for method in methods(named.run)}
    if not kinds & {CERTIFIED, WITNESS}:
        what = "estimates only, and these take no part" if ESTIMATE in kinds else "no rows"
        raise RunError(f"{named.place} holds {what}; compare runs of pertbound certify, attack or bracket")


def require_consistent(named: Named, best: Brackets) -> None:
    """One sample, one label, one prediction, one class to leave, whatever the method."""
    columns = [named.run.rows.column(name).to_pylist() for name in ("sample", "label", "reference", "predicted")]
    about = sorted(row[0] for row in set(zip(*columns, strict=True)))
    if twice := [one for one, following in pairwise(about) if one == following]:
        raise RunError(
            f"{named.place} contradicts itself: its rows about sample {twice[0]} differ in the label, the prediction "
            "or the class that a perturbation must leave"
        )
    if unknown := best.reference.count(None):
        raise RunError(f"{named.place}: {unknown} samples do not say which class a perturbation must leave")


def require_alike(runs: Sequence[Named], samples: Integers, same_data: bool) -> None:
    """Refuse runs about another norm, box, data set or unit; `samples` are those to be compared.

    Data are the same where their hashes are, where `same_data` says so, or where both runs kept the inputs of all
    `samples` with their witnesses and these are equal. Kept inputs that differ are refused in any case.
    """
    for one, other in combinations(runs, 2):
        both = f"{one.place} and {other.place}"
        mine, theirs = (entry(named.run, "data", "name") for named in (one, other))
        if mine and theirs and mine != theirs and not same_data:
            raise RunError(
                f"{both} were measured on different data, {mine} and {theirs}. Where these are two names of the same, "
                "say so: --same-data (same_data=True)"
            )
        for key, what in _ASKED.items():
            mine, theirs = unit(one.run)[key], unit(other.run)[key]
            if mine is not None and theirs is not None and mine != theirs:
                raise RunError(
                    f"{both} cannot be compared: the {what} is {mine} in the first and {theirs} in the second; measure "
                    "one of them again as the other was"
                )
        alike = _kept_alike(one, other, samples)
        mine, theirs = (entry(named.run, "data", "sha256") for named in (one, other))
        if mine and theirs and mine != theirs and not (same_data or alike):
            raise RunError(
                f"{both} were measured on different data: its sha256 is {str(mine)[:12]}... in the first and "
                f"{str(theirs)[:12]}... in the second. Where this is only another --limit of the same data, say so: "
                "--same-data (same_data=True)"
            )


def common_labels(runs: Sequence[tuple[Named, Brackets]], samples: Integers) -> Integers:
    """The labels of `samples`, `NO_CLASS` where some run that has the sample lacks it. Refuses labels that disagree."""
    labels = np.full(len(samples), NO_CLASS)
    missing = np.zeros(len(samples), dtype=bool)
    for named, best in runs:
        mine = spread(classes(best.label), best.sample, samples, NO_CLASS)
        missing |= np.isin(samples, best.sample) & (mine == NO_CLASS)
        if (other := (mine != NO_CLASS) & (labels != NO_CLASS) & (mine != labels)).any():
            raise RunError(
                f"{named.place} labels {int(other.sum())} samples otherwise than {runs[0][0].place}, the first of them "
                f"sample {int(samples[other][0])}: this is other data"
            )
        labels = np.where(mine == NO_CLASS, labels, mine)
    return np.where(missing, NO_CLASS, labels)


_ASKED = {
    "norm": "norm",
    "domain": "set of perturbed inputs that count (box)",
    "pixel_scale": "unit of the input (pixel_scale)",
    "input_shape": "shape of the input",
}


def unit(run: Run) -> dict[str, Any]:
    """What distances of the run mean: norm, domain (in the words of `problem.Guarantee`), pixel_scale, input_shape."""
    said = re.match(r"\S+ over (.+?), for ", str(run.about.get("guarantee", "")))
    return {
        "norm": str(run.about.get("norm", "L2")),
        "domain": said.group(1) if said else "all of R^d",
        "pixel_scale": entry(run, "data", "pixel_scale"),
        "input_shape": entry(run, "data", "input_shape"),
    }


def entry(run: Run, *keys: str) -> Any:
    """The value under nested keys of run.json, or None."""
    value: Any = run.about
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, Any]", value).get(key)
    return value


def classes(column: Sequence[int | None]) -> Integers:
    """Classes or labels as numbers, `NO_CLASS` for None."""
    return np.array([NO_CLASS if value is None else value for value in column], dtype=np.int64)


def spread(values: NDArray[Kind], of: Integers, onto: Integers, nothing: Kind | float) -> NDArray[Kind]:
    """The values `of` some samples (ascending) in the order of the samples `onto`; `nothing` for those without one."""
    at = np.searchsorted(of, onto).clip(max=len(of) - 1)
    return np.where(of[at] == onto, values[at], nothing).astype(values.dtype)


def listed(runs: Sequence[Named]) -> str:
    """Where the runs were read from, for messages."""
    return " and ".join(named.place for named in runs)


def _kept_alike(one: Named, other: Named, samples: Integers) -> bool:
    """Whether both runs kept the inputs of all `samples` with their witnesses, equal ones; raises where some differ."""
    inputs: list[dict[int, Any]] = []
    for named in (one, other):
        stored = named.run.witnesses
        if "sample" not in stored or "original" not in stored or len(stored["sample"]) != len(stored["original"]):
            return False
        inputs.append(dict(zip(stored["sample"].tolist(), stored["original"], strict=True)))
    both = [sample for sample in samples.tolist() if sample in inputs[0] and sample in inputs[1]]
    for sample in both:
        if not np.array_equal(inputs[0][sample], inputs[1][sample]):
            raise RunError(
                f"{one.place} and {other.place} were measured on different data: their sample {sample} differs"
            )
    return len(both) == len(samples)
