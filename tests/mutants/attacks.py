"""A library with one thing wrong each, and the check of `contracts/attacks.py` that must notice.

A mutant is something to be patched while the check runs; the checks themselves are in `CHECKS`, and pass as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from contracts.attacks import (
    check_batches,
    check_ensemble,
    check_fails_closed,
    check_false_claims,
    check_linear_classifiers,
    check_witnesses,
    repeated,
)
from contracts.certificates import question
from pertbound.attacks import DDN, FMN, PGD, DeepFool, Ensemble, FastGradientSign, base, geometry, nearest
from pertbound.attacks.nearest import Nearest, Tangent
from pertbound.problem import Problem, Witness
from pertbound.sets import Ball

Mutant = Callable[[], AbstractContextManager[object]]


# --- what must notice -------------------------------------------------------------------------------------------------


def _honest() -> None:
    places = (("five classes", 1.0, "free"), ("max pooling", math.inf, "box"), ("float64", 2.0, "entries"))
    check_witnesses(FMN(steps=10, restarts=1), [question(*place) for place in places])


def _linear_classifiers() -> None:
    check_linear_classifiers(DeepFool())
    check_linear_classifiers(PGD(steps=10, radii=6))


def _batches() -> None:
    asked = repeated(question("float64", 2.0, samples=4), 2)
    assert len(asked.graph(asked.x).argmax(1).unique()) > 1
    check_batches(FMN(steps=10), [asked])
    check_batches(DeepFool(), [asked])


def _not_numbers() -> None:
    check_fails_closed(DDN(steps=10))
    check_fails_closed(FastGradientSign(max_epsilon=4.0))


def _ensemble() -> None:
    check_ensemble([question("two layers", 2.0, "free"), question("max pooling", math.inf, "box")])


CHECKS: dict[str, Callable[[], None]] = {
    "honest": _honest,
    "false claims": check_false_claims,
    "linear classifiers": _linear_classifiers,
    "batches": _batches,
    "not numbers": _not_numbers,
    "ensemble": _ensemble,
}


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _patched(target: object, name: str, broken: object) -> Mutant:
    return lambda: patch.object(target, name, broken)


def _believed(problem: Problem, candidate: Tensor, reference: Tensor) -> Tensor:
    """Whatever is claimed."""
    return torch.ones_like(reference, dtype=torch.bool)


def _original_not_asked(
    problem: Problem, candidate: Tensor, reference: Tensor, confirmed: Callable[..., Tensor] = base.confirmed
) -> Tensor:
    """The graph alone decides."""
    network = problem.network.with_tensors(lambda tensor: tensor, problem.network.dtype)
    network.original = None
    return confirmed(replace(problem, network=network), candidate, reference)


def _any_box(self: Ball, z: Tensor) -> Tensor:
    """Boxes are left to others."""
    return torch.isfinite(z).flatten(1).all(1)


def _not_the_reference(logits: Tensor, reference: Tensor, reserve: float = 0.0) -> Tensor:
    """No largest logit that is the reference's: true of NaN."""
    own = logits.gather(1, reference[:, None]).squeeze(1)
    return ~(own >= logits.amax(1))


def _not_behind(logits: Tensor, reference: Tensor, reserve: float = 0.0) -> Tensor:
    """A tie is enough."""
    own = logits.gather(1, reference[:, None]).squeeze(1)
    return logits.scatter(1, reference[:, None], -torch.inf).amax(1) >= own


def _l2_for_all(
    z: Tensor, x: Tensor, distances: Callable[..., tuple[Tensor, Tensor, Tensor]] = base._distances_upper
) -> tuple[Tensor, Tensor, Tensor]:
    """One norm is as good as another."""
    l2, _, _ = distances(z, x)
    return l2, l2, l2


def _too_small(
    z: Tensor, x: Tensor, distances: Callable[..., tuple[Tensor, Tensor, Tensor]] = base._distances_upper
) -> tuple[Tensor, ...]:
    """Less than a float32 would round."""
    return tuple((size * (1 - 1e-8)) for size in distances(z, x))


def _unclamped(self: Nearest, z: Tensor) -> Tensor:
    """Points wherever the steps lead."""
    return torch.where(torch.isfinite(z), z, self.x).to(self.x.dtype)


def _downhill(self: Nearest, z: Tensor, rival: Tensor | None = None, tangent: Any = Nearest.tangent) -> Tangent:
    """The gradient of the other sign."""
    seen = tangent(self, z, rival)
    return replace(seen, gradient=-seen.gradient)


