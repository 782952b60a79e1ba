"""Which ATen operator becomes which layer: a handler of a few lines each, under the operators' names in `HANDLERS`."""

from __future__ import annotations

import math
from typing import Any

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.conversion import (
    Arguments,
    Converter,
    Handler,
    Value,
    constant_of,
    place,
    required_constant,
    value_of,
)
from pertbound.frontends.lp_pool import LP_POOL
from pertbound.frontends.plumbing import arithmetic, concat, final_softmax, no_result, reshape, same, size
from pertbound.frontends.program import Call
from pertbound.layers import (
    AveragePool,
    Conv,
    Dense,
    Diagonal,
    LeakyReLU,
    LpPool,
    MaxPool,
    ReLU,
    Shape,
    Sigmoid,
    Softplus,
    Tanh,
)


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
    if a.get("transposed", False):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: transposed convolution has no bound here yet")
    if len(source.shape) != dims + 1:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: the input needs a batch dimension")
    stride, dilation = _ints(a.get("stride"), dims, 1), _ints(a.get("dilation"), dims, 1)
    padding = a.get("padding")
    if isinstance(padding, str):
        padding = _named_padding(call, padding, tuple(weight.shape[2:]), dilation)
    pads = _ints(padding, dims, 0)
    sides = [(n + 2 * p) // s for n, p, s in zip(source.shape[1:], pads, stride, strict=True)]
    if math.prod(sides) * len(weight) > conversion.LARGEST_SAMPLE:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: padding {pads} makes more than {conversion.LARGEST_SAMPLE} outputs a sample"
        )
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


def _named_padding(call: Call, padding: str, window: Shape, dilation: Shape) -> list[int]:
    if padding == "valid":
        return [0] * len(window)
    total = [d * (q - 1) for q, d in zip(window, dilation, strict=True)]
    if any(t % 2 for t in total):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: padding='same' with an even kernel {window} pads one side more than the "
            "other; use an odd kernel, or pad with a number"
        )
    return [t // 2 for t in total]


def _dims(call: Call) -> int:
    """The number of spatial dimensions in an operator's name, as in max_pool2d."""
    return int(call.target.split(".")[1].rstrip("_").removesuffix("d")[-1])


def _max_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, dims = value_of(call, a, "self"), _dims(call)
    window = _ints(a["kernel_size"], dims, 1)
    stride = _ints(a.get("stride") or list(window), dims, 1)
    padding, dilation = _ints(a.get("padding"), dims, 0), _ints(a.get("dilation"), dims, 1)
    layer = MaxPool(source.shape, window, stride, padding, dilation, bool(a.get("ceil_mode", False)))
    return c.add(call, layer, source, nonnegative=source.nonnegative)


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
    return c.add(call, layer, source, nonnegative=source.nonnegative)


def _adaptive_average_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, dims = value_of(call, a, "self"), _dims(call)
    spatial, wanted = source.shape[-dims:], _ints(a["output_size"], dims, 1)
    if any(n % t for n, t in zip(spatial, wanted, strict=True)):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: {spatial} to {wanted} needs windows of unequal size, which have no bound "
            "here yet; use sizes that divide"
        )
    window = tuple(n // t for n, t in zip(spatial, wanted, strict=True))
    layer = AveragePool(source.shape, window, window, (0,) * dims, False, True, None)
    return c.add(call, layer, source, nonnegative=source.nonnegative)


def _lp_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, p = value_of(call, a, "self"), float(a["p"])
    if p < 1 or (p % 2 and not source.nonnegative):
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
    return c.add(call, LpPool(source.shape, p, window, stride), source, nonnegative=True)


def _batch_norm(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "input")
    if a.get("training", False):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} normalises by the batch itself, so one input's class depends on the "
            "others; call model.eval() and keep running statistics"
        )
    layer = Diagonal.from_batch_norm(
        source.shape,
        required_constant(call, a, "running_mean"),
        required_constant(call, a, "running_var"),
        constant_of(call, a, "weight"),
        constant_of(call, a, "bias"),
        float(a["eps"]),
    )
    return c.add(call, layer, source)


def _relu(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, ReLU(source.shape), source, nonnegative=True)


def _leaky_relu(c: Converter, call: Call, a: Arguments) -> Value:
    source, slope = value_of(call, a, "self"), float(a.get("negative_slope", 0.01))
    if not 0 <= slope < math.inf:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: negative slope {slope} is not increasing")
    return c.add(call, LeakyReLU(source.shape, slope), source)


def _sigmoid(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, Sigmoid(source.shape), source, nonnegative=True)


def _tanh(c: Converter, call: Call, a: Arguments) -> Value:
    source = value_of(call, a, "self")
    return c.add(call, Tanh(source.shape), source)


def _softplus(c: Converter, call: Call, a: Arguments) -> Value:
    source, beta = value_of(call, a, "self"), float(a.get("beta", 1.0))
    if not 0 < beta < math.inf:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: beta must be positive, got {beta}")
    layer = Softplus(source.shape, beta, float(a.get("threshold", 20.0)))
    return c.add(call, layer, source, nonnegative=True)


HANDLERS: dict[str, Handler] = {
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.addmm": _addmm,
    **{f"aten.conv{d}d": _conv for d in (1, 2, 3)},
    "aten.convolution": _conv,
    **{f"aten.max_pool{d}d": _max_pool for d in (1, 2, 3)},
    **{f"aten.avg_pool{d}d": _average_pool for d in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{d}d": _adaptive_average_pool for d in (1, 2, 3)},
    LP_POOL: _lp_pool,
    "aten.batch_norm": _batch_norm,
    "aten.relu": _relu,
    "aten.leaky_relu": _leaky_relu,
    "aten.sigmoid": _sigmoid,
    "aten.tanh": _tanh,
    "aten.softplus": _softplus,
    "aten.dropout": same,
    "aten.feature_dropout": same,
    "aten.clone": same,
    "aten.contiguous": same,
    "aten.detach": same,
    "aten.lift_fresh_copy": same,
    "aten._assert_tensor_metadata": no_result,
    "aten.sym_size": size,
    **{f"aten.{name}": reshape for name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    **{f"aten.{name}": arithmetic for name in ("add", "sub", "rsub", "mul", "div", "neg")},
    "aten.cat": concat,
    "aten.softmax": final_softmax,
    "aten.log_softmax": final_softmax,
    "aten._softmax": final_softmax,
    "aten._log_softmax": final_softmax,
}
