"""What an attack is, and how one is asked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import ClassVar, final

import torch
from torch import Tensor

from pertbound.environment import known_state, plain_float32
from pertbound.errors import InputError
from pertbound.graph import Graph, in_float64
from pertbound.numerics import UNIT64, gamma
from pertbound.problem import Problem, Witness, strictly_misclassified
from pertbound.sets import Ball

BATCH = 500
"""Samples attacked at once unless a caller says otherwise."""
L2 = Ball()
"""Perturbations measured in L2, anywhere."""
EVERY_NORM: frozenset[float] = frozenset((1.0, 2.0, math.inf))


class Attack(ABC):
    """A method that looks for small perturbations; a frozen dataclass of its options.

    The norm and the box are those of `Problem.within`. An attack that is not made for the norm asked about searches in
    its own; the witness is then measured in the norm asked about, which is as sound, though seldom as small.
    """

    norms: ClassVar[frozenset[float]] = EVERY_NORM
    """The norms that the method is made for: 1, 2, math.inf."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The method and its options, as it stands in a row."""

    @abstractmethod
    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """For each sample an input of the same shape, as near as the method can find; x itself where it fails.

        Candidates are only claims: `witness` runs each one again before anyone believes it.
        """

    def named_candidates(self, problem: Problem, reference: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The same, and the method that found each, where this one asks several; else no names."""
        return self.candidates(problem, reference), ()

    @final
    def searched(self, within: Ball) -> Ball:
        """What the method searches in when asked about `within`: the same box, and a norm that it is made for."""
        return within if within.p in self.norms else Ball(p=max(self.norms), box=within.box)

    @final
    def witness(self, problem: Problem) -> Witness:
        """The attack on one batch, each candidate run again through the graph and the original model."""
        network, x = problem.network, problem.x.detach()
        with torch.no_grad():
            predicted = _logits(network, x).argmax(1)
        reference = problem.reference(predicted)
        candidate, methods = self.named_candidates(problem, reference)
        if candidate.shape != x.shape or candidate.dtype != x.dtype:
            raise InputError(
                f"{self.name} gave candidates of shape {tuple(candidate.shape)} and {candidate.dtype} for samples of "
                f"shape {tuple(x.shape)} and {x.dtype}"
            )
        candidate = candidate.detach()
        already = predicted != reference
        wrong = confirmed(problem, candidate, reference) | already
        keep = (wrong & ~already).reshape(-1, *(1 for _ in network.input_shape))
        adversarial = torch.where(keep, candidate, x)
        l2, linf, l1 = (torch.where(wrong, size, torch.inf) for size in _distances_upper(adversarial, x))
        methods = tuple(who if kept else "" for who, kept in zip(methods, keep.flatten().tolist(), strict=False))
        return Witness(adversarial, wrong, l2, linf, l1, reference, predicted, self.name, problem.within, methods)


def options_of(method: Attack) -> str:
    """The options of a dataclass that are not the usual ones: (steps=5), or nothing."""
    own = [f for f in fields(method) if getattr(method, f.name) != f.default]  # pyright: ignore[reportArgumentType]
    return f"({', '.join(f'{f.name}={getattr(method, f.name):g}' for f in own)})" if own else ""


def confirmed(problem: Problem, candidate: Tensor, reference: Tensor) -> Tensor:
    """Which candidates are in the box and misclassified by the graph and by the original model; (batch,) bool."""
    network = problem.network
    with torch.no_grad():
        wrong = problem.within.in_box(candidate)
        wrong &= strictly_misclassified(_logits(network, candidate), reference)
        if network.original is not None:
            wrong &= strictly_misclassified(network.original(candidate), reference, reserve=0.0)
    return wrong


def _logits(network: Graph, x: Tensor) -> Tensor:
    """The logits; in float64 where float32 products are computed with less, which could show what is not so."""
    if x.dtype == torch.float64 or plain_float32(x):
        return network.run(x)
    return network.derive(in_float64).run(x.to(torch.float64))


@known_state()
def attack(
    network: Graph,
    x: Tensor,
    method: Attack,
    labels: Tensor | None = None,
    *,
    within: Ball = L2,
    upper: Tensor | None = None,
    batch_size: int = BATCH,
) -> Witness:
    """How small, at most, a perturbation must be that changes the class of each sample of x, with the proof.

    x is (samples, *input_shape); the reference class is the prediction, or `labels` (samples,) where given. Distances
    are in L2 and perturbed inputs may leave the valid range, unless `within` says otherwise, as in `pb.certify`. The
    result's `adversarial` was run again: wherever `found`, it is misclassified and in the box of `within`; `distance`
    is in the norm of `within`, `l2`, `linf` and `l1` in each, all infinite where nothing was found. `upper` (samples,)
    may hold sizes of perturbations that are known to change the class: a method that starts at a radius starts there.

    Raises `InputError` for inputs that do not fit the network, are not finite or lie outside the box.
    """
    if not isinstance(method, Attack):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{method!r} is no attack; bounds from below are asked with pb.certify")
    parts = [method.witness(batch) for batch in Problem(network, x, labels, within, upper).batches(batch_size)]
    return Witness(
        torch.cat([part.adversarial for part in parts]),
        torch.cat([part.found for part in parts]),
        torch.cat([part.l2 for part in parts]),
        torch.cat([part.linf for part in parts]),
        torch.cat([part.l1 for part in parts]),
        torch.cat([part.reference for part in parts]),
        torch.cat([part.predicted for part in parts]),
        method.name,
        within,
        tuple(name for part in parts for name in part.methods),
    )


def _distances_upper(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Upper bounds on the L2, Linf and L1 norms of z - x, each (batch,) float64.

    A sum of n nonnegative terms is off by a factor between 1 / (1 + gamma_n) and 1 + gamma_n; the differences, squares,
    quotients and roots add a few roundings. Entries are divided by the largest, so that squares do not underflow.
    """
    r = (z.to(torch.float64) - x.to(torch.float64)).flatten(1).abs()
    largest = r.amax(1)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    up = 1 + 2 * gamma(r.shape[1] + 8)
    l2 = unit * torch.linalg.vector_norm(r / unit[:, None], dim=1)
    return l2 * up, largest * (1 + 4 * UNIT64), r.sum(1) * up
