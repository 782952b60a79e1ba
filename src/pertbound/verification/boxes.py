"""Linear bounds over boxes of inputs: what every node can be there, and the least that differences of logits can be.

Certificates ask how large a ball may be; here the set is given, and is a box for each item, whatever its sides. So no
operator norm is needed: boxes of hidden nodes are those of interval arithmetic, intersected with what linear relaxation
says (CROWN: Zhang et al. 2018), and the layers' own `pull_back` does all of it, in float64 with roundings taken off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pertbound.certificates.relaxed import COPIES
from pertbound.environment import known_state
from pertbound.forms import Form, Region, Regions, total
from pertbound.graph import INPUT, Graph, Node, in_float64
from pertbound.numerics import UNIT64
from pertbound.relaxation import Choose, Ground, margin_at_rest, margin_form, pull_to_input
from pertbound.sets import Box
from pertbound.verification.lines import Lines, Raw


@contextmanager
def plain_numbers() -> Generator[None]:
    """No gradients unless they are asked for, and nothing else of the caller's modes (`known_state`)."""
    with known_state(), torch.no_grad():
        yield


@final
@dataclass(frozen=True, eq=False)
class Rest:
    """Points x (items, *shape) at rest: the float64 values of all nodes, and what each layer can have rounded there."""

    graph: Graph
    values: dict[str, Tensor]
    noise: dict[str, Tensor]

    @staticmethod
    def of(graph: Graph, x: Tensor) -> Rest:
        """Run x (items, *input_shape) once, in float64."""
        start = x.to(torch.float64)
        values, noise = {INPUT: start}, {INPUT: start.new_zeros(len(x))}

        def see(node: Node, inputs: tuple[Tensor, ...], value: Tensor) -> None:
            values[node.name] = value
            norms = (vector_norm(part.flatten(1), dim=1) * (1 + 1e-9) + part[0].numel() * 2.0**-500 for part in inputs)
            noise[node.name] = node.layer.noise(*norms, unit=UNIT64)

        with known_state():
            graph.derive(in_float64).run(start, see)
        return Rest(graph, values, noise)

    @property
    def logits(self) -> Tensor:
        """The logits, (items, classes)."""
        return self.values[self.graph.output.name]

    def regions(self, box: Box, tighten: int | None = None, *, end: float = math.inf, steps: int = 0) -> Regions:
        """What every node can be for inputs in the boxes (items, *input_shape), float64, which hold the points.

        With `tighten`, a number of bytes to work in, boxes are tightened at the entries that the layer reading them is
        undecided about; until `time.monotonic() > end`, after which they stay as they are. The lines of each of these
        bounds climb so many `steps`.
        """
        graph = self.graph
        readers = {name: node.layer for node in graph.nodes for name in node.inputs}
        found: Regions = {INPUT: self._region(INPUT, box)}
        for node in graph.nodes:
            computed = node.layer.interval(*(found[name].box for name in node.inputs))
            found[node.name] = self._region(node.name, computed)
            if tighten is not None and node.name in readers and any(name != INPUT for name in node.inputs):
                undecided = readers[node.name].undecided(computed)
                found[node.name] = self._region(
                    node.name, self._tightened(node.name, found, undecided, tighten, end, steps)
                )
        return found

    def _region(self, name: str, box: Box) -> Region:
        value = self.values[name]
        far = torch.maximum(box.upper - value, value - box.lower).flatten(1)
        radius = vector_norm(far, dim=1) * (1 + 1e-9) + far.shape[1] * 2.0**-500
        return Region(value, box, radius, self.noise[name])

    def _tightened(self, name: str, regions: Regions, entries: Tensor, memory: int, end: float, steps: int) -> Box:
        """The box of a node, smaller at some entries: each is pulled back to the input, upwards and downwards."""
        region = regions[name]
        lower, upper = region.box.lower.flatten(1).clone(), region.box.upper.flatten(1).clone()
        item, entry = entries.flatten(1).nonzero(as_tuple=True)
        room = max(1, items_at_once(regions, memory) // 4)
        for start in range(0, len(item), room):
            if time.monotonic() > end:
                break
            rows, columns = item[start : start + room], entry[start : start + room]
            value = region.value.flatten(1)[rows, columns]
            some = {key: part.take(rows) for key, part in regions.items()}
            unit = torch.zeros(len(rows), lower.shape[1], dtype=torch.float64, device=lower.device)
            unit.scatter_(1, columns[:, None], 1.0)
            for sign, ends in ((1.0, lower), (-1.0, upper)):
                form = Form(sign * unit.reshape(-1, *region.value.shape[1:]))
                choose = self._climbed(form, name, some, steps, end) if steps else None
                least = lowest(pull_to_input(self.graph, form, name, some, choose), some[INPUT])
                # the exact value is off the computed one by at most the noise, which is part of the pulled form
                bound = value + sign * least
                bound = bound - sign * 2.0**-52 * (value.abs() + least.abs())
                now = ends[rows, columns]
                ends[rows, columns] = torch.fmax(now, bound) if sign > 0 else torch.fmin(now, bound)
        return Box(lower.reshape(region.value.shape), upper.reshape(region.value.shape))

    def _climbed(self, form: Form, at: str, exact: Regions, steps: int, end: float) -> Choose:
        """Lines that have climbed for this form of node `at`."""
        lines, plain = self.graph.derive(Lines), Form(form.linear.to(torch.float32))
        regions = {name: region.to(torch.float32) for name, region in exact.items()}

        def value(raw: Raw) -> Tensor:
            return lowest(pull_to_input(self.graph, plain, at, regions, lines.choose(raw, {})), regions[INPUT])

        return lines.choose(lines.climb(value, lines.start(regions, at, {}), steps, end, enough=False), {})


def items_at_once(regions: Regions, memory: int) -> int:
    """How many items of these regions' sizes can be bounded together in so many bytes; at least 1."""
    return max(1, memory // (4 * COPIES * sum(region.value[0].numel() for region in regions.values())))


def lowest(ground: Ground, region: Region) -> Tensor:
    """The least of constant + <linear, z - x> for z in the input's region, (items,); in float64 rounded down."""
    a, low, high = ground.form.linear, region.box.lower - region.value, region.box.upper - region.value
    sizes = (a * region.value).abs() + a.abs() * (low.abs() + high.abs())
    moved = total(torch.minimum(a * low, a * high), sizes)
    least = ground.constant + moved
    return least if least.dtype != torch.float64 else least - 1e-14 * (ground.constant.abs() + moved.abs())


def ahead(
    graph: Graph, logits: Tensor, other: Tensor, regions: Regions, choose: Choose | None = None
) -> tuple[Ground, Tensor]:
    """By how much class 0 is ahead of the class `other` (items,) at least, (items,), in the dtype of the regions.

    `logits` (items, classes) are those at rest, float64.
    """
    own, dtype = torch.zeros_like(other), regions[INPUT].value.dtype
    form = margin_form(own, other, graph.classes, dtype)
    ground = pull_to_input(graph, form, graph.output.name, regions, choose)
    margin = margin_at_rest(logits, own, other).to(dtype)
    value = margin + lowest(ground, regions[INPUT])
    return ground, value if dtype != torch.float64 else value - 4 * UNIT64 * (margin.abs() + value.abs())
