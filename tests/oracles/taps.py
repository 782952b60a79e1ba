"""Linear layers by the entries that each output reads, in long double."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles.exact import Long, exact
from pertbound.layers import Conv, ConvTranspose, Dense, Diagonal, Layer, Linear, Shape


@dataclass(frozen=True)
class Taps:
    """A linear map by the entries that each output reads: long double, exact but for the last bit of each weight."""

    places: NDArray[np.intp]
    weights: Long
    """(outputs, most entries read by one)."""
    input_shape: Shape
    output_shape: Shape
    squares: NDArray[np.float64]
    vectors: NDArray[np.float64]
    """Eigenvalues of A^T A, increasing, and their eigenvectors as columns."""

    @property
    def top(self) -> Tensor:
        """The direction that the map lengthens most."""
        return torch.from_numpy(self.vectors[:, -1].copy()).reshape(self.input_shape)

    def apply(self, d: Long) -> Long:
        """A d."""
        flat = d.reshape(len(d), -1)
        return (flat[:, self.places] * self.weights).sum(2).reshape(len(d), *self.output_shape)

    def transposed(self, a: Long) -> Long:
        """A^T a."""
        flat = a.reshape(len(a), -1)
        found = np.zeros((math.prod(self.input_shape), len(a)), np.longdouble)
        np.add.at(found, self.places.ravel(), (flat[:, :, None] * self.weights).reshape(len(a), -1).T)
        return found.T.reshape(len(a), *self.input_shape)


@lru_cache(maxsize=4)
def taps_of(layer: Linear) -> Taps:
    """Read off what the layer makes of unit vectors."""
    n = math.prod(layer.input_shape)
    units = np.eye(n, dtype=np.longdouble).reshape(n, *layer.input_shape)
    plain: Layer = layer
    if isinstance(layer, Dense | Conv | ConvTranspose):
        plain = replace(layer, bias=None)
    if isinstance(layer, Diagonal):
        plain = replace(layer, shift=torch.zeros_like(layer.shift))
    columns = exact(plain, units)
    matrix = columns.reshape(n, -1).T
    most = max(1, int((matrix != 0).sum(1).max()))
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :most]
    weights = np.take_along_axis(matrix, places, 1)
    near = matrix.astype(np.float64)
    return Taps(places, weights, layer.input_shape, columns.shape[1:], *np.linalg.eigh(near.T @ near))
