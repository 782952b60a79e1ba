"""Relaxations where they are exact, their derivatives, their dtypes, and inputs that broke earlier versions.

That they are sound is `contracts.pull_back`, which `check_layer` runs for every layer of the catalogue.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.catalogue import catalogue
from contracts.pull_back import check_centre, check_exact_pieces, check_pull_back, losses, rounding_of, sides
from contracts.questions import Question, output_of, questions
from contracts.worst_points import worst_points
from oracles.exact import long
from pertbound.environment import known_state
from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers import Add, AveragePool, Conv, Dense, Layer, LeakyReLU, Linear, MaxPool, Multiply, ReLU
from pertbound.sets import Box

CASES = catalogue()
PIECES = [
    *("ReLU", "ReLU on images", "LeakyReLU 0.01", "LeakyReLU 1", "LeakyReLU 3", "LeakyReLU -0.5", "Abs", "PReLU"),
    *("PReLU on images", "Clip -1 1", "Clip 0 6", "Clip -inf 0.5", "Clip 0.3 inf"),
]
SMOOTH = [
    *("Sigmoid", "Tanh", "Softplus 0.5", "Softplus 1", "Softplus 10", "GELU", "TanhGELU", "SiLU", "Mish", "HardSwish"),
    *("ELU", "ELU 0.4", "SELU", "CELU 0.3"),
]


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def region_of(value: Tensor, lower: Tensor, upper: Tensor) -> Region:
    radius = torch.maximum(upper - value, value - lower).flatten(1).norm(dim=1) * (1 + 1e-12)
    return Region(value, Box(lower, upper), radius, torch.zeros_like(radius))


def question_of(layer: Layer, form: Form, duals: Duals, *inputs: Region) -> Question:
    return Question("given", ["row"] * len(form.linear), form, inputs, output_of(layer, inputs), duals)


def pulled_by(layer: Layer, question: Question) -> Pulled:
    with torch.no_grad():
        return layer.pull_back(question.form, question.inputs, question.output, question.duals)


# Tightness.


@pytest.mark.parametrize("name", PIECES)
def test_two_pieces_lose_nothing_but_rounding(name: str, generator: torch.Generator) -> None:
    check_exact_pieces(CASES[name].layer, generator)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_straight_bound_of_smooth_activations_is_exact(name: str, generator: torch.Generator) -> None:
    """Without curvature."""
    layer, shapes = CASES[name].layer, CASES[name].shapes
    question = next(iter(questions(layer, shapes, generator)))
    excess, size = losses(layer, question, generator)
    allowed = 1e-9 * size + 1000 * rounding_of(layer, question) + 1e-200
    boxed = np.array(["ball" not in name for name in question.names])  # else the worst point may be out of reach
    assert (excess <= allowed)[boxed].all(), (excess / allowed).max()


def _small_ball(name: str, radius: float, generator: torch.Generator) -> Question:
    """A box of that radius around values of about 1, curvature such that both terms of a form count, duals as started
    and a layer's curvature of the same size.
    """
    layer, (shape,) = CASES[name].layer, CASES[name].shapes
    v = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    region = region_of(v, v - radius, v + radius)
    output = output_of(layer, (region,))
    a = torch.randn(output.value.shape, generator=generator, dtype=torch.float64)
    q = a.flatten(1).norm(dim=1) / output.radius
    form = Form(a, q)
    start = layer.start((region,), form, curvature=torch.zeros(len(form.linear), dtype=torch.float64))
    return Question("small", ["row"] * 6, form, (region,), output, replace(start, curvature=q))


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU 0.01", "Tanh", "Softplus 1", "MaxPool: 1-D", "MaxPool: 2-D"])
def test_rounding_is_small_beside_small_balls(name: str, generator: torch.Generator) -> None:
    """Curvature grows with the inverse of the radius, and must not multiply the squares of values that do not move."""
    for radius in (1e-2, 1e-5, 1e-8):
        question = _small_ball(name, radius, generator)
        excess, _ = losses(CASES[name].layer, question, generator)
        moved = long(question.form.linear.flatten(1).norm(dim=1) * question.output.radius)
        exact = isinstance(CASES[name].layer, ReLU | LeakyReLU)  # the others lose as much as their terms are
        assert (excess <= (1e-5 if exact else 10) * moved).all(), f"{radius}: {(excess / moved).max()}"


@pytest.mark.parametrize("curved", [False, True])
def test_falling_maxima_lose_nothing(curved: bool, generator: torch.Generator) -> None:
    """c < 0 and windows apart: the least over which entry is largest is the least over the box; q = 0, any p."""
    layer = MaxPool((1, 12), (3,), (3,), (0,), (1,), False)
    rows = 60
    a = -torch.rand(rows, 1, 4, generator=generator, dtype=torch.float64)
    v = torch.randn(rows, 1, 12, generator=generator, dtype=torch.float64)
    below, above = torch.rand(2, rows, 1, 12, generator=generator, dtype=torch.float64) * 2
    region = region_of(v, v - below, v + above)
    form = Form(a)
    duals = layer.start((region,), form, curvature=torch.zeros(rows, dtype=torch.float64) if curved else None)
    shift = torch.randn(duals.shift.shape, generator=generator, dtype=torch.float64)
    p = torch.rand(rows, generator=generator, dtype=torch.float64) if curved else None
    question = question_of(layer, form, replace(duals, shift=shift, curvature=p), region)
    pulled = pulled_by(layer, question)
    least = _least_of_windows(layer, question, pulled)
    assert np.allclose(least, 0, atol=1e-11)
    assert (least >= 0).all()


def _least_of_windows(layer: MaxPool, question: Question, pulled: Pulled) -> np.ndarray:
    """The excess at the worst point of windows that do not overlap: every choice of ends and vertices is tried."""
    (region,), (form,) = question.inputs, pulled.forms
    z0, low, high, line = (
        long(layer.windows(t, 0.0))[:, 0] for t in (region.value, region.box.lower, region.box.upper, form.linear)
    )
    c, y = long(question.form.linear)[:, 0], long(question.output.value)[:, 0]
    p = np.zeros((len(c), 1)) if form.curvature is None else long(form.curvature)[:, None]
    places = [low, high]
    if form.curvature is not None:
        places += [z0 + line / p[..., None], z0 + (line - c[..., None]) / p[..., None]]
    places = [np.clip(z, low, high) for z in places]
    least = np.full(c.shape, np.inf, np.longdouble)
    for chosen in itertools.product(places, repeat=z0.shape[-1]):
        z = np.stack([place[..., j] for j, place in enumerate(chosen)], -1)
        for largest in (None, *range(z0.shape[-1])):  # or lowered to the largest, where entries may not exceed it
            at = z if largest is None else np.clip(np.minimum(z, z[..., largest, None]), low, high)
            d = at - z0
            cost = c * (at.max(-1) - y) - (line * d).sum(-1) + p / 2 * (d * d).sum(-1)
            least = np.minimum(least, cost)
    return (least.sum(1) - long(pulled.constant)).astype(np.float64)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("MaxPool")])
def test_rising_maxima_lose_nothing_at_rest(name: str, generator: torch.Generator) -> None:
    """c >= 0, no shift, straight: the bound c <t, z> loses c times how far <t, z> is below the maximum at rest."""
    layer, shapes = CASES[name].layer, CASES[name].shapes
    assert isinstance(layer, MaxPool)
    question = next(iter(questions(layer, shapes, generator)))
    a = question.form.linear.abs() + 1
    start = layer.start(question.inputs, Form(a), curvature=None)
    pulled = pulled_by(layer, replace(question, form=Form(a), duals=start))
    reach = (question.inputs[0].box.upper - question.inputs[0].box.lower).flatten(1).sum(1)
    sizes = a.flatten(1).sum(1) * (reach + question.inputs[0].radius)
    assert bool((pulled.constant <= 0).all())
    assert bool((pulled.constant >= -1e-11 * sizes - 1e-200).all())


LINEAR = [name for name, case in CASES.items() if isinstance(case.layer, Linear) and "1e-170" not in name]


@pytest.mark.parametrize("name", LINEAR)
def test_linear_steps_lose_nothing_at_their_centre(name: str, generator: torch.Generator) -> None:
    check_centre(CASES[name].layer, generator)


# Derivatives.

Leaf = tuple[str, Tensor]

FAMILIES: dict[str, tuple[Layer, tuple[tuple[int, ...], ...]]] = {
    "Dense": (Dense((4,), torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.ones(3)), ((4,),)),
    "Conv": (
        Conv((2, 5), torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(2)), None, (2,), (1,), (1,), 1),
        ((2, 5),),
    ),
    "AveragePool": (AveragePool((1, 5), (3,), (1,), (1,), False, False, None), ((1, 5),)),
    "MaxPool, c of both signs": (MaxPool((1, 6), (2,), (2,), (0,), (1,), False), ((1, 6),)),
    "MaxPool, overlapping": (MaxPool((1, 5), (3,), (2,), (1,), (1,), False), ((1, 5),)),
    "Add": (Add(), ((3,), (3,))),
    "Multiply": (Multiply((3,)), ((3,), (3,))),
} | {
    name: (CASES[name].layer, CASES[name].shapes)
    for name in (
        *("ReLU", "LeakyReLU 0.01", "LeakyReLU 3", "Sigmoid", "Tanh", "Softplus 1", "Softplus 10"),
        *("Standardize: groups", "Standardize: root mean square", "LocalResponse: strong"),
        *("PReLU", "Clip -1 1", "GELU", "SiLU", "ELU", "SELU", "HardSwish", "Sort: of three"),
        *("Select: unequal repetition", "ConvTranspose: 1-D, stride 2, output padding"),
        *("LpPool: 1-D, p = 1.5", "Concat of features", "Diagonal: entry by entry", "Reshape: flatten"),
    )
}


def _leaves(name: str, kind: str, generator: torch.Generator) -> tuple[Question, list[Leaf]]:
    """A generic question, and everything that `pull_back` can be differentiated by."""
    layer, shapes = FAMILIES[name]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = tuple(region_of(v := normal(2, *shape), v - 0.8, v + 0.7) for shape in shapes)
    output = output_of(layer, inputs)
    a = normal(*output.value.shape)
    q = torch.rand(2, generator=generator, dtype=torch.float64) + 0.5 if kind == "curved" else None
    form = Form(a, q)
    start = layer.start(
        inputs, form, curvature=None if kind == "straight" else torch.zeros(2, dtype=torch.float64)
    ).tensors()
    for key, tensor in start.items():
        noise = 0.1 * normal(*tensor.shape)
        start[key] = {"slope": 0.3 + tensor * 0.5 + noise, "shift": noise}.get(key, 0.7 + noise.abs())
    leaves = [("a", a), *([] if q is None else [("q", q)]), *start.items()]
    leaves = [(key, tensor.detach().clone().requires_grad_(True)) for key, tensor in leaves]
    return Question(kind, ["row"] * 2, form, inputs, output, Duals(**start)), leaves


@pytest.mark.parametrize("kind", ["straight", "bent", "curved"])
@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives_are_those_of_finite_differences(name: str, kind: str, generator: torch.Generator) -> None:
    """Of the constant and of the forms, by all free variables and by the form; at points without ties.

    The shift is in units of the form's size, which is a constant to the derivative: here it is made one.
    """
    question, leaves = _leaves(name, kind, generator)
    layer = FAMILIES[name][0]
    names, at = [key for key, _ in leaves], leaves[0][1].detach().clone()

    def pulled(*tensors: Tensor) -> tuple[Tensor, ...]:
        by_name = dict(zip(names, tensors, strict=True))
        form = Form(by_name.pop("a"), by_name.pop("q", None))
        if "shift" in by_name:
            size, before = (a.detach().flatten(1).square().mean(1).sqrt() for a in (form.linear, at))
            by_name["shift"] = by_name["shift"] * wide(before / size, by_name["shift"])
        found = layer.pull_back(form, question.inputs, question.output, Duals(**by_name))
        parts = [part for f in found.forms for part in (f.linear, f.curvature) if part is not None]
        return tuple(part for part in (found.constant, *parts) if part.requires_grad)

    tensors = tuple(tensor for _, tensor in leaves)
    assert torch.autograd.gradcheck(pulled, tensors, eps=1e-6, atol=2e-6, rtol=1e-5)


# Dtypes.


@pytest.mark.parametrize("kind", ["straight", "bent", "curved"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_finds_what_float64_does(name: str, kind: str, generator: torch.Generator) -> None:
    """For ordinary questions: to a few roundings of float32."""
    question, leaves = _leaves(name, kind, generator)
    layer, by_name = FAMILIES[name][0], {key: tensor.detach() for key, tensor in leaves}
    form = Form(by_name.pop("a"), by_name.pop("q", None))
    double = pulled_by(layer, replace(question, form=form, duals=Duals(**by_name)))
    single = pulled_by(
        layer,
        replace(
            question,
            form=Form(form.linear.float(), None if form.curvature is None else form.curvature.float()),
            inputs=tuple(region.to(torch.float32) for region in question.inputs),
            output=question.output.to(torch.float32),
            duals=Duals(**{key: tensor.float() for key, tensor in by_name.items()}),
        ),
    )
    assert single.constant.dtype == torch.float32
    assert torch.allclose(single.constant.double(), double.constant, rtol=1e-4, atol=1e-4)
    for one, two in zip(single.forms, double.forms, strict=True):
        assert one.linear.dtype == torch.float32
        assert torch.allclose(one.linear.double(), two.linear, rtol=1e-5, atol=1e-5)
        assert (one.curvature is None) == (two.curvature is None)
        if one.curvature is not None and two.curvature is not None:
            assert torch.allclose(one.curvature.double(), two.curvature, rtol=1e-5)


# What broke earlier versions.


def shortfall(layer: Layer, question: Question, *displacement: Tensor) -> float:
    """How far the bound is below the truth at one point, in rationals: layers of two pieces, maxima, one row."""
    pulled = pulled_by(layer, question)

    def form(form: Form, moved: list[Fraction]) -> Fraction:
        a = [Fraction(float(x)) for x in form.linear.flatten()]
        q = Fraction(0) if form.curvature is None else Fraction(float(form.curvature))
        return sum((x * d for x, d in zip(a, moved, strict=True)), Fraction(0)) - q / 2 * sum(d * d for d in moved)

    (region,) = question.inputs
    rest = [Fraction(float(v)) for v in region.value.flatten()]
    moved = [Fraction(float(d)) for d in displacement[0].flatten()]
    ends = zip(region.box.lower.flatten(), region.box.upper.flatten(), strict=True)
    z = [v + d for v, d in zip(rest, moved, strict=True)]
    assert all(Fraction(float(low)) <= x <= Fraction(float(high)) for x, (low, high) in zip(z, ends, strict=True))
    if isinstance(layer, MaxPool):
        windows = layer.windows(torch.arange(float(len(z))).reshape(1, *layer.input_shape), -1.0).flatten(0, -2)
        out = [max(z[int(i)] for i in window if i >= 0) for window in windows]
    else:
        left = Fraction(layer.left(rest))  # type: ignore[attr-defined]
        out = [x if x >= 0 else left * x for x in z]
    at = [Fraction(float(v)) for v in question.output.value.flatten()]
    true = form(question.form, [o - v for o, v in zip(out, at, strict=True)])
    return float(true - form(pulled.forms[0], moved) - Fraction(float(pulled.constant)))


PADDED = MaxPool((1, 2), (2,), (2,), (1,), (1,), False)
"""Two windows of one entry each, and one of padding."""


@pytest.mark.parametrize("weights", ["on the padding", "zero", "negative", "tiny", "beyond the largest number"])
def test_weights_of_windows_add_up_to_one(weights: str) -> None:
    """Whatever the free variables are: what is on the padding, or adds up to nothing, is no bound on a maximum."""
    at_rest = torch.zeros(1, 1, 2, dtype=torch.float64)
    region = region_of(at_rest, at_rest - 1, at_rest + 1)
    form = Form(torch.ones(1, 1, 2, dtype=torch.float64))
    first = PADDED.start((region,), form, curvature=None).slope
    assert first is not None
    slope = {
        "on the padding": 1 - first,
        "zero": 0 * first,
        "negative": first - 2,
        "tiny": 1e-13 * first,
        "beyond the largest number": 1.7e308 * torch.ones_like(first),
    }[weights]
    question = question_of(PADDED, form, Duals(slope=slope, shift=0 * first), region)
    for d in (-1.0, 0.0, 1.0):
        assert 0 <= shortfall(PADDED, question, at_rest + d) <= 1e-10 if d < 0 else 2 + 1e-10


@pytest.mark.parametrize("width", [1.0, 1e3, 1e9])
def test_a_slope_times_a_coefficient_is_rounded(width: float) -> None:
    """LeakyReLU's own slope as the line: c left and the line differ by a rounding, times a wide box."""
    layer = LeakyReLU((1,), 0.1)
    worst = math.inf
    for c in (3.3, -3.3, 0.7, -0.7, 1.1, -1.1):
        question = question_of(
            layer, Form(row(c)), Duals(slope=row(0.1), shift=row(0.0)), region_of(row(0.0), row(-width), row(1e-3))
        )
        worst = min(worst, *(shortfall(layer, question, row(d)) for d in (-width, -width / 2, 0.0, 1e-3)))
    assert worst >= 0


