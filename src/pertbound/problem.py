"""What is asked of certificates and attacks, and the shapes of their answers.

The question: for each sample of a batch, how small can a perturbation r be that changes the class? A certificate
answers from below with a guarantee, an estimate answers with a formula's value, an attack from above with a
witness. The three answers are different types on purpose: nothing turns an `Estimate` into a `Certified`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from pertbound.errors import ContradictionError, InputError, contradicts
from pertbound.graph import Graph
from pertbound.sets import Ball


@final
@dataclass(frozen=True)
class Guarantee:
    """What a certified radius promises: no perturbation in `domain` of smaller `norm` changes the class.

    `Ball.norm_name` and `Ball.domain` are the words for both.
    """

    norm: str = "L2"
    domain: str = "all of R^d"
    arithmetic: str = "the network in exact arithmetic, the rounding of its logits at the sample included"

    def __str__(self) -> str:
        return f"{self.norm} over {self.domain}, for {self.arithmetic}"


@final
@dataclass(frozen=True)
class Problem:
    """A classifier, a batch x of shape (batch, *input_shape), and optionally its labels (batch,).

    The class that a perturbation must leave, the *reference*, is the prediction, or the label where labels are
    given; a sample that is misclassified already then has radius 0. `within` says which perturbations count: the norm
    that their size is measured in, and the box, if any, that the perturbed input must stay in, as the samples do.

    `upper` (batch,) are sizes of perturbations that were seen to change the class, infinite where none was, and
    `upper_methods` the names of the methods that found them, empty where these are not known.
    """

    network: Graph
    x: Tensor
    labels: Tensor | None = None
    within: Ball = field(default_factory=Ball)
    upper: Tensor | None = None
    upper_methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `InputError` for a wrong shape or dtype, an empty batch, NaN, infinity, impossible labels, or samples
        outside the box.
        """
        self.network.require_shape(self.x)
        if len(self.x) == 0:
            raise InputError("the batch is empty: there is nothing to certify or attack")
        # a finite sum has finite terms, and costs a tenth of testing each
        if not bool(torch.isfinite(self.x.sum())) and not bool(torch.isfinite(self.x).all()):
            rows = (~torch.isfinite(self.x)).flatten(1).any(1).nonzero().flatten().tolist()
            raise InputError(f"{len(rows)} samples hold NaN or infinity, the first at position {rows[0]}")
        if not isinstance(self.within, Ball):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"within must be a pb.Ball, such as pb.Ball(p=2, box=(0, 1)), got {self.within!r}")
        if self.within.box is not None:
            self.within.require_inside(self.x)
        if self.upper is not None and (self.upper.shape != (len(self.x),) or bool((~(self.upper >= 0)).any())):
            raise InputError(
                f"upper must be {len(self.x)} sizes of perturbations, each 0 or more, such as a Witness's distance, "
                f"got shape {tuple(self.upper.shape)} of {self.upper.dtype}"
            )
        if self.labels is not None:
            labels = self.labels
            if not isinstance(labels, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"labels must be a torch.Tensor of class numbers, got {type(labels).__name__}")
            if labels.shape != (len(self.x),) or labels.is_floating_point() or labels.dtype == torch.bool:
                raise InputError(
                    f"labels must be {len(self.x)} class numbers of an integer dtype, got shape "
                    f"{tuple(labels.shape)} of {labels.dtype}"
                )
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.network.classes:
                raise InputError(
                    f"labels run from {low} to {high}, but the classifier has classes 0 to {self.network.classes - 1}"
                )

    def known(self) -> Tensor:
        """`upper` in float64, infinite where nothing is known; (batch,)."""
        nothing = torch.full((len(self.x),), torch.inf, dtype=torch.float64, device=self.x.device)
        return nothing if self.upper is None else self.upper.to(nothing)

    @cached_property
    def logits(self) -> Tensor:
        """What the network computes for x as it is executed, in its own dtype; (batch, classes)."""
        with torch.no_grad(), torch.autocast(self.x.device.type, enabled=False):
            return self.network.run(self.x)

    def executed(self, logits: Tensor) -> None:
        """Keep the logits of a forward pass through the network, so that `logits` costs no other one."""
        self.__dict__.setdefault("logits", logits)

    def reference(self, predicted: Tensor) -> Tensor:
        """The class that must be left, (batch,) int64."""
        return predicted if self.labels is None else self.labels.to(predicted)

    def batches(self, size: int) -> list[Problem]:
        """The same question in batches of at most `size` samples."""
        if size < 1:
            raise InputError(f"a batch holds at least 1 sample, got a batch size of {size}")
        parts = range(0, len(self.x), size)
        return [
            Problem(
                self.network,
                self.x[start : start + size],
                None if self.labels is None else self.labels[start : start + size],
                self.within,
                None if self.upper is None else self.upper[start : start + size],
                self.upper_methods[start : start + size],
            )
            for start in parts
        ]


