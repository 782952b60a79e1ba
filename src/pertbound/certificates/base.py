"""What a certificate is, and how one is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import overload

import torch
from torch import Tensor

from pertbound.environment import known_state
from pertbound.errors import InputError
from pertbound.frontends.agreement import require_own_agreement
from pertbound.graph import Graph
from pertbound.problem import Certified, Estimate, Problem
from pertbound.sets import Ball

BATCH = 500
"""Samples computed at once unless a caller says otherwise."""
L2 = Ball()
"""Perturbations measured in L2, anywhere."""


class Certificate(ABC):
    """A method that proves lower bounds; a frozen dataclass of its options."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The method and its options, as it stands in a row."""

    @abstractmethod
    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""


class Estimator(ABC):
    """A method whose values are not proven; a frozen dataclass of its options."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The method and its options, as it stands in a row."""

    @abstractmethod
    def estimate(self, problem: Problem) -> Estimate:
        """The values of one batch."""


@overload
def certify(
    network: Graph,
    x: Tensor,
    certificate: Certificate,
    labels: Tensor | None = None,
    *,
    within: Ball = L2,
    upper: Tensor | None = None,
    batch_size: int = BATCH,
) -> Certified: ...


@overload
def certify(
    network: Graph,
    x: Tensor,
    certificate: Estimator,
    labels: Tensor | None = None,
    *,
    within: Ball = L2,
    upper: Tensor | None = None,
    batch_size: int = BATCH,
) -> Estimate: ...


@known_state()
def certify(
    network: Graph,
    x: Tensor,
    certificate: Certificate | Estimator,
    labels: Tensor | None = None,
    *,
    within: Ball = L2,
    upper: Tensor | None = None,
    batch_size: int = BATCH,
) -> Certified | Estimate:
    """How small, at least, a perturbation must be that changes the class of each sample of x.

    x is (samples, *input_shape); the result's `radius` is (samples,) float64 in the units of x. Perturbations are
    measured in L2 and may leave the valid range, unless `within` says otherwise: `pb.Ball(p=math.inf, box=(0, 1))`
    measures the largest change of an entry, and counts only perturbed inputs with entries in [0, 1]. The reference
    class is the prediction, or `labels` (samples,) where given; then a misclassified sample has radius 0. An
    `Estimator` such as `Published` answers with an `Estimate`, which is not a guarantee. `upper` (samples,) may hold
    sizes of perturbations that are known to change the class, such as a witness's: more is not worth proving.

    Where the network was made from a model (`Graph.original`), both are run beside each other once for each new batch
    size. The answer does not depend on the caller's modes (`environment.py`).

    Raises `InputError` for inputs that do not fit the network or are not finite, `ConversionError` where the network
    and its model disagree on them.
    """
    batches = Problem(network, x, labels, within, upper).batches(batch_size)
    for batch in batches:
        require_own_agreement(network, batch.x)
    if isinstance(certificate, Certificate):
        parts = [certificate.certify(batch) for batch in batches]
        first = parts[0]
        methods = tuple(name for part in parts for name in part.methods)
        return Certified(*_joined(parts), method=first.method, guarantee=first.guarantee, methods=methods)
    if not isinstance(certificate, Estimator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{certificate!r} is neither a certificate nor an estimator; attacks are asked with pb.attack")
    values = [certificate.estimate(batch) for batch in batches]
    return Estimate(*_joined(values), method=values[0].method, basis=values[0].basis)


def _joined(parts: list[Certified] | list[Estimate]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.cat([part.radius for part in parts]),
        torch.cat([part.reference for part in parts]),
        torch.cat([part.predicted for part in parts]),
    )
