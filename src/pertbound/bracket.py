"""The bracket: the best certificate below and the best attack above, for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.attacks import Attack, FastGradientSign, attack
from pertbound.certificates import Certificate, Lipschitz, certify
from pertbound.certificates.base import L2
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.problem import Certified, Witness
from pertbound.sets import Ball


@final
@dataclass(frozen=True)
class Bracket:
    """lower <= size of the smallest adversarial perturbation <= upper, per sample; (samples,) float64.

    `upper` is infinite where no attack found a witness. `lower_method` and `upper_method` name, per sample, who
    gave the value; all answers are in `certified` and `witnesses`.
    """

    lower: Tensor
    upper: Tensor
    lower_method: tuple[str, ...]
    upper_method: tuple[str, ...]
    certified: tuple[Certified, ...]
    witnesses: tuple[Witness, ...]

    @property
    def violations(self) -> Tensor:
        """Where a lower bound exceeds the distance to a witness: (samples,) bool. Any True is a bug."""
        return self.lower > self.upper


def bracket(
    network: Graph,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    certificates: Sequence[Certificate] = (Lipschitz(),),
    attacks: Sequence[Attack] = (FastGradientSign(),),
    within: Ball = L2,
    batch_size: int = 500,
) -> Bracket:
    """Bracket the smallest adversarial perturbation of each sample of x, shape (samples, *input_shape).

    The reference class is the prediction, or `labels` where given. `within` is the norm and the box that both sides are
    about: witnesses outside the box do not count. The attacks come first, and tell the certificates where to stop. Only
    certificates bound from below: an `Estimator` such as `Published` is refused with `InputError`.
    """
    wrong = [type(c).__name__ for c in certificates if not isinstance(c, Certificate)]  # pyright: ignore[reportUnnecessaryIsInstance]
    wrong += [type(a).__name__ for a in attacks if not isinstance(a, Attack)]  # pyright: ignore[reportUnnecessaryIsInstance]
    if wrong or not certificates or not attacks:
        raise InputError(
            f"a bracket needs at least one attack and at least one certificate, and {', '.join(wrong) or 'nothing'} "
            "cannot bound from below; estimates are asked with pb.certify and never enter a bracket"
        )
    witnesses = tuple(attack(network, x, a, labels, batch_size=batch_size) for a in attacks)
    upper, best_upper = torch.stack([_size(w, x, within) for w in witnesses]).min(0)
    certified = tuple(
        certify(network, x, c, labels, within=within, upper=upper, batch_size=batch_size) for c in certificates
    )
    lower, best_lower = torch.stack([c.radius for c in certified]).max(0)
    return Bracket(
        lower,
        upper,
        tuple(certified[int(i)].method for i in best_lower),
        tuple(witnesses[int(i)].method for i in best_upper),
        certified,
        witnesses,
    )


def _size(witness: Witness, x: Tensor, within: Ball) -> Tensor:
    """The sizes of the witnesses that are valid, in the norm asked about and rounded up; else infinite. (samples,)."""
    if within.p == 2 and within.box is None:
        return witness.distance
    move = witness.adversarial.to(torch.float64) - x.to(torch.float64)
    sizes = within.norms(move) * (1 + 1e-12)
    already = witness.found & (witness.distance == 0)
    valid = witness.found & within.contains(witness.adversarial, x, sizes * 2)
    return torch.where(valid & ~already, sizes, torch.where(already, 0.0, torch.inf))