@final
@dataclass(frozen=True)
class Certified:
    """Proven lower bounds. `radius` (batch,) float64: no smaller perturbation leaves the reference class, in the norm
    and the domain that `guarantee` names (`Problem.within`).

    Radii are in the units of the classifier's input. Samples that the network, executed in its own dtype, misclassifies
    (labels given), or whose logits tie there or are not finite, have radius 0 (`Certificate.answer` sees to it).
    """

    radius: Tensor
    reference: Tensor
    predicted: Tensor
    method: str
    guarantee: Guarantee
    methods: tuple[str, ...] = ()
    """For each sample the method that gave its radius, where `method` chose among several; else empty."""

    @property
    def names(self) -> tuple[str, ...]:
        """For each sample the method that gave its radius."""
        return self.methods or (self.method,) * len(self.radius)


@final
@dataclass(frozen=True)
class Estimate:
    """What formulas say that are not proven: `radius` (batch,) float64; `basis` says what was assumed."""

    radius: Tensor
    reference: Tensor
    predicted: Tensor
    method: str
    basis: str


@final
@dataclass(frozen=True)
class Witness:
    """Inputs that were seen to be misclassified, by the graph and by the model that it was made from.

    `adversarial` has the shape of x, lies in the box of `within` (see `Problem`), and equals x where `found` (batch,)
    is False. `l2`, `linf` and `l1` (batch,) are its distances from x, float64 and rounded up: infinite where nothing
    was found, 0 where x is misclassified itself.
    """

    adversarial: Tensor
    found: Tensor
    l2: Tensor
    linf: Tensor
    l1: Tensor
    reference: Tensor
    predicted: Tensor
    method: str
    within: Ball = field(default_factory=Ball)
    methods: tuple[str, ...] = ()
    """For each sample the method that gave its input, where `method` chose among several; else empty."""

    @property
    def distance(self) -> Tensor:
        """The distance in the norm that was asked about, (batch,) float64."""
        return {1.0: self.l1, 2.0: self.l2, math.inf: self.linf}[self.within.p]

    @property
    def names(self) -> tuple[str, ...]:
        """For each sample the method that gave its input; the attack itself where its members found nothing."""
        return tuple(name or self.method for name in self.methods) or (self.method,) * len(self.found)


def require_agreement(lower: Tensor, by: Sequence[str], upper: Tensor, seen: Sequence[str]) -> None:
    """Raise `ContradictionError` where a proved radius lies above the distance to a witness (`contradicts`).

    `lower` and `upper` are (samples,); `by` and `seen` name the methods of each sample, `seen` is empty where these are
    not known. An `upper` of less precision than float64 counts as rounded.
    """
    slack = torch.finfo(upper.dtype).eps if upper.dtype in (torch.float32, torch.float16, torch.bfloat16) else 0.0
    wrong = contradicts(lower, upper.to(lower) * (1 + slack)).nonzero().flatten().tolist()
    if wrong:
        i = int(wrong[0])
        raise ContradictionError(by[i], seen[i] if seen else "", i, float(lower[i]), float(upper[i]))


def strictly_misclassified(logits: Tensor, reference: Tensor, reserve: float = 1e-6) -> Tensor:
    """Does another class win by more than rounding could account for? (batch,) bool; False for NaN.

    `reserve` is relative to the largest logit, so that a witness survives another batch size or library.
    """
    values = logits.to(torch.float64)
    own = values.gather(1, reference[:, None]).squeeze(1)
    best_other = values.scatter(1, reference[:, None], -torch.inf).amax(1)
    return best_other - own > reserve * (1 + values.abs().amax(1))
