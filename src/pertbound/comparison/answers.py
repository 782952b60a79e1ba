"""What a comparison of models answers. Plain values, numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from pertbound.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_CORNERS = 401
"""Radii at which `as_dict` gives the curves."""


class Verdict(str, Enum):
    """What can be said of two models."""

    FIRST = "first"
    """The first is more robust."""
    SECOND = "second"
    """The second is more robust."""
    OVERLAP = "brackets overlap"
    """Cannot tell, however many samples there were: either order fits what is known of each of them."""
    FEW = "too few samples"
    """Cannot tell: the brackets separate the models on these samples, but chance can have done that."""


@final
@dataclass(frozen=True)
class Interval:
    """Where an average over the population lies.

    `lower` and `upper` are what the brackets leave open on these samples; `lower_limit` and `upper_limit` add what
    chance can have done in drawing them.
    """

    lower: float
    upper: float
    lower_limit: float
    upper_limit: float


@final
@dataclass(frozen=True)
class Tighten:
    """Narrower brackets that would tell: the least that could do, in favour of the model that is nearest to it.

    `by` is how far that model's lower bounds have to rise, and the other's upper bounds to fall, in total and on
    average over the samples, sampling error included; `share` is this in parts of the width of both models' brackets.
    Above 1 even exact radii would not do without more samples. `samples` are the fewest samples that can bring it
    about, widest brackets first. `seconds` is the computing time, for all samples, at the rate of the dearest method
    that gained something in these runs; less than it will take, for the last bit is the dearest. None without two
    methods to go by.
    """

    towards: str
    by: float
    share: float
    samples: tuple[int, ...]
    seconds: float | None


@final
@dataclass(frozen=True)
class MoreSamples:
    """More samples that would tell with a probability of about 0.8, were the population like these samples.

    `count` is how many more than these, `seconds` what measuring them takes with the same methods. None where the
    samples show no difference at all, or the runs no times.
    """

    towards: str | None
    count: int | None
    seconds: float | None


@final
@dataclass(frozen=True)
class Pair:
    """Two models and one question: the mean radius (`radius` None), or the robust accuracy at `radius`.

    `difference` is the first's value less the second's; its limits hold for all pairs and questions of the comparison
    together. `first_ahead` is the share of samples on which the first's certificate reaches beyond the second's
    witness, `second_ahead` the reverse. `cost` is what it would cost to tell, None where that is told.
    """

    first: str
    second: str
    radius: float | None
    difference: Interval
    verdict: Verdict
    first_ahead: float
    second_ahead: float
    cost: Tighten | MoreSamples | None


@final
@dataclass(frozen=True)
class Place:
    """The ranks that a model can have, 1 the most robust, and the models that it is shown to be more robust than."""

    model: str
    best: int
    worst: int
    above: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Model:
    """One model's brackets on the samples of the comparison.

    `lower` and `upper` (samples,) are 0 for misclassified samples where labels count; `lower` is 0 where nothing was
    certified, `upper` infinite where no witness is known. `mean` is the mean radius with every sample counted up to the
    comparison's cap, `accuracies` the robust accuracy at each of its radii. Their limits hold each by itself.
    """

    name: str
    runs: tuple[str, ...]
    lower: Floats
    upper: Floats
    correct: Flags
    mean: Interval
    accuracies: tuple[Interval, ...]

    @property
    def accuracy(self) -> float:
        """The share of samples that are classified as labelled; 1 where predictions count."""
        return float(self.correct.mean())

    @property
    def without_witness(self) -> int:
        """How many samples no attack found a witness for."""
        return int(np.isinf(self.upper).sum())

    @property
    def uncertified(self) -> int:
        """How many correctly classified samples have no positive certified radius."""
        return int((self.correct & (self.lower == 0)).sum())

    def certified_accuracy(self, radii: Floats) -> Floats:
        """The share of samples that are correct and that no perturbation smaller than r takes from their class."""
        return _survivors(self.lower, self.correct, radii)

    def attack_accuracy(self, radii: Floats) -> Floats:
        """The share of samples that are correct and for which no perturbation smaller than r was found."""
        return _survivors(self.upper, self.correct, radii)


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Which of several models is more robust, as far as brackets and samples can tell. See `pertbound.compare`.

    `samples` are the positions of the samples that all models were measured on, `cap` the radius up to which a sample
    counts in mean radii (`cap_given` by the caller, or the largest finite bound). `band` is how far the certified
    accuracy curve of the population can lie below a model's, and the attack accuracy curve above it, anywhere.
    """

    models: tuple[Model, ...]
    pairs: tuple[Pair, ...]
    samples: Integers
    norm: str
    domain: str
    pixel_scale: float | None
    radii: tuple[float, ...]
    cap: float
    cap_given: bool
    against_labels: bool
    confidence: float
    resamples: int
    band: float
    notes: tuple[str, ...]

    def ranking(self, radius: float | None = None) -> tuple[Place, ...]:
        """The ranks that each model can have by mean radius, or by robust accuracy at one of `radii`; a partial order.

        All ranks hold together with the comparison's confidence (Mogstad, Romano, Shaikh and Wilhelm 2024). Raises
        `InputError` for a radius that was not asked about.
        """
        if radius is not None and radius not in self.radii:
            raise InputError(f"the comparison was not asked about the radius {radius}; it knows {list(self.radii)}")
        names = [model.name for model in self.models]
        above: dict[str, set[str]] = {name: set() for name in names}
        for pair in self.pairs:
            if pair.radius == radius and pair.verdict is Verdict.FIRST:
                above[pair.first].add(pair.second)
            elif pair.radius == radius and pair.verdict is Verdict.SECOND:
                above[pair.second].add(pair.first)
        for middle in names:  # what follows from two verdicts holds as well
            for name in names:
                if middle in above[name]:
                    above[name] |= above[middle]
        places = [
            Place(
                name,
                1 + sum(name in others for others in above.values()),
                len(names) - len(above[name]),
                tuple(sorted(above[name])),
            )
            for name in names
        ]
        return tuple(sorted(places, key=lambda place: (place.best, place.worst, place.model)))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; the curves at four hundred radii at most. No NaN, no infinity."""
        radii = self.corners()
        return {
            "norm": self.norm,
            "domain": self.domain,
            "pixel_scale": self.pixel_scale,
            "samples": self.samples.tolist(),
            "against": "labels" if self.against_labels else "predictions",
            "cap": self.cap,
            "cap_given": self.cap_given,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "radii": list(self.radii),
            "models": [_model(model) for model in self.models],
            "pairs": [_pair(pair) for pair in self.pairs],
            "ranking": [
                {"radius": radius, "places": [vars(place) | {"above": list(place.above)} for place in places]}
                for radius, places in ((r, self.ranking(r)) for r in (None, *self.radii))
            ],
            "curves": {
                "band": self.band,
                "radius": radii.tolist(),
                "certified": {model.name: model.certified_accuracy(radii).tolist() for model in self.models},
                "attack": {model.name: model.attack_accuracy(radii).tolist() for model in self.models},
            },
            "notes": list(self.notes),
        }

    def corners(self) -> Floats:
        """Radii, from 0 to beyond the last finite bound, between which no curve changes; quantiles of them if many."""
        known = np.concatenate([[0.0], *(bounds for model in self.models for bounds in (model.lower, model.upper))])
        known = np.unique(known[np.isfinite(known)])
        known = np.append(known, np.nextafter(known[-1], np.inf))
        if len(known) <= _CORNERS:
            return known
        return np.quantile(known, np.linspace(0, 1, _CORNERS), method="closest_observation")


def _survivors(bounds: Floats, correct: Flags, radii: Floats) -> Floats:
    ordered = np.sort(bounds[correct])
    return (len(ordered) - np.searchsorted(ordered, radii, side="left")) / len(bounds)


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "runs": list(model.runs),
        "accuracy": model.accuracy,
        "without_witness": model.without_witness,
        "uncertified": model.uncertified,
        "mean": vars(model.mean),
        "accuracies": [vars(interval) for interval in model.accuracies],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    cost = None
    if pair.cost is not None:
        kind = "narrower brackets" if isinstance(pair.cost, Tighten) else "more samples"
        cost = {"kind": kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in vars(pair.cost).items()}
    return vars(pair) | {"difference": vars(pair.difference), "verdict": pair.verdict.value, "cost": cost}
