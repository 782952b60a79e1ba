"""The fast gradient sign method with the paper's search for the smallest step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack
from pertbound.attacks.geometry import per_sample
from pertbound.errors import InputError
from pertbound.problem import Problem, strictly_misclassified


@final
@dataclass(frozen=True, kw_only=True)
class FastGradientSign(Attack):
    """x + epsilon sign(grad_x loss) for the smallest epsilon that still misclassifies (Goodfellow et al. 2015).

    The paper bisects epsilon in [0, 100] on the pixel scale 0 to 255. Whether a step misclassifies need not be
    monotone in epsilon, so `probes` evenly spaced steps up to `max_epsilon` are tried first, and the smallest one
    that succeeds is bisected against its neighbour below. A sample on which no probe succeeds has no witness.

    `max_epsilon` is in the units of the input: 100 / 255 for pixels in [0, 1]. Where a box is asked about, every entry
    of the perturbed input is clipped to it; the paper's is not.

    The sign of the cross-entropy's gradient is computed from log sum exp of the other logits minus the
    reference's, whose gradient is the same up to a positive factor and does not vanish when the softmax saturates.
    """

    norms: ClassVar[frozenset[float]] = frozenset((math.inf,))

    max_epsilon: float = 100 / 255
    probes: int = 10
    bisections: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.max_epsilon < math.inf or self.probes < 1 or self.bisections < 0:
            raise InputError(
                f"FastGradientSign needs finite max_epsilon > 0, probes >= 1 and bisections >= 0, got "
                f"{self.max_epsilon}, {self.probes}, {self.bisections}"
            )

    @property
    def name(self) -> str:
        """fgs."""
        return "fgs"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The perturbed inputs at the smallest successful steps."""
        x = problem.x
        sign = self._sign(problem, reference)

        def step(epsilon: Tensor) -> Tensor:
            return problem.within.clamped(x + per_sample(epsilon.to(x.dtype), x) * sign)

        def misclassifies(epsilon: Tensor) -> Tensor:
            with torch.no_grad():
                return strictly_misclassified(problem.network.run(step(epsilon)), reference)

        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        high = torch.full_like(low, self.max_epsilon)
        found = torch.zeros_like(low, dtype=torch.bool)
        for probe in range(1, self.probes + 1):
            epsilon = torch.full_like(low, self.max_epsilon * probe / self.probes)
            success = misclassifies(epsilon) & ~found
            high = torch.where(success, epsilon, high)
            found |= success
            low = torch.where(found, low, epsilon)
            if bool(found.all()):
                break
        for _ in range(self.bisections):
            middle = (low + high) / 2
            success = misclassifies(middle)
            high = torch.where(success, middle, high)
            low = torch.where(success, low, middle)
        return step(torch.where(found, high, torch.zeros_like(high)))

    def _sign(self, problem: Problem, reference: Tensor) -> Tensor:
        """The sign of the loss's gradient at x."""
        with torch.inference_mode(False), torch.enable_grad():
            x = problem.x.detach().clone().requires_grad_(True)
            reference = reference.clone()
            logits = problem.network.run(x)
            own = logits.gather(1, reference[:, None]).squeeze(1)
            others = logits.scatter(1, reference[:, None], -torch.inf)
            (gradient,) = torch.autograd.grad((others.logsumexp(1) - own).sum(), x)
        return gradient.sign()
