"""Models of one ONNX operator that moves a window or entries, or normalises; as in `onnx_singles`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from oracles.onnx_models import node, weights
from redteam.onnx_singles import SHAPES, Single, chosen, single

AUTO = [None, None, None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def convolutions() -> Iterator[Single]:
    """One to three dimensions; uneven padding, dilation, groups."""
    places = {1: ("N", 4, 7), 2: ("N", 4, 5, 6), 3: ("N", 2, 3, 4, 3)}
    for dims, size, stride, pads, dilation, group, auto, bias in chosen(
        (1, 2, 2, 3),
        (1, 2, 3),
        (None, 1, 2, 3),
        (None, 0, 1, 2, "uneven"),
        (None, 1, 2),
        (1, 2, 4),
        AUTO,
        (0, 1),
        most=900,
    ):
        shape = places[dims]
        channels = int(shape[1])
        if channels % group:
            continue
        kernel = weights(2 * group, channels // group, *([size] * dims))
        sides = None if pads is None or auto not in (None, "NOTSET") else _sides(dims, pads)
        given = _given(
            strides=stride and [stride] * dims,
            pads=sides,
            dilations=dilation and [dilation] * dims,
            group=group,
            auto_pad=auto,
            kernel_shape=[size] * dims if bias else None,
        )
        arrays = {"k": kernel, **({"b": weights(2 * group)} if bias else {})}
        yield single(node("Conv", "x k b" if bias else "x k", "y", **given), shape, arrays, 11)
    for dims, size, stride, pads, dilation, group, extra, auto in chosen(
        (1, 2, 2, 3),
        (1, 2, 3),
        (None, 1, 2, 3),
        (None, 0, 1, "uneven"),
        (None, 2),
        (1, 2),
        (None, 0, 1),
        AUTO,
        most=400,
    ):
        shape = {1: ("N", 2, 4), 2: ("N", 2, 3, 4), 3: ("N", 2, 2, 3, 2)}[dims]
        sides = None if pads is None or auto not in (None, "NOTSET") else _sides(dims, pads)
        given = _given(
            strides=stride and [stride] * dims,
            pads=sides,
            dilations=dilation and [dilation] * dims,
            group=group,
            output_padding=None if extra is None else [extra] * dims,
            auto_pad=auto,
        )
        yield single(node("ConvTranspose", "x k", "y", **given), shape, {"k": weights(2, 2, *([size] * dims))}, 11)


def _sides(dims: int, pads: int | str) -> list[int]:
    return [pads] * 2 * dims if isinstance(pads, int) else [0, 1, 2, 1, 0, 2][:dims] + [1, 0, 1, 2, 1, 0][:dims]


def pooling() -> Iterator[Single]:
    """Largest, mean and p-norm of windows, behind a ReLU or not; whole images."""
    places = {1: ("N", 2, 7), 2: ("N", 2, 5, 6), 3: ("N", 2, 3, 4, 3)}
    for kind, dims, size, stride, pads, ceil, auto, relu, more, opset in chosen(
        ("MaxPool", "AveragePool", "LpPool"),
        (1, 2, 2, 3),
        (1, 2, 3),
        (None, 1, 2, 3),
        (None, 0, 1, "uneven"),
        (None, 0, 1),
        AUTO,
        (False, True),
        (0, 1, 2),
        (10, 12, 19),
        most=1500,
    ):
        sides = None if pads is None or auto not in (None, "NOTSET") else _sides(dims, pads)
        given = _given(kernel_shape=[size] * dims, strides=stride and [stride] * dims, pads=sides, auto_pad=auto)
        if kind == "LpPool":
            given |= _given(p=(None, 2, 3)[more], ceil_mode=ceil if opset >= 18 else None)
        else:
            given |= _given(ceil_mode=ceil)
            named = "count_include_pad" if kind == "AveragePool" else "dilations"
            value: Any = more % 2 if kind == "AveragePool" else [1 + more % 2] * dims
            given |= {named: value} if more else {}
        nodes = [node("Relu", "x", "r"), node(kind, "r", "y", **given)] if relu else [node(kind, "x", "y", **given)]
        yield single(nodes, places[dims], opset=opset)
    for kind, shape, relu in itertools.product(
        ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), [*SHAPES[2:], ("N", 4)], (False, True)
    ):
        options = [{}, {"p": 1}, {"p": 3}, {"p": 4}] if kind == "GlobalLpPool" else [{}]
        for given in options:
            last = node(kind, "r" if relu else "x", "y", **given)
            yield single([node("Relu", "x", "r"), last] if relu else last, shape)


def padding() -> Iterator[Single]:
    """All modes, around any dimension of a sample; negative sizes."""
    for shape, mode, seed, fill, opset in chosen(
        SHAPES, ("constant", "reflect", "edge", "wrap"), range(8), (None, 0.0, -1.5), (9, 11, 13, 18, 19), most=500
    ):
        if mode == "wrap" and opset < 19:
            continue
        rng, rank = np.random.default_rng(seed), len(shape)
        low = -1 if mode == "constant" and seed % 4 == 0 else 0
        ends = rng.integers(low, 3, 2 * rank) * (rng.random(2 * rank) < 0.6)
        ends[0] = ends[rank] = 0
        if opset < 11:
            yield single(node("Pad", "x", "y", mode=mode, pads=ends.tolist(), **_given(value=fill)), shape, opset=opset)
            continue
        arrays = {"p": ends, **({} if fill is None else {"v": np.array(fill, np.float32)})}
        names = "x p" + ("" if fill is None else " v")
        if opset >= 18 and seed % 2:
            arrays |= {
                "p": ends[[rank - 1, 2 * rank - 1]],
                "a": np.array([seed % 4 - 2 if seed % 4 == 1 else rank - 1]),
            }
            names = f"x p {'.' if fill is None else 'v'} a"
        yield single(node("Pad", names, "y", mode=mode), shape, arrays, opset)


def moves() -> Iterator[Single]:
    """What only arranges, repeats or drops entries."""
    for shape, axis in itertools.product(SHAPES, range(-3, 4)):
        if abs(axis) < len(shape):
            yield single(node("Flatten", "x", "y", axis=axis), shape)
            for opset in (11, 13):
                given, arrays = ({"axes": [axis]}, {}) if opset < 13 else ({}, {"a": np.array([axis])})
                yield single(node("Unsqueeze", "x" if given else "x a", "y", **given), shape, arrays, opset)
    for shape, wanted, zero in itertools.product(
        SHAPES, ([0, -1], [-1, 4], [1, -1], [0, 2, -1], [0, 0, -1], [-1, 3, 4], [0, 1, -1, 1], [2, -1]), (0, 1)
    ):
        given = {"allowzero": zero} if zero else {}
        yield single(node("Reshape", "x s", "y", **given), shape, {"s": np.array(wanted)}, 14)
    for shape, axes, opset in itertools.product(
        [("N", 1, 4), ("N", 4, 1, 1), (1, 1, 3), ("N", 3, 4)], (None, [1], [-1], [2], [1, 2], [0]), (11, 13)
    ):
        given = {"axes": axes} if axes and opset < 13 else {}
        arrays = {"a": np.array(axes)} if axes and opset >= 13 else {}
        yield single(node("Squeeze", "x a" if arrays else "x", "y", **given), shape, arrays, opset)
    for shape in SHAPES:
        for order in list(itertools.permutations(range(1, len(shape))))[:24]:
            yield single(node("Transpose", "x", "y", perm=[0, *order]), shape)
        yield single(node("Transpose", "x", "y"), shape)
        for seed in range(6):
            rng = np.random.default_rng(seed)
            times = rng.integers(1, 3, len(shape))
            times[0] = 1 if seed else 2
            yield single(node("Tile", "x t", "y"), shape, {"t": times})
            sizes = [1, *(int(n) for n in shape[1:])]
            yield single(node("Expand", "x s", "y"), shape, {"s": np.array(sizes[seed % 3 :])})
    yield from (
        single(node("Expand", "x s", "y"), ("N", 3, 1), {"s": np.array(s)}) for s in ([3, 4], [1, 3, 2], [2, 1, 3, 2])
    )
    for shape, axis, start, end, step, opset in chosen(
        SHAPES, (0, 1, 2, -1), (0, 1, -2, 5), (2, -1, 2**31 - 1, -(2**31)), (1, 2, -1), (9, 10, 13), most=320
    ):
        if axis >= len(shape):
            continue
        if opset < 10:
            yield single(node("Slice", "x", "y", axes=[axis], starts=[start], ends=[end]), shape, opset=opset)
            continue
        arrays = {"s": np.array([start]), "e": np.array([end]), "a": np.array([axis]), "t": np.array([step])}
        yield single(node("Slice", "x s e a t", "y"), shape, arrays, opset)
    for shape, axis, opset, parts in itertools.product(SHAPES, (1, -1, 2), (11, 13, 18), (None, "first")):
        if axis >= len(shape) or int(shape[axis]) < 2:
            continue
        sizes = None if parts is None else [1, int(shape[axis]) - 1]
        given: dict[str, Any] = {"split": sizes} if sizes and opset < 13 else {}
        given |= {"num_outputs": 2} if sizes is None and opset >= 18 else {}
        arrays = {"p": np.array(sizes)} if sizes and opset >= 13 else {}
        last = node("Concat", "b a", "y", axis=axis)
        yield single([node("Split", "x p" if arrays else "x", "a b", axis=axis, **given), last], shape, arrays, opset)
    for shape, axis, index in itertools.product(SHAPES, (None, 0, 1, -1, 2), (0, -1, [1, 0], [-1, 0, 0], [[0, 1]])):
        if axis is None or axis < len(shape):
            yield single(node("Gather", "x i", "y", **_given(axis=axis)), shape, {"i": np.array(index)})
    for shape, axis in itertools.product(SHAPES, (1, -1, 2, 0)):
        if axis < len(shape):
            yield single([node("Neg", "x", "n"), node("Concat", "x n x", "y", axis=axis)], shape)
            row = (1, *(int(n) for n in shape[1:]))
            yield single(node("Concat", "c x", "y", axis=axis), shape, {"c": weights(*row)})


def sizes() -> Iterator[Single]:
    """Resize, Upsample, and blocks of images."""
    for shape, mode, place, near, factor, opset in chosen(
        [("N", 2, 3, 4), ("N", 2, 4)],
        ("nearest", "nearest", "linear"),
        (None, "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
        (None, "floor", "ceil", "round_prefer_ceil"),
        (1, 2, 3, 1.5),
        (11, 13, 18),
        most=300,
    ):
        scales = np.array([1, 1, *([factor] * (len(shape) - 2))], np.float32)
        given = _given(mode=mode, coordinate_transformation_mode=place, nearest_mode=near)
        yield single(node("Resize", "x . s", "y", **given), shape, {"s": scales}, opset)
    for shape, factor, opset, mode in itertools.product(
        [("N", 2, 3, 4)], (1, 2, 3), (7, 9), (None, "nearest", "linear")
    ):
        scales = [1.0, 1.0, float(factor), 2.0]
        if opset < 9:
            yield single(node("Upsample", "x", "y", scales=scales, **_given(mode=mode)), shape, opset=opset)
        else:
            yield single(
                node("Upsample", "x s", "y", **_given(mode=mode)), shape, {"s": np.array(scales, np.float32)}, opset
            )
    for size, mode, opset in itertools.product((1, 2), (None, "DCR", "CRD"), (11, 13)):
        yield single(node("DepthToSpace", "x", "y", blocksize=size, **_given(mode=mode)), ("N", 8, 2, 3), opset=opset)
        yield single(node("SpaceToDepth", "x", "y", blocksize=size), ("N", 3, 4, 2), opset=opset)


def normalising() -> Iterator[Single]:
    """With stored statistics, and by the sample's own."""
    for shape, eps, opset in itertools.product(SHAPES, (None, 1e-3, 0.5), (9, 14, 17)):
        channels = int(shape[1])
        arrays = {n: weights(channels, seed=i) for i, n in enumerate("sbm")} | {"v": weights(channels, seed=9) ** 2}
        yield single(node("BatchNormalization", "x s b m v", "y", **_given(epsilon=eps)), shape, arrays, opset)
    for shape, axis, eps, bias in itertools.product(SHAPES, (None, 1, -1, 2, -2), (None, 0.01, 1.0), (False, True)):
        first = -1 if axis is None else axis
        if -len(shape) < first < len(shape):
            rest = tuple(int(n) for n in shape[1:])[(first - 1 if first > 0 else first) :]
            arrays = {"s": weights(*rest), **({"b": weights(*rest, seed=1)} if bias else {})}
            given = _given(axis=axis, epsilon=eps)
            yield single(node("LayerNormalization", "x s b" if bias else "x s", "y", **given), shape, arrays)
    for shape, groups, eps, opset in itertools.product(SHAPES[2:], (1, 2, 4), (None, 0.1), (18, 21)):
        channels = int(shape[1])
        if channels % groups == 0:
            count = channels if opset >= 21 else groups
            arrays = {"s": weights(count), "b": weights(count, seed=1)}
            given = _given(num_groups=groups, epsilon=eps)
            yield single(node("GroupNormalization", "x s b", "y", **given), shape, arrays, opset)
    for shape, eps in itertools.product(SHAPES[2:], (None, 1e-3, 1.0)):
        arrays = {"s": weights(int(shape[1])), "b": weights(int(shape[1]), seed=1)}
        yield single(node("InstanceNormalization", "x s b", "y", **_given(epsilon=eps)), shape, arrays)
    for shape, size, alpha, beta, bias in itertools.product(
        SHAPES[2:], (1, 2, 3, 5, 7), (None, 0.5), (None, 0.5, 1.0), (None, 2.0)
    ):
        yield single(node("LRN", "x", "y", size=size, **_given(alpha=alpha, beta=beta, bias=bias)), shape)
    for shape, opset in itertools.product(SHAPES, (9, 12, 13)):
        yield single(node("Dropout", "x", "y"), shape, opset=opset)
        for to in (1, 11):
            yield single(node("Cast", "x", "y", to=to), shape, opset=opset)


FAMILIES: dict[str, Callable[[], Iterator[Single]]] = {
    "convolutions": convolutions,
    "pooling": pooling,
    "padding": padding,
    "moves": moves,
    "sizes": sizes,
    "normalising": normalising,
}
