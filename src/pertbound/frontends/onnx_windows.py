"""ONNX operators that move a window: convolutions, pooling, padding; handlers as in `onnx_operators.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.conversion import Value
from pertbound.frontends.lp_pool import LP_POOL
from pertbound.frontends.onnx_constants import Op
from pertbound.frontends.onnx_reader import PER_ENTRY, Handler, Reader

Sides = tuple[list[int], list[int]]
"""Padding before and after, for each spatial dimension."""


def _whole(op: Op, name: str, dims: int, default: int) -> list[int]:
    """A list of `dims` positive integers."""
    given = op.get(name) or [default] * dims
    if len(given) != dims or min(given) < 1:
        raise ValueError(f"{name} is {given[:10]} for {dims} spatial dimensions")
    return given


def _sides(op: Op, spatial: tuple[int, ...], window: list[int], stride: list[int], dilation: list[int]) -> Sides:
    """The padding that `pads` or `auto_pad` says."""
    dims, auto = len(spatial), op.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = [d * (q - 1) + 1 for q, d in zip(window, dilation, strict=True)]
        each = zip(spatial, reach, stride, strict=True)
        total = [max((-(-n // s) - 1) * s + q - n, 0) for n, q, s in each]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    pads = [0] * (2 * dims) if auto == "VALID" else op.get("pads") or [0] * (2 * dims)
    if len(pads) != 2 * dims or min(pads) < 0 or max(pads) > conversion.LARGEST_SAMPLE:
        raise ValueError(f"pads are {pads[:10]} for {dims} spatial dimensions")
    return pads[:dims], pads[dims:]


def _work(
    reader: Reader, op: Op, channels: int, spatial: tuple[int, ...], pads: Sides, stride: list[int], terms: int
) -> None:
    """What a window costs at each of its places, taken from the budget before anything is computed."""
    places = [(n + a + b) // s + 1 for n, a, b, s in zip(spatial, *pads, stride, strict=True)]
    reader.require_room(op, channels * math.prod(places))
    reader.spend(op, channels * math.prod(places) * terms)


def _spatial(reader: Reader, op: Op) -> tuple[Value, tuple[int, ...]]:
    """A value of shape (channels, *spatial), and its one to three spatial sizes."""
    value = reader.value(op, 0)
    if not 2 <= len(value.shape) <= 4:
        raise UnsupportedLayerError(
            f"{op.where} on samples of shape {value.shape}: one to three spatial dimensions work"
        )
    return value, value.shape[1:]


def _conv(reader: Reader, op: Op) -> Value:
    """Uneven padding is even padding of a kernel with zeros around it."""
    value, spatial = _spatial(reader, op)
    weight, bias, dims = reader.constant(op, 1), op.input(2), len(spatial)
    if weight.dim() != dims + 2 or op.get("kernel_shape", list(weight.shape[2:])) != list(weight.shape[2:]):
        raise ValueError(f"the kernel has shape {tuple(weight.shape)} on {dims} spatial dimensions")
    stride, dilation = _whole(op, "strides", dims, 1), _whole(op, "dilations", dims, 1)
    before, after = pads = _sides(op, spatial, list(weight.shape[2:]), stride, dilation)
    _work(reader, op, len(weight), spatial, pads, stride, max(1, weight[0].numel()))
    padding = [max(sides) for sides in zip(before, after, strict=True)]
    if before != after:
        around = [(p - a, p - b) for p, a, b in zip(padding, before, after, strict=True)]
        weight, dilation = _with_zeros(reader, op, weight, dilation, around), [1] * dims
    if bias is not None:
        bias = reader.constant(op, 2)
    return reader.call(
        op,
        f"aten.conv{dims}d.default",
        input=value,
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=op.get("group", 1),
    )


def _with_zeros(reader: Reader, op: Op, weight: Tensor, dilation: list[int], around: list[tuple[int, int]]) -> Tensor:
    """The kernel written out with its gaps, and so many zeros before and after it."""
    inner = [d * (q - 1) + 1 for q, d in zip(weight.shape[2:], dilation, strict=True)]
    sizes = [n + a + b for n, (a, b) in zip(inner, around, strict=True)]
    reader.spend(op, PER_ENTRY * len(weight) * weight.shape[1] * math.prod(sizes))
    result = torch.zeros(*weight.shape[:2], *sizes, dtype=weight.dtype)
    places = [slice(a, a + n, d) for n, (a, _), d in zip(inner, around, dilation, strict=True)]
    result[(slice(None), slice(None), *places)] = weight
    return result


def _conv_transpose(reader: Reader, op: Op) -> Value:
    value, spatial = _spatial(reader, op)
    weight, bias, dims = reader.constant(op, 1), op.input(2), len(spatial)
    stride, dilation = _whole(op, "strides", dims, 1), _whole(op, "dilations", dims, 1)
    extra = op.get("output_padding") or [0] * dims
    pads = op.get("pads") or [0] * (2 * dims)
    if op.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in op.attributes or min(pads) < 0:
        raise UnsupportedLayerError(f"{op.where}: export the transposed convolution with explicit pads")
    if pads[:dims] != pads[dims:] or len(extra) != dims:
        raise UnsupportedLayerError(f"{op.where}: pads {pads[:10]} are not the same on both sides")
    each = zip(spatial, weight.shape[2:], stride, dilation, extra, strict=True)
    sizes = [(n - 1) * s + d * (q - 1) + 1 + e for n, q, s, d, e in each]
    channels = weight.shape[1] * op.get("group", 1)
    reader.require_room(op, channels * math.prod(sizes))
    reader.spend(op, math.prod(value.shape) * weight[0].numel() + PER_ENTRY * channels * math.prod(sizes))
    return reader.call(
        op,
        f"aten.conv_transpose{dims}d.input",
        input=value,
        weight=weight,
        bias=None if bias is None else reader.constant(op, 2),
        stride=stride,
        padding=pads[:dims],
        output_padding=extra,
        groups=op.get("group", 1),
        dilation=dilation,
    )


def _pooling(reader: Reader, op: Op) -> tuple[Value, dict[str, Any], Sides]:
    """What all pooling windows have in common: the value, its window and stride, and the padding of both sides."""
    value, spatial = _spatial(reader, op)
    dims = len(spatial)
    window, stride = _whole(op, "kernel_shape", dims, 0), _whole(op, "strides", dims, 1)
    dilation = _whole(op, "dilations", dims, 1)
    pads = _sides(op, spatial, window, stride, dilation)
    if any(q > n + a + b for q, n, a, b in zip(window, spatial, *pads, strict=True)):
        raise ValueError(f"a window of {window} is larger than the padded input {spatial}")
    _work(reader, op, value.shape[0], spatial, pads, stride, math.prod(window))
    ceil_mode = bool(op.get("ceil_mode", 0))
    return value, {"kernel_size": window, "stride": stride, "dilation": dilation, "ceil_mode": ceil_mode}, pads


def _max_pool(reader: Reader, op: Op) -> Value:
    """Padding counts as minus infinity; zeros do as well where nothing is negative."""
    value, options, (before, after) = _pooling(reader, op)
    if op.get("storage_order", 0) != 0 or any(name for name in op.outputs[1:]):
        raise UnsupportedLayerError(f"{op.where}: the places of the maxima are not computed here")
    padding = before
    if before != after or any(2 * p > q for p, q in zip(before, options["kernel_size"], strict=True)):
        if not reader.converter.range(value).nonnegative:
            raise UnsupportedLayerError(
                f"{op.where}: pads {before} and {after} differ, and the input may be negative; pad both sides alike"
            )
        value, padding = padded(reader, op, value, before, after), [0] * len(before)
    dims = len(before)
    return reader.call(op, f"aten.max_pool{dims}d.default", self=value, padding=padding, **options)


def _average_pool(reader: Reader, op: Op) -> Value:
    value, options, (before, after) = _pooling(reader, op)
    if any(d != 1 for d in options.pop("dilation")):
        raise UnsupportedLayerError(f"{op.where}: dilated averages have no bound here")
    counts, padding = bool(op.get("count_include_pad", 0)), before
    if before != after or any(2 * p > q for p, q in zip(before, options["kernel_size"], strict=True)):
        if not counts:
            raise UnsupportedLayerError(
                f"{op.where}: pads {before} and {after} differ and do not count; pad both sides alike, or count them"
            )
        value, padding = padded(reader, op, value, before, after), [0] * len(before)
    return reader.call(
        op,
        f"aten.avg_pool{len(before)}d.default",
        self=value,
        padding=padding,
        count_include_pad=counts,
        divisor_override=None,
        **options,
    )


def _lp_pool(reader: Reader, op: Op) -> Value:
    value, options, (before, after) = _pooling(reader, op)
    if any(before) or any(after) or any(d != 1 for d in options.pop("dilation")):
        raise UnsupportedLayerError(f"{op.where}: Lp pooling has a bound without padding and dilation only")
    return reader.call(op, LP_POOL, self=value, p=op.get("p", 2), dims=len(before), **options)


def _global(target: str, **more: Any) -> Handler:
    def handler(reader: Reader, op: Op) -> Value:
        value, spatial = _spatial(reader, op)
        dims = len(spatial)
        name = target.format(dims)
        return reader.call(op, name, self=value, kernel_size=list(spatial), stride=list(spatial), **more)

    return handler


def _global_lp_pool(reader: Reader, op: Op) -> Value:
    value, spatial = _spatial(reader, op)
    return reader.call(op, LP_POOL, self=value, p=op.get("p", 2), kernel_size=list(spatial), dims=len(spatial))


def padded(reader: Reader, op: Op, value: Value, before: list[int], after: list[int], fill: float = 0.0) -> Value:
    """A number around the last dimensions of a sample; negative sizes take entries away."""
    first = len(value.shape) - len(before)
    around = zip(value.shape[first:], before, after, strict=True)
    shape = (*value.shape[:first], *(max(0, n + a + b) for n, a, b in around))
    return reader.move(op, "aten.constant_pad_nd.default", value, shape, pad=_pairs(before, after), value=fill)


def _pairs(before: list[int], after: list[int]) -> list[int]:
    """As PyTorch lists padding: both sides of the last dimension first."""
    return [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]


def _pad(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    rank = len(value.shape) + 1
    pads, axes = op.ints("pads", 1, 11), op.ints("axes", 3, 18) if op.opset >= 18 else None
    fill = op.get("value", 0.0) if op.opset < 11 else 0.0
    if op.opset >= 11 and op.input(2) is not None:
        fill = float(op.tensor(2).item())
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"pads are {str(pads)[:40]} for {len(axes)} axes")
    sides = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    before, after = ([sides.get(axis, (0, 0))[side] for axis in range(rank)] for side in (0, 1))
    mode = op.get("mode", "constant")
    if before[0] or after[0]:
        raise UnsupportedLayerError(f"{op.where} pads the batch")
    if mode == "constant" or not any(pads):
        return padded(reader, op, value, before[1:], after[1:], fill)
    named = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    used = [axis for axis in range(1, rank) if before[axis] or after[axis]]
    if mode not in named or min(pads) < 0:
        raise UnsupportedLayerError(f"{op.where}: padding by {mode!r} has no bound here")
    pad = _pairs(before[used[0] :], after[used[0] :])
    shape = [n + a + b for n, a, b in zip(value.shape, before[1:], after[1:], strict=True)]
    return reader.move(op, "aten.pad.default", value, shape, pad=pad, mode=named[mode])


WINDOWS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalMaxPool": _global("aten.max_pool{}d.default"),
    "GlobalAveragePool": _global("aten.avg_pool{}d.default"),
    "GlobalLpPool": _global_lp_pool,
    "Pad": _pad,
}
"""The handlers of these operators, by name."""
