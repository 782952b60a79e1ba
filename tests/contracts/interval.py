"""What `Layer.interval` must keep: it contains the exact image, no more than that, and whatever the ends are.

Held against the hull of the exact image in long double, from the formula of each layer, and against single points.
`check_interval` runs all of it; like the contracts of `layer`, it raises AssertionError saying which layer broke what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oracles import dense
from oracles.exact import WIDER, Long, exact, jump, long, turns, value
from pertbound.layers import (
    GELU,
    Activation,
    Conv,
    ConvTranspose,
    Dense,
    Diagonal,
    Layer,
    Linear,
    LocalResponse,
    LpPool,
    Multiply,
    Shape,
    Sigmoid,
    Softplus,
    Standardize,
    Tanh,
    TanhGELU,
)
from pertbound.numerics import gamma
from pertbound.sets import Box

Boxes = tuple[Box, ...]
"""One for each input of a layer."""
EPS = float(np.finfo(np.longdouble).eps)


def check_interval(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> None:
    """All of the below, for boxes of float32 and of float64, whatever the dtype of the weights."""
    shapes = shapes or (layer.input_shape,)  # type: ignore[attr-defined]
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float32 or WIDER:
            _check_hull(layer, _awkward(layer, shapes, generator, dtype), generator)
            _check_unbounded(layer, shapes, generator, dtype)
            _check_nan(layer, shapes, generator, dtype)
            _check_inclusion(layer, shapes, generator, dtype)
            _check_rows(layer, shapes, generator, dtype)


def check_bias_term(layer: Layer, generator: torch.Generator) -> None:
    """<a, b> for b = forward(0), in the dtype of a, one number for each sample."""
    assert isinstance(layer, Linear)
    zero = np.zeros((1, *layer.input_shape), dtype=np.longdouble)
    shift = exact(layer, zero)
    for dtype, unit in ((torch.float32, 2.0**-24), (torch.float64, 2.0**-53)):
        a = torch.randn(5, *layer.output_shape, generator=generator, dtype=torch.float64).to(dtype)
        found = layer.bias_term(a)
        _demand(found.shape == (5,) and found.dtype == dtype, layer, f"bias_term gives {found.shape}, {found.dtype}")
        products = (long(a) * shift).reshape(5, -1)
        error = np.abs(long(found) - products.sum(1))
        allowed = gamma(products.shape[1] + 8, unit) * np.abs(products).sum(1)
        _demand((error <= allowed).all(), layer, f"bias_term = {found.tolist()}, exactly {products.sum(1).tolist()}")


def _demand(holds: object, layer: Layer, message: str) -> None:
    assert bool(holds), f"{layer!r:.300}: {message}"


# Boxes.


def _awkward(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype) -> Boxes:
    """Degenerate, thin, wide, one-sided and mixed boxes around numbers of every size, and where outputs cancel."""
    centres, radii = [], []

    def add(rows: list[Tensor], relative: float) -> None:
        centres.append(rows)
        radii.append([relative * row.abs() for row in rows])

    def draw(scale: float, rows: int = 3) -> list[Tensor]:
        return [scale * torch.randn(rows, *s, generator=generator, dtype=torch.float64) for s in shapes]

    def spread(decades: float) -> list[Tensor]:
        found = draw(1.0, 6)
        return [
            row * 10.0 ** (decades * (torch.rand(row.shape, generator=generator, dtype=torch.float64) - 0.5))
            for row in found
        ]

    for scale in (1.0, 1e-3, 30.0, 1e6, 1e-12, 1e12, 1e-20, 1e20, 1e-40, 1e36):
        for relative in (0.0, 1e-7, 0.3, 8.0):
            add(draw(scale), relative)
    for relative in (0.0, 1e-9, 0.1, 3.0):
        add(draw(1.0, 12), relative)
        add(spread(4), relative)
        add(spread(16), relative)
        for c in (0.0, 1 / 3, 1.9999, 12.0):
            add([torch.full((1, *s), c, dtype=torch.float64) for s in shapes], relative)
    centres.append(draw(1e4))
    radii.append([torch.full_like(row, 1e-3) for row in centres[-1]])
    centres.append(draw(1.0, 6))
    radii.append([(torch.rand(row.shape, generator=generator) > 0.5).to(torch.float64) for row in centres[-1]])
    if len(set(shapes)) == 1 and len(shapes) > 1:  # sums that cancel
        first, *others = draw(1e4)
        add([first, *(-first / len(others) + 1e-4 * other for other in others)], 0.0)
    if isinstance(layer, Linear):  # inputs in the kernel of the map, or shortened by it most
        bottom = torch.from_numpy(np.linalg.svd(dense.matrix(layer))[2][-3:].copy()).reshape(-1, *shapes[0])
        for relative in (0.0, 1e-6):
            add([1e5 * bottom], relative)
    found = []
    for i in range(len(shapes)):
        centre, radius = torch.cat([rows[i] for rows in centres]), torch.cat([rows[i] for rows in radii])
        left, right = torch.rand(2, *centre.shape, generator=generator, dtype=torch.float64)
        found.append(Box((centre - left * radius).to(dtype), (centre + right * radius).to(dtype)))
    return tuple(found)


def _plain(shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype, rows: int) -> Boxes:
    """Boxes of radius up to 1 around numbers of about 1."""
    found = []
    for shape in shapes:
        centre = torch.randn(rows, *shape, generator=generator, dtype=dtype)
        radius = torch.rand(rows, *shape, generator=generator, dtype=dtype)
        found.append(Box(centre - radius, centre + radius))
    return tuple(found)


def _points(boxes: Boxes, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
    """Inputs within the boxes: two random corners and two random inner points of each."""
    found = []
    for corner in (True, True, False, False):
        point = []
        for box in boxes:
            t = torch.rand(box.lower.shape, generator=generator, dtype=box.lower.dtype)
            inner = box.lower * (1 - t) + box.upper * t
            at = torch.where(t > 0.5, box.upper, box.lower) if corner else inner
            point.append(torch.minimum(torch.maximum(at, box.lower), box.upper))
        found.append(tuple(point))
    return found


# The oracle.


@dataclass(frozen=True)
class Hull:
    """The smallest box that holds the exact image; `size` bounds every number met on the way, entry by entry."""

    lower: Long
    upper: Long
    size: Long


def hull(layer: Layer, boxes: Boxes) -> Hull:
    """From each layer's formula: linear maps by the signs of their entries, everything else by monotonicity."""
    lowers, uppers = [long(box.lower) for box in boxes], [long(box.upper) for box in boxes]
    low, high = lowers[0], uppers[0]
    farthest = [np.maximum(np.abs(a), np.abs(b)) for a, b in zip(lowers, uppers, strict=True)]
    match layer:
        case Dense() | Conv() | ConvTranspose() | Diagonal():
            shift = exact(layer, np.zeros_like(low[:1]))
            rising, falling = _signed(layer, 1), _signed(layer, -1)
            size = exact(rising, farthest[0]) + exact(falling, -farthest[0]) + np.abs(shift)
            lower = exact(rising, low) + exact(falling, high) + shift
            return Hull(lower, exact(rising, high) + exact(falling, low) + shift, size)
        case LpPool():
            nearest = np.maximum(np.maximum(low, -high), 0)
            return Hull(exact(layer, nearest), size := exact(layer, farthest[0]), size)
        case Activation():
            places = [low, high, *(np.clip(turn, low, high) for turn in (*turns(layer), *(jump(layer) or ())))]
            values = np.stack([value(layer, place) for place in places])
            return Hull(values.min(0), values.max(0), np.abs(values).max(0))
        case Standardize() | LocalResponse():
            return _sampled(layer, low, high)
        case Multiply():
            ends = [a * b for a in (lowers[0], uppers[0]) for b in (lowers[1], uppers[1])]
            products = np.nan_to_num(np.stack(ends), nan=0.0, posinf=np.inf, neginf=-np.inf)
            return Hull(products.min(0), products.max(0), np.abs(products).max(0))
        case _:
            return Hull(exact(layer, *lowers), exact(layer, *uppers), exact(layer, *farthest))


