"""The same classifier with other scales between its layers, so that the product of its operator norms is smaller.

ReLU, leaky ReLU, max and average pooling and flattening commute with a positive factor for each channel. So if one
linear layer's outputs are multiplied by such factors and the next one's inputs divided by them, the function stays, but
norm(D A) norm(B / D) depends on D. Curvature, which is one number for each node, then charges channels by what they
weigh rather than all alike: certificates of networks that were not trained for small norms grow by a tenth and more.

The factors t = log D descend sum log norm by Adam. With u and v the singular vectors of a layer's largest singular
value the derivative by the log of an output channel's factor is norm(u_channel)^2, by an input channel's
-norm(v_channel)^2.

Scales that are far from 1 (`ORDINARY`) are first taken from each layer to the next by powers of two, so that searches
in float32 do not overflow. Where a new weight would not be finite in float32 all the same, nothing is rescaled.

The new weights are rounded to float64, each at most twice; `Rest.drift` says what that can change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from pertbound.graph import Graph, Node, in_float64
from pertbound.layers import (
    Activation,
    Add,
    AveragePool,
    Concat,
    Conv,
    Dense,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool,
    ReLU,
    Reshape,
)

STEPS = 600
"""Of Adam, with `RATE` at first and 0 in the end, each after three rounds of power iteration."""
RATE = 0.02
STRAY = 0.001
"""How much of a random direction is added before each power iteration: another singular value may be largest by now."""
SETTLED = 30
"""Rounds of power iteration before a norm counts."""
ENTRIES = 2**18
"""Graphs with more entries in all nodes together are left as they are: a hundred passes would take too long."""
WORTH = 0.9
"""The product of the norms has to shrink by this factor for the new graph to be used."""
ORDINARY = 24
"""Layers whose largest weight is between 2^-ORDINARY and 2^ORDINARY keep their scale but for what the descent gains."""
LAST = 1000
"""Beyond 2^-LAST and 2^LAST float64 ends, and nothing is done."""


@final
@dataclass(frozen=True)
class Link:
    """Two linear layers between which nothing but the scale of `channels` channels matters; names of nodes."""

    above: str
    below: str
    channels: int


def balanced(graph: Graph) -> Graph:
    """The graph with better scales, or itself where nothing is gained. For `Graph.derive`."""
    found = links(graph)
    known = all(isinstance(node.layer, Linear | Activation | MaxPool | Add | Concat) for node in graph.nodes)
    if not found or not known or _entries(graph) > ENTRIES:
        return graph
    logs, gain = _descend(graph, found)
    powers = _powers(graph, found)
    if gain > WORTH and not any(powers):
        return graph
    gains = [
        log.to(torch.float64).exp() if gain <= WORTH else torch.ones_like(log, dtype=torch.float64) for log in logs
    ]
    factors = {link: factor * 2.0**power for link, factor, power in zip(found, gains, powers, strict=True)}
    nodes: list[Node] = []
    for node in graph.derive(in_float64).nodes:
        layer = _rescaled(node, factors)
        if layer is None:
            return graph
        nodes.append(replace(node, layer=layer))
    return Graph(nodes, graph.input_shape, dtype=torch.float64, original=graph.original, rounded=True)


def _exponent(*tensors: Tensor | None) -> int:
    """That of the largest entry: divided by 2 to this power it is between 1/2 and 1."""
    largest = max(float(part.abs().max()) for part in tensors if part is not None and part.numel())
    return max(-LAST, math.frexp(largest)[1])


def _powers(graph: Graph, found: list[Link]) -> list[int]:
    """The power of two that each link's factors begin with: it takes extreme scales to the layer below."""
    carried: dict[str, int] = {}
    powers: list[int] = []
    for link in found:
        layer = graph.node(link.above).layer
        assert isinstance(layer, Dense | Conv)
        scale = _exponent(layer.weight, layer.bias) + carried.get(link.above, 0)
        scale = scale if ORDINARY < abs(scale) <= LAST else 0
        carried[link.below] = scale
        powers.append(-scale)
    return powers


