"""Sorting within groups: GroupSort (Anil, Lucas and Grosse 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, total
from pertbound.layers.base import Layer, Shape
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Sort(Layer):
    """The entries along the last dimension in increasing order. Groups of two are better taken apart into linear maps
    and an absolute value, as the frontends do.

    Sound: omega(rho) = rho. norm(u - v)^2 = norm(u)^2 + norm(v)^2 - 2 <u, v>, sorting keeps both norms, and <u, v> is
    largest when both are in the same order (rearrangement inequality). Exact.

    Modulus: rho
    Source: rearrangement inequality; Anil, Lucas and Grosse (2019)
    """

    input_shape: Shape

    @property
    def rounds(self) -> bool:
        """Entries are only moved."""
        return False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sorted entries."""
        return inputs[0].sort(-1).values

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """rho."""
        return radii[0]

    def interval(self, *boxes: Box) -> Box:
        """The sorted ends, exact: the k-th smallest entry increases in every entry. NaN spreads over its group."""
        (box,) = boxes
        bad = (box.lower.isnan() | box.upper.isnan()).any(-1, keepdim=True)
        return Box(
            self.forward(box.lower).masked_fill(bad, torch.nan), self.forward(box.upper).masked_fill(bad, torch.nan)
        )

    def undecided(self, box: Box) -> Tensor:
        """Those whose place in the order is not certain."""
        below, above = _certain(box)
        return below + above < box.lower.shape[-1] - 1

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """Each output follows the input that has its place at rest, where that is certain."""
        del form, curvature
        order, sure = _order(inputs[0])
        del order
        return Duals(slope=sure.to(inputs[0].value.dtype))

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """An input's slope for each output, exact where the order is certain, and the output's box.

        With w the input that is j-th at rest, u its displacement and D that of output j, for any slope s

            a D = a s u + a (D - s u),

        and D - s u is (1 - s) u where w is the j-th for every point of the box, and otherwise within the difference of
        the boxes of D and of s u. norm(D)^2 <= norm(u)^2 over the group, so that curvature passes as it is.
        """
        (region,) = inputs
        assert duals.slope is not None
        s, a = duals.slope, form.linear
        order, sure = _order(region)
        down = (region.box.lower - region.value).gather(-1, order)
        up = (region.box.upper - region.value).gather(-1, order)
        fall, rise = output.box.lower - output.value, output.box.upper - output.value
        least, most = torch.minimum(s * down, s * up), torch.maximum(s * down, s * up)
        t = 1 - s
        low = torch.where(sure, torch.minimum(t * down, t * up), fall - most)
        high = torch.where(sure, torch.maximum(t * down, t * up), rise - least)
        terms = torch.minimum(a * low, a * high)
        far = region.value.gather(-1, order).abs() + down.abs() + up.abs()
        sizes = a.abs() * (output.value.abs() + fall.abs() + rise.abs() + (1 + s.abs()) * far)
        line = torch.zeros_like(a).scatter(-1, order, a * s)
        return Pulled((Form(line, form.curvature),), total(terms, sizes))


def _certain(box: Box) -> tuple[Tensor, Tensor]:
    """For each entry, how many others of its group cannot be above it, and how many are above it everywhere."""
    lower, upper = box.lower.contiguous(), box.upper.contiguous()
    below = torch.searchsorted(upper.sort(-1).values, lower, right=True) - (upper <= lower).to(torch.int64)
    above = lower.shape[-1] - torch.searchsorted(lower.sort(-1).values, upper, right=True)
    return below, above


def _order(region: Region) -> tuple[Tensor, Tensor]:
    """Which input has each place at rest, and whether it is certain to keep it."""
    with torch.no_grad():
        order = region.value.sort(-1).indices
        below, above = (count.gather(-1, order) for count in _certain(region.box))
        n = region.value.shape[-1]
        place = torch.arange(n, device=order.device)
        return order, (below == place) & (below + above == n - 1)
