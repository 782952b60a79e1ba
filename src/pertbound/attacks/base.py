"""What an attack is, and how one is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.problem import Problem, Witness, strictly_misclassified

BATCH = 500
"""Samples attacked at once unless a caller says otherwise."""


class Attack(ABC):
    """A method that looks for small perturbations; a frozen dataclass of its options."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The method and its options, as it stands in a row."""

    @abstractmethod
    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """For each sample an input of the same shape, as near as the method can find; x itself where it fails.

        Candidates are only claims: `witness` runs each one again before anyone believes it.
        """

    @final
    def witness(self, problem: Problem) -> Witness:
        """The attack on one batch, each candidate run again through the graph and the original model."""
        network, x = problem.network, problem.x.detach()
        with torch.no_grad():
            predicted = network.run(x).argmax(1)
        reference = problem.reference(predicted)
        candidate = self.candidates(problem, reference).detach()
        with torch.no_grad():
            wrong = strictly_misclassified(network.run(candidate), reference)
            if network.original is not None:
                wrong &= strictly_misclassified(network.original(candidate), reference, reserve=0.0)
        already = predicted != reference
        wrong |= already
        keep = (wrong & ~already).reshape(-1, *(1 for _ in network.input_shape))
        adversarial = torch.where(keep, candidate, x)
        r = (adversarial.to(torch.float64) - x.to(torch.float64)).flatten(1)
        nothing = torch.full_like(r[:, 0], torch.inf)
        # rounded up: the distance of a witness is an upper bound
        distance = torch.linalg.vector_norm(r, dim=1) * (1 + 1e-12)
        largest = r.abs().amax(1)
        return Witness(
            adversarial,
            wrong,
            torch.where(wrong, distance, nothing),
            torch.where(wrong, largest, nothing),
            reference,
            predicted,
            self.name,
        )


def attack(
    network: Graph,
    x: Tensor,
    method: Attack,
    labels: Tensor | None = None,
    *,
    batch_size: int = BATCH,
) -> Witness:
    """How small, at most, a perturbation must be that changes the class of each sample of x, with the proof.

    x is (samples, *input_shape); the reference class is the prediction, or `labels` (samples,) where given. The
    result's `adversarial` was run again and is misclassified wherever `found`; `distance` is L2, infinite where
    nothing was found.

    Raises `InputError` for inputs that do not fit the network or are not finite.
    """
    if not isinstance(method, Attack):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{method!r} is no attack; bounds from below are asked with pb.certify")
    parts = [method.witness(batch) for batch in Problem(network, x, labels).batches(batch_size)]
    return Witness(
        torch.cat([part.adversarial for part in parts]),
        torch.cat([part.found for part in parts]),
        torch.cat([part.distance for part in parts]),
        torch.cat([part.linf_distance for part in parts]),
        torch.cat([part.reference for part in parts]),
        torch.cat([part.predicted for part in parts]),
        method.name,
    )
