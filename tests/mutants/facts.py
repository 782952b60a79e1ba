"""Facts that are declared wrongly, one at a time: patches of the library, and the operator at which they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pertbound.frontends import conversion, plumbing, recurrent
from pertbound.frontends.conversion import Converter, Value
from pertbound.frontends.program import Call
from pertbound.frontends.ranges import Range, range_of
from pertbound.layers import (
    ELU,
    AveragePool,
    Clip,
    Concat,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    LocalResponse,
    LpPool,
    MaxPool,
    Multiply,
    PReLU,
    Select,
    Shape,
    Sigmoid,
    Softplus,
    Standardize,
)


@dataclass(frozen=True)
class Lie:
    """What is patched (owner, attribute, value), and the operator, by ATen's name, that draws are made for."""

    operator: str
    owner: Any
    name: str
    value: Any
    layers: int | None = None
    """As in `check_facts`: 0 where the ranges of values tell alone."""


def _range(operator: str, kind: type[Layer]) -> Lie:
    """A layer whose output has the range of its first input."""

    def kept(layer: Layer, shapes: Sequence[Shape], ranges: Sequence[Range]) -> Range:
        return ranges[0] if isinstance(layer, kind) else range_of(layer, shapes, ranges)

    return Lie(operator, conversion, "range_of", kept, layers=0)


def _fact(operator: str, kind: type[Layer], name: str, value: Any) -> Lie:
    """A property of a layer."""
    return Lie(operator, kind, name, property(value))


def _method(operator: str, kind: type[Layer], name: str, value: Any) -> Lie:
    return Lie(operator, kind, name, value)


def _bound_of_the_first(c: Converter, call: Call, left: Value, right: Value) -> Value:
    size = c.range(left).size
    return c.add(call, Multiply(left.shape, (size, size)), left, right)


def _never_negative(c: Converter, call: Call, left: Value, right: Value) -> Value:
    found = c.add(call, Multiply(left.shape), left, right)
    return c.narrow(found, 0.0, math.inf)


def _within_one(c: Converter, value: Value, low: float, high: float) -> Value:
    c.ranges[value.node] = c.ranges[value.node].within(-1.0, 1.0)
    return value


def _norm_of_a_mean(layer: AveragePool) -> float:
    windows = math.prod(layer.window)
    return 1.0 / math.sqrt(windows)


def _modulus_of_windows(layer: MaxPool | LpPool, *radii: Tensor, at: Tensor | None = None) -> Tensor:
    return radii[0]


def _slopes_of_the_first(layer: PReLU) -> tuple[float, float]:
    first = float(layer.weight.flatten()[0])
    return min(1.0, first), max(1.0, first)


def lies() -> dict[str, Lie]:
    """All of them, by what is wrong."""
    return {
        "a sum over windows keeps its input's range": _range("aten.avg_pool2d", AveragePool),
        "a sum over dimensions keeps its input's range": _range("aten.sum", AveragePool),
        "a scaled value keeps its range": _range("aten.mul", Diagonal),
        "a shifted value keeps its range": _range("aten.add", Diagonal),
        "a difference is not negative": _fact("aten.sub", Diagonal, "keeps_sign", lambda layer: True),
        "weights of either sign keep the sign": _fact("aten.linear", Dense, "keeps_sign", lambda layer: True),
        "padding is part of the image": _range("aten.pad", Select),
        "a concatenation has the range of its first part": _range("aten.cat", Concat),
        "both factors have the first one's bound": Lie("aten.mul", plumbing, "product", _bound_of_the_first, layers=0),
        "every product is a square": Lie("aten.mul", plumbing, "product", _never_negative, layers=0),
        "a recurrent state is below one": Lie("aten.gru_cell", Converter, "narrow", _within_one, layers=0),
        "gates of a cell have the cell's bound": Lie(
            "aten.lstm_cell", recurrent, "product", _bound_of_the_first, layers=0
        ),
        "a steep leak has slopes up to 1": _fact(
            "aten.leaky_relu", LeakyReLU, "slopes", lambda layer: (min(layer.slope, 1.0), 1.0)
        ),
        "a leak that falls does not": _fact(
            "aten.leaky_relu", LeakyReLU, "slopes", lambda layer: (0.0, max(layer.slope, 1.0))
        ),
        "the first channel's slope is all channels'": _fact("aten.prelu", PReLU, "slopes", _slopes_of_the_first),
        "the exponential's slope is its scale": _fact("aten.elu", ELU, "slopes", lambda layer: (0.0, layer.scale)),
        "the exponential ends at -alpha": _fact("aten.elu", ELU, "image", lambda layer: (-layer.alpha, math.inf)),
        "no exponential has a kink": _fact(
            "aten.elu", ELU, "curvature", lambda layer: layer.left / layer.width * (1 + 1e-15)
        ),
        "softplus of any beta bends like that of 1": _fact("aten.softplus", Softplus, "curvature", lambda layer: 0.25),
        "softplus of any beta begins at log 2": _fact("aten.softplus", Softplus, "at_zero", lambda layer: math.log(2)),
        "sigmoid's image ends at 3/4": _fact("aten.sigmoid", Sigmoid, "image", lambda layer: (0.0, 0.75)),
        "clipping ends at the lower end": _fact("aten.clamp", Clip, "image", lambda layer: (layer.low, layer.low)),
        "every average divides by its window": _fact("aten.avg_pool2d", AveragePool, "norm_upper", _norm_of_a_mean),
        "windows never overlap": _method("aten.max_pool2d", MaxPool, "modulus", _modulus_of_windows),
        "every norm is Euclidean": _method("pertbound.lp_pool", LpPool, "modulus", _modulus_of_windows),
        "eps is taken for its root": _method(
            "aten.group_norm",
            Standardize,
            "modulus",
            lambda layer, *radii, at=None: radii[0] / max(layer.eps, 1.0),
        ),
        "the offset of a response is 1": _method(
            "pertbound.local_response", LocalResponse, "modulus", lambda layer, *radii, at=None: radii[0]
        ),
    }
