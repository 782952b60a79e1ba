"""Questions for `Layer.pull_back`: forms, regions and free variables, ordinary and nasty; every row is another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from oracles import ascent, dense
from oracles.taps import taps_of
from pertbound.forms import Duals, Form, Region, wide
from pertbound.layers import Activation, Add, Concat, Layer, Linear, MaxPool, Multiply, Shape, Standardize
from pertbound.numerics import UNIT64
from pertbound.push import _norm_of_samples
from pertbound.sets import Box


@dataclass(frozen=True)
class Question:
    """What `pull_back` is asked; every row by itself. `names` say what is special about each."""

    kind: str
    names: list[str]
    form: Form
    inputs: tuple[Region, ...]
    output: Region
    duals: Duals


def questions(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator) -> Iterator[Question]:
    """Without curvature, with the layer's own, and with a form that has some already."""
    rows = 2 * len(REGIONS)
    for kind in ("straight", "bent", "curved"):
        if kind == "bent" and not isinstance(layer, Activation | MaxPool | Multiply | Standardize):
            continue
        names, inputs = regions(shapes, generator, rows, whole_ball=isinstance(layer, Linear | Add | Concat))
        output = output_of(layer, inputs)
        a = forms(tuple(output.value.shape[1:]), generator, rows)
        q = None
        if kind == "curved":
            q = _pick((0.0, 1e-6, 0.1, 1.0, 30.0, 1e8), generator, rows) * _ratio(a, output.radius)
            q[::13] = 1e-25
        form = Form(a, q)
        if isinstance(layer, Add) or (isinstance(layer, Linear) and layer.terms):
            output = _misplaced(output, form, generator)
        duals = _duals(layer, form, inputs, kind != "straight", generator)
        yield Question(kind, names, form, inputs, output, duals)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _pick(values: tuple[float, ...], generator: torch.Generator, rows: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (rows,), generator=generator)]


def _norms(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a.flatten(1), dim=1)


def _ratio(a: Tensor, radius: Tensor) -> Tensor:
    """norm(a) / radius: the curvature at which both parts of a form matter. Nothing extreme for points and zeros."""
    size = _norms(a)
    return torch.where(size > 0, size, 1.0) / (radius + 1e-9)


