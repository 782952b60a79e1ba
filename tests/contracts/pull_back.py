"""What `Layer.pull_back` must keep: for every form, region and choice of the free variables, its answer is below.

For inputs y within their regions, d = y - value, and D = layer(y) - value of the output, in exact arithmetic,

    <a, D> - q/2 norm(D)^2  >=  sum over inputs (<a', d> - q'/2 norm(d)^2) + constant.

Each row of a batch is another question: a form, a region and free variables, ordinary or nasty. For each the worst
point of the region is sought - entry by entry for activations, by coordinates for pooling, along singular vectors and
the residual for linear maps - and judged in long double, whose own error is all the tolerance there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles import ascent, dense, loops
from oracles.exact import Long, exact, long, value
from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers import (
    Activation,
    Add,
    Concat,
    Conv,
    Dense,
    Diagonal,
    Layer,
    Linear,
    LpPool,
    MaxPool,
    Shape,
)
from pertbound.layers.activation import Activation as AnyActivation
from pertbound.layers.piecewise import TwoPieces
from pertbound.numerics import UNIT64
from pertbound.push import _norm_of_samples
from pertbound.sets import Box

EPS = float(np.finfo(np.longdouble).eps)
Point = tuple[Long, ...]
"""Displacements of a layer's inputs, (rows, *shape) each."""


