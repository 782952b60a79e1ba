"""The corrected modular bound: forward moduli, inverted at the end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from pertbound.certificates.base import Certificate
from pertbound.environment import plain_float32
from pertbound.numerics import SLACK, UNIT32
from pertbound.problem import Certified, Guarantee, Problem
from pertbound.push import Push, Summary
from pertbound.search import largest_certified


@final
@dataclass(frozen=True, kw_only=True)
class Lipschitz(Certificate):
    """The scheme of Peck et al. (2017) on its sound footing, for any graph of supported layers.

    The paper inverts each layer's bound backwards, which composes over chains only, and asks that a perturbation
    *lengthen* each layer's output, which misclassification does not need. Here each layer bounds how far its
    output can *move* (`Layer.modulus`), these bounds compose forwards over any graph (`push.py`), and the radius
    is the largest rho for which no difference of logits logit_c - logit_j can move by as much as it is at the
    sample. For a linear classifier this is the exact distance to the decision boundary.

    Operator norms are computed on first use and kept with the network; after that a batch costs a forward pass.

    The logits at the sample are computed in the network's own dtype, and the worst case of their rounding is taken
    off the margin. Samples where that is more than `resolve` of the margin are computed again in float64, which costs
    a few forward passes, if their logits suggest a radius above `floor` norm(x): a smaller ball than the rounding of x
    to float32 says nothing about what x stands for (0.0 asks for it all the same). All samples are, where float32
    products may be computed with less (accelerators, or `torch.set_float32_matmul_precision` below "highest").

    In other norms the radius is what the L2 radius implies (norm_2 <= norm_1, norm_2 <= sqrt(d) norm_inf), and a box is
    not used: what holds anywhere holds within it.

    `tolerance` is the relative width at which the inversion stops.
    """

    tolerance: float = 1e-6
    resolve: float = 0.2
    floor: float = UNIT32

    @property
    def name(self) -> str:
        """lipschitz."""
        return "lipschitz"

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""
        push, plain = problem.network.derive(Push), plain_float32(problem.x)
        view = _View(push, problem.x if plain else problem.x.to(torch.float64), problem.labels)
        if plain:
            problem.executed(view.logits)
        radius = view.radius(self.tolerance)
        noisy = (view.noise_share > self.resolve) & view.may_reach(self.floor * _norms(problem.x))
        if plain and bool(noisy.any()):
            labels = None if problem.labels is None else problem.labels[noisy]
            again = _View(push, problem.x[noisy].to(torch.float64), labels)
            agrees = again.reference == view.reference[noisy]
            radius[noisy] = torch.where(
                agrees, again.radius(self.tolerance), torch.zeros_like(agrees, dtype=torch.float64)
            )
        # every L2 ball of that radius holds the ball of this norm with the radius divided by norm_2 / norm_p <= factor
        factor = problem.within.l2_radius(torch.ones_like(radius[:1]), problem.network.input_shape)
        guarantee = Guarantee(problem.within.norm_name, problem.within.domain)
        return Certified(radius / factor * (1 - SLACK), view.reference, view.predicted, self.name, guarantee)


def _norms(x: Tensor) -> Tensor:
    """The norm of each sample, (batch,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


class _View:
    """One batch as seen in one precision: its margins, and what can change them."""

    def __init__(self, push: Push, x: Tensor, labels: Tensor | None) -> None:
        self.logits, summary = push.summarise(x)
        self._push, self._summary = push, summary
        self._logits = self.logits.to(torch.float64)
        self.predicted = self._logits.argmax(1)
        self.reference = self.predicted if labels is None else labels.to(self.predicted)
        self._own = torch.nn.functional.one_hot(self.reference, self._logits.shape[1]).to(torch.bool)
        self._differences = self._logits.gather(1, self.reference[:, None]) - self._logits
        self._changes = push.changes(summary, self.reference)

    def _margin(self, rho: Tensor) -> Tensor:
        left = self._differences - self._changes(rho[:, None])
        return left.masked_fill(self._own, torch.inf).amin(1)

    def radius(self, tolerance: float) -> Tensor:
        """The largest certified radius of each sample; 0 where logits are not finite."""
        radius = largest_certified(self._margin, self._differences[:, 0], tolerance=tolerance)
        return torch.where(torch.isfinite(self._logits).all(1), radius, torch.zeros_like(radius))

    @cached_property
    def _noise(self) -> Tensor:
        """How much of each difference of logits rounding can explain, (batch, classes)."""
        return self._changes(torch.zeros_like(self._differences[:, :1]))

    @property
    def noise_share(self) -> Tensor:
        """The part of the smallest margin that rounding can explain; 0 where the sample is misclassified."""
        share = (self._noise / self._differences).masked_fill(self._own, 0.0)
        return share.clamp_min(0.0).amax(1)

    def may_reach(self, radius: Tensor) -> Tensor:
        """Whether the logits as computed suggest a radius of at least `radius` (batch,), were it not for rounding.

        Also where float32 overflows, or sees no difference at all: there float64 may see more.
        """
        exact = Summary(dict.fromkeys(self._summary.noise, 0.0), self._summary.steepest, self._summary.jacobian)
        changes = self._push.changes(exact, self.reference)(radius.to(torch.float64)[:, None])
        left = (self._differences - changes).masked_fill(self._own, torch.inf).amin(1)
        spread = self._logits.amax(1) - self._logits.amin(1)
        return (left > 0) | ~(spread > 0) | ~torch.isfinite(self._noise.amax(1))