def _around(scale: float, width: float, shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    v = scale * _normal(shape, generator)
    below, above = width * _uniform((2, *shape), generator)
    return v, v - below, v + above


def _levels(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers: ties between values, and between ends of boxes."""
    v, below, above = torch.randint(0, 3, (3, *shape), generator=generator).to(torch.float64)
    return v - 1, v - 1 - below, v - 1 + above


def _with(
    change: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Callable[[Shape, torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    """An ordinary box, changed; the last argument are uniform random numbers."""

    def make(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        return change(*_around(1.0, 1.0, shape, generator), _uniform(shape, generator))

    return make


def _scaled(scale: float, width: float) -> Callable[[Shape, torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    return lambda shape, generator: _around(scale, width, shape, generator)


_INF = torch.tensor(math.inf, dtype=torch.float64)

REGIONS: dict[str, Callable[[Shape, torch.Generator], tuple[Tensor, Tensor, Tensor]]] = {
    "ordinary": _scaled(1.0, 1.0),
    "narrow": _scaled(1.0, 1e-3),
    "wide": _scaled(1.0, 1e3),
    "far wider than the value": _scaled(1e-3, 1e6),
    "far away": _scaled(1e6, 1e-6),
    "small": _scaled(1e-9, 1e-9),
    "a point": _scaled(1.0, 0.0),
    "partly a point": _with(lambda v, a, b, t: (v, torch.where(t < 0.5, v, a), torch.where(t < 0.5, v, b))),
    "value at the lower end": _with(lambda v, a, b, t: (v, v, b)),
    "value at the upper end": _with(lambda v, a, b, t: (v, a, v)),
    "value at either end": _with(lambda v, a, b, t: (v, torch.where(t < 0.5, v, a), torch.where(t < 0.5, b, v))),
    "touching the kink": _with(
        lambda v, a, b, t: (v, torch.where(v > 0, 0.0, a.clamp_max(0)), torch.where(v > 0, b.clamp_min(0), 0.0))
    ),
    "value at the kink": _with(lambda v, a, b, t: (0 * v, a - v, b - v)),
    "from the kink": _with(lambda v, a, b, t: (0 * v, torch.where(t < 0.5, 0.0, a - v), b - v)),
    "kink off the value": _with(lambda v, a, b, t: (v.abs(), -v.abs() * 100 * t, b.abs() + v.abs())),
    "hardly above the kink": _with(lambda v, a, b, t: (0 * v, -t, t * 1e-3)),
    "hardly below the kink": _with(lambda v, a, b, t: (0 * v, -t * 1e-3, t)),
    "one wide": _with(lambda v, a, b, t: (v, v - 1e-4 - 1e4 * (t == t.max()), v + 1e-4 + 1e4 * (t == t.max()))),
    "equal values": _with(lambda v, a, b, t: (0 * v + 0.3, 0.3 - t, b - v + 0.3)),
    "levels": _levels,
    "value outside by rounding": _with(lambda v, a, b, t: (v, torch.nextafter(v, _INF), v + t)),
    "value outside above": _with(lambda v, a, b, t: (v, v - t, torch.nextafter(v, -_INF))),
    "centre off the value": _with(lambda v, a, b, t: (v, v + 0.5 * t, v + t)),
    "ball": _scaled(1.0, 1.0),
    "smaller ball": _scaled(2.0, 3.0),
}
"""value, lower and upper end."""


def regions(
    shapes: tuple[Shape, ...], generator: torch.Generator, rows: int, *, whole_ball: bool
) -> tuple[list[str], tuple[Region, ...]]:
    """One row of each kind, over and over. Radii reach the box's corners, or, for the last kinds, less.

    With `whole_ball` the box is the one around the ball: what is asked knows nothing of boxes.
    """
    names = [list(REGIONS)[i % len(REGIONS)] for i in range(rows)]
    found = []
    for shape in shapes:
        made = [REGIONS[name](shape, generator) for name in names]
        v, low, high = (torch.stack(part) for part in zip(*made, strict=True))
        radius = _norms(torch.maximum((high - v).abs(), (low - v).abs())) * (1 + 1e-12) + 1e-300
        inner = torch.tensor([{"ball": 0.5, "smaller ball": 0.05}.get(name, 1.0) for name in names])
        radius = radius * inner
        if whole_ball:
            room = wide(radius, v) * (1 + 1e-12) + 1e-15 * v.abs()
            low, high = v - room, v + room
        found.append(Region(v, Box(low, high), radius, torch.zeros_like(radius)))
    return names, tuple(found)


def output_of(layer: Layer, inputs: tuple[Region, ...]) -> Region:
    """As `Rest.regions` makes it, a little larger."""
    with torch.no_grad():
        at = dense.in_float64(layer).forward(*(region.value for region in inputs))
        noise = torch.zeros_like(inputs[0].radius)
        if layer.rounds:
            sizes = (_norm_of_samples(region.value) for region in inputs)
            noise = layer.noise(*sizes, unit=UNIT64).expand(len(at), 1).squeeze(1)
        local = layer.local(*(region.value for region in inputs))
        radii = (region.radius[:, None] for region in inputs)
        moved = layer.modulus(*radii, at=None if local is None else local.unsqueeze(1)).squeeze(1)
        radius = (moved + noise) * (1 + 1e-9)
        box = layer.interval(*(region.box for region in inputs))
        room = wide(radius, at) * (1 + 1e-12) + 1e-15 * at.abs()
        box = Box(torch.maximum(box.lower, at - room), torch.minimum(box.upper, at + room))
    return Region(at, box, radius, noise)


def _misplaced(output: Region, form: Form, generator: torch.Generator) -> Region:
    """The output's value moved by as much as its noise allows, in the direction that costs most or any other."""
    extra = _pick((0.0, 0.0, 1e-6, 0.3), generator, len(output.value)) * output.radius
    towards = -form.linear
    towards = torch.where(wide(_pick((0.0, 1.0), generator, len(extra)), towards) > 0, towards, towards.flip(-1))
    towards = ascent.unit_rows(towards)
    return replace(
        output,
        value=output.value - wide(extra, towards) * towards,
        noise=(output.noise + extra * (1 + 1e-12)) + 1e-15 * _norms(output.value) * (extra > 0),
    )


def forms(shape: Shape, generator: torch.Generator, rows: int) -> Tensor:
    """Linear parts: ordinary ones, and those that underflow, cancel, or are zero in places."""
    a = _normal((rows, *shape), generator)
    one = torch.zeros(rows, math.prod(shape), dtype=torch.float64)
    one[torch.arange(rows), torch.randint(one.shape[1], (rows,), generator=generator)] = -1.0
    sparse = a * (_uniform(a.shape, generator) < 0.3)
    spread = a * 10.0 ** (4 * _normal(a.shape, generator))
    rounded = torch.round(2 * a)
    kinds = [a, a.abs(), -a.abs(), one.reshape(a.shape), -one.reshape(a.shape), sparse, spread, rounded, 0 * a]
    kinds += [1e-31 * a, 1e-12 * a, 1e10 * a, 1e-170 * a, a, a, 3.3 + 0 * a]
    which = torch.randint(len(kinds), (rows,), generator=generator)
    return torch.stack(kinds)[which, torch.arange(rows)]


def _duals(layer: Layer, form: Form, inputs: tuple[Region, ...], curved: bool, generator: torch.Generator) -> Duals:
    """What the layer starts with in a third of the rows; in the others anything."""
    with torch.no_grad():
        start = layer.start(
            inputs, form, curvature=torch.zeros(len(form.linear), dtype=torch.float64) if curved else None
        )
    rows = len(form.linear)
    found: dict[str, Any] = {}
    keep = _uniform((rows,), generator) < 0.35
    for name, tensor in start.tensors().items():
        if name == "curvature":
            new = _pick((0.0, 0.0, 1e-8, 1e-3, 0.3, 1.0, 10.0, 1e8), generator, rows)
            new = new * _ratio(form.linear, inputs[0].radius) + _pick((0.0, 1e-28), generator, rows)
        elif name == "centre":
            direction = _normal(tensor.shape, generator)
            if isinstance(layer, Linear):
                chosen = wide(_pick((0.0, 1.0), generator, rows), tensor) > 0
                direction = torch.where(chosen, direction, taps_of(layer).top)
            direction = direction / wide(_norms(direction), direction)
            new = direction * wide(_pick((0.0, 0.3, 1.0, 1.0, 1e3, 1e8), generator, rows) * inputs[0].radius, tensor)
        elif name == "slope":
            anything = 3 * _uniform(tensor.shape, generator) - 1
            near = tensor + wide(_pick((1e-16, 1e-3, 0.5), generator, rows), tensor) * _normal(tensor.shape, generator)
            part = 10.0 ** (-18 * _uniform(tensor.shape, generator))  # of the largest slope: all or nothing of it
            steepest = layer.steepest if isinstance(layer, Activation) else 1.0
            kinds = [tensor, anything, near, 0 * tensor, -anything.abs(), steepest + 0 * tensor]
            kinds = torch.stack([*kinds, steepest * part, steepest * (1 - part)])
            new = kinds[torch.randint(len(kinds), (rows,), generator=generator), torch.arange(rows)]
        else:
            assert name == "shift", f"a free variable that this contract does not know: {name}"
            size = _pick((0.0, 0.0, 1e-16, 0.1, 1.0, 1e3), generator, rows)
            new = wide(size, tensor) * _normal(tensor.shape, generator)
        found[name] = torch.where(wide(keep, tensor) if tensor.dim() > 1 else keep, tensor, new)
    return Duals(**found)
