"""Activations; handlers as in `operators.py`, under their names in `ACTIVATIONS`."""

from __future__ import annotations

import math

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import Arguments, Converter, Handler, Value, place, required_constant, value_of
from pertbound.frontends.plumbing import affine
from pertbound.frontends.program import Call
from pertbound.frontends.reducing import clipped
from pertbound.layers import (
    ELU,
    GELU,
    Abs,
    HardSwish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
    TanhGELU,
)


def _relu(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, ReLU(source.shape), source)


def _leaky_relu(c: Converter, call: Call, a: Arguments) -> Value:
    return _leaky(c, call, value_of(call, a, "self"), float(a.get("negative_slope", 0.01)))


def _leaky(c: Converter, call: Call, source: Value, slope: float) -> Value:
    if not math.isfinite(slope):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: negative slope {slope} is no number")
    return c.add(call, LeakyReLU(source.shape, slope), source)


def _rrelu(c: Converter, call: Call, a: Arguments) -> Value:
    """At inference the mean of its slopes."""
    if a.get("training", False):
        raise UnsupportedLayerError(f"{call.target}{place(call)} is random; call model.eval() before exporting")
    slope = (float(a.get("lower", 0.125)) + float(a.get("upper", 1 / 3))) / 2
    return _leaky(c, call, value_of(call, a, "self"), slope)


def _prelu(c: Converter, call: Call, a: Arguments) -> Value:
    source, weight = value_of(call, a, "self"), required_constant(call, a, "weight")
    if weight.numel() == 1:
        return _leaky(c, call, source, float(weight.item()))
    layer = PReLU.of_channels(source.shape, weight) if weight.dim() == 1 else PReLU(source.shape, weight)
    return c.add(call, layer, source)


def _abs(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, Abs(source.shape), source)


def _threshold(c: Converter, call: Call, a: Arguments) -> Value:
    """z where z > threshold, else value: continuous only where both are equal."""
    source, threshold, value = value_of(call, a, "self"), float(a["threshold"]), float(a["value"])
    if threshold != value:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} jumps from {value:g} to {threshold:g}, which has no bound"
        )
    return clipped(c, call, source, threshold, None)


def _hardsigmoid(c: Converter, call: Call, a: Arguments) -> Value:
    """min(max(z / 6 + 1/2, 0), 1)."""
    source = value_of(call, a, "self")
    return clipped(c, call, affine(c, call, source, 1 / 6, 0.5), 0.0, 1.0)


def _sigmoid(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, Sigmoid(source.shape), source)


def _tanh(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, Tanh(source.shape), source)


def _softplus(c: Converter, call: Call, a: Arguments) -> Value:
    """z beyond the threshold, which is negative where a negative threshold lets it be."""
    source, beta = value_of(call, a, "self"), float(a.get("beta", 1.0))
    threshold = float(a.get("threshold", 20.0))
    if not 0 < beta < math.inf or not -math.inf < threshold / beta:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: beta must be positive and threshold a number, got {beta} and {threshold}"
        )
    return c.add(call, Softplus(source.shape, beta, threshold), source)


def _elu(c: Converter, call: Call, a: Arguments) -> Value:
    alpha, scale = float(a.get("alpha", 1.0)), float(a.get("scale", 1.0))
    return _exponential(c, call, a, alpha, scale, 1 / float(a.get("input_scale", 1.0)))


def _selu(c: Converter, call: Call, a: Arguments) -> Value:
    return _exponential(c, call, a, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)


def _celu(c: Converter, call: Call, a: Arguments) -> Value:
    alpha = float(a.get("alpha", 1.0))
    return _exponential(c, call, a, alpha, 1.0, alpha)


def _exponential(c: Converter, call: Call, a: Arguments, alpha: float, scale: float, width: float) -> Value:
    source = value_of(call, a, "self")
    if not all(0 < v < math.inf for v in (alpha, scale, width)):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: alpha and scales must be positive, got {alpha}, {scale}"
        )
    return c.add(call, ELU(source.shape, alpha, scale, width), source)


def _gelu(c: Converter, call: Call, a: Arguments) -> Value:
    source, form = value_of(call, a, "self"), a.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: approximate must be none or tanh, got {form!r}")
    exact = GELU(source.shape, a["factor"]) if "factor" in a else GELU(source.shape)
    return c.add(call, exact if form == "none" else TanhGELU(source.shape), source)


def _plain_hump(kind: type[SiLU | Mish | HardSwish]) -> Handler:
    def handler(c: Converter, call: Call, a: Arguments) -> Value:
        source = value_of(call, a, "self")
        return c.add(call, kind(source.shape), source)

    return handler


def _log_sigmoid(c: Converter, call: Call, a: Arguments) -> Value:
    """log s(z) = -log(1 + exp(-z)) = -softplus(-z)."""
    falling = affine(c, call, value_of(call, a, "self"), -1.0, 0.0)
    positive = c.add(call, Softplus(falling.shape, 1.0, math.inf), falling)
    return affine(c, call, positive, -1.0, 0.0)


ACTIVATIONS: dict[str, Handler] = {
    "aten.relu": _relu,
    "aten.leaky_relu": _leaky_relu,
    "aten.rrelu": _rrelu,
    "aten.prelu": _prelu,
    "aten.abs": _abs,
    "aten.threshold": _threshold,
    "aten.hardsigmoid": _hardsigmoid,
    "aten.sigmoid": _sigmoid,
    "aten.tanh": _tanh,
    "aten.softplus": _softplus,
    "aten.log_sigmoid": _log_sigmoid,
    "aten.elu": _elu,
    "aten.selu": _selu,
    "aten.celu": _celu,
    "aten.gelu": _gelu,
    "aten.silu": _plain_hump(SiLU),
    "aten.mish": _plain_hump(Mish),
    "aten.hardswish": _plain_hump(HardSwish),
}
