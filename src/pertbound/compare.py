"""Which of several models is more robust, when every radius is only known to lie in a bracket.

For sample i and model m the smallest adversarial perturbation has a size D_m(i) in [L_m(i), U_m(i)]: certified from
below, witnessed from above. Two things stand between the brackets and an answer, and they are kept apart.

**What the brackets leave open** (partial identification: Manski 2003). The mean of D_A - D_B lies in

    [ mean(L_A - U_B), mean(U_A - L_B) ],

and every value in it is possible. More samples do not help; narrower brackets do. Where no witness is known U is
infinite, so means are of min(D, R), the radius counted up to a cap R, which leaves no bracket wider than R. Certified
accuracy at r is the share of samples with L >= r that are classified correctly, attack accuracy that with U >= r, and
robust accuracy, the share that no perturbation smaller than r takes from its class, lies between them.

**What chance did in drawing the samples.** They are taken as independent draws from the population that is asked about.
Both ends of the interval are means, whose one-sided limits come from a paired bootstrap (`comparison.intervals`): one
resample for all models and ends, so that what makes a sample hard for all models cancels. The limits hold for the whole
interval (Horowitz and Manski 2000), and not just for each value in it (Imbens and Manski 2004, Stoye 2009): that would
take at most a sixth off what is added for chance, and needs another critical value for each width of the interval. A
model is called more robust where the limit of its end excludes zero. With p pairs and q questions (the mean, and each
radius) each limit may fail with probability (1 - confidence) / (2 p q), so that all verdicts of a comparison hold
together with about `confidence` (Bonferroni). Ranks follow from them (Mogstad, Romano, Shaikh and Wilhelm 2024). A
bootstrap is approximate, and cannot see what none of the samples shows.

Curves carry the band of Dvoretzky, Kiefer and Wolfowitz, a model's accuracy at one radius the limits of Clopper and
Pearson: both hold for any number of samples. Estimates never enter.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from pertbound.comparison import Comparison, Interval, Model, MoreSamples, Pair, Tighten, Verdict
from pertbound.comparison.intervals import (
    bootstrap,
    clopper_pearson_lower,
    clopper_pearson_upper,
    dkw,
    enough_resamples,
)
from pertbound.comparison.telling import Side, more_samples, rate, tighten
from pertbound.errors import InputError

if TYPE_CHECKING:
    from pertbound.comparison.comparable import Named
    from pertbound.comparison.subjects import Rung, Subject
    from pertbound.records import Run

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FEW = 30
_ROUGH = (
    "Fewer than 30 samples: what chance can have done is rough, and inputs unlike all of these are not allowed for."
)
_ROUNDING = 1e-12
"""Averages closer to zero than this, in parts of the largest value, may be zero but for the rounding of float64."""


def compare(
    runs: Sequence[Run | str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    radii: Sequence[float] = (),
    cap: float | None = None,
    against_labels: bool | None = None,
    same_data: bool = False,
    confidence: float = 0.95,
    resamples: int | None = None,
    generator: np.random.Generator | None = None,
) -> Comparison:
    """Compare the models of several runs by mean radius, and by robust accuracy at each of `radii`.

    `runs` are run folders, or runs in memory; those of one model (the same weights) are put together. `names` are what
    to call their models, the folders' names otherwise. `cap` is the radius up to which a sample counts in means, in
    units of the input: the largest finite bound of the common samples otherwise. Misclassified samples have radius 0
    where `against_labels`, which is so unless labels are missing; otherwise all samples count with the class they are
    given. `same_data` vouches for runs whose data have different hashes (another `--limit`). `generator` draws the
    resamples, one of seed 0 otherwise.

    Raises `RunError` for runs that cannot be compared, and says what differs; `InputError` for other arguments.
    """
    from pertbound.comparison.subjects import subjects  # reads tables: what only this needs is loaded here

    asked = _radii(radii)
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence must be at least 0.5 and below 1, got {confidence}")
    if cap is not None and not 0 < cap < math.inf:
        raise InputError(f"cap must be a positive, finite radius, got {cap}")
    found = subjects(_named(runs, names), against_labels, same_data)
    models = found.models
    up_to = _largest(models) if cap is None else float(cap)
    questions = [_Question(None, up_to), *(_Question(radius, 1.0) for radius in asked)]
    pairs = [(q, a, b) for q in questions for a, b in combinations(models, 2)]
    own, shared = (1 - confidence) / 2, (1 - confidence) / 2 / len(pairs)
    resamples = enough_resamples(shared) if resamples is None else resamples
    if resamples * shared < 1:
        raise InputError(
            f"{resamples} resamples are too few for {len(pairs)} questions: {math.ceil(1 / shared)} are needed"
        )
    brackets = [questions[0].brackets(model) for model in models]
    ends = [end for bracket in brackets for end in bracket]
    ends += [end for question, a, b in pairs for end in question.ends(a, b)]
    alone = 2 * len(models)
    limits = bootstrap(
        np.stack(ends, axis=1),
        np.array([own] * alone + [shared] * 2 * len(pairs)),
        np.array([0.0] * alone + [-q.largest for q, _, _ in pairs for _ in range(2)]),
        np.array([up_to] * alone + [q.largest for q, _, _ in pairs for _ in range(2)]),
        resamples,
        generator or np.random.default_rng(0),
    )
    between = [
        Interval(float(ends[i].mean()), float(ends[i + 1].mean()), float(limits[0][i]), float(limits[1][i + 1]))
        for i in range(0, len(ends), 2)
    ]
    return Comparison(
        models=tuple(
            _model(model, between[i], [q for q in questions if q.radius is not None], own)
            for i, model in enumerate(models)
        ),
        pairs=tuple(
            _pair(question, a, b, interval, found.samples, shared)
            for (question, a, b), interval in zip(pairs, between[len(models) :], strict=True)
        ),
        samples=found.samples,
        norm=found.norm,
        domain=found.domain,
        pixel_scale=found.pixel_scale,
        radii=asked,
        cap=up_to,
        cap_given=cap is not None,
        against_labels=found.against_labels,
        confidence=confidence,
        resamples=resamples,
        band=dkw(len(found.samples), confidence),
        notes=(*found.notes, *_notes(asked, _largest(models), len(found.samples))),
    )


@final
@dataclass(frozen=True)
class _Question:
    """The mean of min(D, largest), or, at a radius, of whether D >= radius."""

    radius: float | None
    largest: float

    def value(self, bounds: Floats, correct: Flags) -> Floats:
        """What is averaged, (samples,), were these bounds the radii."""
        if self.radius is None:
            return np.minimum(bounds, self.largest)
        return (correct & (bounds >= self.radius)).astype(np.float64)

    def brackets(self, model: Subject) -> tuple[Floats, Floats]:
        """What is averaged, from below and from above."""
        return self.value(model.lower, model.correct), self.value(model.upper, model.correct)

    def ends(self, first: Subject, second: Subject) -> tuple[Floats, Floats]:
        """The first's less the second's, from below and from above."""
        (below, above), (below_other, above_other) = self.brackets(first), self.brackets(second)
        return below - above_other, above - below_other

    def rate(self, model: Subject, rungs: Sequence[Rung], sign: int) -> float | None:
        """How fast the mean rose (sign 1) or fell (-1) from method to method, per second and sample."""
        means = [float(self.value(rung.bounds, model.correct).mean()) for rung in rungs]
        return rate([(rung.seconds, sign * mean) for rung, mean in zip(rungs, means, strict=True)])


def _model(model: Subject, mean: Interval, questions: Sequence[_Question], tail: float) -> Model:
    count = len(model.correct)
    accuracies: list[Interval] = []
    for question in questions:
        certified, attacked = (int(value.sum()) for value in question.brackets(model))
        accuracies.append(
            Interval(
                certified / count,
                attacked / count,
                clopper_pearson_lower(certified, count, tail),
                clopper_pearson_upper(attacked, count, tail),
            )
        )
    return Model(model.name, model.places, model.lower, model.upper, model.correct, mean, tuple(accuracies))


def _pair(
    question: _Question, first: Subject, second: Subject, difference: Interval, samples: NDArray[np.int64], tail: float
) -> Pair:
    noise = _ROUNDING * question.largest
    cost: Tighten | MoreSamples | None = None
    if difference.lower_limit > noise:
        verdict = Verdict.FIRST
    elif difference.upper_limit < -noise:
        verdict = Verdict.SECOND
    elif difference.lower <= noise and difference.upper >= -noise and difference.upper - difference.lower > noise:
        verdict, cost = Verdict.OVERLAP, _narrower(question, first, second, difference, samples)
    else:
        verdict, cost = Verdict.FEW, _more(question, first, second, difference, tail)
    return Pair(
        first.name,
        second.name,
        question.radius,
        difference,
        verdict,
        float((first.lower > second.upper).mean()),
        float((second.lower > first.upper).mean()),
        cost,
    )


def _narrower(
    question: _Question, first: Subject, second: Subject, difference: Interval, samples: NDArray[np.int64]
) -> Tighten:
    """For the model that is nearer to being shown more robust."""
    by = -difference.lower_limit
    if difference.upper_limit < by:
        first, second, by = second, first, difference.upper_limit
    (below, above), (below_other, above_other) = question.brackets(first), question.brackets(second)
    sides = (
        Side(above - below, question.rate(first, first.certificates, 1)),
        Side(above_other - below_other, question.rate(second, second.attacks, -1)),
    )
    return tighten(first.name, by, sides, samples)


def _more(question: _Question, first: Subject, second: Subject, difference: Interval, tail: float) -> MoreSamples:
    noise, limit = _ROUNDING * question.largest, difference.lower_limit
    if difference.lower <= noise and difference.upper >= -noise:
        return MoreSamples(None, None, None)
    if difference.upper < -noise:
        first, second, limit = second, first, -difference.upper_limit
    seconds = first.seconds + second.seconds
    return more_samples(first.name, question.ends(first, second)[0], limit, tail, -question.largest, seconds)


def _largest(models: Sequence[Subject]) -> float:
    """The largest finite bound; 1 where all are 0."""
    bounds = np.concatenate([bounds for model in models for bounds in (model.lower, model.upper)])
    return float(bounds[np.isfinite(bounds)].max(initial=0.0)) or 1.0


def _notes(radii: Sequence[float], largest: float, samples: int) -> list[str]:
    far = [f"{radius:g}" for radius in radii if radius > largest]
    beyond = f"Beyond every finite bound of these runs, the largest of which is {largest:.3g}: {', '.join(far)}."
    return ([beyond] if far else []) + ([_ROUGH] if samples < _FEW else [])


def _radii(radii: Sequence[float]) -> tuple[float, ...]:
    if wrong := [radius for radius in radii if not 0 <= radius < math.inf]:
        raise InputError(f"radii must be finite and not negative, got {wrong[0]}")
    return tuple(sorted({float(radius) for radius in radii}))


def _named(runs: Sequence[Run | str | os.PathLike[str]], names: Sequence[str] | None) -> list[Named]:
    """The runs, read where they are folders, under names that differ."""
    from pertbound.comparison.comparable import Named, entry
    from pertbound.records import Run
    from pertbound.store import read

    if isinstance(runs, (str, os.PathLike, Run)) or len(runs) < 2:
        raise InputError("a comparison needs two runs at least")
    if names is not None and len(names) != len(runs):
        raise InputError(f"{len(runs)} runs need {len(runs)} names, got {len(names)}")
    places: list[str] = []
    read_runs: list[Run] = []
    for i, one in enumerate(runs, 1):
        run = one if isinstance(one, Run) else read(Path(one))
        model = str(entry(run, "model", "name") or "a model")
        places.append(f"run {i} ({model})" if isinstance(one, Run) else str(Path(one)))
        read_runs.append(run)
    if names is None:
        short = [
            place if isinstance(one, Run) else Path(one).resolve().name for one, place in zip(runs, places, strict=True)
        ]
        names = short if len(set(short)) == len(short) else places
    elif len(set(names)) < len(names):
        raise InputError(f"the names of the runs must differ, got {', '.join(names)}")
    return [Named(name, place, run) for name, place, run in zip(names, places, read_runs, strict=True)]
