"""Linear layers as matrices, read off what the layer computes in float64, and their norms by numpy's SVD."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pertbound.layers import Conv, ConvTranspose, Dense, Diagonal, Layer, Linear

Matrix = NDArray[np.float64]
AnyLayer = TypeVar("AnyLayer", bound=Layer)


def in_float64(layer: AnyLayer) -> AnyLayer:
    """The same layer, its tensors converted exactly to float64."""
    own = {f.name: getattr(layer, f.name) for f in fields(layer)}
    floats = {k: v for k, v in own.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return replace(layer, **{k: v.to(torch.float64) for k, v in floats.items()})


def matrix(layer: Linear) -> Matrix:
    """(outputs, inputs), flattened: column i is what the layer without its shift makes of e_i."""
    layer = _unshifted(in_float64(layer))
    n = math.prod(layer.input_shape)
    units = torch.eye(n, dtype=torch.float64).reshape(-1, *layer.input_shape)
    with torch.no_grad():
        return layer.forward(units).reshape(n, -1).T.numpy()


def _unshifted(layer: Linear) -> Linear:
    match layer:
        case Dense() | Conv() | ConvTranspose():
            return replace(layer, bias=None)
        case Diagonal():
            return replace(layer, shift=torch.zeros_like(layer.shift))
        case _:
            return layer


def jacobian(layer: Layer, at: Tensor) -> Matrix:
    """(outputs, inputs), flattened: the derivative of forward at one sample, by automatic differentiation."""
    layer = in_float64(layer)
    rows = torch.autograd.functional.jacobian(lambda x: layer.forward(x[None])[0].reshape(-1), at)
    return rows.reshape(len(rows), -1).numpy()


def norm(a: Matrix) -> float:
    """The largest singular value."""
    return float(np.linalg.svd(a, compute_uv=False)[0]) if a.size else 0.0


def top_direction(a: Matrix) -> Matrix:
    """The unit vector that the matrix lengthens most."""
    return np.linalg.svd(a, full_matrices=False)[2][0]
