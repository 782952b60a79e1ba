"""Certificates from relaxations: interval arithmetic, linear relaxation, and quadratic relaxation with its ascent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.ascent import Ascent
from pertbound.balance import balanced
from pertbound.certificates.base import Certificate
from pertbound.certificates.lipschitz import Lipschitz
from pertbound.environment import known_state
from pertbound.errors import InputError
from pertbound.graph import INPUT, Graph
from pertbound.problem import Certified, Guarantee, Problem
from pertbound.regions import Rest, Tighten, Views, take
from pertbound.relaxation import margin_at_rest, margin_form, pull_to_input, wrong_classes
from pertbound.search import LARGEST, best_reach
from pertbound.sets import Ball

MEMORY = 2**30
"""Bytes that a batch's tensors may take, unless an option says otherwise."""
COPIES = 40
"""How many tensors of a node's size are alive at once for each item, at most, in float32."""

Work = Callable[[Rest, Tensor, Tensor, Tensor], Tensor]
"""From samples at rest, reference classes, Lipschitz radii and known upper bounds to certified radii, (samples,)."""


@final
@dataclass(frozen=True, kw_only=True)
class Interval(Certificate):
    """The boxes of `Rest.regions` at the logits, nothing else: interval arithmetic (Gowal et al. 2018) intersected at
    every layer with the ball of the Lipschitz moduli.

    `passes` radii are tried at most. Cheap, and tight only where the perturbation is very small.
    """

    passes: int = 12

    @property
    def name(self) -> str:
        """interval."""
        return "interval"

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""

        def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
            own = torch.nn.functional.one_hot(reference, rest.graph.classes).to(torch.bool)

            def certified(rows: Tensor, reach: Tensor) -> Tensor:
                some = rest.take(rows)
                box = some.regions(problem.within, reach)[rest.graph.output.name].box
                lowest = box.lower[own[rows]] - some.drift(problem.within, reach, reference[rows]).amax(1)
                return torch.where(lowest > box.upper.masked_fill(own[rows], -torch.inf).amax(1), reach, 0.0)

            return best_reach(certified, lipschitz, passes=self.passes, upper=upper)

        return relaxed(problem, self.name, MEMORY, work)


@final
@dataclass(frozen=True, kw_only=True)
class LinearRelaxation(Certificate):
    """Backward substitution of linear bounds (CROWN: Zhang et al. 2018) on the boxes of `Rest.regions`.

    Each activation is replaced by a line below or above it on its box, each pooling window by a convex combination or a
    sum of its entries' slopes; the resulting linear function of the input is minimised over the ball, and over the
    input's box where there is one. `tighten` computes the boxes of all hidden layers in the same way first, which costs
    one pass for each neuron that is not decided; with it, and without the intersection with the Lipschitz ball, this
    is CROWN. One pass certifies a radius, not a verdict; at most `passes` are needed for the best radius.

    `memory` is what a batch's tensors may take, in bytes.
    """

    tighten: bool = True
    passes: int = 8
    memory: int = MEMORY

    @property
    def name(self) -> str:
        """linear, or linear(plain boxes) where boxes are not tightened."""
        return "linear" if self.tighten else "linear(plain boxes)"

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""

        def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
            def certified(rows: Tensor, reach: Tensor) -> Tensor:
                return linear_radius(rest.take(rows), problem.within, reference[rows], reach, self.tighten, self.memory)

            return best_reach(certified, lipschitz, passes=self.passes, upper=upper)

        return relaxed(problem, self.name, self.memory, work)


