"""What every layer must keep. Each contract raises AssertionError, saying which layer broke what by how much.

A contract takes a layer and a generator, so that broken layers (`mutants`) run through the very same ones.
`check_layer` runs those that apply. The contracts look for the *worst* case: random samples alone miss it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from contracts.interval import check_bias_term, check_interval
from contracts.pull_back import check_pull_back
from oracles import ascent, dense
from oracles.exact import WIDER, bend, exact, jump, long, slope
from pertbound.layers import Activation, Add, Concat, Conv, Dense, Diagonal, Layer, Linear, Multiply, Shape, Softplus
from pertbound.numerics import UNIT32, UNIT64

Contract = Callable[[Layer, torch.Generator], object]

RADII = (1e-3, 0.03, 0.3, 1.0, 3.0, 30.0)
"""Radii that moduli are tried at."""
REL = 1e-11
"""Relative error of the oracles, which compute in float64."""
NOTHING = 1e-140
"""What a bound on zero may be: the reserve for underflow in float64."""


def check_layer(layer: Layer, shapes: tuple[Shape, ...], generator: torch.Generator) -> None:
    """Every contract that applies."""
    check_interval(layer, generator, shapes)
    if WIDER:
        check_pull_back(layer, torch.Generator().manual_seed(7), shapes)
    if isinstance(layer, Multiply):
        check_product(layer, generator, shapes)
        check_noise(layer, generator, shapes)
        return
    if isinstance(layer, Add | Concat):
        check_merge(layer, generator, shapes)
        check_noise(layer, generator, shapes)
        return
    check_radii(layer, generator)
    check_modulus(layer, generator)
    check_noise(layer, generator)
    if isinstance(layer, Linear):
        check_linear(layer, generator)
        check_absolute(layer, generator)
        check_transpose(layer, generator)
        check_bias_term(layer, generator)
    if isinstance(layer, Dense | Conv):
        check_scaled(layer, generator)
    if isinstance(layer, Activation):
        check_slopes(layer, generator)
    check_local_modulus(layer, generator)


def _demand(holds: object, layer: Layer, message: str) -> None:
    assert bool(holds), f"{layer!r:.300}: {message}"


def _column(values: tuple[float, ...] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1)


def _norms(x: Tensor) -> Tensor:
    """The norm of each sample, (batch, 1), a little above."""
    flat = x.detach().to(torch.float64).flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(1e-300)
    return largest * torch.linalg.vector_norm(flat / largest, dim=1, keepdim=True) * (1 + 1e-12)


def _shape_of(layer: Layer) -> Shape:
    return layer.input_shape  # type: ignore[attr-defined]


def check_radii(layer: Layer, generator: torch.Generator) -> None:
    """modulus(0) = 0; it keeps its input's shape; it never decreases; infinity and NaN do not become numbers."""
    del generator
    radii = torch.cat([torch.zeros(1), torch.logspace(-8, 8, 65)]).to(torch.float64)
    moved = layer.modulus(radii.reshape(-1, 1))
    _demand(moved.shape == (66, 1) and moved.dtype == torch.float64, layer, f"modulus gives {moved.shape}")
    _demand(float(moved[0]) == 0.0, layer, f"modulus(0) = {float(moved[0])}")
    _demand((moved.diff(dim=0) >= 0).all(), layer, "modulus decreases somewhere")
    wide = layer.modulus(radii.reshape(2, 33))
    _demand(torch.equal(wide.reshape(-1, 1), moved), layer, "modulus depends on the shape of the radii")
    wrong = layer.modulus(_column((math.inf, math.nan)))
    if float(moved[-1]) > 0:
        _demand(not torch.isfinite(wrong).any(), layer, f"modulus(inf), modulus(nan) = {wrong.flatten().tolist()}")


