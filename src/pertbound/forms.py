"""Lower bounds as functions of what a node's value does: what is pulled back through a graph.

The *displacement* of a node is d = y - value, with y the node's exact value at a perturbed input and `value` a fixed
point, the node's computed value at the sample. A `Form` says

    margin >= constant + sum over nodes (<linear, d> - curvature / 2 norm(d)^2)   for every input of the set,

and each layer replaces its output's part by one of its inputs (`Layer.pull_back`), until only the input is left.
Without curvature this is the backward substitution of linear relaxation (CROWN: Zhang et al. 2018). Curvature pays for
the concave parts of activations all at once, with the L2 norm of a layer's displacement instead of one interval for
each neuron, and is passed on through linear maps by their norm. docs/theory.md has the proofs.

Tensors have one row for each *item*: a sample together with the class that it is bounded against. In float64 every
number is a proof: what rounding can have added is taken off (`total`). In float32 it is what an optimiser climbs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pertbound.numerics import UNIT64, gamma
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Form:
    """<linear, d> - curvature / 2 norm(d)^2; linear (items, *shape), curvature (items,) and >= 0, or None for 0."""

    linear: Tensor
    curvature: Tensor | None = None

    def __add__(self, other: Form) -> Form:
        if self.curvature is None or other.curvature is None:
            return Form(self.linear + other.linear, other.curvature if self.curvature is None else self.curvature)
        return Form(self.linear + other.linear, self.curvature + other.curvature)


@final
@dataclass(frozen=True, eq=False)
class Region:
    """What is known of a node's value y: it is in `box`, and at most `radius` (L2) away from `value`.

    `value` and the box are (items, *shape); `radius` and `noise` (items,): the latter is how far, in L2, `value` can be
    from what exact arithmetic makes of the values of the node's inputs.
    """

    value: Tensor
    box: Box
    radius: Tensor
    noise: Tensor

    def take(self, rows: Tensor) -> Region:
        """The region of those rows."""
        box = Box(self.box.lower[rows], self.box.upper[rows])
        return Region(self.value[rows], box, self.radius[rows], self.noise[rows])

    def to(self, dtype: torch.dtype) -> Region:
        """In that dtype; rounding to float32 is not outward, so nothing is proved with it."""
        box = Box(self.box.lower.to(dtype), self.box.upper.to(dtype))
        return Region(self.value.to(dtype), box, self.radius.to(dtype), self.noise.to(dtype))


Regions = dict[str, Region]
"""The region of every node by its name, the graph's input included."""
Signs = dict[str, Tensor]
"""For some nodes the sign that each entry is known to have: -1, 0 (unknown) or 1, (items, *shape) int8."""


@final
@dataclass(frozen=True, eq=False)
class Duals:
    """The free variables of one layer's relaxation: any values are sound, good ones are tight. None where unused.

    `slope` starts the linear part of the pulled form (activations: times the form's, (items, *input_shape); pooling:
    weights of a window's entries; additions: logarithms of shares). `shift` is added to it, in units of the root mean
    square of the form. `curvature` (items,), >= 0, is what the layer adds to the form's. `centre` (items,
    *input_shape) is the displacement at which a linear layer's quadratic step loses nothing.
    """

    slope: Tensor | None = None
    shift: Tensor | None = None
    curvature: Tensor | None = None
    centre: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that are used, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@final
@dataclass(frozen=True, eq=False)
class Pulled:
    """A form for each of a layer's inputs, and what is left over, (items,)."""

    forms: tuple[Form, ...]
    constant: Tensor


def wide(per_item: Tensor, like: Tensor) -> Tensor:
    """(items,) as (items, 1, ...), to be broadcast against `like`."""
    return per_item.reshape(-1, *(1 for _ in like.shape[1:]))


def norms(a: Tensor) -> Tensor:
    """The norm of each row, (items,), with a derivative (zero) also where the row is zero."""
    flat = a.flatten(1)
    size = vector_norm(flat.detach(), dim=1, keepdim=True)
    return vector_norm(torch.where(size > 0, flat, torch.ones_like(flat)), dim=1) * (size.squeeze(1) > 0)


def total(terms: Tensor, sizes: Tensor | None = None) -> Tensor:
    """The sum of each row of `terms`, (items,); in float64 less what rounding can have added.

    `sizes`, of the same shape, bound the numbers that each term was computed from, in at most 32 operations.
    """
    flat = terms.flatten(1)
    sums = flat.sum(1)
    if terms.dtype != torch.float64:
        return sums
    around = gamma(flat.shape[1] + 4) * flat.abs().sum(1)
    if sizes is not None:
        around = around + 64 * UNIT64 * sizes.flatten(1).sum(1)
    return sums - around - flat.shape[1] * 2.0**-900
