"""A case of a property as a question that certificates answer: does class 0 win everywhere in a box?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import torch
from torch import Tensor

from pertbound.errors import PropertyError
from pertbound.frontends.vnnlib import Case, Conjunction, Inequality
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Dense, MaxPool, Reshape
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Question:
    """A case, ready to be certified and attacked.

    `graph` has a class 0, whose logit is 0, and one for each condition, whose logit is at least 0 where the condition
    holds (in exact arithmetic; constants are rounded so). So the case has no counterexample if class 0 wins in all of
    `box` (1, *graph.input_shape), float64, rounded outwards, which holds `x`.
    """

    case: Case
    graph: Graph
    x: Tensor
    box: Box


def question(network: Graph, case: Case) -> Question:
    """The question whether `case` has a counterexample. Raises `PropertyError` where a number does not fit."""
    graph = _judged(_without_first_reshape(network), case.conditions)
    lower, upper = (_ends(ends, side) for ends, side in ((case.lower, -1), (case.upper, 1)))
    if not float(torch.maximum(lower.abs(), upper.abs()).max()) <= torch.finfo(network.dtype).max:
        raise PropertyError(f"the bounds of an input are beyond {network.dtype}")
    x = (lower / 2 + upper / 2).to(network.dtype)
    exact = x.to(torch.float64)
    # where no number of the network's dtype is in the box, the box reaches to x
    ends = (torch.minimum(lower, exact), torch.maximum(upper, exact))
    lower, upper = (end.reshape(1, *graph.input_shape).to(network.device) for end in ends)
    return Question(case, graph, x.reshape(lower.shape).to(network.device), Box(lower, upper))


def _ends(ends: Sequence[Fraction], side: int) -> Tensor:
    """The ends of a box in float64, rounded outwards: down where `side` is -1, up where it is 1."""
    result: list[float] = []
    for end in ends:
        near = _float(end)
        result.append(near if side * (Fraction(near) - end) >= 0 else math.nextafter(near, side * math.inf))
    return torch.tensor(result, dtype=torch.float64)


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise PropertyError("a bound is beyond 1e308") from error


def _without_first_reshape(network: Graph) -> Graph:
    """The same network on inputs of the shape that its first layer makes, where that only reshapes."""
    first = network.nodes[0]
    readers = [node for node in network.nodes if INPUT in node.inputs]
    if not isinstance(first.layer, Reshape) or len(readers) != 1 or len(network.nodes) == 1:
        return network
    nodes = [
        Node(node.name, node.layer, tuple(INPUT if name == first.name else name for name in node.inputs), node.where)
        for node in network.nodes[1:]
    ]
    return Graph(nodes, first.layer.shape, dtype=network.dtype)


def _judged(network: Graph, conditions: Sequence[Conjunction]) -> Graph:
    """The network with layers behind it that turn its outputs into the logits that `Question` describes.

    One inequality, <c, y> <= d, holds where d - <c, y> >= 0. All of several hold where the least of these is >= 0,
    that is minus the largest of <c, y> - d: a pooling window, whose relaxation finds the best nonnegative combination.
    """
    dtype, device = network.dtype, network.device
    most = max(map(len, conditions))
    rows = [[_row(one, network.classes, dtype) for one in condition] for condition in conditions]
    weight = torch.stack([torch.stack([w for w, _ in _filled(row, most)]) for row in rows]).flatten(0, 1).to(device)
    bound = torch.stack([torch.stack([d for _, d in _filled(row, most)]) for row in rows]).flatten().to(device)
    count, last = len(conditions), network.output.name
    nodes = list(network.nodes)
    zero = torch.zeros(1, dtype=dtype, device=device)
    if most == 1:
        weight = torch.cat([torch.zeros_like(weight[:1]), -weight])
        nodes.append(Node("property", Dense((network.classes,), weight, torch.cat([zero, bound])), (last,)))
    else:
        each = torch.eye(count, dtype=dtype, device=device)
        minus = torch.cat([torch.zeros_like(each[:1]), -each])
        nodes += [
            Node("property.inequalities", Dense((network.classes,), weight, -bound), (last,)),
            Node("property.rows", Reshape((count * most,), (count, most)), ("property.inequalities",)),
            Node("property.largest", MaxPool((count, most), (most,), (most,), (0,), (1,), False), ("property.rows",)),
            Node("property.each", Reshape((count, 1), (count,)), ("property.largest",)),
            Node("property", Dense((count,), minus, None), ("property.each",)),
        ]
    return Graph(nodes, network.input_shape, dtype=dtype)


def _filled(rows: list[tuple[Tensor, Tensor]], most: int) -> list[tuple[Tensor, Tensor]]:
    """As many rows as the longest conjunction has: the first once more does not change the largest."""
    return rows + rows[:1] * (most - len(rows))


def _row(inequality: Inequality, outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same inequality with whole coefficients, and its bound rounded upwards."""
    factors = [factor for _, factor in inequality.coefficients]
    scale = Fraction(math.lcm(*(f.denominator for f in factors)), math.gcd(*(f.numerator for f in factors)))
    weight = torch.zeros(outputs, dtype=dtype)
    for index, factor in inequality.coefficients:
        number = factor * scale
        if abs(number) > 2**24:  # exact in float32 and float64
            raise PropertyError(
                f"the coefficients {', '.join(map(str, factors[:5]))} of an inequality are no small multiples of one "
                "number; round them, so that the inequality holds more often"
            )
        weight[index] = float(number)
    return weight, torch.tensor(_rounded_up(inequality.bound * scale, dtype), dtype=dtype)


def _rounded_up(value: Fraction, dtype: torch.dtype) -> float:
    """The least number of the dtype that is not below."""
    kind: Callable[[float], np.floating] = np.float32 if dtype == torch.float32 else np.float64
    with np.errstate(over="ignore"):
        near = kind(_float(value))
    if not np.isfinite(near):
        raise PropertyError(f"the bound {_float(value):g} of an inequality is beyond {dtype}")
    return float(near if Fraction(float(near)) >= value else np.nextafter(near, kind(math.inf)))
