"""What `Layer.pull_back` must keep: for every form, region and choice of the free variables, its answer is below.

For inputs y within their regions, d = y - value, and D = layer(y) - value of the output, in exact arithmetic,

    <a, D> - q/2 norm(D)^2  >=  sum over inputs (<a', d> - q'/2 norm(d)^2) + constant.

For each of `questions` the worst point of the region is sought and judged in long double, whose own error is all the
tolerance there is. What loses nothing in theory may lose only rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from contracts.questions import Question, output_of, questions
from contracts.worst_points import EPS, Point, moves, within, worst_points
from oracles.exact import Long, long
from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers import Layer, Linear, Shape
from pertbound.layers.piecewise import Pieces
from pertbound.numerics import UNIT64
from pertbound.sets import Box


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
    """Straight pieces lose nothing but rounding, with any line and any curvature."""
    assert isinstance(layer, Pieces)
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
    v, s = torch.randn(2, 8, *layer.input_shape, generator=generator, dtype=torch.float64)
    radius = 2 * s.flatten(1).norm(dim=1) * (1 + 1e-12)
    region = Region(v, Box(v - 2 * s.abs(), v + 2 * s.abs()), radius, torch.zeros_like(radius))
    output = output_of(layer, (region,))
    a = torch.randn(output.value.shape, generator=generator, dtype=torch.float64)
    q = a.flatten(1).norm(dim=1) / (max(layer.norm_upper, 1e-3) * radius)
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
    """The width of the box, times what rounds the slopes of what is minimised: lost where a vertex is missed.

    And the squares of what rounds the output's movement, times the form's curvature.
    """
    with torch.no_grad():
        pulled = layer.pull_back(question.form, question.inputs, question.output, question.duals)
    (region,), (form,) = question.inputs, pulled.forms
    width = region.box.upper - region.box.lower
    steep = question.form.linear.abs() + form.linear.abs()
    if form.curvature is not None:
        steep = steep + wide(form.curvature, steep) * (region.value.abs() + width)
    lost = UNIT64 * (width * steep).flatten(1).sum(1)
    if question.form.curvature is not None:
        lost = lost + question.form.curvature * 1e3 * (UNIT64 * question.output.value).flatten(1).square().sum(1)
    return long(lost)


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