def check_pull_back(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> float:
    """No point of any region is below the bound. Returns the smallest excess, in units of the terms' sizes."""
    shapes = shapes or (layer.input_shape,)  # type: ignore[attr-defined]
    closest = math.inf
    for question in questions(layer, shapes, generator):
        with torch.no_grad():
            pulled = layer.pull_back(question.form, question.inputs, question.output, question.duals)
        _demand_shapes(layer, question, pulled)
        for point in worst_points(layer, question, pulled, generator):
            closest = min(closest, _demand_below(layer, question, pulled, point))
    return closest


def check_exact_pieces(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> None:
    """Two straight pieces lose nothing but rounding, with any line and any curvature."""
    assert isinstance(layer, TwoPieces)
    for question in questions(layer, shapes or (layer.input_shape,), generator):
        excess, size = losses(layer, question, generator)
        allowed = 1e-12 * size + 100 * rounding_of(layer, question) + 1e-200
        within_ball = np.array(["ball" in name for name in question.names])  # the worst point may be out of reach
        _demand(
            ((excess <= allowed) | within_ball).all(),
            layer,
            f"{question.kind}: {(excess / allowed).max()} times the loss allowed",
        )


def check_centre(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> None:
    """Linear layers lose nothing at the centre of the quadratic step, and nothing anywhere without curvature."""
    assert isinstance(layer, Linear)
    v, s = _normal((2, 8, *layer.input_shape), generator)
    region = Region(v, Box(v - 2 * s.abs(), v + 2 * s.abs()), 2 * _norms(s) * (1 + 1e-12), torch.zeros(8).double())
    output = output_of(layer, (region,))
    a = _normal(tuple(output.value.shape), generator)
    q = _norms(a) / (max(layer.norm_upper, 1e-3) * region.radius)
    for form, duals in ((Form(a), Duals()), (Form(a, q), Duals(centre=s))):
        question = Question("centre", ["at the centre"] * 8, form, (region,), output, duals)
        with torch.no_grad():
            pulled = layer.pull_back(form, question.inputs, output, duals)
        _demand_below(layer, question, pulled, point := within(question, (long(s),)))
        found = sides(layer, question, pulled, point)
        loss = (found.true - found.claimed) / (found.size + 1e-22)  # beside what float32 can hold
        _demand((loss <= 1e-8).all(), layer, f"loses {loss.max()} of its terms at the centre")


def losses(layer: Layer, question: Question, generator: torch.Generator) -> tuple[Long, Long]:
    """The least excess over the worst points found, and the sizes of the terms at it, (rows,)."""
    with torch.no_grad():
        pulled = layer.pull_back(question.form, question.inputs, question.output, question.duals)
    found = [sides(layer, question, pulled, point) for point in worst_points(layer, question, pulled, generator)]
    excess = np.stack([s.true - s.claimed for s in found])
    which = excess.argmin(0)[None]
    return excess.min(0), np.take_along_axis(np.stack([s.size for s in found]), which, 0)[0]


def rounding_of(layer: Layer, question: Question) -> Long:
    """The width of the box, times what rounds the slopes of what is minimised: lost where a vertex is missed."""
    with torch.no_grad():
        pulled = layer.pull_back(question.form, question.inputs, question.output, question.duals)
    (region,), (form,) = question.inputs, pulled.forms
    width = region.box.upper - region.box.lower
    steep = question.form.linear.abs() + form.linear.abs()
    if form.curvature is not None:
        steep = steep + wide(form.curvature, steep) * (region.value.abs() + width)
    return long(UNIT64 * (width * steep).flatten(1).sum(1))


@dataclass(frozen=True)
class Question:
    """What `pull_back` is asked; every row by itself. `names` say what is special about each."""

    kind: str
    names: list[str]
    form: Form
    inputs: tuple[Region, ...]
    output: Region
    duals: Duals


# Questions.


def questions(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator) -> Iterator[Question]:
    """Without curvature, with the layer's own, and with a form that has some already."""
    rows = 2 * len(REGIONS)
    for kind in ("straight", "bent", "curved"):
        if kind == "bent" and not isinstance(layer, AnyActivation | MaxPool):
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
        moved = layer.modulus(*(region.radius[:, None] for region in inputs)).squeeze(1)
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
        start = layer.start(inputs, form, curved=curved)
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
            steepest = layer.slopes[1] if isinstance(layer, Activation) else 1.0
            kinds = [tensor, anything, near, 0 * tensor, -anything.abs(), steepest + 0 * tensor]
            kinds = torch.stack([*kinds, steepest * part, steepest * (1 - part)])
            new = kinds[torch.randint(len(kinds), (rows,), generator=generator), torch.arange(rows)]
        else:
            assert name == "shift", f"a free variable that this contract does not know: {name}"
            size = _pick((0.0, 0.0, 1e-16, 0.1, 1.0, 1e3), generator, rows)
            new = wide(size, tensor) * _normal(tensor.shape, generator)
        found[name] = torch.where(wide(keep, tensor) if tensor.dim() > 1 else keep, tensor, new)
    return Duals(**found)


# Judgement.


@dataclass(frozen=True)
class Sides:
    """What is claimed to be at most what; `size` is that of all terms met. (rows,) long double each."""

    claimed: Long
    true: Long
    size: Long


def sides(layer: Layer, question: Question, pulled: Pulled, point: Point) -> Sides:
    """Both sides of the inequality at one point, and the sizes of what was added up."""
    rows = len(question.form.linear)
    claimed, size = long(pulled.constant), np.abs(long(pulled.constant))
    for form, moved in zip(pulled.forms, point, strict=True):
        claimed, size = _form(form, moved, np.abs(moved), claimed, size)
    out, reach = moves(layer, question, point)
    true, size = _form(question.form, out, reach, np.zeros(rows, np.longdouble), size)
    return Sides(claimed, true, size)


def _form(form: Form, moved: Long, reach: Long, before: Long, size: Long) -> tuple[Long, Long]:
    """`before` + <a, d> - q/2 norm(d)^2; `reach` bounds the sizes of what d was computed from."""
    flat, far, a = (part.reshape(len(moved), -1) for part in (moved, reach, long(form.linear)))
    found, size = before + (a * flat).sum(1), size + (np.abs(a) * far).sum(1)
    if form.curvature is not None:
        q = long(form.curvature)
        found, size = found - q / 2 * (flat * flat).sum(1), size + q * (np.abs(flat) * far).sum(1)
    return found, size


def moves(layer: Layer, question: Question, point: Point) -> tuple[Long, Long]:
    """The output's exact displacement, and the sizes of what it was computed from; (rows, *shape)."""
    at = long(question.output.value)
    rest = [long(region.value) for region in question.inputs]
    if isinstance(layer, Add):
        reach = sum(np.abs(v) + np.abs(d) for v, d in zip(rest, point, strict=True)) + np.abs(at)
        return np.sum(np.stack(point), 0) + (np.sum(np.stack(rest), 0) - at), reach
    if not isinstance(layer, Linear):
        out = exact(layer, *(v + d for v, d in zip(rest, point, strict=True)))
        return out - at, np.abs(out) + np.abs(at)
    taps = taps_of(layer)
    shift = exact(layer, np.zeros_like(rest[0][:1]))
    off = taps.apply(rest[0]) + shift - at
    size = replace(taps, weights=np.abs(taps.weights))
    reach = size.apply(np.abs(rest[0]) + np.abs(point[0])) + np.abs(shift) + np.abs(at)
    return taps.apply(point[0]) + off, reach


@dataclass(frozen=True)
class Taps:
    """A linear map by the entries that each output reads: long double, exact but for the last bit of each weight."""

    places: NDArray[np.intp]
    weights: Long
    """(outputs, most entries read by one)."""
    input_shape: Shape
    output_shape: Shape
    squares: NDArray[np.float64]
    vectors: NDArray[np.float64]
    """Eigenvalues of A^T A, increasing, and their eigenvectors as columns."""

    @property
    def top(self) -> Tensor:
        """The direction that the map lengthens most."""
        return torch.from_numpy(self.vectors[:, -1].copy()).reshape(self.input_shape)

    def apply(self, d: Long) -> Long:
        """A d."""
        flat = d.reshape(len(d), -1)
        return (flat[:, self.places] * self.weights).sum(2).reshape(len(d), *self.output_shape)

    def transposed(self, a: Long) -> Long:
        """A^T a."""
        flat = a.reshape(len(a), -1)
        found = np.zeros((math.prod(self.input_shape), len(a)), np.longdouble)
        np.add.at(found, self.places.ravel(), (flat[:, :, None] * self.weights).reshape(len(a), -1).T)
        return found.T.reshape(len(a), *self.input_shape)


@lru_cache(maxsize=4)
def taps_of(layer: Linear) -> Taps:
    """Read off what the layer makes of unit vectors."""
    n = math.prod(layer.input_shape)
    units = np.eye(n, dtype=np.longdouble).reshape(n, *layer.input_shape)
    plain: Layer = layer
    if isinstance(layer, Dense | Conv):
        plain = replace(layer, bias=None)
    if isinstance(layer, Diagonal):
        plain = replace(layer, shift=torch.zeros_like(layer.shift))
    columns = exact(plain, units)
    matrix = columns.reshape(n, -1).T
    most = max(1, int((matrix != 0).sum(1).max()))
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :most]
    weights = np.take_along_axis(matrix, places, 1)
    near = matrix.astype(np.float64)
    return Taps(places, weights, layer.input_shape, columns.shape[1:], *np.linalg.eigh(near.T @ near))


def _demand(holds: object, layer: Layer, message: str) -> None:
    assert bool(holds), f"{layer!r:.300}: {message}"


def _demand_shapes(layer: Layer, question: Question, pulled: Pulled) -> None:
    _demand(len(pulled.forms) == len(question.inputs), layer, "not one form for each input")
    for form, region in zip(pulled.forms, question.inputs, strict=True):
        _demand(form.linear.shape == region.value.shape, layer, "a form of another shape than its input")
        _demand(form.curvature is None or bool((form.curvature >= 0).all()), layer, "negative curvature")
    _demand(pulled.constant.shape == question.output.radius.shape, layer, "the constant is not one for each item")
    _demand(torch.isfinite(pulled.constant).all(), layer, f"{question.kind}: a constant that is no number")


def _demand_below(layer: Layer, question: Question, pulled: Pulled, point: Point) -> float:
    """The inequality, but for the error of long double; how close it was in units of the terms' sizes."""
    found = sides(layer, question, pulled, point)
    count = 64 + sum(part[0].size for part in point) + question.form.linear[0].numel()
    excess = found.true - found.claimed
    short = excess + EPS * count * found.size + 1e-300
    worst = int(np.argmin(short / (found.size + 1e-300)))
    _demand(
        (short >= 0).all(),
        layer,
        f"{question.kind}, {question.names[worst]} (row {worst}): claims {found.claimed[worst]!r} where "
        f"{found.true[worst]!r} is reached, {float(-excess[worst]):.3g} too much; terms up to {found.size[worst]!r}",
    )
    return float((excess / (found.size + 1e-300)).min())


# The worst points.


def worst_points(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Points of the region, one for each row, at which the two sides are close."""
    match layer:
        case AnyActivation():
            yield within(question, (_entry_by_entry(layer, question, pulled),))
        case Linear() | Add() | Concat():
            for point in _along(layer, question, pulled, generator):
                yield within(question, point)
        case _:
            for point in _by_coordinates(layer, question, pulled, generator):
                yield within(question, point)


def within(question: Question, point: Point) -> Point:
    """Displacements moved into the box, then shortened into the ball (the value where that leaves the box)."""
    found = []
    for region, moved in zip(question.inputs, point, strict=True):
        rest = long(region.value)
        low, high = long(region.box.lower) - rest, long(region.box.upper) - rest
        d = np.clip(moved, low, high)
        length = np.sqrt((d.reshape(len(d), -1) ** 2).sum(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(length > long(region.radius), long(region.radius) / length * (1 - 4 * EPS), 1)
        share = share.reshape(-1, *(1 for _ in d.shape[1:]))
        inside = ((low <= 0) & (high >= 0)).reshape(len(d), -1).all(1)
        assert (inside | (share.reshape(-1) == 1)).all(), "a ball that does not reach the box's corners around it"
        found.append(d * share)
    return tuple(found)


_FEATURES = (0.0, 1e-9, 1e-3, 0.05, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)


def _entry_by_entry(layer: Activation, question: Question, pulled: Pulled) -> Long:
    """Every entry's own worst point: for two pieces exact, for others by a grid that is refined."""
    (region,), (form,) = question.inputs, pulled.forms
    low, high, rest, at = (long(t) for t in (region.box.lower, region.box.upper, region.value, question.output.value))
    c, line = long(question.form.linear), long(form.linear)
    p = _column(form.curvature, c)
    q = _column(question.form.curvature, c)

    def cost(z: Long) -> Long:
        up, across = value(layer, z) - at, z - rest
        return c * up - q / 2 * up * up - line * across + p / 2 * across * across

    places = [low, high, np.clip(rest, low, high), np.clip(0 * rest, low, high)]
    if isinstance(layer, TwoPieces):
        for slope in (np.longdouble(1), np.longdouble(layer.left)):
            bow = p - q * slope * slope
            with np.errstate(divide="ignore", invalid="ignore"):
                z = (p * rest + line - slope * c - q * slope * at) / bow
            z = np.where(np.isfinite(z), z, rest)
            places += [np.clip(z, *ends) for ends in ((low, high), (np.minimum(low, 0), np.minimum(high, 0)))]
        z = np.stack(places)
        z = np.clip(z, low, high)
        costs = cost(z)
        return np.take_along_axis(z, costs.argmin(0)[None], 0)[0] - rest
    places += [low + (high - low) * np.longdouble(i / 24) for i in range(1, 24)]
    places += [np.clip(centre + sign * f, low, high) for f in _FEATURES for sign in (-1, 1) for centre in (0, rest)]
    z = np.sort(np.stack(places), 0)
    for _ in range(9):
        costs = cost(z)
        best, last = costs.argmin(0)[None], len(z) - 1 - costs[::-1].argmin(0)[None]  # of points that are repeated
        left = np.take_along_axis(z, np.maximum(best - 1, 0), 0)
        right = np.take_along_axis(z, np.minimum(last + 1, len(z) - 1), 0)
        middle = np.take_along_axis(z, best, 0)
        parts = (np.arange(7, dtype=np.longdouble) / 7).reshape(-1, *(1 for _ in rest.shape))
        z = np.concatenate([left + (middle - left) * parts, middle + (right - middle) * parts, right])
        z = np.clip(z, low, high)
    return np.take_along_axis(z, cost(z).argmin(0)[None], 0)[0] - rest


def _column(per_item: Tensor | None, like: Long) -> Long:
    if per_item is None:
        return np.zeros((1,) * like.ndim, np.longdouble)
    return long(per_item).reshape(-1, *(1 for _ in like.shape[1:]))


def _along(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Directions in which a linear step loses least: of the residual, of the singular vectors, of the centre."""
    rows, radii = len(question.form.linear), [long(region.radius) for region in question.inputs]

    def stretched(direction: Long, radius: Long) -> Long:
        flat = direction.reshape(rows, -1)
        largest = np.abs(flat).max(1, keepdims=True)
        flat = flat / np.where(largest > 0, largest, 1)
        length = np.sqrt((flat * flat).sum(1, keepdims=True))
        return (flat / np.where(length > 0, length, 1) * radius[:, None]).reshape(direction.shape)

    yield tuple(np.zeros_like(long(region.value)) for region in question.inputs)
    for _ in range(2):
        noise = [long(_normal(tuple(region.value.shape), generator)) for region in question.inputs]
        yield tuple(stretched(d, r) for d, r in zip(noise, radii, strict=True))
    if not isinstance(layer, Linear):
        same = long(_normal(tuple(question.inputs[0].value.shape), generator))
        if len({region.value.shape for region in question.inputs}) == 1:
            least = np.minimum.reduce(radii)
            for t in (1e-3, 1.0):
                yield tuple(t * stretched(same, least) for _ in radii)
        yield tuple(stretched(long(f.linear), r) for f, r in zip(pulled.forms, radii, strict=True))
        return
    (radius,), (form,) = radii, pulled.forms
    taps = taps_of(layer)
    a, q = long(question.form.linear), np.zeros(rows, np.longdouble)
    if question.form.curvature is not None:
        q = long(question.form.curvature)
    still = (np.zeros_like(long(question.inputs[0].value)),)
    pull = a - q.reshape(-1, *(1 for _ in a.shape[1:])) * moves(layer, question, still)[0]
    slope = taps.transposed(pull) - long(form.linear)  # of the difference, at the value
    yield (stretched(-slope, radius),)
    top = np.broadcast_to(long(taps.top), slope.shape)
    for sign in (-1, 1):
        yield (stretched(sign * top, radius),)
    if form.curvature is None:
        return
    centre = 0 * slope if question.duals.centre is None else long(question.duals.centre)
    yield (centre,)
    for sign in (-1, 1):  # nothing is lost along the top direction either: from the centre to the ball's end
        yield (centre + sign * stretched(top, radius),)
    # the least of the difference: (q' - q A^T A) d = -slope
    bow = form.curvature.numpy()[:, None] - q.astype(np.float64)[:, None] * np.maximum(taps.squares, 0)
    with np.errstate(all="ignore"):
        parts = -slope.reshape(rows, -1).astype(np.float64) @ taps.vectors
        d = np.where(bow > 0, parts / bow, 0) @ taps.vectors.T
    yield (np.nan_to_num(d, nan=0, posinf=0, neginf=0).astype(np.longdouble).reshape(slope.shape),)


def _by_coordinates(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Coordinate search in float64: ends, vertices, ties with the other entries of a window; several starts."""
    (region,), (form,) = question.inputs, pulled.forms
    rest, low, high = (t.flatten(1) for t in (region.value, region.box.lower, region.box.upper))
    rows, n = rest.shape
    at, a = question.output.value.flatten(1), question.form.linear.flatten(1)
    line, p, q = form.linear.flatten(1), form.curvature, question.form.curvature
    wider = dense.in_float64(layer)
    reads = _readers(layer)

    def cost(z: Tensor) -> tuple[Tensor, Tensor]:
        out = wider.forward(z.reshape(-1, *region.value.shape[1:])).reshape(*z.shape[:-1], -1)
        up, across = out - at, z - rest
        found = (a * up).sum(-1) - (line * across).sum(-1)
        if q is not None:
            found = found - q / 2 * up.square().sum(-1)
        if p is not None:
            found = found + p / 2 * across.square().sum(-1)
        return found, out

    lost = (a @ reads - line) / (1 if p is None else p[:, None].clamp_min(1e-300))
    ball = torch.minimum(torch.maximum(rest, low), high)
    corner = torch.where(_uniform(rest.shape, generator) < 0.5, low, high)
    for start in (ball, corner):
        z = start.clone()
        best, out = cost(z)
        for e in torch.randperm(n, generator=generator).tolist():
            around = torch.where(reads[:, e] > 0, out, -math.inf).amax(1)
            pushed = (line[:, e], line[:, e] - torch.where(reads[:, e] > 0, a, 0.0).sum(1), lost[:, e])
            tries = [low[:, e], high[:, e], rest[:, e], around, 0 * around, low[:, e] + (high - low)[:, e] * 0.37]
            if p is not None:
                tries += [rest[:, e] + push / p.clamp_min(1e-300) for push in pushed]
            many = z.expand(len(tries), rows, n).clone()
            many[:, :, e] = torch.nan_to_num(torch.stack(tries), nan=0.0)
            many = torch.minimum(torch.maximum(many, low), high)
            costs, outs = cost(many)
            least, which = costs.min(0)
            better = least < best
            z = torch.where(better[:, None], many[which, torch.arange(rows)], z)
            out = torch.where(better[:, None], outs[which, torch.arange(rows)], out)
            best = torch.where(better, least, best)
        yield ((long(z) - long(rest)).reshape(rows, *region.value.shape[1:]),)


def _readers(layer: Layer) -> Tensor:
    """(outputs, inputs): 1 where a window reads an entry."""
    assert isinstance(layer, MaxPool | LpPool)
    spatial, dims = layer.input_shape[1:], len(layer.window)
    zeros, ones = (0,) * dims, (1,) * dims
    geometry = (layer.padding, layer.dilation, layer.ceil_mode) if isinstance(layer, MaxPool) else (zeros, ones, False)
    rows = []
    for _, inside in loops.windows(spatial, layer.window, layer.stride, *geometry):
        row = torch.zeros(spatial, dtype=torch.float64)
        for place in inside:
            row[place] = 1.0
        rows.append(row.flatten())
    each = torch.stack(rows)
    return torch.block_diag(*[each] * layer.input_shape[0])
