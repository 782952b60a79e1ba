"""CROWN (Zhang et al. 2018) for dense ReLU networks on a box, written out in NumPy: what is to be matched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pertbound.graph import Graph
from pertbound.layers import Dense, ReLU

Array = NDArray[np.float64]


def dense_layers(graph: Graph) -> list[tuple[Array, Array]]:
    """Weights and biases of a chain of dense layers with a ReLU between each two; reshapes are passed over."""
    found: list[tuple[Array, Array]] = []
    for node in graph.nodes:
        if isinstance(node.layer, Dense):
            bias = node.layer.bias
            weight = node.layer.weight.double().numpy()
            found.append((weight, np.zeros(len(weight)) if bias is None else bias.double().numpy()))
        else:
            assert isinstance(node.layer, ReLU) or type(node.layer).__name__ == "Reshape"
    return found


def crown(layers: list[tuple[Array, Array]], low: Array, high: Array, matrix: Array) -> Array:
    """Lower bounds on the rows of matrix @ outputs for inputs in the box; hidden boxes come of the same bounds."""
    boxes: list[tuple[Array, Array]] = []
    for depth in range(len(layers)):
        weight, bias = layers[depth]
        target = matrix @ weight if depth == len(layers) - 1 else weight
        shift = matrix @ bias if depth == len(layers) - 1 else bias
        lower = _backwards(layers[:depth], boxes, target, low, high) + shift
        if depth == len(layers) - 1:
            return lower
        upper = shift - _backwards(layers[:depth], boxes, -target, low, high)
        boxes.append((lower, upper))
    raise AssertionError("no layers")


def _backwards(
    layers: list[tuple[Array, Array]], boxes: list[tuple[Array, Array]], a: Array, low: Array, high: Array
) -> Array:
    """The least of a @ relu(z) over what linear bounds leave, z the last of `layers`' outputs."""
    constant = np.zeros(len(a))
    for (weight, bias), (lower, upper) in zip(layers[::-1], boxes[::-1], strict=True):
        open_ = (lower < 0) & (upper > 0)
        chord = np.where(open_, upper / np.where(open_, upper - lower, 1.0), (lower >= 0).astype(float))
        below = np.where(open_, (upper > -lower).astype(float), (lower >= 0).astype(float))
        constant += np.minimum(a, 0) @ np.where(open_, -chord * lower, 0.0)
        a = np.maximum(a, 0) * below + np.minimum(a, 0) * chord
        constant += a @ bias
        a = a @ weight
    return constant + np.maximum(a, 0) @ low + np.minimum(a, 0) @ high