def _sampled(layer: Standardize | LocalResponse, low: Long, high: Long) -> Hull:
    """The hull of the image of some points: an inner one, which is tight where nothing moves."""
    generator = np.random.default_rng(0)
    points = [low, high, (low + high) / 2]
    for _ in range(60):
        t = generator.random(low.shape) if len(points) % 3 else generator.integers(0, 2, low.shape)
        points.append(np.clip(low * (1 - t) + high * t, low, high))
    values = np.stack([exact(layer, point) for point in points])
    far = np.maximum(np.abs(low), np.abs(high)).reshape(len(low), -1).max(1).reshape(-1, *(1 for _ in low.shape[1:]))
    factor = 1 / np.sqrt(layer.eps) if isinstance(layer, Standardize) else layer.k**-layer.beta
    size = np.abs(values).max(0) + far * np.longdouble(factor)
    if isinstance(layer, LocalResponse):  # whose squares may overflow
        size = np.where(far > 1e15, far * far, size)
    return Hull(values.min(0), values.max(0), size)


def _signed(layer: Dense | Conv | ConvTranspose | Diagonal, sign: int) -> Layer:
    """The entries of that sign, the others zero, and no shift."""

    def part(entries: Tensor) -> Tensor:
        return torch.where(entries * sign > 0, entries, 0.0)

    if isinstance(layer, Diagonal):
        return Diagonal(layer.input_shape, part(layer.scale), torch.zeros_like(layer.shift))
    if isinstance(layer, Dense):
        return Dense(layer.input_shape, part(layer.weight), None)
    geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, Conv):
        return Conv(layer.input_shape, part(layer.weight), None, *geometry)
    geometry = (layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
    return ConvTranspose(layer.input_shape, part(layer.weight), None, *geometry)


def roundings(layer: Layer, boxes: Boxes) -> Long | int:
    """How many roundings the computation of one output takes, generously."""
    match layer:
        case Linear():
            return layer.terms + 32
        case Standardize() | LocalResponse():
            return 8000
        case LpPool():
            return 3 * math.prod(layer.window) + 48
        case Softplus():
            return 32 + 2 * np.clip(-long(boxes[0].lower) * np.longdouble(layer.beta), 0, 1000)
        case GELU():
            return 32 + 4 * np.clip(-long(boxes[0].lower), 0, 64) ** 2
        case TanhGELU():  # abs(w), which grows with the cube
            return 32 + 16 * np.clip(-long(boxes[0].lower), 0, 26) ** 3
        case _:
            return 16 + len(boxes)


def looseness(layer: Layer, boxes: Boxes, true: Hull) -> Long:
    """How far outside the hull an end may be: a few times what rounding and underflow can do; 0 without rounding."""
    if not layer.rounds:
        return np.zeros_like(true.size)
    info = torch.finfo(boxes[0].lower.dtype)
    count = roundings(layer, boxes)
    each = [np.abs(np.stack([long(b.lower), long(b.upper)])).max(0).reshape(len(b.lower), -1).max(1) for b in boxes]
    biggest = np.max(np.stack(each), axis=0).reshape(-1, *(1 for _ in true.size.shape[1:]))
    assert np.isfinite(biggest).all(), "judged are boxes with finite ends"
    through = 1.0
    if isinstance(layer, Linear):  # what the reserve for each input becomes
        through += np.abs(dense.matrix(layer)).sum(1).max()
    if isinstance(layer, Softplus):
        through += 1 / layer.beta
    if isinstance(layer, Activation) and layer.valley:  # whose least value is known to twelve digits
        return 4 * info.eps * count * true.size + 8 * info.tiny * count * (1 + biggest) + 2e-12
    either = _either(layer, boxes[0]) if isinstance(layer, Softplus) else 0
    return 4 * info.eps * count * true.size + 8 * info.tiny * count * (1 + biggest) * through + either


def _either(layer: Softplus, box: Box) -> Long:
    """The size of the jump where an end of the box is so close to it that a comparison may go either way; else 0."""
    place, size = layer.threshold / layer.beta, _drop(layer)
    if math.isinf(place):
        return np.zeros_like(long(box.lower))
    info = torch.finfo(box.lower.dtype)
    room = 8 * info.eps * abs(place) + 2 * info.tiny
    near = [np.abs(long(end) - np.longdouble(place)) <= room for end in (box.lower, box.upper)]
    return np.where(near[0] | near[1], size, np.longdouble(0))


def _drop(layer: Softplus) -> np.longdouble:
    threshold = np.longdouble(layer.threshold)
    return (np.maximum(-threshold, 0) + np.log1p(np.exp(-np.abs(threshold)))) / np.longdouble(layer.beta) * (1 + 2e-6)


# The contracts.


def _found(layer: Layer, boxes: Boxes) -> Box:
    """layer.interval, which must keep dtype and shape, and the order of the ends where both are numbers."""
    with torch.no_grad():
        found = layer.interval(*boxes)
        shape = layer.forward(*(_zeros(layer, box) for box in boxes)).shape
    dtype = boxes[0].lower.dtype
    for end in (found.lower, found.upper):
        _demand(end.dtype == dtype, layer, f"a box of {dtype} becomes one of {end.dtype}")
        _demand(end.shape == shape, layer, f"an end of shape {tuple(end.shape)} instead of {tuple(shape)}")
    ordered = (found.lower <= found.upper) | found.lower.isnan() | found.upper.isnan()
    _demand(ordered.all(), layer, f"lower > upper in {int((~ordered).sum())} of {ordered.numel()} entries of {dtype}")
    for kind, low, high in ((Sigmoid, 0.0, 1.0), (Tanh, -1.0, 1.0)):
        if isinstance(layer, kind):
            outside = (found.lower < low) | (found.upper > high)
            _demand(not outside.any(), layer, f"a box reaches beyond [{low}, {high}]")
    return found


def _zeros(layer: Layer, box: Box) -> Tensor:
    """Zeros that the layer's forward accepts, of the shape of the box."""
    owned = [v.dtype for v in vars(layer).values() if isinstance(v, Tensor) and v.is_floating_point()]
    return torch.zeros_like(box.lower, dtype=owned[0] if owned else torch.float32)


def _demand_contains(layer: Layer, box: Box, lower: Long, upper: Long, tolerance: Long, what: str) -> None:
    for name, excess in (
        ("lower", long(box.lower) - lower - tolerance),
        ("upper", upper - tolerance - long(box.upper)),
    ):
        worst = int(np.argmax(excess))
        end, true = (box.lower, lower) if name == "lower" else (box.upper, upper)
        _demand(
            (excess <= 0).all(),
            layer,
            f"{what}, {end.dtype}: the {name} end is {float(end.reshape(-1)[worst])!r}, "
            f"but {np.broadcast_to(true, excess.shape).reshape(-1)[worst]!r} is reached",
        )


def _demand_within(layer: Layer, box: Box, true: Hull, allowed: Long, what: str) -> None:
    """The ends are no farther out than allowed, where nothing overflows on the way."""
    info = torch.finfo(box.lower.dtype)
    judged = (true.size + allowed) * (layer.terms + 1 if isinstance(layer, Linear) else 1) < info.max / 64
    for name, excess in (
        ("lower", true.lower - long(box.lower) - allowed),
        ("upper", long(box.upper) - true.upper - allowed),
    ):
        loose = judged & ~(excess <= 0)
        where = int(np.argmax(loose))
        end, exactly = (box.lower, true.lower) if name == "lower" else (box.upper, true.upper)
        _demand(
            not loose.any(),
            layer,
            f"{what}, {end.dtype}: the {name} end is {float(end.reshape(-1)[where])!r}, "
            f"tight would be {exactly.reshape(-1)[where]!r}, give or take {allowed.reshape(-1)[where]!r}",
        )


def _tolerance(layer: Layer, boxes: Boxes, true: Hull) -> Long:
    """The oracle's own error: next to nothing beside a rounding of float64."""
    return (EPS * roundings(layer, boxes) if layer.rounds else 0) * true.size


def _check_hull(layer: Layer, boxes: Boxes, generator: torch.Generator) -> None:
    """The box contains the hull of the exact image, and is no larger than rounding makes it."""
    found, true = _found(layer, boxes), hull(layer, boxes)
    tolerance = _tolerance(layer, boxes, true)
    _demand_contains(layer, found, true.lower, true.upper, tolerance, "hull")
    allowed = looseness(layer, boxes, true)
    if isinstance(layer, Standardize | LocalResponse):  # whose hull is only known where nothing moves
        still = ((boxes[0].lower == boxes[0].upper).flatten(1).all(1)).numpy()
        allowed = np.where(still.reshape(-1, *(1 for _ in allowed.shape[1:])), allowed, np.inf)
    _demand_within(layer, found, true, allowed, "tight")
    for point in _points(boxes, generator):
        at = exact(layer, *(long(part) for part in point))
        _demand_contains(layer, found, at, at, tolerance, "point")


def _check_unbounded(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype) -> None:
    """Infinite ends: no NaN, everything far out is contained, and what does not depend on them stays bounded."""
    boxes = _plain(shapes, generator, dtype, 12)
    down, up = torch.tensor([True, False, True] * 4), torch.tensor([False, True, True] * 4)
    opened = []
    for box in boxes:
        chosen = torch.rand(box.lower.shape, generator=generator) < 0.3
        chosen[:4] = False  # but for one entry
        chosen[:4].view(4, -1)[:, int(torch.randint(chosen[0].numel(), (1,), generator=generator))] = True
        chosen[8] = True
        rows = (-1, *(1 for _ in box.lower.shape[1:]))
        opened.append((chosen & down.reshape(rows), chosen & up.reshape(rows)))

    def reaching(far: float) -> Boxes:
        return tuple(
            Box(box.lower.masked_fill(below, -far), box.upper.masked_fill(above, far))
            for box, (below, above) in zip(boxes, opened, strict=True)
        )

    found = _found(layer, reaching(math.inf))
    _demand(not (found.lower.isnan() | found.upper.isnan()).any(), layer, f"{dtype}: infinite ends give NaN")
    for far in (1e30, torch.finfo(dtype).max):
        true = hull(layer, reaching(far))
        _demand_contains(layer, found, true.lower, true.upper, _tolerance(layer, reaching(far), true), "unbounded")
    true = hull(layer, reaching(1e30))
    bounded = [np.abs(true.lower) < 1e10, np.abs(true.upper) < 1e10]
    if isinstance(layer, Linear) and not isinstance(layer, Diagonal):  # one infinite entry may open both ends
        far = (opened[0][0] | opened[0][1]).reshape(12, -1).numpy()
        bounded = [~((far @ (dense.matrix(layer).T != 0)).reshape(true.lower.shape) > 0)] * 2
    for end, must in zip((found.lower, found.upper), bounded, strict=True):
        _demand(end.isfinite().numpy()[must].all(), layer, f"{dtype}: an end is infinite that has a bound")


def _check_nan(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype) -> None:
    """What forward makes NaN is not bounded from both sides, whichever end is NaN; other samples are."""
    for ends in ((True, True), (True, False), (False, True)):
        boxes = _plain(shapes, generator, dtype, 5)
        for box in boxes:
            at = int(torch.randint(box.lower[1].numel(), (1,), generator=generator))
            for end, broken in zip((box.lower, box.upper), ends, strict=True):
                if broken:
                    end[1].view(-1)[at] = math.nan
                    end[3] = math.nan
        found = _found(layer, boxes)
        wrong = dense.in_float64(layer).forward(*((box.lower + box.upper).double() for box in boxes)).isnan()
        _demand(wrong[3].any(), layer, "forward hides NaN")
        bounded = found.lower.isfinite() & found.upper.isfinite()
        _demand(not (bounded & wrong).any(), layer, f"{dtype}: NaN becomes a bounded output")
        _demand(bounded[::2].all(), layer, f"{dtype}: NaN in one sample unbounds another one")


def _check_inclusion(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype) -> None:
    """A box within a box gives a box within a box, but for rounding."""
    outer = _plain(shapes, generator, dtype, 8)
    inner = []
    for box in outer:
        ends = torch.rand(2, *box.lower.shape, generator=generator, dtype=dtype).sort(0).values
        low, high = (box.lower * (1 - end) + box.upper * end for end in ends)
        inner.append(Box(torch.maximum(low, box.lower), torch.minimum(torch.maximum(low, high), box.upper)))
    around, within = _found(layer, outer), _found(layer, tuple(inner))
    tolerance = looseness(layer, outer, hull(layer, outer))
    _demand_contains(layer, around, long(within.lower), long(within.upper), tolerance, "inclusion")


def _check_rows(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator, dtype: torch.dtype) -> None:
    """A sample's box is the same alone and beside enormous, unbounded and broken ones, but for rounding."""
    boxes = _plain(shapes, generator, dtype, 6)
    for box in boxes:
        box.upper[1], box.lower[2], box.upper[4] = 1e30, -math.inf, math.nan
    alone = tuple(Box(box.lower[[0, 3, 5]], box.upper[[0, 3, 5]]) for box in boxes)
    beside, apart = _found(layer, boxes), _found(layer, alone)
    tolerance = looseness(layer, alone, hull(layer, alone))
    for together, single in ((beside.lower, apart.lower), (beside.upper, apart.upper)):
        moved = np.abs(long(together[[0, 3, 5]]) - long(single))
        _demand((moved <= tolerance).all(), layer, f"{dtype}: other samples move an end by {moved.max()!r}")