def links(graph: Graph) -> list[Link]:
    """All of them, in the order of the nodes."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found: list[Link] = []
    for node in graph.nodes:
        if not _dense_or_conv(node.layer):
            continue
        assert isinstance(node.layer, Dense | Conv)
        at = node
        while len(readers.get(at.name, ())) == 1:
            at = readers[at.name][0]
            if _dense_or_conv(at.layer):
                found.append(Link(node.name, at.name, node.layer.weight.shape[0]))
                break
            if not _passes(at.layer):
                break
    return found


def _dense_or_conv(layer: object) -> bool:
    return (isinstance(layer, Dense) and len(layer.input_shape) == 1) or (isinstance(layer, Conv) and layer.groups == 1)


def _passes(layer: object) -> bool:
    """Whether factors of the channels, the first dimension, can be drawn through the layer."""
    if isinstance(layer, Reshape):
        return len(layer.shape) == 1  # rows of a channel stay together
    return isinstance(layer, ReLU | LeakyReLU | MaxPool | AveragePool)


def _entries(graph: Graph) -> int:
    sizes: list[int] = []
    zero = torch.zeros(1, *graph.input_shape, dtype=graph.dtype, device=graph.device)
    graph.run(zero, lambda _node, _inputs, value: sizes.append(value.numel()))
    return sum(sizes)


def _descend(graph: Graph, found: list[Link]) -> tuple[list[Tensor], float]:
    """Logarithms of the factors, and what they make of the product of the norms."""
    layers = {node.name: _of_size_one(node.layer) for node in graph.nodes if isinstance(node.layer, Linear)}
    names = [name for name in layers if any(name in (link.above, link.below) for link in found)]
    device = graph.device
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        generator = torch.Generator(device="cpu").manual_seed(0)
        right = {name: _unit(layers[name], generator) for name in names}
        logs = [torch.zeros(link.channels, device=device) for link in found]

        def product(times: int) -> tuple[float, list[Tensor]]:
            """Its logarithm, and the derivatives by the logs."""
            value, slopes = 0.0, [torch.zeros_like(log) for log in logs]
            for name in names:
                right[name] = right[name] + STRAY * _unit(layers[name], generator)
                above = next((i for i, link in enumerate(found) if link.above == name), None)
                below = next((i for i, link in enumerate(found) if link.below == name), None)
                out = None if above is None else logs[above].exp()
                into = None if below is None else (-logs[below]).exp()
                u, right[name], norm = _largest(layers[name], right[name], out, into, times)
                value += math.log(max(norm, 1e-30))
                if above is not None:
                    slopes[above] += _shares(u, found[above].channels)
                if below is not None:
                    slopes[below] -= _shares(right[name], found[below].channels)
            return value, slopes

        before, _ = product(SETTLED)
        first, second = ([torch.zeros_like(log) for log in logs] for _ in range(2))
        for step in range(1, STEPS + 1):  # by hand: importing torch.optim takes longer than all of this
            _, slopes = product(3)
            rate = RATE * (1 - step / STEPS) * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for log, slope, m, v in zip(logs, slopes, first, second, strict=True):
                m.lerp_(slope, 0.1)
                v.lerp_(slope.square(), 0.001)
                log -= rate * m / (v.sqrt() + 1e-12)
        gain = math.exp(product(SETTLED)[0] - before)
    return logs, gain


def _of_size_one(layer: Linear) -> Linear:
    """The layer, its weights divided by a power of two so that none is above 1: norms in float32 do not overflow."""
    if not isinstance(layer, Dense | Conv):
        return layer
    weight = layer.weight.to(torch.float64) * 2.0 ** -_exponent(layer.weight)
    return replace(layer, weight=weight.to(layer.weight.dtype), bias=None)


def _largest(
    layer: Linear, v: Tensor, out: Tensor | None, into: Tensor | None, times: int
) -> tuple[Tensor, Tensor, float]:
    """Singular vectors, left and right, and the singular value, by power iteration from v; float32, of norm 1."""
    u, norm = v, 0.0
    for _ in range(times):
        u = _times(layer.apply(_times(v, into)), out)
        norm = float(torch.linalg.vector_norm(u))
        u = u / max(norm, 1e-30)
        v = _times(layer.transpose(_times(u, out)), into)
        v = v / torch.linalg.vector_norm(v).clamp_min(1e-30)
    return u, v, norm


def _unit(layer: Linear, generator: torch.Generator) -> Tensor:
    """A random input of norm 1."""
    v = torch.randn(1, *layer.input_shape, generator=generator).to(layer.device)
    return v / torch.linalg.vector_norm(v)


def _times(x: Tensor, factors: Tensor | None) -> Tensor:
    """Each channel times its factor; x is (1, channels, ...) or flattened."""
    return x if factors is None else (x.reshape(1, len(factors), -1) * factors[:, None]).reshape(x.shape)


def _shares(unit: Tensor, channels: int) -> Tensor:
    return unit.reshape(channels, -1).square().sum(1)


def _rescaled(node: Node, factors: dict[Link, Tensor]) -> Layer | None:
    """The layer with the factors of its links, in float64; layers without a link unchanged.

    None where it would not be finite in float32, in which it is searched.
    """
    layer = node.layer
    if not isinstance(layer, Dense | Conv):
        return layer
    weight = layer.weight.to(torch.float64)
    bias = None if layer.bias is None else layer.bias.to(torch.float64)
    for link, factor in factors.items():
        wide = factor.to(torch.float64)
        if link.above == node.name:
            weight = weight * wide.reshape(-1, *(1 for _ in weight.shape[1:]))
            bias = None if bias is None else bias * wide
        if link.below == node.name:
            flat = weight.reshape(len(weight), link.channels, -1)
            weight = (flat / wide[:, None]).reshape(weight.shape)
    return replace(layer, weight=weight, bias=bias) if _whole(weight, bias) else None


def _whole(*tensors: Tensor | None) -> bool:
    """Whether all are finite in float32."""
    return all(bool(torch.isfinite(part.to(torch.float32)).all()) for part in tensors if part is not None)