@final
@dataclass(frozen=True, kw_only=True)
class QuadraticRelaxation(Certificate):
    """Backward substitution of quadratic bounds, whose free variables climb together with the radius (`ascent.py`).

    Linear relaxation pays for every undecided neuron by itself; a ball of hidden displacements pays for all of them at
    once (SDP-CROWN: Chiu et al. 2025). Here the ball is not fixed beforehand but part of the bound: curvature is pulled
    back through every layer, exactly at a centre that is free (`Linear.pull_back`). docs/theory.md has the proofs.

    `steps` of Adam for each pair of a sample and a wrong class, fewer where a round of them gains less than `tolerance`
    relatively. With `tighten` the boxes of all hidden layers, or of those with at most so many neurons, are computed by
    a pass for each undecided neuron: by quadratic bounds for L2, once half of the steps are taken, and by linear ones
    for L1 and Linf, where balls say little, from the start. `memory` is what a batch's tensors may take, in bytes.
    """

    steps: int = 60
    tighten: bool | int = False
    tolerance: float = 1e-3
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.tolerance < 1 or self.tighten < 0:
            raise InputError(f"QuadraticRelaxation needs steps >= 1, 0 <= tolerance < 1 and tighten >= 0, got {self}")

    @property
    def name(self) -> str:
        """quadratic, with its steps."""
        small = "" if self.tighten is True else f" up to {self.tighten}"
        return f"quadratic({self.steps}{f', tight boxes{small}' if self.tighten else ''})"

    def climbed(self, rest: Rest, ball: Ball, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Ascent:
        """The ascent of samples at rest after all steps; arguments as in `Work`."""
        entries = math.inf if self.tighten is True else self.tighten
        tighten = Tighten(self.memory, entries, curved=ball.p == 2) if self.tighten else None
        late = tighten is not None and tighten.curved  # boxes for small radii would be computed in vain
        ascent = Ascent(Views(rest, ball, None if late else tighten), reference, lipschitz)
        if late:
            ascent.climb(self.steps // 2, tolerance=0.0, upper=upper, planned=self.steps)
            ascent.views = Views(rest, ball, tighten)
        ascent.climb(self.steps - ascent.done, tolerance=self.tolerance, upper=upper, planned=self.steps)
        return ascent

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""

        def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
            ascent = self.climbed(rest, problem.within, reference, lipschitz, upper)
            return torch.maximum(ascent.proved(), lipschitz)

        return relaxed(problem, self.name, self.memory, work)


def linear_radius(rest: Rest, ball: Ball, reference: Tensor, reach: Tensor, tighten: bool, memory: int) -> Tensor:
    """The radius up to `reach` (samples,) that linear relaxation on boxes that hold up to `reach` proves; float64."""
    graph = rest.graph
    regions = rest.regions(ball, reach, tighten=Tighten(memory) if tighten else None)
    sample, other = wrong_classes(reference, graph.classes)
    items = take(regions, sample)
    form = margin_form(reference[sample], other, graph.classes, torch.float64)
    with torch.no_grad():
        ground = pull_to_input(graph, form, graph.output.name, items)
        margin = margin_at_rest(rest.logits[sample], reference[sample], other)
        margin = margin - rest.drift(ball, reach, reference)[sample, other]
        return ground.proved(margin, ball, items[INPUT].value, reach, sample)


def relaxed(
    problem: Problem, name: str, memory: int, work: Work, on_part: Callable[[Tensor], None] | None = None
) -> Certified:
    """Ask `work` about the samples that Lipschitz certifies at all, in pieces that fit the memory.

    `on_part` is told which samples these are before each piece.
    """
    _ = problem.logits  # executed as it is, before any mode is changed
    # gradients are needed whatever the caller's mode, and tensors that inference mode made cannot have any
    with known_state(), torch.no_grad():
        x, network = problem.x.detach().clone(), problem.network.derive(_with_plain_tensors).derive(balanced)
        simple = Lipschitz(floor=0.0).answer(problem)  # a small radius to begin with may become a large one
        reference, start = simple.reference.clone(), simple.radius.clone()
        done = start >= 0.99 * LARGEST  # as far as anyone looks
        radius, upper = torch.where(done, start, 0.0), problem.known().clamp_max(LARGEST)
        rows = ((start > 0) & ~done).nonzero().flatten()
        for part in rows.split(samples_at_once(network, memory)) if len(rows) else ():
            rest = Rest.of(network, x[part])
            if on_part is not None:
                on_part(part)
            found = work(rest, reference[part], start[part], upper[part])
            radius[part] = torch.nan_to_num(found, nan=0.0).clamp_max(LARGEST)
    guarantee = Guarantee(problem.within.norm_name, problem.within.domain)
    return Certified(radius, simple.reference, simple.predicted, name, guarantee)


def _with_plain_tensors(graph: Graph) -> Graph:
    """The graph, its weights copied where inference mode made them. For `Graph.derive`."""
    tensors = (value for node in graph.nodes for value in vars(node.layer).values() if isinstance(value, Tensor))
    if any(tensor.is_inference() for tensor in tensors):
        return graph.with_tensors(lambda tensor: tensor.clone(), graph.dtype)
    return graph


def samples_at_once(graph: Graph, memory: int) -> int:
    """How many samples' items, all wrong classes of each, fit into `memory` bytes; at least 1."""
    sizes = [math.prod(graph.input_shape)]

    def see(_node: object, _inputs: object, value: Tensor) -> None:
        sizes.append(value[0].numel())

    graph.run(torch.zeros(1, *graph.input_shape, dtype=graph.dtype, device=graph.device), see)
    return max(1, memory // (4 * COPIES * sum(sizes) * (graph.classes - 1)))
