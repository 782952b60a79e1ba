"""Upper bounds: one file for each method. Every witness is run again before it is believed."""

from pertbound.attacks.base import Attack, attack
from pertbound.attacks.ddn import DDN
from pertbound.attacks.fast_gradient_sign import FastGradientSign

__all__ = ["DDN", "Attack", "FastGradientSign", "attack"]