def test_curvature_smaller_than_any_form() -> None:
    """A form of 1e-31 whose vertex is beyond the box; a curvature of 1e-35 whose vertex is within it."""
    layer = ReLU((1,))
    region = region_of(row(0.0), row(-1.0), row(1.0))
    for c, p in ((1e-31, 0.0), (1e-34, 1e-35), (1e-200, 0.0), (0.0, 1e-35)):
        p_ = torch.tensor([p], dtype=torch.float64)
        question = question_of(layer, Form(row(c)), Duals(slope=row(2.0), shift=row(0.0), curvature=p_), region)
        assert all(shortfall(layer, question, row(d)) >= 0 for d in (-1.0, 0.0, 0.5, 1.0)), (c, p)


def test_forms_whose_squares_underflow() -> None:
    """A norm of 1e-170 is no less a norm."""
    layer = Dense((2,), torch.tensor([[0.7, -1.3], [0.1, 0.2]]), torch.tensor([0.3, 0.7]))
    check_pull_back(layer, torch.Generator().manual_seed(3))
    region = region_of(row(0.1, 0.3), row(-1.0, -1.0), row(1.0, 1.0))
    question = question_of(layer, Form(row(1e-170, 1e-170)), Duals(), region)
    output = replace(question.output, value=question.output.value + 0.1, noise=question.output.noise + 0.2)
    question = replace(question, output=output)
    found = sides(layer, question, pulled_by(layer, question), (long(row(0.0, 0.0)),))
    assert found.true >= found.claimed


