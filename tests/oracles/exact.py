"""Layers evaluated in numpy's long double, from their formulas: the exact values that rounding is measured from.

Where long double is no wider than double (some platforms), `WIDER` is False, and only float32 can be judged.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles import loops
from pertbound.layers import (
    ELU,
    GELU,
    Abs,
    Activation,
    Add,
    AveragePool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Diagonal,
    HardSwish,
    Layer,
    LeakyReLU,
    LocalResponse,
    LpPool,
    MaxPool,
    Mish,
    Multiply,
    PReLU,
    ReLU,
    Reshape,
    Select,
    Sigmoid,
    SiLU,
    Softplus,
    Sort,
    Standardize,
    Tanh,
    TanhGELU,
)

Long = NDArray[np.longdouble]
WIDER = bool(np.finfo(np.longdouble).eps < 1e-18)


def long(tensor: Tensor) -> Long:
    """The same numbers; long double."""
    return tensor.detach().cpu().to(torch.float64).numpy().astype(np.longdouble)


def exact(layer: Layer, *inputs: Long) -> Long:
    """The layer's output for (batch, *sample) inputs."""
    x = inputs[0]
    match layer:
        case Dense():
            out = (x[..., None, :] * long(layer.weight)).sum(-1)
            return out if layer.bias is None else out + long(layer.bias)
        case Conv():
            bias = None if layer.bias is None else long(layer.bias)
            return loops.convolve(
                x, long(layer.weight), bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        case ConvTranspose():
            bias = None if layer.bias is None else long(layer.bias)
            geometry = (layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
            return loops.convolve_transposed(x, long(layer.weight), bias, *geometry)
        case Select():
            index = layer.index.numpy()
            return np.where(index >= 0, x.reshape(len(x), -1)[:, np.maximum(index, 0)], np.longdouble(0))
        case Diagonal():
            return x * long(layer.scale) + long(layer.shift)
        case Reshape():
            return x.reshape(-1, *layer.shape)
        case AveragePool():
            return loops.average_pool(
                x,
                layer.window,
                layer.stride,
                layer.padding,
                layer.ceil_mode,
                layer.count_include_pad,
                layer.divisor,
            )
        case MaxPool():
            return loops.max_pool(x, layer.window, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
        case LpPool():
            return loops.lp_pool(x, layer.p, layer.window, layer.stride)
        case Activation():
            return value(layer, x)
        case Sort():
            return np.sort(x, axis=-1)
        case Standardize():
            z = x - x.mean(-1, keepdims=True) if layer.centred else x
            size = np.maximum(np.abs(z).max(-1, keepdims=True), 1)  # no square overflows
            z = z / size
            return z / np.sqrt((z * z).mean(-1, keepdims=True) + np.longdouble(layer.eps) / (size * size))
        case LocalResponse():
            return loops.local_response(x, layer.size, layer.alpha, layer.beta, layer.k)
        case Multiply():
            return inputs[0] * inputs[1]
        case Add():
            return np.sum(np.stack(inputs), axis=0)
        case Concat():
            return np.concatenate(inputs, axis=layer.dim)
        case _:
            raise NotImplementedError(f"no exact evaluation of {type(layer).__name__}")


ROOT = np.sqrt(np.longdouble(2))
PI = np.longdouble("3.141592653589793238462643383279502884")


def _density(z: Long) -> Long:
    """phi(z)."""
    return np.exp(-z * z / 2) / np.sqrt(2 * PI)


def _normal(z: Long) -> Long:
    """Phi(z), to a relative error: near 0 by its series, in the tail by its continued fraction."""
    x, small = np.abs(z), np.zeros_like(z)
    tail = x >= 1.5
    near, far = x[~tail], x[tail]
    term = total = near
    for n in range(60):
        term = term * near * near / (2 * n + 3)
        total = total + term
    small[~tail] = np.longdouble(0.5) - total * _density(near)
    fraction = np.zeros_like(far)
    for n in range(260, 0, -1):
        fraction = n / (far + fraction)
    small[tail] = _density(far) / (far + fraction)
    return np.where(z < 0, small, 1 - small)


def _mish(z: Long) -> tuple[Long, Long, Long]:
    """tanh(log(1 + e^z)) and its first two derivatives, from e^-z to the right."""
    w = np.exp(-np.abs(z))
    low, high = w * w + 2 * w + 2, 1 + 2 * w + 2 * w * w
    rising = z > 0
    return (
        np.where(rising, (1 + 2 * w) / high, w * (w + 2) / low),
        np.where(rising, 4 * w * w * (1 + w) / high**2, 4 * w * (1 + w) / low**2),
        np.where(
            rising,
            4 * w * w * (2 * w**3 + 2 * w * w - 3 * w - 2) / high**3,
            4 * w * (2 + 2 * w - 3 * w * w - 2 * w**3) / low**3,
        ),
    )


def _inner(z: Long) -> tuple[Long, Long, Long]:
    """The argument of the logistic function in the approximation of GELU, and its derivatives."""
    k, cube = 2 * np.sqrt(2 / PI), np.longdouble(0.044715)
    return k * (z + cube * z**3), k * (1 + 3 * cube * z * z), 6 * k * cube * z


def _logistic(z: Long) -> Long:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


Piece = tuple[Long | np.longdouble, np.longdouble, np.longdouble, np.longdouble]
"""slope, offset, first, last: slope * z + offset between first and last."""


def pieces(layer: Layer) -> list[Piece]:
    """Of which g is made, where it is made of straight pieces; from right to left."""
    zero, one, end = np.longdouble(0), np.longdouble(1), np.longdouble(np.inf)
    match layer:
        case ReLU():
            left: Long | np.longdouble = zero
        case LeakyReLU():
            left = np.longdouble(layer.slope)
        case Abs():
            left = -one
        case PReLU():
            left = long(layer.weight)
        case Clip():
            low, high = np.longdouble(layer.low), np.longdouble(layer.high)
            ends: list[Piece] = [(zero, high, high, end)] if high < end else []
            return [*ends, (one, zero, low, high), *([(zero, low, -end, low)] if low > -end else [])]
        case _:
            return []
    return [(one, zero, zero, end), (left, zero, -end, zero)]


def turns(layer: Layer) -> list[np.longdouble]:
    """Where g turns from falling to rising."""
    found = {
        GELU: "-0.7517915246935644574579",
        TanhGELU: "-0.752461422071016258488",
        SiLU: "-1.278464542761073795109",
        Mish: "-1.192431214515495212138",
        HardSwish: "-1.5",
        **dict.fromkeys((LeakyReLU, Abs, PReLU), "0"),
    }
    return [np.longdouble(number) for kind, number in found.items() if isinstance(layer, kind)]


def jump(layer: Layer) -> tuple[np.longdouble, np.longdouble] | None:
    """The last z before g jumps, and the first one behind; None for a continuous g."""
    if not isinstance(layer, Softplus) or not math.isfinite(layer.threshold / layer.beta):
        return None
    last = np.longdouble(layer.threshold) / np.longdouble(layer.beta)
    below, above = np.nextafter(last, -np.inf, dtype=np.longdouble), np.nextafter(last, np.inf, dtype=np.longdouble)
    places = [below, last, above, np.nextafter(above, np.inf, dtype=np.longdouble)]
    beyond = [np.longdouble(layer.beta) * z > np.longdouble(layer.threshold) for z in places]
    first = beyond.index(True)
    return places[first - 1], places[first]


def value(layer: Layer, z: Long) -> Long:
    """g(z)."""
    found = 0 * z
    for part, offset, first, last in pieces(layer):
        found = np.where((z >= first) & (z <= last), part * z + offset, found)
    match layer:
        case ReLU() | LeakyReLU() | Abs() | PReLU() | Clip():
            return found
        case Sigmoid():
            return _logistic(z)
        case Tanh():
            return np.tanh(z)
        case Softplus():
            scaled = np.longdouble(layer.beta) * z
            found = (np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))) / np.longdouble(layer.beta)
            return np.where(scaled > np.longdouble(layer.threshold), z, found)
        case GELU():
            return np.where(z < -110, 0, z * _normal(np.maximum(z, -110)))
        case TanhGELU():
            near = np.clip(z, -1000, 1000)
            return np.where(z > 1000, z, near * _logistic(_inner(near)[0]))
        case SiLU():
            return np.where(z < -11000, 0, z * _logistic(z))
        case Mish():
            return np.where(z < -11000, 0, z * _mish(z)[0])
        case HardSwish():
            return np.where(z >= 3, z, z * np.maximum(z + 3, 0) / 6)
        case ELU():
            alpha, scale, width = (np.longdouble(v) for v in (layer.alpha, layer.scale, layer.width))
            return np.where(z > 0, scale * z, scale * alpha * np.expm1(np.minimum(z, 0) / width))
        case _:
            raise NotImplementedError(f"no formula for {type(layer).__name__}")


def slope(layer: Layer, z: Long) -> Long:
    """g'(z); at a kink the larger one in size."""
    found = 0 * z
    for part, _, first, last in pieces(layer):
        here = (z >= first) & (z <= last)
        found = np.where(here & (np.abs(part) >= np.abs(found)), part, found)
    match layer:
        case ReLU() | LeakyReLU() | Abs() | PReLU() | Clip():
            return found
        case Sigmoid():
            return _logistic(z) * _logistic(-z)
        case Tanh():
            return 4 * _logistic(2 * z) * _logistic(-2 * z)
        case Softplus():
            scaled = np.longdouble(layer.beta) * z
            return np.where(scaled >= np.longdouble(layer.threshold), np.longdouble(1), _logistic(scaled))
        case GELU():
            near = np.clip(z, -110, 110)
            return _normal(near) + near * _density(near)
        case TanhGELU():
            near = np.clip(z, -1000, 1000)
            w, first, _ = _inner(near)
            return _logistic(w) + near * first * _logistic(w) * _logistic(-w)
        case SiLU():
            return _logistic(z) * (1 + np.clip(z, -11000, 11000) * _logistic(-z))
        case Mish():
            gate, first, _ = _mish(z)
            return gate + np.clip(z, -11000, 11000) * first
        case HardSwish():
            return np.where(z < -3, np.longdouble(0), np.where(z > 3, np.longdouble(1), z / 3 + np.longdouble(0.5)))
        case ELU():
            alpha, scale, width = (np.longdouble(v) for v in (layer.alpha, layer.scale, layer.width))
            left = scale * (alpha / width) * np.exp(np.minimum(z, 0) / width)
            return np.where(z > 0, scale, np.where(z == 0, np.maximum(left, scale), left))
        case _:
            raise NotImplementedError(f"no formula for {type(layer).__name__}")


def bend(layer: Layer, z: Long) -> Long:
    """g''(z), of the smooth activations."""
    match layer:
        case Sigmoid():
            return slope(layer, z) * (_logistic(-z) - _logistic(z))
        case Tanh():
            return -2 * np.tanh(z) * slope(layer, z)
        case Softplus():
            scaled = np.longdouble(layer.beta) * z
            bent = np.longdouble(layer.beta) * _logistic(scaled) * _logistic(-scaled)
            return np.where(scaled > np.longdouble(layer.threshold), np.longdouble(0), bent)
        case GELU():
            return _density(z) * (2 - z * z)
        case TanhGELU():
            near = np.clip(z, -1000, 1000)
            w, first, second = _inner(near)
            s, steep = _logistic(w), _logistic(w) * _logistic(-w)
            return 2 * steep * first + near * steep * ((1 - 2 * s) * first * first + second)
        case SiLU():
            return _logistic(z) * _logistic(-z) * (2 + np.clip(z, -11000, 11000) * (1 - 2 * _logistic(z)))
        case Mish():
            _, first, second = _mish(z)
            return 2 * first + np.clip(z, -11000, 11000) * second
        case HardSwish():
            return np.where(np.abs(z) <= 3, np.longdouble(1) / 3, np.longdouble(0))
        case ELU():
            alpha, scale, width = (np.longdouble(v) for v in (layer.alpha, layer.scale, layer.width))
            return np.where(z <= 0, scale * (alpha / width) / width * np.exp(np.minimum(z, 0) / width), 0 * z)
        case _:
            raise NotImplementedError(f"{type(layer).__name__} has no second derivative")
