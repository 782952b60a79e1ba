"""From runs to the models of a comparison: one bracket for each model and each sample that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import numpy as np
from numpy.typing import NDArray

from pertbound.comparison.comparable import (
    NO_CLASS,
    Named,
    classes,
    common_labels,
    entry,
    listed,
    require_alike,
    require_bounds,
    require_consistent,
    spread,
    unit,
)
from pertbound.errors import ContradictionError, RunError, contradicts
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS
from pertbound.samples import Brackets, aligned, brackets, methods

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False)
class Rung:
    """One method's bounds for the samples of the comparison, and its seconds per sample (NaN where not known)."""

    seconds: float
    bounds: Floats


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A model's brackets on the common samples; `answers.Model` says what missing bounds become."""

    name: str
    places: tuple[str, ...]
    lower: Floats
    upper: Floats
    correct: Flags
    certificates: tuple[Rung, ...]
    attacks: tuple[Rung, ...]

    @property
    def seconds(self) -> float:
        """What all its methods together take for a sample; NaN where some time is not known."""
        return sum(rung.seconds for rung in (*self.certificates, *self.attacks))


@final
@dataclass(frozen=True, eq=False)
class Subjects:
    """The models in the order of their runs, and what all of them were asked about."""

    models: tuple[Subject, ...]
    samples: Integers
    norm: str
    domain: str
    pixel_scale: float | None
    against_labels: bool
    notes: tuple[str, ...]


def subjects(runs: Sequence[Named], against_labels: bool | None, same_data: bool) -> Subjects:
    """The models of the runs; runs of one model, that is of the same weights, are put together.

    Labels count where `against_labels`, or where it is None and every common sample has one in every run. `same_data`
    is the caller's word that samples of one position are the same. Raises `RunError` for what `comparable` refuses.
    """
    for named in runs:
        require_bounds(named)
    parts = [(named, brackets(named.run)) for named in runs]
    for named, best in parts:
        require_consistent(named, best)
    groups = _models(parts)
    samples = reduce(np.intersect1d, (np.concatenate([best.sample for _, best in group]) for group in groups))
    if len(samples) == 0:
        raise RunError(f"{listed(runs)} have no sample in common")
    require_alike(runs, samples, same_data)
    labels = common_labels(parts, samples)
    unlabelled = int((labels == NO_CLASS).sum())
    if against_labels and unlabelled:
        raise RunError(
            f"{unlabelled} of the {len(samples)} samples have no label to measure against; compare predictions instead "
            "(--predictions, against_labels=False)"
        )
    if against_labels is None:
        against_labels = unlabelled == 0
    meaning = unit(runs[0].run)
    return Subjects(
        models=tuple(_subject(group, samples, labels if against_labels else None) for group in groups),
        samples=samples,
        norm=meaning["norm"],
        domain=meaning["domain"],
        pixel_scale=meaning["pixel_scale"],
        against_labels=against_labels,
        notes=(*_notes(parts, samples), *_meant(against_labels, unlabelled == 0)),
    )


Parts = Sequence[tuple[Named, Brackets]]


def _models(parts: Parts) -> list[Parts]:
    """The runs of each model."""
    places = [named.place for named, _ in parts]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise RunError(f"given more than once: {', '.join(twice)}")
    groups: dict[str, list[tuple[Named, Brackets]]] = {}
    for named, best in parts:
        groups.setdefault(str(entry(named.run, "model", "sha256") or named.place), []).append((named, best))
    if len(groups) < 2:
        raise RunError(
            f"a comparison needs two models, and {listed([named for named, _ in parts])} tell about one (their weights "
            "are the same). To look at several runs of one model: pertbound report"
        )
    return list(groups.values())


