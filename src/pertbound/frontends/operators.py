"""Which ATen operator becomes which layer: a handler of a few lines each, under the operators' names in `HANDLERS`."""

from __future__ import annotations

import math
from typing import Any

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.activations import ACTIVATIONS
from pertbound.frontends.conversion import (
    GETITEM,
    LOCAL_RESPONSE,
    Arguments,
    Converter,
    Handler,
    Value,
    constant_of,
    place,
    required_constant,
    value_of,
)
from pertbound.frontends.local_response import local_response
from pertbound.frontends.lp_pool import LP_POOL
from pertbound.frontends.normalising import batch_norm, group_norm, instance_norm, layer_norm
from pertbound.frontends.plumbing import (
    arithmetic,
    converted,
    final_softmax,
    gated,
    getitem,
    new_constant,
    no_result,
    power,
    reshape,
    same,
    size,
)
from pertbound.frontends.program import Call
from pertbound.frontends.rearranging import REARRANGING, concat, expand_as, pad, padded, rearranged, stack
from pertbound.frontends.recurrent import RECURRENT
from pertbound.frontends.reducing import adaptive_average, adaptive_maximum, average, clamp, extreme, sort
from pertbound.layers import AveragePool, Conv, ConvTranspose, Dense, LpPool, MaxPool, Shape


def _ints(value: Any, dims: int, default: int) -> Shape:
    """An operator's list of integers: absent, one for all dimensions, or one each."""
    if value is None or value == []:
        return (default,) * dims
    items = value if isinstance(value, list) else [value]
    return tuple(int(v) for v in (items * dims if len(items) == 1 else items))


def _linear(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "input")
    return c.add(call, Dense(source.shape, required_constant(call, a, "weight"), constant_of(call, a, "bias")), source)


def _matmul(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    weight = required_constant(call, a, "other" if "other" in a else "mat2")
    if weight.dim() != 2:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: only x @ W with a matrix W is supported")
    return c.add(call, Dense(source.shape, weight.mT.contiguous(), None), source)


def _addmm(c: Converter, call: Call, a: Arguments) -> Value:
    if a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: alpha and beta must be 1")
    source = value_of(call, a, "mat1")
    weight, bias = required_constant(call, a, "mat2").mT.contiguous(), required_constant(call, a, "self")
    bias = bias[0] if bias.dim() == 2 and len(bias) == 1 else bias
    return c.add(call, Dense(source.shape, weight, bias.expand(weight.shape[0])), source)


def _conv(c: Converter, call: Call, a: Arguments) -> Value:
    source, weight = value_of(call, a, "input"), required_constant(call, a, "weight")
    dims = weight.dim() - 2
    if len(source.shape) != dims + 1:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: the input needs a batch dimension")
    if a.get("transposed", False):
        return _conv_transpose(c, call, a)
    stride, dilation = _ints(a.get("stride"), dims, 1), _ints(a.get("dilation"), dims, 1)
    padding = a.get("padding")
    if isinstance(padding, str):
        before, after = _named_padding(padding, tuple(weight.shape[2:]), dilation)
        if before != after:
            source, before = padded(c, call, source, before, after), [0] * dims
        padding = before
    pads = _ints(padding, dims, 0)
    _require_room(call, (*source.shape[1:],), len(weight), pads, stride)
    layer = Conv(
        source.shape,
        weight,
        constant_of(call, a, "bias"),
        stride,
        pads,
        dilation,
        int(a.get("groups", 1)),
    )
    return c.add(call, layer, source)


def _require_room(call: Call, spatial: Shape, channels: int, pads: Shape, stride: Shape) -> None:
    sides = [(n + 2 * p) // s for n, p, s in zip(spatial, pads, stride, strict=True)]
    if math.prod(sides) * channels > conversion.LARGEST_SAMPLE:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: padding {pads} makes more than {conversion.LARGEST_SAMPLE} outputs a sample"
        )


def _conv_transpose(c: Converter, call: Call, a: Arguments) -> Value:
    source, weight = value_of(call, a, "input"), required_constant(call, a, "weight")
    dims = weight.dim() - 2
    if len(source.shape) != dims + 1:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: the input needs a batch dimension")
    stride, dilation = _ints(a.get("stride"), dims, 1), _ints(a.get("dilation"), dims, 1)
    pads, extra = _ints(a.get("padding"), dims, 0), _ints(a.get("output_padding"), dims, 0)
    groups = int(a.get("groups", 1))
    each = zip(source.shape[1:], weight.shape[2:], stride, dilation, extra, strict=True)
    sides = [(n - 1) * s + d * (q - 1) + 1 + e for n, q, s, d, e in each]
    if weight.shape[1] * groups * math.prod(sides) > conversion.LARGEST_SAMPLE or min(extra) < 0:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} makes more than {conversion.LARGEST_SAMPLE} outputs a sample"
        )
    layer = ConvTranspose(source.shape, weight, constant_of(call, a, "bias"), stride, pads, extra, dilation, groups)
    if layer.adjoint.output_shape != source.shape:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: output_padding {extra} is no input size of a convolution with stride {stride}"
        )
    return c.add(call, layer, source)


