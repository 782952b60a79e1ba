"""Small random classifiers, made of layers directly, for tests that need many of them from one generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Activation, Conv, Dense, Layer, MaxPool, ReLU, Reshape, Shape, Sigmoid, Softplus, Tanh

MakeActivation = Callable[[Shape], Activation]
SMOOTH: tuple[MakeActivation, ...] = (Tanh, Sigmoid, lambda shape: Softplus(shape, 1.0, 20.0))


def random_relu_graph(
    generator: torch.Generator,
    widths: Sequence[int] = (4, 6, 6, 3),
    scale: float = 1.5,
    *,
    activation: MakeActivation = ReLU,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """Dense layers from widths[0] inputs to widths[-1] classes with an activation between each two.

    Weights are normal of deviation scale / sqrt(inputs), biases of deviation 1/2.
    """
    layers: list[Layer] = []
    for inputs, outputs in pairwise(widths):
        if layers:
            layers.append(activation((inputs,)))
        layers.append(_dense(generator, inputs, outputs, scale, dtype))
    return chain(layers, (widths[0],), dtype)


def random_smooth_graph(
    generator: torch.Generator,
    widths: Sequence[int] = (4, 6, 6, 3),
    scale: float = 1.5,
    *,
    activation: MakeActivation = Tanh,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """The same with a smooth activation, one of `SMOOTH`."""
    return random_relu_graph(generator, widths, scale, activation=activation, dtype=dtype)


def random_conv_graph(
    generator: torch.Generator,
    shape: tuple[int, int, int] = (1, 5, 5),
    channels: int = 2,
    classes: int = 3,
    scale: float = 1.5,
    *,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """A 2 x 2 convolution, ReLU, 2 x 2 max pooling, a dense layer; channels, height and width in `shape`."""
    inside, height, width = shape
    weight = _normal(generator, channels, inside, 2, 2, scale=scale / (4 * inside) ** 0.5, dtype=dtype)
    bias = _normal(generator, channels, scale=0.5, dtype=dtype)
    after = (channels, height - 1, width - 1)
    pooled = (channels, after[1] // 2, after[2] // 2)
    entries = pooled[0] * pooled[1] * pooled[2]
    layers = [
        Conv(shape, weight, bias, (1, 1), (0, 0), (1, 1), 1),
        ReLU(after),
        MaxPool(after, (2, 2), (2, 2), (0, 0), (1, 1), False),
        Reshape(pooled, (entries,)),
        _dense(generator, entries, classes, scale, dtype),
    ]
    return chain(layers, shape, dtype)


def chain(layers: Sequence[Layer], input_shape: Shape, dtype: torch.dtype = torch.float32) -> Graph:
    """The graph that applies one layer after another."""
    names = [INPUT, *(f"{type(layer).__name__.lower()}{i}" for i, layer in enumerate(layers))]
    nodes = [Node(name, layer, (before,)) for layer, (before, name) in zip(layers, pairwise(names), strict=True)]
    return Graph(nodes, input_shape, dtype=dtype)


def _dense(generator: torch.Generator, inputs: int, outputs: int, scale: float, dtype: torch.dtype) -> Dense:
    weight = _normal(generator, outputs, inputs, scale=scale / inputs**0.5, dtype=dtype)
    return Dense((inputs,), weight, _normal(generator, outputs, scale=0.5, dtype=dtype))


def _normal(generator: torch.Generator, *shape: int, scale: float, dtype: torch.dtype) -> Tensor:
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)
