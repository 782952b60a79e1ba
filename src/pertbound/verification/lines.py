"""The lines that stand for activations, and how they climb: slopes below undecided ReLUs, multipliers for signs.

Slopes are those of alpha-CROWN (Xu et al. 2021), multipliers those of beta-CROWN (Wang et al. 2021). Adam climbs in
float32; whatever the lines are, what float64 makes of them is a bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from pertbound.environment import denormals_flushed
from pertbound.forms import Duals, Form, Region, Regions, wide
from pertbound.graph import Graph, Node
from pertbound.layers import Activation, LeakyReLU, ReLU
from pertbound.layers.piecewise import TwoPieces
from pertbound.relaxation import Choose

RATE, SLOWING = 0.1, 0.97
"""Adam's first step size, and by which factor each is smaller than the one before."""
SLOPE, FALLING, MULTIPLIER = "slope", "falling slope", "multiplier"
Raw = dict[tuple[str, str], Tensor]
"""By activation and one of these: slopes of the lines below and above it, and multipliers of its signs; float32."""
Signs = Mapping[str, Tensor]
"""By the node that an activation reads: -1, 0 (open) or 1 for each entry, int8."""


@final
class Lines:
    """The lines of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._before: dict[str, set[str]] = {}
        """The nodes that each depends on, itself among them."""
        for node in graph.nodes:
            self._before[node.name] = {node.name}.union(*(self._before.get(name, set()) for name in node.inputs))

    def start(self, regions: Regions, at: str, signs: Signs) -> Raw:
        """Slopes that fit the boxes, for what node `at` depends on, and multipliers of 0 where there may be signs.

        Of a ReLU the line above is its chord, and stays it.
        """
        raw: Raw = {}
        for node in self.graph.nodes:
            layer = node.layer
            if not isinstance(layer, Activation) or node.name not in self._before[at]:
                continue
            box = regions[node.inputs[0]].box
            below = torch.zeros_like(box.lower, dtype=torch.bool)
            convex = isinstance(layer, ReLU | LeakyReLU) and 0 <= layer.slopes[0] <= layer.slopes[1] <= 1
            if convex or not isinstance(layer, TwoPieces):
                raw[node.name, SLOPE] = layer.line(box, below).to(torch.float32)
            if not isinstance(layer, TwoPieces):
                raw[node.name, FALLING] = layer.line(box, ~below).to(torch.float32)
            if node.inputs[0] in signs and isinstance(layer, TwoPieces):
                raw[node.name, MULTIPLIER] = torch.zeros_like(box.lower, dtype=torch.float32)
        return raw

    def choose(self, raw: Raw, signs: Signs) -> Choose:
        """Lines that fit the boxes, but with these slopes where an activation is undecided, and multipliers for signs.

        A sign s says s z >= 0, so that s b z, b >= 0, may be taken off what has to be bounded from below.
        """

        def choice(node: Node, inputs: tuple[Region, ...], form: Form) -> Duals:
            if not isinstance(node.layer, Activation):
                return node.layer.start(inputs, form, curvature=None)
            (region,), c = inputs, form.linear
            falling = c < 0
            slope = node.layer.line(region.box, falling)
            free = node.layer.undecided(region.box) if isinstance(node.layer, TwoPieces) else True
            for kind, where in ((SLOPE, ~falling), (FALLING, falling)):
                own = raw.get((node.name, kind))
                slope = slope if own is None else torch.where(where & free, own.to(c.dtype), slope)
            multiplier = raw.get((node.name, MULTIPLIER))
            if multiplier is None:
                return Duals(slope=slope)
            return Duals(slope=slope, shift=-signs[node.inputs[0]] * multiplier.to(c.dtype))

        return choice

    @denormals_flushed()
    def climb(self, value: Callable[[Raw], Tensor], start: Raw, steps: int, end: float, *, enough: bool) -> Raw:
        """Adam on value(raw), (items,); the best variables of each item on the way.

        Stops when `time.monotonic() > end`, and, where it is `enough`, when all values are positive. Where there is
        nothing to vary, before the first activation or without any, or nothing that the values depend on, `start` is
        what there is.
        """
        if not start:
            return {}
        raw, kept = dict(start), dict(start)
        best: Tensor | None = None
        first = {key: torch.zeros_like(part) for key, part in raw.items()}
        second = {key: torch.zeros_like(part) for key, part in raw.items()}
        for step in range(1, steps + 1):
            with torch.enable_grad():
                leaves = {key: part.detach().requires_grad_(True) for key, part in raw.items()}
                found = value(leaves)
                if not found.requires_grad:
                    return kept
                gradients = torch.autograd.grad(found.sum(), list(leaves.values()), allow_unused=True)
            now = found.detach()
            better = torch.ones_like(now, dtype=torch.bool) if best is None else now > best
            best = now if best is None else torch.where(better, now, best)
            kept = {key: torch.where(wide(better, part), raw[key], part) for key, part in kept.items()}
            if time.monotonic() > end or (enough and bool((best > 0).all())):
                break
            size = RATE * SLOWING**step * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for key, gradient in zip(leaves, gradients, strict=True):
                if gradient is None:  # pyright: ignore[reportUnnecessaryComparison] - of what the values do not use
                    continue
                change = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
                first[key].lerp_(change, 0.1)
                second[key].lerp_(change.square(), 0.001)
                moved = raw[key] + size * first[key] / (second[key].sqrt() + 1e-12)
                raw[key] = moved.clamp(*self._limits(key))
        return kept

    def _limits(self, key: tuple[str, str]) -> tuple[float, float]:
        layer = self.graph.node(key[0]).layer
        assert isinstance(layer, Activation)
        return (0.0, math.inf) if key[1] == MULTIPLIER else layer.slopes