def _first_class(self: Nearest, z: Tensor, rival: Tensor | None = None, tangent: Any = Nearest.tangent) -> Tangent:
    """Always against class 0."""
    return tangent(self, z, torch.zeros_like(self.reference))


def _farthest(self: Nearest, z: Tensor, logits: Tensor, offer: Any = Nearest.offer) -> Tensor:
    """The first witness stays, however far."""
    kept, distance = self.point, self.distance
    wrong = offer(self, z, logits)
    had = torch.isfinite(distance)
    self.point = torch.where(geometry.per_sample(had, z), kept, self.point)
    self.distance = torch.where(had, distance, self.distance)
    return wrong


def _other_rows(self: Nearest, rows: Tensor, take: Any = Nearest.take) -> Nearest:
    """The classes of the first samples."""
    part = take(self, rows)
    part.reference = self.reference[: len(part.x)]
    return part


def _free_half_space(x: Tensor, normal: Tensor, level: Tensor, within: Ball) -> Tensor:
    """The nearest point of the half-space, in the box or not."""
    return geometry.onto_half_space(x, normal, level, Ball(p=within.p))


def _along_the_gradient(x: Tensor, normal: Tensor, level: Tensor, within: Ball) -> Tensor:
    """In L2, whatever the norm."""
    return geometry.onto_half_space(x, normal, level, Ball(box=within.box))


def _flattest_first(
    x: Tensor, normal: Tensor, missing: Tensor, low: Tensor, high: Tensor, own: Any = geometry._cheapest_entries
) -> Tensor:
    """Every entry but the steepest."""
    steepest = normal.abs() >= geometry.per_sample(normal.abs().flatten(1).amax(1), normal)
    return own(x, torch.where(steepest, 0.0, normal), missing, low, high)


def _first_member(self: Ensemble, problem: Problem, reference: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Whoever is asked first."""
    found = self.attacks[0].witness(problem)
    return found.adversarial, (found.method,) * len(problem.x)


def _wrong_names(
    self: Ensemble, problem: Problem, reference: Tensor, own: Any = Ensemble.named_candidates
) -> tuple[Tensor, tuple[str, ...]]:
    """Somebody else gets the credit."""
    points, _ = own(self, problem, reference)
    return points, (self.attacks[0].name,) * len(points)


MUTANTS: dict[str, tuple[Mutant, str]] = {
    "claims are believed": (_patched(base, "confirmed", _believed), "false claims"),
    "the original is not asked": (_patched(base, "confirmed", _original_not_asked), "false claims"),
    "the original is not asked, NaN": (_patched(base, "confirmed", _original_not_asked), "not numbers"),
    "the box is not looked at": (_patched(Ball, "in_box", _any_box), "false claims"),
    "NaN is another class": (_patched(base, "strictly_misclassified", _not_the_reference), "not numbers"),
    "a tie is enough": (_patched(base, "strictly_misclassified", _not_behind), "false claims"),
    "L2 for all norms": (_patched(base, "_distances_upper", _l2_for_all), "honest"),
    "distances a little too small": (_patched(base, "_distances_upper", _too_small), "honest"),
    "the distance is always L2": (
        lambda: patch.object(Witness, "distance", new_callable=lambda: property(lambda self: self.l2)),
        "honest",
    ),
    "points outside the box": (_patched(Nearest, "inside", _unclamped), "linear classifiers"),
    "downhill": (_patched(Nearest, "tangent", _downhill), "linear classifiers"),
    "against the first class": (_patched(Nearest, "tangent", _first_class), "linear classifiers"),
    "the first witness stays": (_patched(Nearest, "offer", _farthest), "linear classifiers"),
    "another sample's class": (_patched(Nearest, "take", _other_rows), "batches"),
    "half-spaces without the box": (_patched(nearest, "onto_half_space", _free_half_space), "linear classifiers"),
    "half-spaces in L2": (_patched(nearest, "onto_half_space", _along_the_gradient), "linear classifiers"),
    "the steepest entry rests": (_patched(geometry, "_cheapest_entries", _flattest_first), "linear classifiers"),
    "the first member is enough": (_patched(Ensemble, "named_candidates", _first_member), "ensemble"),
    "somebody else gets the credit": (_patched(Ensemble, "named_candidates", _wrong_names), "ensemble"),
}
