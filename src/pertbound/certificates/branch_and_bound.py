"""Branch and bound on top of quadratic relaxation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pertbound.ascent import Ascent
from pertbound.branching import Branching
from pertbound.certificates.base import Certificate
from pertbound.certificates.relaxed import MEMORY, relaxed
from pertbound.errors import InputError
from pertbound.pace import Pace
from pertbound.problem import Certified, Problem
from pertbound.regions import Rest, Tighten, Views


@final
@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Certificate):
    """Quadratic relaxation, then splits of (leaky) ReLUs until the bracket closes or the time is over (`branching.py`).

    A sample is finished when its radius is `ratio` times what is known from above (`upper` of `pb.certify`), or when it
    is exact: when no smaller perturbation is left to exclude. On networks whose only nonlinear layers are ReLUs and
    leaky ReLUs every sample comes that far in the end; other nonlinear layers keep their relaxation.

    `tighten` as in `LinearRelaxation`. `seconds` is the time for each sample on average: samples that finish early
    leave theirs to the others. `root_steps` of Adam come first, `steps` for each half of a split, `width` domains at a
    time; `memory` in bytes as everywhere. `pace` records what the clock decided, or repeats it.
    """

    seconds: float = 10.0
    ratio: float = 0.99
    tighten: bool = True
    root_steps: int = 80
    steps: int = 10
    width: int = 256
    memory: int = MEMORY
    pace: Pace | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = min(self.root_steps, self.steps, self.width)
        if not 0 < self.seconds < float("inf") or not 0 < self.ratio <= 1 or counts < 1:
            raise InputError(f"BranchAndBound needs seconds > 0, 0 < ratio <= 1 and counts of 1 or more, got {self}")

    @property
    def name(self) -> str:
        """branch and bound, with its seconds."""
        return f"branch and bound({self.seconds:g} s)"

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""
        pace = self.pace or Pace()

        def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
            views = Views(rest, problem.within, Tighten(self.memory) if self.tighten else None)
            ascent = Ascent(views, reference, lipschitz)
            ascent.climb(self.root_steps, tolerance=1e-4, upper=upper)
            branching = Branching(ascent, torch.maximum(ascent.proved(), lipschitz), upper)
            seconds = self.seconds * len(reference)
            branching.run(seconds=seconds, ratio=self.ratio, steps=self.steps, width=self.width, pace=pace)
            return branching.lower

        return relaxed(problem, self.name, self.memory, work)
