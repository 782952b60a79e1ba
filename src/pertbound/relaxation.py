"""Backward substitution: from a form at one node to a bound at the input, over any graph. Nothing about any layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, Regions
from pertbound.graph import INPUT, Graph, Node
from pertbound.sets import Ball

CURVATURE = -1.0
"""Logarithm of the curvature that every nonlinear layer starts with, in units of value at rest / radius^2."""
DualsOf = dict[str, Duals]
"""The free variables of every layer, by the name of its node."""
Choose = Callable[[Node, tuple[Region, ...], Form], Duals]
"""The free variables of a node's layer, given the regions of its inputs and the form of its output."""


@final
@dataclass(frozen=True, eq=False)
class Ground:
    """What pulling a form down to the input leaves: margin >= constant + <linear, r> - curvature / 2 norm(r)^2."""

    form: Form
    constant: Tensor
    duals: DualsOf = field(default_factory=dict[str, Duals])
    spent: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What each node's step cost, (items,), <= 0 up to rounding."""
    forms: dict[str, Form] = field(default_factory=dict[str, Form])
    """The form of each node's displacement, before the node's step."""

    def lower(self, ball: Ball, x: Tensor, eps: Tensor) -> Tensor:
        """The least that this is over all inputs within `ball` of radius eps (items,) around x, (items,)."""
        least = self.constant + ball.minimum(self.form.linear, x, eps)
        if self.form.curvature is None:
            return _shaved(least, self.constant)
        most = eps * float(ball.l2_radius(torch.ones(1, dtype=torch.float64, device="cpu"), tuple(x.shape[1:])))
        bent = self.form.curvature / 2 * most * most
        return _shaved(least - bent, self.constant.abs() + bent)

    def proved(self, margin: Tensor, ball: Ball, x: Tensor, reach: Tensor, groups: Tensor) -> Tensor:
        """For each group of items the largest radius <= `reach` (groups,) at which all of them have a positive bound.

        `margin` (items,) is added to `lower`; `groups` (items,) numbers the items' groups. 0 where there is none. The
        radius that is returned was evaluated. float64.
        """

        def holds(eps: Tensor) -> Tensor:
            value = torch.nan_to_num(margin + self.lower(ball, x, eps[groups]), nan=-torch.inf)
            worst = torch.full_like(reach, torch.inf).scatter_reduce(0, groups, value, "amin")
            return worst > 0

        low, high = torch.zeros_like(reach), reach.clone()
        trial = reach
        for _ in range(40):
            passed = holds(trial)
            low, high = torch.where(passed, trial, low), torch.where(passed, high, trial)
            if bool((high - low <= 1e-5 * high).all()):
                break
            trial = torch.where(low < reach, (low + high) / 2, low)
        return low


def pull_to_input(
    graph: Graph,
    form: Form,
    at: str,
    regions: Regions,
    duals: DualsOf | Choose | None = None,
    *,
    scale: Tensor | None = None,
) -> Ground:
    """Pull `form` of node `at`'s displacement down to the input.

    With `duals` None every layer starts its own, and they are returned. They use curvature where there is a `scale`
    (items,), the value at rest that the bound is about: exp(CURVATURE) scale / radius^2 each. `duals` may also choose
    them on the way, knowing the form that reaches a node.
    `regions` must hold for every input that the bound is then asked about.
    """
    forms: dict[str, Form] = {at: form}
    started: DualsOf = {}
    seen: dict[str, Form] = {}
    spent: dict[str, Tensor] = {}
    constant = torch.zeros_like(regions[INPUT].radius)
    for node in reversed(graph.nodes):
        above = forms.pop(node.name, None)
        if above is None:
            continue
        inputs = tuple(regions[name] for name in node.inputs)
        if duals is None:
            own = node.layer.start(inputs, above, curvature=None if scale is None else _first(scale, inputs[0].radius))
        else:
            own = duals(node, inputs, above) if callable(duals) else duals[node.name]
        started[node.name], seen[node.name] = own, above
        pulled: Pulled = node.layer.pull_back(above, inputs, regions[node.name], own)
        spent[node.name] = pulled.constant
        constant = constant + pulled.constant
        for name, below in zip(node.inputs, pulled.forms, strict=True):
            forms[name] = forms[name] + below if name in forms else below
    if constant.dtype == torch.float64:
        constant = constant - 1e-15 * len(spent) * sum(part.abs() for part in spent.values())
    nothing = Form(torch.zeros_like(regions[INPUT].value))
    return Ground(forms.get(INPUT, nothing), constant, started, spent, seen)


def _first(scale: Tensor, radius: Tensor) -> Tensor:
    """The curvature that a layer starts with whose input moves by at most `radius` (items,)."""
    return torch.where(radius > 0, math.exp(CURVATURE) * scale / radius.square().clamp_min(1e-30), 0.0)


def margin_form(reference: Tensor, other: Tensor, classes: int, dtype: torch.dtype) -> Form:
    """logit[reference] - logit[other] for each item, as a form of the logits; both (items,) class numbers."""
    rows = torch.arange(len(reference), device=reference.device)
    linear = torch.zeros(len(reference), classes, dtype=dtype, device=reference.device)
    linear[rows, reference] = 1.0
    linear[rows, other] = -1.0
    return Form(linear)


def wrong_classes(reference: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """All pairs of a sample's number and a class that is not its reference, two (items,) tensors, sample by sample."""
    samples = torch.arange(len(reference), device=reference.device).repeat_interleave(classes)
    others = torch.arange(classes, device=reference.device).repeat(len(reference))
    wrong = others != reference[samples]
    return samples[wrong], others[wrong]


def margin_at_rest(logits: Tensor, reference: Tensor, other: Tensor) -> Tensor:
    """logit[reference] - logit[other], rounded down; logits (items, classes) float64, classes (items,)."""
    own, against = logits.gather(1, reference[:, None]).squeeze(1), logits.gather(1, other[:, None]).squeeze(1)
    return own - against - 2.0**-52 * (own.abs() + against.abs())


def _shaved(value: Tensor, size: Tensor) -> Tensor:
    """In float64, less the roundings of a handful of operations on numbers of that size."""
    return value if value.dtype != torch.float64 else value - 1e-14 * (value.abs() + size.abs())
