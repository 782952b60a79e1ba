"""Extreme scales: no certificate crashes, is NaN or exceeds the distance to a point that dense enumeration finds."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch

import pertbound as pb
from pertbound.errors import PertboundError
from pertbound.frontends.vnnlib import parse_vnnlib
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Dense, Layer, LeakyReLU, ReLU

SCALES = (1e-38, 1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e20, 1e30)
KINDS = ("one layer", "two layers", "three layers", "leaky")
POINTS = np.concatenate([np.linspace(-3, 3, 6001), np.geomspace(1e-9, 1e9, 2001), -np.geomspace(1e-9, 1e9, 2001)])
CERTIFICATES: tuple[pb.Certificate, ...] = (
    pb.Lipschitz(),
    pb.Interval(),
    pb.LinearRelaxation(),
    pb.QuadraticRelaxation(steps=3),
)


def network(kind: str, first: float, last: float, seed: int = 0) -> Graph | None:
    """A function of one number, its first weights times `first` and its last times `last`; None beyond float32."""
    generator = torch.Generator().manual_seed(seed)
    middle = ("second", "second.g") if kind == "three layers" else ()
    nodes: list[Node] = []
    sizes = [1, 2] if kind == "one layer" else [1, 4, 4, 2] if middle else [1, 4, 2]
    at = INPUT
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        scale = (first if i == 0 else 1.0) * (last if i == len(sizes) - 2 else 1.0)
        weight = torch.randn(outputs, inputs, generator=generator).double() * scale
        bias = torch.randn(outputs, generator=generator).double() * (
            scale if i == 0 else first * last if i == len(sizes) - 2 else first
        )
        weight, bias = weight.float(), bias.float()
        if not bool(torch.isfinite(weight).all()) or not bool(torch.isfinite(bias).all()):
            return None
        nodes.append(Node(f"dense{i}", Dense((inputs,), weight, bias), (at,)))
        at = f"dense{i}"
        if i < len(sizes) - 2:
            layer: Layer = LeakyReLU((outputs,), 0.1) if kind == "leaky" else ReLU((outputs,))
            nodes.append(Node(f"g{i}", layer, (at,)))
            at = f"g{i}"
    return Graph(nodes, (1,))


def margins(graph: Graph, z: np.ndarray) -> np.ndarray:
    """logit 0 less logit 1 by numpy, in its longest float; weights as they stand."""
    value = z.astype(np.longdouble)[:, None]
    for node in graph.nodes:
        layer = node.layer
        if isinstance(layer, Dense):
            assert layer.bias is not None
            value = value @ layer.weight.numpy().astype(np.longdouble).T + layer.bias.numpy().astype(np.longdouble)
        else:
            slope = layer.slope if isinstance(layer, LeakyReLU) else 0.0
            value = np.where(value >= 0, value, np.longdouble(slope) * value)
    return value[:, 0] - value[:, 1]


def check_scales(kind: str, first: float, last: float, asked: tuple[pb.Certificate, ...] = CERTIFICATES) -> int:
    """Every certificate at two samples; how many positive radii were seen."""
    graph = network(kind, first, last)
    if graph is None:
        return 0
    seen = 0
    x = np.array([0.25, -1.5], dtype=np.float32)
    there, here = margins(graph, POINTS), margins(graph, x)
    other = np.sign(there)[None] * np.sign(here)[:, None] < 0
    away = np.where(other, np.abs(POINTS[None] - x[:, None].astype(float)), math.inf).min(1)
    for certificate in asked:
        name = f"{kind}, {first:g} and {last:g}: {certificate.name}"
        try:
            radius = pb.certify(graph, torch.tensor(x)[:, None], certificate).radius
        except PertboundError as error:
            raise AssertionError(f"{name} raised {error}") from error
        assert bool((radius >= 0).all()), name
        assert bool((radius.numpy() <= away).all()), f"{name}: {radius.tolist()} beyond {away.tolist()}"
        seen += int((radius > 0).sum())
    return seen


def check_verdicts(kind: str, first: float, last: float, seconds: float = 5.0) -> None:
    """Half the way to the nearest change of class the class stays, and one and a half times as far it does not."""
    graph = network(kind, first, last)
    if graph is None:
        return
    x = 0.25
    sign = 1 if float(margins(graph, np.array([x]))[0]) > 0 else -1
    for far in (1e-3, 0.1, 10.0):
        inside = np.abs(POINTS - x) <= far
        violated = bool((sign * margins(graph, POINTS[inside]) < 0).any())
        ends = " ".join(
            f"(assert ({op} X_0 {float(Fraction(x) + s * Fraction(far)):.17g}))" for op, s in ((">=", -1), ("<=", 1))
        )
        claim = "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)" + ends
        claim += "(assert (>= Y_1 Y_0))" if sign > 0 else "(assert (>= Y_0 Y_1))"
        answer = pb.verify(graph, parse_vnnlib(claim), seconds=seconds).answer
        assert not (answer is pb.Answer.HOLDS and violated), f"{kind}, {first:g} and {last:g}, {far:g}: {answer}"
