"""Several attacks in one: each sample's nearest witness, and who gave it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack, confirmed
from pertbound.attacks.ddn import DDN
from pertbound.attacks.deepfool import DeepFool
from pertbound.attacks.fmn import FMN
from pertbound.attacks.geometry import per_sample
from pertbound.attacks.nearest import Nearest
from pertbound.attacks.pgd import PGD
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.problem import Problem

TIE = 1e-4
"""A witness that is nearer by less than this part of the distance does not take the name from an earlier one."""

USUAL: dict[float, tuple[Attack, ...]] = {
    2.0: (DeepFool(), FMN(), DDN(restarts=4, targets=4)),
    math.inf: (DeepFool(), PGD(restarts=3), FMN(restarts=4, targets=4)),
    1.0: (DeepFool(), DDN(), FMN(restarts=4, targets=4)),
}
"""What is asked where nothing else is said, by the norm."""


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """The nearest witness of several attacks for each sample, polished; `Witness.methods` says who found it.

    `attacks` are asked in their order, each about all samples, and told what is known already (`Problem.upper`).
    Without any, those that are `USUAL` in the norm. Every witness is run again before it is compared, and what the
    polish makes of the nearest one counts only where it is confirmed as well. Where all members failed the polish still
    tries, from x; what it finds is its own.
    """

    attacks: tuple[Attack, ...] = ()

    def __post_init__(self) -> None:
        wrong = [a for a in self.attacks if not isinstance(a, Attack)]  # pyright: ignore[reportUnnecessaryIsInstance]
        if wrong:
            raise InputError(f"an ensemble is made of attacks, got {wrong[0]!r}")

    @property
    def name(self) -> str:
        """ensemble, with its attacks where they are not the usual ones."""
        return f"ensemble({', '.join(a.name for a in self.attacks)})" if self.attacks else "ensemble"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest witnesses, polished."""
        return self.named_candidates(problem, reference)[0]

    def named_candidates(self, problem: Problem, reference: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The nearest witnesses, polished, and the attacks that found them."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            names = [""] * len(x)
            for member in self.attacks or USUAL[problem.within.p]:
                known = torch.minimum(problem.known(), nearest.distance)
                found = member.witness(replace(problem, upper=known))
                nearer, clearly = (found.distance < part * nearest.distance for part in (1.0, 1 - TIE))
                own = found.methods or (found.method,) * len(x)
                names = [new if better else old for old, new, better in zip(names, own, clearly.tolist(), strict=True)]
                nearest.point = torch.where(per_sample(nearer, x), found.adversarial, nearest.point)
                nearest.distance = torch.where(nearer, found.distance, nearest.distance)
            before = nearest.point
            polish(nearest)
            kept = per_sample(confirmed(problem, nearest.point, reference), x)
            return torch.where(kept, nearest.point, before), tuple(name or "polish" for name in names)
