"""Small random classifiers of every kind of graph that the push composes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pertbound.graph import INPUT, Graph, Node, in_float64
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
    Multiply,
    PReLU,
    ReLU,
    Reshape,
    Select,
    Shape,
    Sigmoid,
    SiLU,
    Softplus,
    Sort,
    Standardize,
    Tanh,
)

ACTIVATIONS: dict[str, Callable[[Shape], Activation]] = {
    "ReLU": ReLU,
    "LeakyReLU 0.1": lambda shape: LeakyReLU(shape, 0.1),
    "LeakyReLU 3": lambda shape: LeakyReLU(shape, 3.0),
    "Sigmoid": Sigmoid,
    "Tanh": Tanh,
    "Softplus 1": lambda shape: Softplus(shape, 1.0, 20.0),
    "Softplus 10": lambda shape: Softplus(shape, 10.0, 20.0),
}


JUMPING: dict[str, Callable[[Shape], Activation]] = {
    "Softplus with a jump": lambda shape: Softplus(shape, 10.0, 4.0),
}


MORE: dict[str, Callable[[Shape], Activation]] = {
    "LeakyReLU -3": lambda shape: LeakyReLU(shape, -3.0),
    "Abs": Abs,
    "Clip": lambda shape: Clip(shape, -0.5, 1.0),
    "GELU": GELU,
    "SiLU": SiLU,
    "HardSwish": HardSwish,
    "SELU": lambda shape: ELU(shape, 1.6732632423543772, 1.0507009873554805, 1.0),
}


class Builder:
    """Adds layers one after another, or to named places; weights keep the size of what passes through them."""

    def __init__(self, shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.shape, self.dtype = shape, dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: shape}
        self.last = INPUT

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)).to(self.dtype)

    def add(self, layer: Layer, *inputs: str) -> str:
        """Append a layer behind `inputs`, or behind the last one; returns its name."""
        inputs = inputs or (self.last,)
        name = f"{type(layer).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name, layer, inputs))
        zeros = (torch.zeros(1, *self.shapes[i], dtype=self.dtype) for i in inputs)
        self.shapes[name] = tuple(layer.forward(*zeros).shape[1:])
        self.last = name
        return name

    def dense(self, out: int, at: str | None = None, *, gain: float = 1.5) -> str:
        shape = self.shapes[at or self.last]
        n = shape[-1]
        layer = Dense(shape, self.normal(out, n, scale=gain / n**0.5), self.normal(out, scale=0.5))
        return self.add(layer, at or self.last)

    def conv(
        self, out: int, window: int, at: str | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> str:
        shape = self.shapes[at or self.last]
        inside, dims = shape[0] // groups, len(shape) - 1
        scale = 1.5 / (inside * window**dims) ** 0.5
        weight = self.normal(out, inside, *(window,) * dims, scale=scale)
        bias = self.normal(out, scale=0.3)
        each = ((stride,) * dims, (padding,) * dims, (1,) * dims)
        return self.add(Conv(shape, weight, bias, *each, groups), at or self.last)

    def batch_norm(self) -> str:
        shape = self.shapes[self.last]
        n = shape[0]
        variance = (0.3 + torch.rand(n, generator=self.generator, dtype=torch.float64)).to(self.dtype)
        parts = (self.normal(n), variance, self.normal(n, scale=1.5), self.normal(n))
        return self.add(Diagonal.from_batch_norm(shape, *parts, 1e-5))

    def flatten(self) -> str:
        shape = self.shapes[self.last]
        return self.add(Reshape(shape, (torch.Size(shape).numel(),)))

    def activation(self, kind: str, at: str | None = None) -> str:
        return self.add((ACTIVATIONS | MORE | JUMPING)[kind](self.shapes[at or self.last]), at or self.last)

    def max_pool(self, window: int, stride: int, padding: int = 0) -> str:
        shape = self.shapes[self.last]
        return self.add(MaxPool(shape, *((v, v) for v in (window, stride, padding, 1)), False))

    def average_pool(self, window: int, stride: int) -> str:
        shape = self.shapes[self.last]
        return self.add(AveragePool(shape, *((v, v) for v in (window, stride, 0)), False, True, None))

    def lp_pool(self, p: float, window: int, stride: int) -> str:
        return self.add(LpPool(self.shapes[self.last], p, (window, window), (stride, stride)))

    def graph(self) -> Graph:
        return Graph(self.nodes, self.shape, dtype=self.dtype)

    def balanced(self) -> Graph:
        """The graph, its last bias such that the classes are about equally frequent."""
        graph = self.graph()
        last = graph.output
        if isinstance(last.layer, Dense) and last.layer.bias is not None:
            logits = graph(2 * self.normal(256, *self.shape))
            bias = last.layer.bias - logits.mean(0)
            self.nodes[-1] = replace(last, layer=replace(last.layer, bias=bias))
        return self.graph()


def mlp(
    depth: int, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, widths: tuple[int, ...] = (6, 7)
) -> Graph:
    """`depth` dense layers with an activation between them; the widths alternate."""
    b = Builder((5,), seed, dtype)
    for layer in range(depth - 1):
        b.dense(widths[layer % len(widths)])
        b.activation(kind)
    b.dense(3)
    return b.balanced()


def linear_chain(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """Dense and diagonal layers with nothing between them."""
    b = Builder((6,), seed, dtype)
    b.dense(8)
    b.batch_norm()
    b.dense(5)
    b.dense(7)
    b.batch_norm()
    b.dense(4)
    return b.balanced()


def convolutional_chain(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """Only linear layers, over images: convolutions, batch normalisation, average pooling, a dense layer."""
    b = Builder((2, 6, 6), seed, dtype)
    b.conv(3, 3, padding=1)
    b.batch_norm()
    b.average_pool(2, 2)
    b.conv(4, 2)
    b.batch_norm()
    b.average_pool(2, 1)
    b.flatten()
    b.dense(4)
    return b.balanced()


def linear_pairs(kind: str, *, seed: int = 0) -> Graph:
    """Two linear layers in a row on both sides of an activation."""
    b = Builder((5,), seed)
    b.dense(6)
    b.dense(6)
    b.activation(kind)
    b.dense(6)
    b.dense(4)
    b.activation(kind)
    b.dense(3)
    return b.balanced()


def normalised(kind: str, *, seed: int = 0) -> Graph:
    """Dense, batch normalisation, activation, twice."""
    b = Builder((5,), seed)
    for _ in range(2):
        b.dense(5)
        b.batch_norm()
        b.activation(kind)
    b.dense(3)
    return b.balanced()


def convolutional(kind: str, pool: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """Convolution, batch normalisation, activation, pooling, convolution, activation, dense."""
    b = Builder((2, 6, 6), seed, dtype)
    b.conv(4, 3, padding=1, groups=2)
    b.batch_norm()
    b.activation(kind)
    match pool:
        case "max":
            b.max_pool(2, 2)
        case "overlapping max":
            b.max_pool(3, 2, 1)
        case "average":
            b.average_pool(2, 2)
        case "p = 2":
            b.lp_pool(2.0, 2, 2)
        case _:
            b.lp_pool(1.5, 2, 1)
    b.conv(3, 2)
    b.activation(kind)
    b.flatten()
    b.dense(3)
    return b.balanced()


def residual(kind: str, *, seed: int = 0) -> Graph:
    """Two residual blocks, the second one with a linear shortcut, and one sum of a value with itself."""
    b = Builder((5,), seed)
    start = b.dense(5)
    b.activation(kind)
    b.dense(5)
    joined = b.add(Add(), start, b.last)
    b.activation(kind)
    deep = b.dense(4)
    short = b.dense(4, joined)
    b.add(Add(), deep, short)
    b.activation(kind)
    b.add(Add(), b.last, b.last)
    b.dense(3)
    return b.balanced()


def inception(kind: str, *, seed: int = 0) -> Graph:
    """Branches of different depth over one image, concatenated by channels."""
    b = Builder((2, 4, 4), seed)
    b.conv(3, 3, padding=1)
    stem = b.activation(kind)
    one = b.conv(2, 1, stem)
    b.conv(2, 3, stem, padding=1)
    three = b.activation(kind)
    b.add(Concat(1), one, three, stem)
    b.conv(2, 2)
    b.activation(kind)
    b.flatten()
    b.dense(3)
    return b.balanced()


def squashed(*, seed: int = 0) -> Graph:
    """Logits that come out of an activation, not of a linear layer."""
    b = Builder((4,), seed)
    b.dense(6)
    b.activation("Tanh")
    b.dense(3)
    b.activation("Sigmoid")
    return b.balanced()


def activation_first(kind: str, *, seed: int = 0) -> Graph:
    """An activation on the input, two in a row, and one behind a reshape."""
    b = Builder((2, 3), seed)
    b.activation(kind)
    b.activation("Tanh")
    b.flatten()
    b.activation(kind)
    b.dense(5)
    b.add(Reshape((5,), (1, 5)))
    b.activation(kind)
    b.flatten()
    b.dense(2)
    return b.balanced()


def tokens(*, seed: int = 0) -> Graph:
    """A dense layer over the trailing dimension of a sequence, scaled by its features."""
    b = Builder((3, 4), seed)
    b.dense(5)
    b.add(Diagonal((3, 5), b.normal(5), b.normal(5)))
    b.activation("Tanh")
    b.dense(4)
    b.add(Diagonal((3, 4), b.normal(3, 1), b.normal(3, 4)))
    b.activation("ReLU")
    b.flatten()
    b.dense(3)
    return b.balanced()


def gated(*, seed: int = 0) -> Graph:
    """A gate times a state, a square, and a product of two values without bounds."""
    b = Builder((4,), seed)
    first = b.dense(3)
    gate = b.activation("Sigmoid")
    state = b.activation("Tanh", b.dense(3, INPUT))
    b.add(Multiply((3,), (1.0, 1.0)), gate, state)
    held = b.add(Add(), b.last, first)
    b.add(Multiply((3,)), held, b.dense(3, INPUT))
    square = b.add(Multiply((3,)), held, held)
    b.add(Concat(1), square, gate)
    b.dense(3)
    return b.balanced()


def recurrent(*, seed: int = 0) -> Graph:
    """Two steps of a small LSTM."""
    b = Builder((2, 3), seed)
    h = cell = ""
    for step in range(2):
        x = b.add(Select((2, 3), torch.arange(6).reshape(2, 3)[step]), INPUT)
        joined = b.add(Concat(1), x, h) if step else x
        i, f, o = (b.activation("Sigmoid", b.dense(2, joined)) for _ in range(3))
        new = b.add(Multiply((2,), (1.0, 1.0)), i, b.activation("Tanh", b.dense(2, joined)))
        cell = b.add(Add(), b.add(Multiply((2,), (1.0, 1.0)), f, cell), new) if step else new
        h = b.add(Multiply((2,), (1.0, 1.0)), o, b.activation("Tanh", cell))
    b.dense(3, h)
    return b.balanced()


def standardised(*, seed: int = 0) -> Graph:
    """Rows that are normalised, scaled and shifted, twice."""
    b = Builder((2, 4), seed)
    for _ in range(2):
        b.dense(4)
        b.add(Standardize((2, 4), 1e-2))
        b.add(Diagonal((2, 4), b.normal(4), b.normal(4)))
        b.activation("ReLU")
    b.flatten()
    b.dense(3)
    return b.balanced()


def responding(*, seed: int = 0) -> Graph:
    """Local response normalisation between two convolutions, and one that brings the positions back."""
    b = Builder((2, 4), seed)
    b.conv(4, 3, padding=1)
    b.add(LocalResponse((4, 4), 3, 1.0, 0.75, 1.0))
    b.activation("ReLU")
    b.conv(2, 2, stride=2)
    b.add(ConvTranspose((2, 2), b.normal(2, 1, 2), None, (2,), (0,), (0,), (1,), 1))
    b.flatten()
    b.dense(3)
    return b.balanced()


def ordered(*, seed: int = 0) -> Graph:
    """Entries moved about, sorted by threes and by twos."""
    b = Builder((6,), seed)
    b.dense(6)
    b.add(Select((6,), torch.tensor([[5, 1, 3], [2, 0, 4]])))
    b.add(Sort((2, 3)))
    b.add(Dense((2, 3), torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]), None))
    b.add(PReLU((2, 2), torch.tensor([1.0, -1.0])))
    b.add(Dense((2, 2), torch.tensor([[0.5, -0.5], [0.5, 0.5]]), None))
    b.flatten()
    b.dense(3)
    return b.balanced()


def graphs() -> dict[str, Graph]:
    """All of them by name."""
    found: dict[str, Graph] = {"one dense layer": mlp(1, "ReLU"), "linear chain": linear_chain()}
    for number, kind in enumerate(ACTIVATIONS):
        for depth in (2, 3, 5):
            found[f"{depth} dense layers, {kind}"] = mlp(depth, kind, seed=10 * number + depth)
    for kind in ("ReLU", "Tanh", "LeakyReLU 3"):
        found[f"linear pairs, {kind}"] = linear_pairs(kind, seed=3)
        found[f"normalised, {kind}"] = normalised(kind, seed=5)
        found[f"residual, {kind}"] = residual(kind, seed=7)
        found[f"inception, {kind}"] = inception(kind, seed=8)
        found[f"activation first, {kind}"] = activation_first(kind, seed=9)
    for number, kind in enumerate(MORE):
        found[f"3 dense layers, {kind}"] = mlp(3, kind, seed=200 + number, widths=(4, 5))
    found |= {"gated": gated(seed=18), "recurrent": recurrent(seed=19), "standardised": standardised(seed=20)}
    found |= {"responding": responding(seed=21), "ordered": ordered(seed=22)}
    found["normalised, Sigmoid"] = normalised("Sigmoid", seed=6)
    for pool in ("max", "overlapping max", "average", "p = 2", "p = 1.5, overlapping"):
        kind = {"average": "Tanh", "p = 2": "Softplus 1"}.get(pool, "ReLU")
        found[f"convolutional, {kind}, {pool}"] = convolutional(kind, pool, seed=11)
    found["convolutional chain"] = convolutional_chain(seed=12)
    found["squashed"] = squashed(seed=13)
    found["tokens"] = tokens(seed=14)
    found["float64, 3 dense layers, Softplus 1"] = mlp(3, "Softplus 1", seed=15, dtype=torch.float64)
    found["float64, convolutional"] = convolutional("ReLU", "max", seed=16, dtype=torch.float64)
    found["float64, convolutional chain"] = convolutional_chain(seed=17, dtype=torch.float64)
    found |= {f"3 dense layers, {kind}": mlp(3, kind, seed=23, widths=(4, 5)) for kind in JUMPING}
    return found


def exact(graph: Graph) -> Graph:
    """The classifier in float64."""
    return in_float64(graph)