def _named_padding(padding: str, window: Shape, dilation: Shape) -> tuple[list[int], list[int]]:
    """Zeros before and after each dimension; an odd number of them has one more after."""
    if padding == "valid":
        return [0] * len(window), [0] * len(window)
    total = [d * (q - 1) for q, d in zip(window, dilation, strict=True)]
    return [t // 2 for t in total], [t - t // 2 for t in total]


def _dims(call: Call) -> int:
    """The number of spatial dimensions in an operator's name, as in max_pool2d."""
    return int(call.target.split(".")[1].rstrip("_").removesuffix("d")[-1])


def _max_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, dims = value_of(call, a, "self"), _dims(call)
    window = _ints(a["kernel_size"], dims, 1)
    stride = _ints(a.get("stride") or list(window), dims, 1)
    padding, dilation = _ints(a.get("padding"), dims, 0), _ints(a.get("dilation"), dims, 1)
    layer = MaxPool(source.shape, window, stride, padding, dilation, bool(a.get("ceil_mode", False)))
    return c.add(call, layer, source)


def _average_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, dims = value_of(call, a, "self"), _dims(call)
    window = _ints(a["kernel_size"], dims, 1)
    divisor = a.get("divisor_override")
    if divisor is not None and divisor <= 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: divisor_override must be positive")
    layer = AveragePool(
        source.shape,
        window,
        _ints(a.get("stride") or list(window), dims, 1),
        _ints(a.get("padding"), dims, 0),
        bool(a.get("ceil_mode", False)),
        bool(a.get("count_include_pad", True)),
        divisor,
    )
    return c.add(call, layer, source)


def _lp_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, p = value_of(call, a, "self"), float(a["p"])
    if p < 1 or (p % 2 and not c.range(source).nonnegative):
        raise UnsupportedLayerError(
            f"Lp pooling with p = {p:g}{place(call)} is a norm only for even p, or for p >= 1 on inputs that cannot "
            "be negative (behind a ReLU, say)"
        )
    dims = int(a["dims"])
    window = _ints(a["kernel_size"], dims, 1)
    stride = _ints(a.get("stride") or list(window), dims, 1)
    spatial = source.shape[-dims:]
    whole = all((n - q) % s == 0 for n, q, s in zip(spatial, window, stride, strict=True))
    if a.get("ceil_mode", False) and not whole:
        raise UnsupportedLayerError(f"Lp pooling{place(call)} with ceil_mode and partial windows is not a norm")
    return c.add(call, LpPool(source.shape, p, window, stride), source)


HANDLERS: dict[str, Handler] = {
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.addmm": _addmm,
    **{f"aten.conv{d}d": _conv for d in (1, 2, 3)},
    "aten.convolution": _conv,
    **{f"aten.max_pool{d}d": _max_pool for d in (1, 2, 3)},
    **{f"aten.avg_pool{d}d": _average_pool for d in (1, 2, 3)},
    **{f"aten.conv_transpose{d}d": _conv_transpose for d in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{d}d": adaptive_average for d in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{d}d": adaptive_maximum for d in (1, 2, 3)},
    LP_POOL: _lp_pool,
    LOCAL_RESPONSE: local_response,
    "aten.batch_norm": batch_norm,
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": layer_norm,
    "aten.group_norm": group_norm,
    "aten.instance_norm": instance_norm,
    **RECURRENT,
    **ACTIVATIONS,
    **{f"aten.{name}dropout": same for name in ("", "feature_", "alpha_", "feature_alpha_")},
    **{f"aten.{name}": same for name in ("clone", "contiguous", "detach", "alias", "lift_fresh_copy")},
    "aten.to": converted,
    GETITEM: getitem,
    "aten._assert_tensor_metadata": no_result,
    "aten.sym_size": size,
    **{f"aten.{name}": reshape for name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    **{f"aten.{name}": arithmetic for name in ("add", "sub", "rsub", "mul", "div", "neg")},
    "aten.square": power,
    "aten.pow": power,
    "aten.glu": gated,
    "aten.cat": concat,
    "aten.stack": stack,
    **{f"aten.{name}": new_constant for name in ("zeros", "ones", "full")},
    **{f"aten.{name}": rearranged for name in REARRANGING},
    "aten.expand_as": expand_as,
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    **{f"aten.{name}": average for name in ("mean", "sum")},
    **{f"aten.{name}": extreme for name in ("max", "min", "maximum", "minimum", "amax", "amin")},
    **{f"aten.{name}": clamp for name in ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6")},
    "aten.sort": sort,
    "aten.softmax": final_softmax,
    "aten.log_softmax": final_softmax,
    "aten._softmax": final_softmax,
    "aten._log_softmax": final_softmax,
}
