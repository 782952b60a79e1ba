"""What is declared of values and layers, held against what a network really computes.

A frontend reads one operator with odd parameters. The network runs in float64 on dense inputs, extremes and the
operator's own parameters among them, and every fact that is relied on later must hold for what is observed: the range
of each value, the bounds of products, slopes, curvature, images, signs, norms, moduli and intervals of each layer.
Derivatives are automatic ones of what `forward` computes, so that no formula of the library judges itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from oracles import dense
from pertbound.frontends.ranges import Range
from pertbound.graph import INPUT, Node
from pertbound.layers import Activation, Layer, Linear, Multiply, Shape
from pertbound.layers.smooth import Smooth
from pertbound.layers.softplus import Softplus
from pertbound.numerics import UNIT64
from pertbound.sets import Box

REL = 1e-11
"""What rounding in float64 may cost a bound, relatively."""
RADII = (1e-4, 0.1, 1.0, 30.0)


@dataclass(frozen=True)
class Read:
    """What a frontend made of a network, and the ranges that it declared, by node."""

    nodes: tuple[Node, ...]
    ranges: Mapping[str, Range]
    finish: Callable[[Tensor], Tensor]

    def run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the value of every node, in the dtype of x."""
        values = {INPUT: x}
        for node in self.nodes:
            layer = dense.in_float64(node.layer) if x.dtype == torch.float64 else node.layer
            with torch.no_grad():
                values[node.name] = layer.forward(*(values[name] for name in node.inputs))
        return self.finish(values[self.nodes[-1].name]), values


def inputs(shape: Shape, generator: torch.Generator, numbers: Iterable[float] = ()) -> Tensor:
    """Dense float64 inputs: normal ones of several sizes, equal entries, mixtures of `numbers` and extremes, ties."""

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)

    known = {0.0, 0.5, 1.0, 3.0, 6.0, 20.0, 1e3, *(abs(n) for n in numbers if math.isfinite(n) and abs(n) < 1e6)}
    fixed = torch.tensor(sorted({sign * n for n in known for sign in (1, -1)}), dtype=torch.float64)
    equal = fixed.reshape(-1, *(1 for _ in shape)).expand(-1, *shape)
    drawn = fixed[torch.randint(len(fixed), (12, *shape), generator=generator)]
    ties = torch.randint(-2, 3, (6, *shape), generator=generator).to(torch.float64)
    spikes = torch.where(torch.rand(6, *shape, generator=generator) < 0.2, 100.0 * normal(6), 0.0)
    scaled = [scale * normal(4) for scale in (0.05, 1.0, 5.0, 300.0)]
    return torch.cat([*scaled, equal, drawn, drawn + 1e-3 * normal(12), ties, spikes, ties + 1e-9])


def check_facts(read: Read, x: Tensor, generator: torch.Generator, *, layers: int | None = None) -> None:
    """Every fact about every node, on the float64 inputs x.

    With `layers` only so many of the layers, drawn at random, are asked about themselves, and with one radius.
    """
    _, values = read.run(x)
    order = torch.randperm(len(read.nodes), generator=generator).tolist()
    for place in order if layers is None else order[:layers]:
        node = read.nodes[place]
        radii = RADII if layers is None else (RADII[place % len(RADII)],)
        check_layer_facts(node.layer, [values[name] for name in node.inputs], generator, radii)
    for node in read.nodes:
        _check_range(node, read.ranges[node.name], values[node.name], [values[name] for name in node.inputs])


def _demand(holds: object, layer: Layer, message: str) -> None:
    assert bool(holds), f"{layer!r:.300}: {message}"


def _largest(v: Tensor) -> Tensor:
    """The largest absolute value of each sample, to be broadcast against it."""
    return v.abs().flatten(1).amax(1).reshape(-1, *(1 for _ in v.shape[1:]))


def _norms(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v.flatten(1), dim=1, keepdim=True)


def _noise(layer: Layer, arguments: Sequence[Tensor]) -> Tensor:
    """What rounding may move the output by in float64, (batch, 1)."""
    return layer.noise(*(_norms(v) * (1 + REL) for v in arguments), unit=UNIT64)


def _check_range(node: Node, range_: Range, value: Tensor, arguments: Sequence[Tensor]) -> None:
    size = _largest(value)
    for v in arguments:
        size = torch.maximum(size, _largest(v).reshape(size.shape))
    room = 1e-12 * torch.where(torch.isfinite(size), size, 0.0) + 1e-300
    room = torch.where(value.isfinite(), room, 0.0)
    low, high = value.amin(), value.amax()
    _demand((value >= range_.low - room).all(), node.layer, f"{node.name} is at least {range_.low!r}, but one is {low}")
    _demand((value <= range_.high + room).all(), node.layer, f"{node.name} is at most {range_.high!r}, one is {high}")
    if isinstance(node.layer, Multiply):
        for bound, v in zip(node.layer.bounds, arguments, strict=True):
            most = float(v.abs().amax())
            _demand(
                most <= bound * (1 + 1e-12), node.layer, f"a factor of {node.name} is bounded by {bound}, not {most}"
            )