def _subject(parts: Parts, samples: Integers, labels: Integers | None) -> Subject:
    """One model's runs together: the largest certificate and the nearest witness of each sample."""
    fits = [_Fit(named, best, samples, labels) for named, best in parts]
    correct = np.logical_and.reduce([fit.right for fit in fits])
    lower = np.maximum.reduce([fit.lower(best.lower) for fit, (_, best) in zip(fits, parts, strict=True)])
    upper = np.minimum.reduce([fit.upper(best.upper) for fit, (_, best) in zip(fits, parts, strict=True)])
    lower, upper = np.where(correct, lower, 0.0), np.where(correct, upper, 0.0)
    if (wrong := contradicts(lower, upper)).any():
        i = int(wrong.argmax())
        raise ContradictionError(
            _who(parts, samples[i], lower[i], "lower"), _who(parts, samples[i], upper[i], "upper"),
            int(samples[i]), float(lower[i]), float(upper[i]),
        )  # fmt: skip
    return Subject(
        name=parts[0][0].name,
        places=tuple(named.place for named, _ in parts),
        lower=np.minimum(lower, upper),
        upper=upper,
        correct=correct,
        certificates=tuple(rung for fit in fits for rung in fit.rungs(CERTIFIED)),
        attacks=tuple(rung for fit in fits for rung in fit.rungs(WITNESS)),
    )


def _who(parts: Parts, sample: np.int64, value: np.float64, end: str) -> str:
    """The method, and the run's place, that has this end of the sample's bracket."""
    for named, best in parts:
        for i in np.flatnonzero((best.sample == sample) & (getattr(best, end) == value)):
            return f"{getattr(best, f'{end}_method')[i]} in {named.place}"
    return f"a misclassified sample in {listed([named for named, _ in parts])}"


@final
class _Fit:
    """A run's values on the samples of the comparison; misclassified samples get radius 0."""

    def __init__(self, named: Named, best: Brackets, samples: Integers, labels: Integers | None) -> None:
        self.run, self.own, self.samples = named.run, best.sample, samples
        here = np.isin(samples, best.sample)
        reference = spread(classes(best.reference), self.own, samples, NO_CLASS)
        predicted = spread(classes(best.predicted), self.own, samples, NO_CLASS)
        predicted = np.where(predicted == NO_CLASS, reference, predicted)
        if labels is None and (asked := here & (reference != predicted)).any():
            raise RunError(
                f"{named.place} was measured against labels, and tells nothing about the predictions of the "
                f"{int(asked.sum())} samples that its model misclassifies: compare against labels"
            )
        self.right: Flags = ~here | (labels is None) | ((reference == labels) & (predicted == labels))

    def lower(self, values: Floats) -> Floats:
        """Certified radii, 0 where there is none."""
        known = spread(values, self.own, self.samples, np.nan)
        return np.where(self.right, np.fmax(known, 0.0), 0.0)

    def upper(self, values: Floats) -> Floats:
        """Distances to witnesses, infinite where there is none."""
        known = spread(values, self.own, self.samples, np.nan)
        return np.where(self.right, np.fmin(known, np.inf), 0.0)

    def rungs(self, kind: str) -> list[Rung]:
        """The run's certificates or attacks, one by one."""
        found: list[Rung] = []
        for method in methods(self.run):
            if method.guarantee == kind:
                values = aligned(self.own, method, smallest=kind == WITNESS)
                seconds = method.seconds[~np.isnan(method.seconds)]
                mean = float(seconds.mean()) if len(seconds) else np.nan
                found.append(Rung(mean, self.lower(values) if kind == CERTIFIED else self.upper(values)))
        return found


def _notes(parts: Parts, samples: Integers) -> list[str]:
    """What a reader must know about the runs."""
    found: list[str] = []
    for named, best in parts:
        if left := len(best) - int(np.isin(best.sample, samples).sum()):
            found.append(
                f"{named.place}: {left} of its {len(best)} samples are left out, for not all models have them."
            )
        if named.run.about.get("complete") is False:
            found.append(f"{named.place}: the run was interrupted.")
        if estimates := [method.name for method in methods(named.run) if method.guarantee == ESTIMATE]:
            found.append(f"{named.place}: estimates take no part ({', '.join(estimates)}).")
    return found


def _meant(against_labels: bool, labelled: bool) -> list[str]:
    if against_labels:
        return []
    text = "Against predictions: a sample counts with the radius at which its prediction changes, be it right or wrong."
    return [text + (" Labels are known: --labels counts a misclassified sample as radius 0." if labelled else "")]