def test_weights_that_are_flushed_to_zero() -> None:
    """Denormal float32 weights, asked about in a mode in which they are read as zero: proofs leave that mode."""
    layer = Dense((1,), torch.tensor([[1e-39]]), None)
    question = question_of(layer, Form(row(1.0)), Duals(), region_of(row(0.0), row(-1e6), row(1e6)))
    true = float(layer.weight.double()) * -1e6
    torch.set_flush_denormal(True)
    try:
        with known_state():
            pulled = pulled_by(Dense((1,), layer.weight, None), question)
    finally:
        torch.set_flush_denormal(False)
    assert float(pulled.forms[0].linear) * -1e6 + float(pulled.constant) <= true


DATA_DEPENDENT = ["Sort: of three", "Standardize: groups", "LocalResponse: strong"]


@pytest.mark.parametrize(
    "name",
    [*PIECES, *SMOOTH, "MaxPool: 1-D", "MaxPool: 2-D, padding", "LpPool: 1-D, p = 1.5", *DATA_DEPENDENT],
)
def test_boxes_without_ends(name: str, generator: torch.Generator) -> None:
    """Infinite ends: either the constant is no number, or it holds far out as well."""
    layer, shapes = CASES[name].layer, CASES[name].shapes
    for question in questions(layer, shapes, generator):
        (region,) = question.inputs
        open_below, open_above = torch.rand(2, *region.value.shape, generator=generator) < 0.3
        boxes = (
            Box(region.box.lower.masked_fill(open_below, -x), region.box.upper.masked_fill(open_above, x))
            for x in (math.inf, 1e9)
        )
        infinite, far = (replace(region, box=box, radius=torch.full_like(region.radius, 1e12)) for box in boxes)
        output = output_of(layer, (infinite,))
        pulled = pulled_by(layer, replace(question, inputs=(infinite,), output=output))
        assert not bool((pulled.constant == math.inf).any())
        visited = replace(question, inputs=(far,), output=output)
        for point in worst_points(layer, visited, pulled, generator):
            found = sides(layer, visited, pulled, point)
            short = found.true - found.claimed + 1e-17 * found.size
            assert (short[np.isfinite(short)] >= 0).all(), question.kind


