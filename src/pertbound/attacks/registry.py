"""The attacks that can be asked for by name, each with its usual options."""

from __future__ import annotations

from pertbound.attacks.base import Attack
from pertbound.attacks.carlini_wagner import CarliniWagner
from pertbound.attacks.ddn import DDN
from pertbound.attacks.deepfool import DeepFool
from pertbound.attacks.ensemble import Ensemble
from pertbound.attacks.fast_gradient_sign import FastGradientSign
from pertbound.attacks.fmn import FMN
from pertbound.attacks.lbfgs import LBFGS
from pertbound.attacks.pgd import PGD
from pertbound.errors import InputError

ATTACKS: dict[str, Attack] = {
    "ensemble": Ensemble(),
    "ddn": DDN(),
    "fmn": FMN(),
    "pgd": PGD(),
    "deepfool": DeepFool(),
    "cw": CarliniWagner(),
    "lbfgs": LBFGS(),
    "fgs": FastGradientSign(),
}
"""By name."""


def named(name: str) -> Attack:
    """The attack of that name. Raises `InputError` for others."""
    if name not in ATTACKS:
        raise InputError(f"there is no attack {name!r}; there are {', '.join(ATTACKS)}")
    return ATTACKS[name]


def quick(p: float) -> str:
    """The name of the one attack to ask where only one is: good in that norm, and not dear."""
    return "ddn" if p == 2 else "fmn"