def check_layer_facts(
    layer: Layer, arguments: Sequence[Tensor], generator: torch.Generator, radii: Sequence[float] = RADII
) -> None:
    """What a layer says of itself, at and around these float64 inputs."""
    finite = torch.stack([v.isfinite().flatten(1).all(1) for v in arguments]).all(0)
    arguments = [v[finite] for v in arguments]
    wide = dense.in_float64(layer)
    _check_movement(wide, arguments, generator, radii)
    if layer.keeps_sign:
        value = wide.forward(*(v.abs() for v in arguments))
        _demand((value >= 0).all(), layer, f"keeps signs, but one output is {value.amin()}")
    if isinstance(layer, Activation):
        check_activation(layer)
    if isinstance(layer, Linear) and math.prod(layer.input_shape) <= 200:
        _check_norms(layer)


def _check_movement(
    layer: Layer, arguments: Sequence[Tensor], generator: torch.Generator, sizes: Sequence[float]
) -> None:
    """Moduli, anywhere and at the inputs, and intervals, for random, single and equal movements."""
    rows = len(arguments[0])
    bounds = layer.bounds if isinstance(layer, Multiply) else (math.inf,) * len(arguments)
    at = layer.local(*arguments)
    still, rounding = layer.forward(*arguments), _noise(layer, arguments)
    for radius in sizes:
        moved: list[Tensor] = []
        for v, bound in zip(arguments, bounds, strict=True):
            r = torch.randn(v.shape, generator=generator, dtype=torch.float64).flatten(1)
            single = torch.zeros_like(r).scatter(1, r.abs().argmax(1, keepdim=True), 1.0)
            kind = torch.randint(3, (rows, 1), generator=generator)
            r = torch.where(kind == 0, r, torch.where(kind == 1, single * r.sign(), r.sign()))
            r = (
                r
                * (radius / _norms(r))
                * torch.randint(0, 2, (rows, 1), generator=generator).clamp_min(len(bounds) == 1)
            )
            moved.append((v + r.reshape(v.shape)).clamp(-bound, bound))
        there = layer.forward(*moved)
        allowed_rounding = rounding + _noise(layer, moved)
        radii = [_norms(b - a) * (1 + REL) for a, b in zip(arguments, moved, strict=True)]
        far = _norms(there - still)
        for known in (None, at) if at is not None else (None,):
            allowed = layer.modulus(*radii, at=None if known is None else known.unsqueeze(1)) * (1 + REL)
            worst = int((far - allowed - allowed_rounding).nan_to_num(0.0).argmax())
            _demand(
                ~(far > allowed + allowed_rounding).any(),
                layer,
                f"moves by {float(far[worst])!r}, its modulus is {float(allowed[worst])!r}, local: {known is not None}",
            )
        boxes = [Box(torch.minimum(a, b), torch.maximum(a, b)) for a, b in zip(arguments, moved, strict=True)]
        _check_interval(layer, boxes, generator)


def _check_interval(layer: Layer, boxes: Sequence[Box], generator: torch.Generator) -> None:
    found = layer.interval(*boxes)
    for kind in range(4):
        points: list[Tensor] = []
        for box in boxes:
            share = torch.rand(box.lower.shape, generator=generator, dtype=torch.float64)
            share = share if kind == 0 else share.round() if kind == 1 else torch.full_like(share, kind - 2.0)
            points.append((box.lower + share * (box.upper - box.lower)).clamp(box.lower, box.upper))
        value = layer.forward(*points)
        room = _noise(layer, points).reshape(-1, *(1 for _ in value.shape[1:]))
        _demand(~(value < found.lower - room).any(), layer, "an output is below its interval")
        _demand(~(value > found.upper + room).any(), layer, "an output is above its interval")


