"""The first attack of all: box-constrained L-BFGS on the distance and the loss, and a search for their balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pertbound.attacks.base import Attack, options_of
from pertbound.attacks.nearest import Nearest
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.graph import Graph, in_float64
from pertbound.problem import Problem

Array = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class LBFGS(Attack):
    """Small L2 perturbations by minimising c norm(r)^2 + loss(x + r) in the box (Szegedy et al. 2014), and a polish.

    The loss is the cross-entropy between a target class and the reference, log(1 + exp(-margin)) in units of
    the margin at x. Box-constrained L-BFGS (SciPy's) takes at most `steps` steps for one c; a line search looks for the
    largest c whose minimiser is misclassified, in `searches` rounds: tenfold up or down until one c succeeded and one
    failed, then halfway between them. One such search for each of the `targets` classes that are nearest to x by the
    linear estimate. Samples go one after another, in float64: the dearest of the attacks for large batches.
    """

    norms: ClassVar[frozenset[float]] = frozenset((2.0,))
    targets: int = 2
    searches: int = 8
    steps: int = 30

    def __post_init__(self) -> None:
        if min(self.targets, self.searches, self.steps) < 1:
            raise InputError(
                f"LBFGS needs targets >= 1, searches >= 1 and steps >= 1, got {self.targets}, {self.searches}, "
                f"{self.steps}"
            )

    @property
    def name(self) -> str:
        """lbfgs, with the options that are not the usual ones."""
        return f"lbfgs{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest misclassified minimisers, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            exact = problem.network.derive(in_float64)
            rivals = nearest.rivals(self.targets, self.searched(problem.within))
            first, _ = nearest.scale(2)
            for row in (nearest.distance > 0).nonzero().flatten():
                part = nearest.take(row[None])
                for rival in rivals:
                    self._search(part, exact, rival[row[None]], float(first[row]))
                nearest.put(row[None], part)
            polish(nearest)
        return nearest.point

    def _search(self, nearest: Nearest, exact: Graph, rival: Tensor, length: float) -> None:
        """The line search over c for one sample and one target; `length` is the scale of r."""
        objective = _Objective(nearest, exact, rival, length)
        c, worked, failed = 1.0, 0.0, np.inf
        r = objective.start
        for _ in range(self.searches):
            r = objective.minimiser(c, r, self.steps)
            if bool(nearest.probe(nearest.inside(nearest.origin + objective.perturbation(r)))):
                worked = c
            else:
                failed = c
            c = (worked * failed) ** 0.5 if worked > 0 and failed < np.inf else (10 * c if worked else c / 10)


@final
class _Objective:
    """c norm(s)^2 + loss(x + length s) for one sample, in float64, as SciPy wants it: s is flat."""

    def __init__(self, nearest: Nearest, exact: Graph, rival: Tensor, length: float) -> None:
        self.x, self.exact, self.length = nearest.origin, exact, length
        self.pair = torch.cat([rival, nearest.reference])
        low, high = nearest.within.inner_ends(self.x)
        ends = [((end - self.x) / length).flatten().cpu().numpy() for end in (low, high)]
        self.bounds = list(zip(*ends, strict=True))
        self.start: Array = np.zeros(self.x.numel())
        margin, _ = self._margin(self.start)
        self.unit = max(abs(margin), 1e-300)

    def perturbation(self, s: Array) -> Tensor:
        """length s, in the shape of x."""
        return self.length * torch.from_numpy(s).to(self.x.device).reshape(self.x.shape)

    def minimiser(self, c: float, start: Array, steps: int) -> Array:
        """Where L-BFGS ends."""
        from scipy.optimize import minimize  # takes longer to import than all the rest

        options = {"maxiter": steps}
        return minimize(
            lambda s: self.value(c, s), start, jac=True, method="L-BFGS-B", bounds=self.bounds, options=options
        ).x

    def value(self, c: float, s: Array) -> tuple[float, Array]:
        """The objective and its gradient."""
        margin, gradient = self._margin(s)
        m = margin / self.unit
        slope = -np.exp(-np.logaddexp(0.0, m)) / self.unit
        return c * float(s @ s) + float(np.logaddexp(0.0, -m)), 2 * c * s + slope * gradient

    def _margin(self, s: Array) -> tuple[float, Array]:
        with torch.enable_grad():
            r = self.perturbation(s).requires_grad_(True)
            rival, own = self.exact.run(self.x + r)[0, self.pair]
            (gradient,) = torch.autograd.grad(rival - own, r)
        margin = float((rival - own).detach())
        return margin, self.length * gradient.nan_to_num(0.0, 0.0, 0.0).flatten().cpu().numpy()
