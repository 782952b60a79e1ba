"""Layers evaluated in numpy's long double, from their formulas: the exact values that rounding is measured from.

Where long double is no wider than double (some platforms), `WIDER` is False, and only float32 can be judged.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles import loops
from pertbound.layers import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    LpPool,
    MaxPool,
    ReLU,
    Reshape,
    Sigmoid,
    Softplus,
    Tanh,
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
        case ReLU() | LeakyReLU() | Sigmoid() | Tanh() | Softplus():
            return value(layer, x)
        case Add():
            return np.sum(np.stack(inputs), axis=0)
        case Concat():
            return np.concatenate(inputs, axis=layer.dim)
        case _:
            raise NotImplementedError(f"no exact evaluation of {type(layer).__name__}")


def _logistic(z: Long) -> Long:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def value(layer: Layer, z: Long) -> Long:
    """g(z)."""
    match layer:
        case ReLU():
            return np.maximum(z, 0)
        case LeakyReLU():
            return np.where(z >= 0, z, np.longdouble(layer.slope) * z)
        case Sigmoid():
            return _logistic(z)
        case Tanh():
            return np.tanh(z)
        case Softplus():
            scaled = np.longdouble(layer.beta) * z
            return (np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))) / np.longdouble(layer.beta)
        case _:
            raise NotImplementedError(f"no formula for {type(layer).__name__}")


def slope(layer: Layer, z: Long) -> Long:
    """g'(z); at a kink the larger one."""
    match layer:
        case ReLU():
            return np.where(z >= 0, np.longdouble(1), np.longdouble(0))
        case LeakyReLU():
            left, right = np.longdouble(layer.slope), np.longdouble(1)
            return np.where(z == 0, max(left, right), np.where(z > 0, right, left))
        case Sigmoid():
            return _logistic(z) * _logistic(-z)
        case Tanh():
            return 4 * _logistic(2 * z) * _logistic(-2 * z)
        case Softplus():
            return _logistic(np.longdouble(layer.beta) * z)
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
            return np.longdouble(layer.beta) * _logistic(scaled) * _logistic(-scaled)
        case _:
            raise NotImplementedError(f"{type(layer).__name__} has no second derivative")
