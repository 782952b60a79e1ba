"""What a certificate is, and how one is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import final, overload

import torch
from torch import Tensor

from pertbound.environment import known_state
from pertbound.errors import ContradictionError, InputError
from pertbound.frontends.agreement import require_own_agreement
from pertbound.graph import Graph
from pertbound.problem import Certified, Estimate, Problem, require_agreement
from pertbound.sets import Ball

BATCH = 500
"""Samples computed at once unless a caller says otherwise."""
L2 = Ball()
"""Perturbations measured in L2, anywhere."""


class Certificate(ABC):
    """A method that proves lower bounds; a frozen dataclass of its options.

    A subclass says how it proves radii, in `certify`. Whoever asks it calls `answer`, which holds these radii against
    what the network does at the samples and against what attacks have seen.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The method and its options, as it stands in a row."""

    @abstractmethod
    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch, as the method proves them; `answer` says what is made of them."""

    @final
    @known_state()
    def answer(self, problem: Problem) -> Certified:
        """The radii of one batch, 0 where they must be, and at most `problem.upper`.

        The network is executed at the samples, in its own dtype. A sample has radius 0 where the reference class does
        not win strictly there, a logit is not finite, the method certified another class, the radius is NaN or
        infinite, or the perturbation of size 0 was seen to change the class. `predicted` is the executed prediction.

        Raises `ContradictionError` where a radius lies above `problem.upper` by more than rounding, and `InputError`
        where there is not one radius for each sample.
        """
        found, logits = self.certify(problem), problem.logits
        if found.radius.shape != (len(problem.x),):
            raise InputError(
                f"{self.name} gave radii of shape {tuple(found.radius.shape)} for {len(problem.x)} samples"
            )
        predicted = logits.argmax(1)
        reference, upper = problem.reference(predicted), problem.known()
        own = logits.gather(1, reference[:, None])
        wins = (own > logits.scatter(1, reference[:, None], -torch.inf)).all(1) & torch.isfinite(logits).all(1)
        radius = found.radius.to(upper)
        counts = wins & (found.reference.to(reference) == reference) & torch.isfinite(radius) & (upper > 0)
        radius = torch.where(counts, radius, 0.0).clamp_min(0.0)
        if problem.upper is not None:
            require_agreement(radius, found.names, problem.upper, problem.upper_methods)
        return replace(found, radius=torch.minimum(radius, upper), reference=reference, predicted=predicted)


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
    sizes of perturbations that were seen to change the class, such as `Witness.distance`: no radius is larger.

    Where the network was made from a model (`Graph.original`), both are run beside each other once for each new batch
    size. The answer does not depend on the caller's modes (`environment.py`).

    Raises `InputError` for inputs that do not fit the network or are not finite, `ConversionError` where the network
    and its model disagree on them, and `ContradictionError` where the certificate proves more than `upper`.
    """
    return ask(Problem(network, x, labels, within, upper), certificate, batch_size)


@overload
def ask(problem: Problem, certificate: Certificate, batch_size: int) -> Certified: ...


@overload
def ask(problem: Problem, certificate: Certificate | Estimator, batch_size: int) -> Certified | Estimate: ...


def ask(problem: Problem, certificate: Certificate | Estimator, batch_size: int) -> Certified | Estimate:
    """`certify` about a problem, at most `batch_size` samples at a time."""
    batches = problem.batches(batch_size)
    for batch in batches:
        require_own_agreement(problem.network, batch.x)
    if isinstance(certificate, Certificate):
        parts: list[Certified] = []
        for number, batch in enumerate(batches):
            try:
                parts.append(certificate.answer(batch))
            except ContradictionError as error:
                raise error.at(number * batch_size + error.sample) from None
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
