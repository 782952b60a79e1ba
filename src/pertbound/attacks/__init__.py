"""Upper bounds: one file for each method. Every witness is run again before it is believed."""

from pertbound.attacks.base import Attack, attack
from pertbound.attacks.carlini_wagner import CarliniWagner
from pertbound.attacks.ddn import DDN
from pertbound.attacks.deepfool import DeepFool
from pertbound.attacks.ensemble import Ensemble
from pertbound.attacks.fast_gradient_sign import FastGradientSign
from pertbound.attacks.fmn import FMN
from pertbound.attacks.foolbox import FoolboxAttack
from pertbound.attacks.lbfgs import LBFGS
from pertbound.attacks.pgd import PGD
from pertbound.attacks.registry import ATTACKS, named, quick

__all__ = [
    "ATTACKS",
    "DDN",
    "FMN",
    "LBFGS",
    "PGD",
    "Attack",
    "CarliniWagner",
    "DeepFool",
    "Ensemble",
    "FastGradientSign",
    "FoolboxAttack",
    "attack",
    "named",
    "quick",
]
