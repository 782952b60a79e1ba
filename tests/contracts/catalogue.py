"""Named instances of every layer; small, so that they can be written out, and deliberately awkward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pertbound.layers import (
    ELU,
    GELU,
    Abs,
    Add,
    AveragePool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Diagonal,
    HardSwish,
    Layer,
    LeakyReLU,
    LocalResponse,
    LpPool,
    MaxPool,
    Mish,
    Multiply,
    PReLU,
    ReLU,
    Reshape,
    Select,
    Shape,
    Sigmoid,
    SiLU,
    Softplus,
    Sort,
    Standardize,
    Tanh,
    TanhGELU,
)


@dataclass(frozen=True)
class Case:
    """A layer and the shapes of its inputs, one sample each."""

    layer: Layer
    shapes: tuple[Shape, ...]


class _Maker:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=dtype)

    def dense(self, out: int, shape: Shape, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> Dense:
        weight = self.normal(out, shape[-1], dtype=dtype)
        return Dense(shape, weight, self.normal(out, dtype=dtype) if bias else None)

    def conv(
        self,
        out: int,
        shape: Shape,
        window: Shape,
        *,
        stride: Shape | None = None,
        padding: Shape | None = None,
        dilation: Shape | None = None,
        groups: int = 1,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Conv:
        dims = len(window)
        return Conv(
            shape,
            self.normal(out, shape[0] // groups, *window, dtype=dtype),
            self.normal(out, dtype=dtype) if bias else None,
            stride or (1,) * dims,
            padding or (0,) * dims,
            dilation or (1,) * dims,
            groups,
        )

    def transposed(
        self,
        out: int,
        shape: Shape,
        window: Shape,
        *,
        stride: Shape | None = None,
        padding: Shape | None = None,
        extra: Shape | None = None,
        dilation: Shape | None = None,
        groups: int = 1,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> ConvTranspose:
        dims = len(window)
        return ConvTranspose(
            shape,
            self.normal(shape[0], out // groups, *window, dtype=dtype),
            self.normal(out, dtype=dtype) if bias else None,
            stride or (1,) * dims,
            padding or (0,) * dims,
            extra or (0,) * dims,
            dilation or (1,) * dims,
            groups,
        )


def _dense(make: _Maker) -> dict[str, Layer]:
    rank_one = torch.outer(make.normal(6), make.normal(5))
    return {
        "wide": make.dense(4, (9,)),
        "tall": make.dense(9, (4,)),
        "one entry": make.dense(1, (1,)),
        "one row": make.dense(1, (7,)),
        "over one trailing dimension": make.dense(4, (3, 5)),
        "over two trailing dimensions": make.dense(3, (2, 3, 4)),
        "zero weight": Dense((4,), torch.zeros(3, 4), make.normal(3)),
        "zero weight and no bias": Dense((4,), torch.zeros(3, 4), None),
        "no bias": make.dense(5, (5,), bias=False),
        "rank one": Dense((5,), rank_one, make.normal(6)),
        "orthogonal": Dense((6,), torch.linalg.qr(make.normal(6, 6)).Q.contiguous(), None),
        "ill-conditioned": Dense((6,), make.normal(6, 6) * 10.0 ** -torch.arange(6.0), make.normal(6)),
        "one huge entry": Dense((3,), torch.tensor([[1e15, 1.0, -1.0], [1.0, 1e-15, 0.0]]), make.normal(2)),
        "float64": make.dense(5, (6,), dtype=torch.float64),
        "float64, weights 1e-170": Dense((4,), 1e-170 * make.normal(3, 4, dtype=torch.float64), None),
        "float32, smallest weights": Dense((4,), 2e-38 * make.normal(3, 4), make.normal(3)),
    }


def _conv(make: _Maker) -> dict[str, Layer]:
    ones = torch.ones(1, 1, 3, 3)
    return {
        "1-D": make.conv(3, (2, 9), (3,)),
        "1-D, stride 2, padding 1": make.conv(3, (2, 9), (3,), stride=(2,), padding=(1,)),
        "1-D, even kernel": make.conv(2, (2, 8), (4,), padding=(2,)),
        "1-D, dilation 2": make.conv(2, (2, 10), (3,), dilation=(2,), padding=(1,)),
        "1-D, longer than its coarse grid": make.conv(2, (1, 60), (3,), padding=(1,)),
        "1-D, stride 2 beyond its coarse grid": make.conv(2, (1, 61), (4,), stride=(2,), padding=(1,)),
        "2-D": make.conv(3, (2, 6, 6), (3, 3)),
        "2-D, ones": Conv((1, 8, 8), ones, None, (1, 1), (1, 1), (1, 1), 1),
        "2-D, stride 2": make.conv(3, (2, 7, 7), (3, 3), stride=(2, 2), padding=(1, 1)),
        "2-D, uneven": make.conv(2, (2, 7, 5), (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        "2-D, dilation 2": make.conv(2, (1, 8, 8), (3, 3), dilation=(2, 2), padding=(2, 2)),
        "2-D, stride 2 and dilation 3": make.conv(2, (1, 9, 9), (3, 2), stride=(2, 2), dilation=(3, 3), padding=(2, 2)),
        "2-D, stride 4 over dilation 2": make.conv(
            2, (1, 10, 10), (2, 2), stride=(4, 4), dilation=(2, 2), padding=(1, 1)
        ),
        "2-D, two groups": make.conv(4, (4, 5, 5), (3, 3), padding=(1, 1), groups=2),
        "2-D, depthwise": make.conv(3, (3, 6, 6), (3, 3), padding=(1, 1), groups=3),
        "2-D, depthwise with multiplier and stride": make.conv(
            6, (3, 6, 6), (3, 3), stride=(2, 2), padding=(1, 1), groups=3
        ),
        "2-D, stride above the kernel": make.conv(2, (2, 8, 8), (2, 2), stride=(3, 3)),
        "2-D, 1x1": make.conv(4, (3, 4, 4), (1, 1)),
        "2-D, 1x1 with stride 2": make.conv(4, (3, 5, 5), (1, 1), stride=(2, 2)),
        "2-D, even kernel": make.conv(2, (2, 6, 6), (2, 4), padding=(1, 2)),
        "2-D, kernel larger than half the input": make.conv(2, (2, 6, 6), (5, 5), padding=(2, 2)),
        "2-D, kernel as large as the input": make.conv(3, (2, 4, 4), (4, 4)),
        "2-D, kernel larger than the input": make.conv(2, (1, 3, 3), (5, 5), padding=(2, 2)),
        "2-D, large padding": make.conv(2, (1, 4, 4), (3, 3), padding=(4, 4)),
        "2-D, zero weight": Conv((1, 4, 4), torch.zeros(2, 1, 3, 3), make.normal(2), (1, 1), (1, 1), (1, 1), 1),
        "2-D, no bias": make.conv(2, (2, 5, 5), (3, 3), bias=False),
        "2-D, beyond its coarse grid": make.conv(1, (1, 14, 14), (2, 2), padding=(1, 1)),
        "2-D, float64": make.conv(2, (2, 5, 5), (3, 3), dtype=torch.float64),
        "2-D, float64, weights 1e-170": Conv(
            (1, 4, 4),
            1e-170 * make.normal(2, 1, 2, 2, dtype=torch.float64),
            None,
            (1, 1),
            (0, 0),
            (1, 1),
            1,
        ),
        "3-D": make.conv(2, (1, 4, 4, 4), (2, 3, 2), padding=(0, 1, 1)),
        "3-D, stride, dilation and groups": make.conv(
            2, (2, 5, 5, 4), (2, 2, 2), stride=(2, 1, 2), dilation=(1, 2, 1), padding=(1, 0, 0), groups=2
        ),
    }


def _conv_transpose(make: _Maker) -> dict[str, Layer]:
    return {
        "1-D": make.transposed(3, (2, 5), (3,)),
        "1-D, stride 2, output padding": make.transposed(2, (2, 4), (3,), stride=(2,), padding=(1,), extra=(1,)),
        "1-D, stride above the kernel": make.transposed(2, (1, 4), (2,), stride=(3,), extra=(2,)),
        "2-D": make.transposed(3, (2, 4, 4), (3, 3), bias=False),
        "2-D, uneven": make.transposed(
            2, (2, 3, 4), (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1), extra=(0, 1)
        ),
        "2-D, two groups": make.transposed(4, (4, 3, 3), (3, 3), stride=(2, 2), padding=(1, 1), groups=2),
        "2-D, depthwise": make.transposed(3, (3, 4, 4), (2, 2), stride=(2, 2), groups=3),
        "2-D, 1x1": make.transposed(4, (3, 3, 3), (1, 1)),
        "2-D, zero weight": ConvTranspose(
            (1, 3, 3), torch.zeros(1, 2, 2, 2), make.normal(2), (1, 1), (0, 0), (0, 0), (1, 1), 1
        ),
        "2-D, float64": make.transposed(2, (2, 3, 3), (3, 3), stride=(2, 2), dtype=torch.float64),
        "3-D": make.transposed(2, (1, 2, 3, 2), (2, 3, 2), stride=(2, 1, 1), padding=(0, 1, 0)),
    }


def _select() -> dict[str, Layer]:
    grid = torch.arange(24).reshape(2, 3, 4)
    padded = torch.nn.functional.pad(grid + 1, (1, 2, 0, 1)) - 1
    return {
        "permutation": Select((2, 3, 4), grid.permute(2, 0, 1).contiguous()),
        "slice": Select((2, 3, 4), grid[:, 1:, ::2].contiguous()),
        "one entry": Select((5,), torch.tensor([3])),
        "padding with zeros": Select((2, 3, 4), padded),
        "repetition": Select((3,), torch.tensor([[0, 1, 2], [0, 1, 2]])),
        "unequal repetition": Select((4,), torch.tensor([2, 2, 0, -1, 2, 1])),
    }


def _average(
    shape: Shape,
    window: Shape,
    stride: Shape | None = None,
    padding: Shape | None = None,
    *,
    ceil: bool = False,
    include: bool = True,
    divisor: int | None = None,
) -> AveragePool:
    zeros = (0,) * len(window)
    return AveragePool(shape, window, stride or window, padding or zeros, ceil, include, divisor)


def _average_pool() -> dict[str, Layer]:
    return {
        "1-D": _average((2, 8), (2,)),
        "1-D, overlapping": _average((2, 9), (3,), (1,)),
        "1-D, padding not counted": _average((2, 7), (3,), (2,), (1,), include=False),
        "2-D": _average((2, 6, 6), (2, 2)),
        "2-D, overlapping": _average((1, 7, 7), (3, 3), (2, 2)),
        "2-D, overlapping by one each": _average((1, 6, 6), (3, 3), (1, 1)),
        "2-D, padding counted": _average((1, 6, 6), (3, 3), (2, 2), (1, 1)),
        "2-D, padding not counted": _average((1, 6, 6), (3, 3), (1, 1), (1, 1), include=False),
        "2-D, ceil_mode": _average((1, 6, 7), (3, 2), (2, 2), ceil=True),
        "2-D, ceil_mode, padding not counted": _average((1, 6, 7), (3, 2), (2, 2), (1, 1), ceil=True, include=False),
        "2-D, divisor below the count": _average((1, 6, 6), (3, 3), (2, 2), divisor=2),
        "2-D, divisor above the count": _average((1, 6, 6), (2, 2), (1, 1), (1, 1), divisor=7),
        "2-D, stride above the window": _average((1, 7, 7), (2, 2), (3, 3)),
        "2-D, global": _average((3, 5, 5), (5, 5)),
        "3-D": _average((1, 4, 4, 4), (2, 2, 2), (1, 2, 2)),
    }


def _max(
    shape: Shape,
    window: Shape,
    stride: Shape | None = None,
    padding: Shape | None = None,
    dilation: Shape | None = None,
    *,
    ceil: bool = False,
) -> MaxPool:
    dims = len(window)
    return MaxPool(shape, window, stride or window, padding or (0,) * dims, dilation or (1,) * dims, ceil)


def _max_pool() -> dict[str, Layer]:
    return {
        "1-D": _max((2, 8), (2,)),
        "1-D, overlapping": _max((1, 9), (3,), (1,)),
        "1-D, dilation sharing a factor with the stride": _max((1, 14), (3,), (2,), dilation=(2,)),
        "1-D, dilation prime to the stride": _max((1, 14), (3,), (2,), dilation=(3,)),
        "1-D, dilation 2 and stride 4": _max((1, 17), (4,), (4,), dilation=(2,)),
        "2-D": _max((2, 6, 6), (2, 2)),
        "2-D, overlapping": _max((1, 7, 7), (3, 3), (2, 2)),
        "2-D, overlapping by one each": _max((1, 6, 6), (3, 3), (1, 1)),
        "2-D, dilation": _max((1, 9, 9), (2, 2), (2, 2), dilation=(2, 2)),
        "2-D, padding": _max((1, 6, 6), (3, 3), (2, 2), (1, 1)),
        "2-D, ceil_mode": _max((1, 6, 6), (3, 3), (2, 2), ceil=True),
        "2-D, uneven": _max((1, 7, 6), (3, 2), (1, 2), (1, 0)),
        "2-D, stride above the window": _max((2, 7, 7), (2, 2), (3, 3)),
        "3-D": _max((1, 4, 4, 4), (2, 2, 2), (1, 2, 2)),
    }


def _lp_pool() -> dict[str, Layer]:
    plain = {f"2-D, p = {p:g}": LpPool((1, 4, 6), p, (2, 2), (2, 2)) for p in (1.0, 1.1, 1.5, 1.7, 2.0, 3.0, 4.0)}
    return plain | {
        "1-D, p = 1.1": LpPool((1, 6), 1.1, (2,), (2,)),
        "1-D, p = 1.7": LpPool((1, 6), 1.7, (2,), (2,)),
        "1-D, p = 1.5": LpPool((2, 8), 1.5, (4,), (4,)),
        "1-D, p = 2, overlapping": LpPool((2, 9), 2.0, (3,), (1,)),
        "2-D, p = 1, overlapping": LpPool((1, 5, 5), 1.0, (2, 2), (1, 1)),
        "2-D, p = 1.5, overlapping": LpPool((1, 7, 7), 1.5, (3, 3), (2, 2)),
        "2-D, p = 2, overlapping": LpPool((1, 7, 7), 2.0, (3, 3), (2, 2)),
        "2-D, p = 3, overlapping": LpPool((1, 5, 5), 3.0, (3, 3), (1, 1)),
        "2-D, p = 2, stride above the window": LpPool((1, 7, 7), 2.0, (2, 2), (3, 3)),
        "2-D, p = 8": LpPool((1, 4, 4), 8.0, (2, 2), (2, 2)),
    }


def near(number: float) -> float:
    """The nearest number of float32."""
    return float(torch.tensor(number))


def _activation() -> dict[str, Layer]:
    flat, image = (5,), (2, 2, 3)
    layers: dict[str, Layer] = {"ReLU": ReLU(flat), "ReLU on images": ReLU(image)}
    layers |= {f"LeakyReLU {slope:g}": LeakyReLU(flat, slope) for slope in (0.01, 0.0, 1.0, 3.0, -0.5, -2.0)}
    layers |= {"Abs": Abs(flat), "Abs on images": Abs(image)}
    humps = {"GELU": GELU, "TanhGELU": TanhGELU, "SiLU": SiLU, "Mish": Mish, "HardSwish": HardSwish}
    layers |= {name: kind(flat) for name, kind in humps.items()}
    layers |= {"SiLU on images": SiLU(image), "ELU": ELU(flat, 1.0, 1.0, 1.0), "CELU 0.3": ELU(flat, 0.3, 1.0, 0.3)}
    layers |= {"ELU 0.4": ELU(flat, 0.4, 1.0, 1.0), "ELU 3": ELU(flat, 3.0, 1.0, 1.0)}
    layers["SELU"] = ELU(flat, 1.6732632423543772, 1.0507009873554805, 1.0)
    layers["PReLU"] = PReLU(flat, torch.tensor([0.25, -1.0, 1.0, 0.0, 2.5]))
    layers["PReLU on images"] = PReLU.of_channels(image, torch.tensor([0.3, -0.7]))
    ends = ((-1.0, 1.0), (0.0, 6.0), (-math.inf, 0.5), (0.3, math.inf))  # float32 holds some of them
    layers |= {f"Clip {low:g} {high:g}": Clip(flat, near(low), near(high)) for low, high in ends}
    layers["Clip, ends of float64"] = Clip(flat, 0.1, 0.7)
    layers |= {"Sigmoid": Sigmoid(flat), "Sigmoid on images": Sigmoid(image), "Sigmoid of one": Sigmoid((1,))}
    layers |= {"Tanh": Tanh(flat), "Tanh on images": Tanh(image), "Tanh of one": Tanh((1,))}
    layers |= {f"Softplus {beta:g}": Softplus(flat, beta, 20.0) for beta in (0.5, 1.0, 10.0)}
    jumps = ((1.0, 5.0), (1.0, 0.5), (4.0, -1.0), (0.3, 0.0), (2.0, math.inf))
    return layers | {f"Softplus {beta:g}, threshold {end:g}": Softplus(flat, beta, end) for beta, end in jumps}


def _diagonal(make: _Maker) -> dict[str, Layer]:
    def batch_norm(shape: Shape, *, affine: bool = True) -> Diagonal:
        features = shape[0]
        variance = make.normal(features).square() + 0.01
        weight, bias = (make.normal(features), make.normal(features)) if affine else (None, None)
        return Diagonal.from_batch_norm(shape, make.normal(features), variance, weight, bias, 1e-5)

    return {
        "batch norm of features": batch_norm((5,)),
        "batch norm of images": batch_norm((3, 2, 4)),
        "batch norm without affine": batch_norm((3, 4), affine=False),
        "by a number": Diagonal((4,), torch.tensor(-2.5), torch.tensor(0.5)),
        "by a number of one dimension": Diagonal((2, 3), torch.tensor([3.0]), torch.tensor([0.0])),
        "entry by entry": Diagonal((2, 3), make.normal(2, 3), make.normal(2, 3)),
        "scale by channel, shift by entry": Diagonal((2, 3), make.normal(2, 1), make.normal(2, 3)),
        "scale by entry, shift by a number": Diagonal((2, 3), make.normal(2, 3), torch.tensor(7.0)),
        "zero": Diagonal((3,), torch.zeros(3), make.normal(3)),
        "one entry": Diagonal((1,), make.normal(1), make.normal(1)),
        "float64": Diagonal((4,), make.normal(4, dtype=torch.float64), make.normal(4, dtype=torch.float64)),
    }


def _merges() -> dict[str, Case]:
    return {
        "Add of two": Case(Add(), ((4,), (4,))),
        "Add of three images": Case(Add(), ((2, 2, 2),) * 3),
        "Concat of features": Case(Concat(1), ((3,), (5,))),
        "Concat of three channels": Case(Concat(1), ((1, 2, 2), (2, 2, 2), (3, 2, 2))),
        "Concat along the last dimension": Case(Concat(2), ((2, 3), (2, 4))),
        "Multiply": Case(Multiply((4,)), ((4,), (4,))),
        "Multiply, images": Case(Multiply((2, 1, 3)), ((2, 1, 3),) * 2),
        "Multiply, bounded by 1": Case(Multiply((3,), (1.0, 1.0)), ((3,), (3,))),
        "Multiply, one bounded": Case(Multiply((3,), (2.0, math.inf)), ((3,), (3,))),
    }


@cache
def catalogue() -> dict[str, Case]:
    """Every case by name."""
    make = _Maker(20171204)
    families: dict[str, dict[str, Any]] = {
        "Dense": _dense(make),
        "Conv": _conv(make),
        "ConvTranspose": _conv_transpose(make),
        "Select": _select(),
        "AveragePool": _average_pool(),
        "MaxPool": _max_pool(),
        "LpPool": _lp_pool(),
        "Diagonal": _diagonal(make),
        "Standardize": {
            "of five": Standardize((5,), 1e-5),
            "groups": Standardize((2, 3, 4), 1e-2),
            "of two": Standardize((3, 2), 0.1),
            "of one": Standardize((3, 1), 0.1),
            "root mean square": Standardize((2, 3), 1e-3, centred=False),
            "of many": Standardize((40,), 1e-5),
        },
        "LocalResponse": {
            "usual": LocalResponse((6, 2), 5, 1e-4, 0.75, 1.0),
            "strong": LocalResponse((5, 2, 2), 3, 2.0, 0.75, 0.5),
            "even": LocalResponse((4, 3), 4, 3.0, 1.5, 2.0),
            "of one": LocalResponse((3, 2), 1, 1.0, 1.0, 0.1),
            "of two, mild": LocalResponse((4, 1), 2, 0.5, 0.3, 1.0),
            "wider than the channels": LocalResponse((3, 2), 9, 5.0, 0.5, 1.0),
        },
        "Sort": {
            "of three": Sort((2, 3)),
            "of five": Sort((5,)),
            "of two": Sort((2, 2, 2)),
        },
        "Reshape": {
            "flatten": Reshape((2, 3, 2), (12,)),
            "unflatten": Reshape((12,), (3, 4)),
            "nothing": Reshape((4,), (4,)),
        },
    }
    cases = {
        f"{family}: {name}": Case(layer, (layer.input_shape,))
        for family, layers in families.items()
        for name, layer in layers.items()
    }
    cases |= {name: Case(layer, (layer.input_shape,)) for name, layer in _activation().items()}  # type: ignore[attr-defined]
    return cases | _merges()