@pytest.mark.parametrize(
    "name", [*PIECES, *SMOOTH, "MaxPool: 1-D", "MaxPool: 2-D, padding", "Dense: wide", *DATA_DEPENDENT, "Multiply"]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_free_variables_that_are_no_numbers(name: str, bad: float, generator: torch.Generator) -> None:
    """A constant or a form that is a number is a bound."""
    layer, shapes = CASES[name].layer, CASES[name].shapes
    for question in questions(layer, shapes, generator):
        for key, tensor in question.duals.tensors().items():
            changed = tensor.clone(memory_format=torch.contiguous_format)
            changed.view(-1)[torch.rand(tensor.numel(), generator=generator) < 0.2] = bad
            asked = replace(question, duals=replace(question.duals, **{key: changed}))
            pulled = pulled_by(layer, asked)
            numbers = [pulled.constant, *(f.linear.flatten(1).sum(1) for f in pulled.forms)]
            numbers += [f.curvature for f in pulled.forms if f.curvature is not None]
            usable = torch.stack([n.isfinite() for n in numbers]).all(0)
            if not bool(usable.any()):
                continue
            with np.errstate(all="ignore"):
                for point in worst_points(layer, _rows(question, usable), _usable(pulled, usable), generator):
                    found = sides(layer, _rows(question, usable), _usable(pulled, usable), point)
                    assert (found.true - found.claimed >= -1e-17 * found.size - 1e-300).all(), (question.kind, key)


def _usable(pulled: Pulled, rows: Tensor) -> Pulled:
    parts = (Form(f.linear[rows], None if f.curvature is None else f.curvature[rows]) for f in pulled.forms)
    return Pulled(tuple(parts), pulled.constant[rows])


def _rows(question: Question, rows: Tensor) -> Question:
    q = question.form.curvature
    return replace(
        question,
        names=[name for name, kept in zip(question.names, rows.tolist(), strict=True) if kept],
        form=Form(question.form.linear[rows], None if q is None else q[rows]),
        inputs=tuple(region.take(rows) for region in question.inputs),
        output=question.output.take(rows),
        duals=Duals(**{key: tensor[rows] for key, tensor in question.duals.tensors().items()}),
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layer.broadcasts])
def test_one_row_of_regions_stands_for_all_items(name: str, generator: torch.Generator) -> None:
    """What `broadcasts` claims: the same to the last bit as with that row repeated."""
    case = CASES[name]
    for question in questions(case.layer, case.shapes, generator):
        rows = len(question.form.linear)
        one = tuple(region.take(torch.tensor([1])) for region in question.inputs)
        every = tuple(region.take(torch.ones(rows, dtype=torch.long)) for region in question.inputs)
        output = question.output.take(torch.tensor([1]))
        outputs = question.output.take(torch.ones(rows, dtype=torch.long))
        own = None if question.kind == "straight" else torch.full((rows,), 0.3, dtype=torch.float64)
        found: list[Pulled] = []
        with torch.no_grad():
            for inputs, at in ((one, output), (every, outputs)):
                duals = case.layer.start(inputs, question.form, curvature=own)
                found.append(case.layer.pull_back(question.form, inputs, at, duals))
        for some, all_ in zip(found[0].forms, found[1].forms, strict=True):
            assert torch.equal(some.linear.nan_to_num(), all_.linear.nan_to_num())
        assert torch.equal(found[0].constant.nan_to_num(), found[1].constant.nan_to_num())