def check_activation(layer: Activation) -> None:
    """Slopes, curvature, bends, image, g(0) and bounds of derivatives, from automatic derivatives of `forward`."""
    wide = dense.in_float64(layer)
    numbers = [float(v) for f in fields(layer) if isinstance(v := getattr(layer, f.name), float) and math.isfinite(v)]
    known = torch.tensor([*numbers, *(1 / v for v in numbers if v), 1.0, 3.0, 1.5], dtype=torch.float64)
    near = torch.cat([known * (1 + d) for d in (0.0, 1e-3, -1e-3, 0.1, -0.1)])
    far = torch.logspace(-9, 4, 200, dtype=torch.float64)
    half = torch.cat([near.abs(), far, torch.linspace(0, 12, 600, dtype=torch.float64)])
    z = torch.cat([half, -half]).sort().values.reshape(-1, *(1 for _ in layer.input_shape))
    entries = sum(v.numel() for v in vars(layer).values() if isinstance(v, Tensor))
    z = z.expand(-1, *(layer.input_shape if entries else (1 for _ in layer.input_shape))).contiguous().requires_grad_()
    value = wide.forward(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    z, value = z.detach(), value.detach()
    one = replace(layer, input_shape=(1,)) if not entries else wide
    room = _noise(one, [z.abs().reshape(len(z), -1)]).reshape(-1, *(1 for _ in layer.input_shape))
    low, high = layer.slopes
    tolerance = 1e-9 * layer.steepest + 1e-300
    _demand((slope >= low - tolerance).all(), layer, f"slopes start at {low}, but one is {slope.amin()}")
    _demand((slope <= high + tolerance).all(), layer, f"slopes end at {high}, but one is {slope.amax()}")
    step, rise = z.diff(dim=0), value.diff(dim=0)
    slack = 2 * (room[1:] + room[:-1]) + tolerance * step
    _demand((rise >= low * step - slack).all(), layer, f"slopes start at {low}, but g falls faster")
    _demand((rise <= high * step + slack).all(), layer, f"slopes end at {high}, but g rises faster")
    least, most = layer.image
    _demand((value >= least - room).all() and (value <= most + room).all(), layer, f"the image {layer.image} is left")
    at_zero = wide.forward(torch.zeros_like(z[:1]))
    _demand((at_zero.abs() <= abs(layer.at_zero) * (1 + 1e-12)).all(), layer, f"g(0) = {at_zero.flatten()[:3]}")
    upper = wide.derivative_upper(z)
    _demand(
        (slope.abs() <= upper * (1 + 1e-12) + 1e-14 * layer.steepest).all(),
        layer,
        "derivative_upper is below a derivative",
    )
    if math.isfinite(layer.curvature):
        jump = math.exp(-layer.threshold) if isinstance(layer, Softplus) else 0.0
        bend = slope.diff(dim=0)
        below, above = layer.bends if isinstance(layer, Smooth) else (-layer.curvature, layer.curvature)
        slack = 1e-9 * layer.curvature * step + 1e-12 * layer.steepest + jump
        _demand((bend >= below * step - slack).all(), layer, f"g' falls faster than {below}")
        _demand((bend <= above * step + slack).all(), layer, f"g' rises faster than {above}")
        _demand((bend.abs() <= layer.curvature * step + slack).all(), layer, f"curvature above {layer.curvature}")


def _check_norms(layer: Linear) -> None:
    """Norms of the map, its rows, its absolute values and its shift, from what forward makes of unit vectors."""
    wide, n = dense.in_float64(layer), math.prod(layer.input_shape)
    units = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    found = wide.forward(units.reshape(-1, *layer.input_shape)).flatten(1)
    matrix, shift = (found[1:] - found[:1]).T, found[0]
    lost = 1e-13 * (float(shift.abs().amax()) * math.sqrt(n) + float(matrix.abs().amax())) * math.sqrt(len(matrix))
    norm, absolute = (float(torch.linalg.matrix_norm(m, 2)) for m in (matrix, matrix.abs()))
    _demand(norm <= layer.norm_upper * (1 + REL) + lost, layer, f"norm_upper {layer.norm_upper} < {norm}")
    upper = layer.absolute_norm_upper
    _demand(absolute <= upper * (1 + REL) + lost, layer, f"absolute_norm_upper {upper} < {absolute}")
    rows = torch.linalg.vector_norm(matrix, dim=1)
    short = rows > layer.row_norms_upper.flatten() * (1 + REL) + lost
    _demand(~short.any(), layer, "row_norms_upper is below a row's norm")
    size = float(torch.linalg.vector_norm(shift))
    _demand(size <= layer.bias_norm_upper * (1 + 1e-11), layer, f"bias_norm_upper {layer.bias_norm_upper} < {size}")
    most = int((matrix.abs() > lost).sum(1).amax())
    _demand(layer.terms >= most or layer.terms == 0, layer, f"terms = {layer.terms}, but a row has {most} entries")
    mapped = layer.absolute().apply(units[1:].reshape(-1, *layer.input_shape)).flatten(1).T
    _demand(torch.allclose(mapped, matrix.abs(), rtol=1e-9, atol=lost), layer, "absolute() is not abs(A)")