def base_points(layer: Layer, generator: torch.Generator) -> Tensor:
    """Inputs to move from, (count, *input_shape) in float64: ties, kinks, tails, inflections and random ones."""
    shape = _shape_of(layer)
    constants = [0.0, 0.5, -0.7, 8.0, -8.0, 30.0, -30.0]
    if isinstance(layer, Activation) and math.isfinite(layer.curvature):
        constants += [_most_bent(layer), -_most_bent(layer)]
    if (place := jump(layer)) is not None:
        constants += [float(place[0]) - 1e-9, float(place[0]) + 1e-9, float(place[0]) - 0.2, float(place[0]) + 0.2]
    points = [torch.full(shape, c, dtype=torch.float64) for c in constants]
    points += [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for scale in (0.03, 1.0, 10.0)]
    mixed = torch.randn(shape, generator=generator, dtype=torch.float64)
    points.append(torch.where(mixed > 0.5, 20 * mixed, torch.zeros_like(mixed)))
    return torch.stack(points)


def _most_bent(layer: Activation) -> float:
    """Where abs(g'') is largest, by search."""
    grid = np.linspace(0, 12, 24001, dtype=np.longdouble)
    return float(grid[np.abs(bend(layer, grid)).argmax()])


def displacements(
    layer: Layer, bases: Tensor, radii: tuple[float, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For every base point and radius, the largest movement of the output that a search finds, (bases, radii).

    And how much of it the rounding of the two evaluations can account for: `layer.noise` in float64.
    """
    layer = dense.in_float64(layer)
    starts = [ascent.directions(base, generator) for base in bases]
    many = min(len(s) for s in starts)
    start = torch.stack([s[:many] for s in starts])
    count = len(radii)
    r = start[:, None] * torch.tensor(radii, dtype=torch.float64).reshape(1, -1, 1, *(1 for _ in bases.shape[1:]))
    x = bases[:, None, None].expand_as(r).reshape(-1, *bases.shape[1:])
    with torch.no_grad():
        still = layer.forward(bases)

        def far(value: Tensor, reference: Tensor) -> Tensor:
            return torch.linalg.vector_norm((value - reference).flatten(1), dim=1)

        moved = far(layer.forward(x + r.reshape(x.shape)), _repeat(still, count * many))
    moved = torch.nan_to_num(moved.reshape(len(bases) * count, many), nan=-1.0)
    keep = moved.topk(min(3, many), dim=1)
    flat_starts = start[:, None].expand(-1, count, -1, *start.shape[2:]).reshape(-1, many, *start.shape[2:])
    chosen = flat_starts[torch.arange(len(moved))[:, None], keep.indices].flatten(0, 1)
    from_x = _repeat(_repeat(bases, count), keep.indices.shape[1])
    from_y = _repeat(_repeat(still, count), keep.indices.shape[1])
    rho = torch.tensor(radii, dtype=torch.float64).repeat(len(bases)).repeat_interleave(keep.indices.shape[1])

    def objective(z: Tensor) -> Tensor:
        return far(layer.forward(z), from_y)

    ascended, _ = ascent.ascend(objective, from_x, chosen, rho, steps=8)
    best = torch.maximum(keep.values.amax(1), ascended.reshape(len(moved), -1).amax(1)).reshape(-1, count)
    away = _norms(bases) + torch.tensor(radii, dtype=torch.float64)
    noise = _noise(layer, away.reshape(-1, 1), UNIT64).reshape(-1, count)
    return best, 2 * noise


def _repeat(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, dim=0)


def _noise(layer: Layer, norms: Tensor, unit: float) -> Tensor:
    return layer.noise(norms, unit=unit) if layer.rounds else torch.zeros_like(norms)


def check_modulus(layer: Layer, generator: torch.Generator) -> float:
    """No perturbation moves the output by more than modulus; returns the largest part of it that was reached."""
    bases = base_points(layer, generator)
    moved, rounding = displacements(layer, bases, RADII, generator)
    allowed = layer.modulus(_column(RADII)).reshape(1, -1)
    _demand_moves(layer, moved, allowed, rounding, "modulus")
    return float((moved / allowed.clamp_min(1e-300)).max())


def _demand_moves(layer: Layer, moved: Tensor, allowed: Tensor, rounding: Tensor, what: str) -> None:
    excess = moved - (allowed * (1 + REL) + rounding)
    worst = excess.argmax()
    base, radius = divmod(int(worst), moved.shape[1])
    limit = allowed.expand_as(moved)
    _demand(
        (excess <= 0).all(),
        layer,
        f"{what}: at base point {base}, radius {RADII[radius] if what == 'modulus' else radius}, the output moves "
        f"by {float(moved[base, radius]):.12g}, the bound says {float(limit[base, radius]):.12g}",
    )


def check_local_modulus(layer: Layer, generator: torch.Generator) -> float:
    """The modulus at known inputs (`local`) holds around them, and is never above the global one.

    Returns the largest part of it that was reached.
    """
    radii = (1e-3, 0.01, 0.05, 0.2, 0.5, 1.0, 3.0, 30.0)
    bases = base_points(layer, generator)
    at = layer.local(bases)
    if at is None:
        return 0.0
    known = at.dim() <= 2 and len(at) == len(bases) and at.dtype == torch.float64
    _demand(known, layer, f"local gives {at.shape}, {at.dtype}")
    rho = _column(radii).T.expand(len(bases), -1)
    allowed = layer.modulus(rho, at=at.unsqueeze(1))
    _demand((allowed <= layer.modulus(rho)).all(), layer, "the local modulus exceeds the global one")
    moved, rounding = displacements(layer, bases, radii, generator)
    _demand_moves(layer, moved, allowed, rounding, "local modulus")
    return float((moved / allowed.clamp_min(1e-300)).max())


def check_product(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> float:
    """The modulus of a product at known factors, and, within its bounds, anywhere: sound for any mixture of radii.

    Returns the largest part of it that was reached.
    """
    assert isinstance(layer, Multiply)
    rows, reached = 64, 0.0
    for scale in (0.3, 1.0, 5.0):
        values = [scale * torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
        values = [v.clamp(-bound, bound) for v, bound in zip(values, layer.bounds, strict=True)]
        for mixture in ((1.0, 1.0), (0.1, 3.0), (3.0, 0.1), (0.0, 2.0), (30.0, 30.0), (0.0, 0.0), (0.01, 0.02)):
            radii = [torch.full((rows, 1), rho, dtype=torch.float64) for rho in mixture]
            local = layer.local(*values)
            assert local is not None
            allowed = layer.modulus(*radii, at=local.unsqueeze(1)).squeeze(1)
            _demand((allowed <= layer.modulus(*radii).squeeze(1) * (1 + 1e-14)).all(), layer, "local above global")
            if max(mixture) == 0:
                _demand(not allowed.any(), layer, "modulus(0) is not 0")
            for kind in ("random", "largest", "first"):
                moved = []
                for v, other, rho, bound in zip(values, values[::-1], mixture, layer.bounds, strict=True):
                    flat = torch.randn(rows, v[0].numel(), generator=generator, dtype=torch.float64)
                    if kind != "random":
                        place = (
                            other.flatten(1).abs().argmax(1, keepdim=True)
                            if kind == "largest"
                            else 0 * flat[:, :1].long()
                        )
                        sign = torch.where(v.flatten(1).gather(1, place) < 0, -1.0, 1.0).to(torch.float64)
                        flat = torch.zeros_like(flat).scatter(1, place, sign)
                    moved.append((v + rho * ascent.unit_rows(flat).reshape(v.shape)).clamp(-bound, bound))
                far = (layer.forward(*moved) - layer.forward(*values)).flatten(1).norm(dim=1)
                _demand((far <= allowed * (1 + REL) + 1e-12).all(), layer, f"moves by {far.max()}, radii {mixture}")
                reached = max(reached, float((far / allowed.clamp_min(1e-300)).max()))
    grown = layer.modulus(*(_column((0.0, 1.0, 2.0)) for _ in shapes), at=torch.ones(3, 1, 2, dtype=torch.float64))
    _demand((grown.diff(dim=0) > 0).all() and float(grown[0]) == 0.0, layer, "modulus does not grow from 0")
    wrong = layer.modulus(*(_column((math.inf, math.nan)) for _ in shapes), at=torch.ones(2, 1, 2, dtype=torch.float64))
    _demand(not torch.isfinite(wrong).any(), layer, f"modulus(inf), modulus(nan) = {wrong.flatten().tolist()}")
    return reached


def check_slopes(layer: Layer, generator: torch.Generator) -> None:
    """Slopes, curvature and derivative_upper are above those of the formulas in long double, and close to them."""
    assert isinstance(layer, Activation)
    z = torch.cat(
        [
            torch.linspace(-12, 12, 4801, dtype=torch.float64),
            torch.cat([torch.logspace(-30, 2.3, 200), -torch.logspace(-30, 2.3, 200)]).to(torch.float64),
            3 * torch.randn(2000, generator=generator, dtype=torch.float64),
            torch.tensor([0.0, 88.0, -88.0, 104.0, -104.0, 700.0, -700.0, 745.0, -745.0, 1e4, -1e4, 1e30, -1e30]),
        ]
    )
    z = z.reshape(-1, *(1 for _ in layer.input_shape))
    low, high = layer.slopes
    place = jump(layer)
    true = slope(layer, long(z))
    _demand((true >= low - 1e-15 * layer.steepest).all(), layer, f"slopes start at {low}, but one is {true.min()}")
    _demand((true <= high + 1e-15 * layer.steepest).all(), layer, f"slopes end at {high}, but one is {true.max()}")
    _demand(true.max() >= high - 1e-3 * layer.steepest, layer, f"no slope comes near {high}")
    _demand(true.min() <= low + 1e-3 * layer.steepest, layer, f"no slope comes near {low}")
    _demand(
        float(abs(layer.at_zero))
        >= float(abs(exact(layer, np.zeros((1, *layer.input_shape), dtype=np.longdouble)).reshape(-1)[0]))
        * (1 - 1e-15),
        layer,
        f"g(0) is above {layer.at_zero}",
    )
    for dtype in (torch.float32, torch.float64):
        near = z.to(dtype)
        near = near.expand(slope(layer, long(near)).shape)  # slopes that differ from entry to entry
        upper = long(layer.derivative_upper(near))
        true = np.abs(slope(layer, long(near)))
        short = np.unravel_index((upper - true).argmin(), true.shape)
        _demand(
            (upper >= true).all(),
            layer,
            f"derivative_upper({float(near[short])!r}) = {upper[short]!r} in {dtype}, g' = {true[short]!r}",
        )
        if math.isfinite(layer.curvature):
            loose = upper <= true * (1 + 2e-4) + (2e-5 if layer.valley else 1e-20)
            if place is not None:  # where the derivative jumps with g
                loose |= np.abs(long(near) - place[0]) <= 1e-6
            _demand(loose.all(), layer, f"derivative_upper is loose at {near[torch.tensor(~loose)][:5].tolist()}")
    if math.isfinite(layer.curvature):
        bent = float(np.abs(bend(layer, long(z))).max())
        _demand(bent <= layer.curvature * (1 + 1e-15), layer, f"curvature {layer.curvature} < {bent}")
        sharp = place is None or place[0] > 0  # else g is straight where it would bend most
        _demand(bent >= 0.999 * layer.curvature or not sharp, layer, f"curvature {layer.curvature} > {bent}")


def check_linear(layer: Layer, generator: torch.Generator) -> None:
    """The layer's norms bound those of the matrix that it computes, and are close where they are written out."""
    assert isinstance(layer, Linear)
    a = dense.matrix(layer)
    true = dense.norm(a)
    upper = layer.norm_upper
    _demand(upper >= true * (1 - 1e-12), layer, f"norm_upper {upper!r} is below the norm {true!r}")
    _demand(upper <= 1.001 * true + NOTHING, layer, f"norm_upper {upper!r} is far above the norm {true!r}")
    structural = layer.structural_norm_upper()
    _demand(structural >= true * (1 - 1e-12), layer, f"structural_norm_upper {structural!r} < norm {true!r}")
    rows = torch.from_numpy(_row_norms(a)).reshape(layer.output_shape)
    _demand(layer.row_norms_upper.shape == rows.shape, layer, f"row_norms_upper is {layer.row_norms_upper.shape}")
    short = (layer.row_norms_upper < rows * (1 - 1e-12)).any()
    _demand(not short, layer, f"row_norms_upper {layer.row_norms_upper.min()} is below a row's norm {rows.max()}")
    loose = float(layer.row_norms_upper.max()) <= 4 * float(rows.max()) + NOTHING
    _demand(loose or not isinstance(layer, Dense | Diagonal), layer, "row_norms_upper is far above")
    written = layer.matrix()
    _demand(
        written is not None and np.allclose(written.numpy(), a, rtol=1e-13, atol=1e-13 * true),
        layer,
        "matrix() is not the matrix of forward",
    )
    shift = dense.in_float64(layer).forward(torch.zeros(1, *layer.input_shape, dtype=torch.float64))
    _demand(layer.bias_norm_upper >= float(_norms(shift)) * (1 - 2e-12), layer, "bias_norm_upper < norm(forward(0))")
    most = int((a != 0).sum(1).max()) if a.size else 0
    isometry = layer.terms == 0 and np.allclose(a.T @ a, np.eye(a.shape[1]), atol=1e-14)
    _demand(layer.terms >= most or isometry, layer, f"terms = {layer.terms}, but a row has {most} entries")
    top = torch.from_numpy(np.ascontiguousarray(dense.top_direction(a))).reshape(1, *layer.input_shape)
    for rho in RADII:
        moved = float(np.linalg.norm(a @ (rho * top.numpy().reshape(-1))))
        allowed = float(layer.modulus(_column((rho,))))
        _demand(moved <= allowed * (1 + REL), layer, f"the top singular vector moves {moved!r} > {allowed!r}")


def _row_norms(a: dense.Matrix) -> dense.Matrix:
    largest = np.maximum(np.abs(a).max(1, keepdims=True), 1e-300)
    return (largest * np.sqrt(np.square(a / largest).sum(1, keepdims=True)))[:, 0]


def check_absolute(layer: Layer, generator: torch.Generator) -> None:
    """absolute() has the absolute values of the matrix, no shift, and absolute_norm_upper bounds its norm."""
    assert isinstance(layer, Linear)
    del generator
    a = np.abs(dense.matrix(layer))
    b = dense.matrix(layer.absolute())
    _demand(np.allclose(a, b, rtol=1e-13, atol=0), layer, "absolute() is not abs(A)")
    zero = torch.zeros(1, *layer.input_shape, dtype=torch.float64)
    _demand(not dense.in_float64(layer.absolute()).forward(zero).any(), layer, "absolute() has a shift")
    true = dense.norm(a)
    upper = layer.absolute_norm_upper
    _demand(upper >= true * (1 - 1e-12), layer, f"absolute_norm_upper {upper!r} < norm(abs(A)) = {true!r}")
    _demand(upper <= 1.5 * true + NOTHING, layer, f"absolute_norm_upper {upper!r} is far above {true!r}")


def check_transpose(layer: Layer, generator: torch.Generator) -> None:
    """<A x, y> = <x, A^T y>; apply is forward without its shift, in the dtype of its input."""
    assert isinstance(layer, Linear)
    x = torch.randn(3, *layer.input_shape, generator=generator, dtype=torch.float64)
    y = torch.randn(3, *layer.output_shape, generator=generator, dtype=torch.float64)
    image, back = layer.apply(x), layer.transpose(y)
    _demand(tuple(image.shape[1:]) == layer.output_shape, layer, f"output_shape is not {tuple(image.shape[1:])}")
    _demand(back.shape == x.shape, layer, f"transpose gives {tuple(back.shape)}")
    left, right = (image * y).flatten(1).sum(1), (x * back).flatten(1).sum(1)
    size = _norms(image).squeeze(1) * _norms(y).squeeze(1)
    _demand(((left - right).abs() <= 1e-12 * size).all(), layer, f"not adjoint: {left.tolist()}, {right.tolist()}")
    wide = dense.in_float64(layer)
    without = wide.forward(x) - wide.forward(torch.zeros_like(x))
    _demand(
        torch.allclose(image, without, rtol=1e-9, atol=1e-12 * float(1 + image.abs().max())),
        layer,
        "apply differs from forward",
    )
    _demand(layer.apply(x.to(torch.float32)).dtype == torch.float32, layer, "apply changes the dtype")


def check_scaled(layer: Layer, generator: torch.Generator) -> None:
    """scaled(s) is diag(s) A, for one s per output channel; anything else that it accepts as well, or None."""
    assert isinstance(layer, Dense | Conv)
    a = dense.matrix(layer)
    shape = layer.output_shape
    channels = shape[-1] if isinstance(layer, Dense) else shape[0]
    per_channel = (channels,) if isinstance(layer, Dense) else (channels, *(1 for _ in shape[1:]))
    wanted = [per_channel, (1,), ()]
    others = [shape, shape[-1:], shape[:1], (*shape[:1], *(1 for _ in shape[1:])), (*(1 for _ in shape[1:]), shape[-1])]
    for form in dict.fromkeys(wanted + others):
        try:
            broadcast = torch.broadcast_shapes(form, shape) == shape
        except RuntimeError:
            broadcast = False
        if not broadcast:
            continue
        scale = torch.randn(form, generator=generator) * 3
        scaled = layer.scaled(scale)
        if scaled is None:
            _demand(form not in wanted, layer, f"scaled refuses one scale per channel, {form}")
            continue
        factor = scale.to(torch.float64).expand(shape).reshape(-1, 1).numpy()
        got = dense.matrix(scaled)
        _demand(
            got.shape == a.shape and np.allclose(got, factor * a, rtol=1e-13, atol=0),
            layer,
            f"scaled({form}) is not diag(s) A",
        )
        true = dense.norm(got)
        _demand(scaled.norm_upper >= true * (1 - 1e-12), layer, f"scaled({form}) has too small a norm")


def noisy_inputs(shapes: tuple[Shape, ...], generator: torch.Generator, layer: Layer) -> list[tuple[Tensor, ...]]:
    """Inputs that round badly, float64: large, small, mixed, equal, denormal, and such that the output cancels."""

    def draw(*, scale: float = 1.0) -> tuple[Tensor, ...]:
        return tuple(scale * torch.randn(12, *s, generator=generator, dtype=torch.float64) for s in shapes)

    def spread() -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(12, *s, generator=generator, dtype=torch.float64)
            * 10.0 ** (16 * torch.rand(12, *s, generator=generator, dtype=torch.float64) - 8)
            for s in shapes
        )

    found = [draw(scale=s) for s in (1.0, 1e-3, 30.0, 1e6, 1e-12, 1e-20, 1e12, 1e20, 1e-40)]
    found += [spread(), spread()]
    found.append(tuple(torch.zeros(1, *s, dtype=torch.float64) for s in shapes))
    for c in (1 / 3, 0.7, 1.9999):
        found.append(tuple(torch.full((1, *s), c, dtype=torch.float64) for s in shapes))
    found.append(tuple(1e4 + 1e-3 * part for part in draw()))
    if (place := jump(layer)) is not None:  # near which a rounded comparison may go wrong
        found += [tuple(float(place[0]) * (1 + 2.0**-size * part) for part in draw()) for size in (24, 26, 53, 55)]
    if sum(math.prod(s) for s in shapes) <= 2:  # few enough to come near the worst mantissas
        found.append(tuple(2 * torch.rand(4096, *s, generator=generator, dtype=torch.float64) for s in shapes))
    if len(shapes) > 1 and len(set(shapes)) == 1:  # sums that cancel
        (first, *others) = draw(scale=1e4)
        found.append((first, *(-first / len(others) + 1e-4 * o for o in others)))
    if isinstance(layer, Linear):  # inputs in the kernel of the map, or shortened by it most
        bottom = np.linalg.svd(dense.matrix(layer))[2][-3:]
        found.append((1e5 * torch.from_numpy(bottom.copy()).reshape(-1, *shapes[0]),))
    return found


def check_noise(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> float:
    """Computed and exact outputs differ by at most noise, in float32 and float64, and noise is no more than that.

    Returns the largest part of it that was reached. Layers that do not round must be exact.
    """
    shapes = shapes or (_shape_of(layer),)
    reached = 0.0
    owned = [v.dtype for v in vars(layer).values() if isinstance(v, Tensor) and v.is_floating_point()]
    for dtype in (torch.float32, torch.float64):
        single = torch.float64 not in owned or isinstance(layer, Diagonal)  # whose numbers may be float64 all the same
        if (dtype == torch.float32 and not single) or (dtype == torch.float64 and not WIDER):
            continue
        own = layer if dtype == torch.float32 else dense.in_float64(layer)
        unit = UNIT32 if dtype == torch.float32 else UNIT64
        for wide in noisy_inputs(shapes, generator, layer):
            inputs = tuple(part.to(dtype) for part in wide)
            with torch.no_grad():
                computed = own.forward(*inputs)
            _demand(computed.dtype == dtype, layer, f"forward turns {dtype} into {computed.dtype}")
            true = exact(own, *(long(part) for part in inputs))
            flat = (long(computed) - true).reshape(len(computed), -1)
            error = torch.from_numpy(np.sqrt(np.square(flat).sum(1)).astype(np.float64))
            finite = torch.isfinite(computed).flatten(1).all(1)
            norms = tuple(_norms(part) for part in inputs)
            allowed = own.noise(*norms, unit=unit)
            _demand(allowed.shape == norms[0].shape, layer, f"noise gives {tuple(allowed.shape)}")
            if isinstance(own, Softplus) and (at := own.local(*inputs)) is not None:
                allowed = allowed + own.modulus(torch.zeros_like(allowed), at=at.unsqueeze(1))
            excess = torch.where(finite, error - allowed.squeeze(1) * (1 + 1e-9), -torch.inf)
            worst = int(excess.argmax())
            _demand(
                (excess <= 0).all(),
                layer,
                f"{dtype}: off by {float(error[worst]):.6g} where noise says {float(allowed[worst]):.6g}, "
                f"at an input of norm {float(norms[0][worst]):.3g}",
            )
            ratios = (error / allowed.squeeze(1).clamp_min(1e-300))[finite]
            reached = max(reached, float(ratios.max()) if len(ratios) else 0.0)
            if not layer.rounds:
                _demand(not allowed.any() and not error[finite].any(), layer, "rounds, but says it does not")
                continue
            rest = torch.zeros(1, *shapes[0], dtype=dtype)
            start = float(_norms(own.forward(*(rest for _ in shapes)))) if len(shapes) == 1 else 0.0
            size = own.absolute_norm_upper * norms[0] if isinstance(own, Linear) else own.modulus(*norms)
            size = size + torch.inf if isinstance(own, Multiply) else size  # one rounding each, and not Lipschitz
            leap = own.jump(torch.full((1, 1), math.inf), None) if isinstance(own, Activation) else torch.zeros(1, 1)
            most = 0.02 * (size + start) + 1e-4 + leap * 1.001
            _demand((allowed <= most).all(), layer, f"noise {float(allowed.max())} is vacuous")
    return reached


def check_merge(layer: Layer, generator: torch.Generator, shapes: tuple[Shape, ...] = ()) -> None:
    """The modulus of a layer with several inputs: sound for any mixture of radii, and exact (reached)."""
    count = len(shapes)
    mixtures = [tuple(float(v) for v in row) for row in (torch.rand(6, count, generator=generator) * 5)]
    mixtures += [(1.0,) * count, (0.0,) * count, (0.0,) * (count - 1) + (2.0,), (30.0,) + (1e-3,) * (count - 1)]
    bases = [torch.randn(1, *s, generator=generator, dtype=torch.float64) for s in shapes]
    still = layer.forward(*bases)
    for mixture in mixtures:
        radii = [torch.full((1, 1), rho, dtype=torch.float64) for rho in mixture]
        allowed = layer.modulus(*radii)
        _demand(allowed.shape == (1, 1), layer, f"modulus gives {tuple(allowed.shape)}")
        worst = 0.0
        shared = torch.randn(max(math.prod(s) for s in shapes), generator=generator, dtype=torch.float64)
        for kind in ("aligned", "random", "one coordinate"):
            moved_inputs = []
            for base, rho in zip(bases, mixture, strict=True):
                n = base.numel()
                direction = {
                    "aligned": shared[:n],
                    "random": torch.randn(n, generator=generator, dtype=torch.float64),
                    "one coordinate": torch.eye(n, dtype=torch.float64)[0],
                }[kind]
                moved_inputs.append(base + rho * ascent.unit_rows(direction[None]).reshape(base.shape))
            worst = max(worst, float(torch.linalg.vector_norm(layer.forward(*moved_inputs) - still)))
        bound = float(allowed)
        message = f"for radii {mixture} the output moves by {worst!r}, the bound says {bound!r}"
        _demand(worst <= bound * (1 + REL) + 1e-12, layer, message)
        _demand(worst >= bound * (1 - 1e-9) - 1e-12, layer, "not exact: " + message)
    grown = layer.modulus(*(_column((0.0, 1.0, 2.0)) for _ in shapes))
    _demand((grown.diff(dim=0) > 0).all() and float(grown[0]) == 0.0, layer, "modulus does not grow from 0")
