"""Whole graphs in long double, layer by layer, from each layer's formula."""

from __future__ import annotations

import math

import numpy as np

from oracles.exact import Long, exact
from pertbound.graph import INPUT, Graph

EPS = float(np.finfo(np.longdouble).eps)


def exact_values(graph: Graph, x: Long) -> dict[str, Long]:
    """Every node's value in long double."""
    values = {INPUT: x}
    for node in graph.nodes:
        values[node.name] = exact(node.layer, *(values[name] for name in node.inputs))
    return values


def oracle_error(graph: Graph) -> float:
    """Of exact values, relative to the largest of them: the roundings of the longest sum, at each layer."""
    longest = max([64, *(math.prod(getattr(node.layer, "input_shape", (1,))) for node in graph.nodes)])
    return EPS * longest * len(graph.nodes)
