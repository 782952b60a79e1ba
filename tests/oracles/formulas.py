"""Entrywise operators by their definitions, in sixty digits: what a network with them computes in exact arithmetic.

Numbers that a model gives are the float64 (in ONNX files float32) numbers that they are stored as.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mpmath
from mpmath import mpf

mpmath.mp.dps = 60
Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Formula:
    """An operator of PyTorch with its arguments, its definition, and where that changes."""

    target: str
    arguments: dict[str, Any]
    value: Function
    features: tuple[float, ...] = field(default=(0.0,))


def _clip(low: float, high: float) -> Function:
    return lambda z: min(max(z, mpf(low)), mpf(high))


def _softplus(beta: float, threshold: float) -> Formula:
    def value(z: mpf) -> mpf:
        scaled = mpf(beta) * z
        return z if scaled > mpf(threshold) else mpmath.log1p(mpmath.exp(scaled)) / mpf(beta)

    at = threshold / beta
    return Formula("softplus", {"beta": beta, "threshold": threshold}, value, (0.0, at))


def _elu(alpha: float, scale: float, inner: float) -> Function:
    return lambda z: mpf(scale) * (z if z > 0 else mpf(alpha) * mpmath.expm1(z * mpf(inner)))


def _leaky(slope: float) -> Function:
    return lambda z: z if z > 0 else mpf(slope) * z


def _gelu(z: mpf) -> mpf:
    return z * mpmath.ncdf(z)


ROUNDED = 11863283 * 2.0**-24
"""sqrt(1/2) as float32 holds it."""


def _written_out(z: mpf) -> mpf:
    return z * mpmath.erfc(-z * mpf(ROUNDED)) / 2


def _tanh_gelu(z: mpf) -> mpf:
    """z (1 + tanh(w)) / 2, which would cancel."""
    return z / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (z + mpf("0.044715") * z**3)))


SELU = (mpf("1.6732632423543772848170429916717"), mpf("1.0507009873554804934193349852946"))


FORMULAS: dict[str, Formula] = {
    "relu6": Formula("relu6", {}, _clip(0.0, 6.0), (0.0, 6.0)),
    "hardtanh": Formula("hardtanh", {"min_val": -0.3, "max_val": 0.7}, _clip(-0.3, 0.7), (-0.3, 0.7)),
    "clamp": Formula("clamp", {"min": 0.1, "max": None}, lambda z: max(z, mpf(0.1)), (0.1,)),
    "threshold": Formula("threshold", {"threshold": 0.1, "value": 0.1}, lambda z: max(z, mpf(0.1)), (0.1,)),
    "leaky relu": Formula("leaky_relu", {"negative_slope": 0.1}, _leaky(0.1)),
    "leaky relu, steep": Formula("leaky_relu", {"negative_slope": -2.3}, _leaky(-2.3)),
    "abs": Formula("abs", {}, abs),
    "hardsigmoid": Formula("hardsigmoid", {}, lambda z: min(max(z + 3, mpf(0)), mpf(6)) / 6, (-3.0, 3.0)),
    "hardswish": Formula("hardswish", {}, lambda z: z * min(max(z + 3, mpf(0)), mpf(6)) / 6, (-3.0, -1.5, 3.0)),
    "sigmoid": Formula("sigmoid", {}, lambda z: 1 / (1 + mpmath.exp(-z))),
    "tanh": Formula("tanh", {}, mpmath.tanh),
    "log sigmoid": Formula("log_sigmoid", {}, lambda z: -mpmath.log1p(mpmath.exp(-z)), (0.0, -30.0)),
    "softplus": _softplus(1.0, 20.0),
    "softplus, threshold 2": _softplus(1.0, 2.0),
    "softplus, threshold -1": _softplus(3.1, -1.0),
    "softplus, threshold 0": _softplus(0.3, 0.0),
    "softplus, high threshold": _softplus(7.0, 300.0),
    "elu": Formula("elu", {"alpha": 0.37}, _elu(0.37, 1.0, 1.0)),
    "elu, scaled": Formula("elu", {"alpha": 1.7, "scale": 0.9, "input_scale": 2.3}, _elu(1.7, 0.9, 2.3)),
    "selu": Formula("selu", {}, lambda z: SELU[1] * (z if z > 0 else SELU[0] * mpmath.expm1(z))),
    "celu": Formula("celu", {"alpha": 0.3}, lambda z: z if z > 0 else mpf(0.3) * mpmath.expm1(z / mpf(0.3))),
    "gelu": Formula("gelu", {}, _gelu, (-0.75, 0.0, 1.41)),
    "gelu, written out": Formula("gelu", {"factor": ROUNDED}, _written_out, (-0.75, 0.0, 1.41)),
    "gelu, tanh": Formula("gelu", {"approximate": "tanh"}, _tanh_gelu, (-0.75, 0.0, 1.42)),
    "silu": Formula("silu", {}, lambda z: z / (1 + mpmath.exp(-z)), (-1.28, 2.4)),
    "mish": Formula("mish", {}, lambda z: z * mpmath.tanh(mpmath.log1p(mpmath.exp(z))), (-1.19, 1.5)),
}
