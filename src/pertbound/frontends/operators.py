"""Which ATen operator becomes which layer: a handler of a few lines each, under the operators' names in `HANDLERS`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.conversion import BATCH, Arguments, Converter, Handler, Probabilities, Value, place
from pertbound.frontends.lp_pool import LP_POOL
from pertbound.frontends.program import Call
from pertbound.layers import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Dense,
    Diagonal,
    LeakyReLU,
    LpPool,
    MaxPool,
    ReLU,
    Reshape,
    Shape,
    Sigmoid,
    Softplus,
    Tanh,
)


def _value(call: Call, arguments: Arguments, name: str) -> Value:
    value = arguments.get(name)
    if not isinstance(value, Value):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {name} must depend on the input")
    return value


def _constant(call: Call, arguments: Arguments, name: str) -> Tensor | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, Tensor):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: {name} must be a stored tensor; weights that depend on the input have "
            "no bound here"
        )
    return value


def _required(call: Call, arguments: Arguments, name: str) -> Tensor:
    value = _constant(call, arguments, name)
    if value is None:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {name} is missing")
    return value


def _ints(value: Any, dims: int, default: int) -> Shape:
    """An operator's list of integers: absent, one for all dimensions, or one each."""
    if value is None or value == []:
        return (default,) * dims
    items = value if isinstance(value, list) else [value]
    return tuple(int(v) for v in (items * dims if len(items) == 1 else items))


def _linear(c: Converter, call: Call, a: Arguments) -> Value:
    source = _value(call, a, "input")
    return c.add(call, Dense(source.shape, _required(call, a, "weight"), _constant(call, a, "bias")), source)


def _matmul(c: Converter, call: Call, a: Arguments) -> Value:
    source = _value(call, a, "self")
    weight = _required(call, a, "other" if "other" in a else "mat2")
    if weight.dim() != 2:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: only x @ W with a matrix W is supported")
    return c.add(call, Dense(source.shape, weight.mT.contiguous(), None), source)


def _addmm(c: Converter, call: Call, a: Arguments) -> Value:
    if a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: alpha and beta must be 1")
    source = _value(call, a, "mat1")
    weight, bias = _required(call, a, "mat2").mT.contiguous(), _required(call, a, "self")
    bias = bias[0] if bias.dim() == 2 and len(bias) == 1 else bias
    return c.add(call, Dense(source.shape, weight, bias.expand(weight.shape[0])), source)


def _conv(c: Converter, call: Call, a: Arguments) -> Value:
    source, weight = _value(call, a, "input"), _required(call, a, "weight")
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
        _constant(call, a, "bias"),
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
    source, dims = _value(call, a, "self"), _dims(call)
    window = _ints(a["kernel_size"], dims, 1)
    stride = _ints(a.get("stride") or list(window), dims, 1)
    padding, dilation = _ints(a.get("padding"), dims, 0), _ints(a.get("dilation"), dims, 1)
    layer = MaxPool(source.shape, window, stride, padding, dilation, bool(a.get("ceil_mode", False)))
    return c.add(call, layer, source, nonnegative=source.nonnegative)


def _average_pool(c: Converter, call: Call, a: Arguments) -> Value:
    source, dims = _value(call, a, "self"), _dims(call)
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
    source, dims = _value(call, a, "self"), _dims(call)
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
    source, p = _value(call, a, "self"), float(a["p"])
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
    source = _value(call, a, "input")
    if a.get("training", False):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} normalises by the batch itself, so one input's class depends on the "
            "others; call model.eval() and keep running statistics"
        )
    layer = Diagonal.from_batch_norm(
        source.shape,
        _required(call, a, "running_mean"),
        _required(call, a, "running_var"),
        _constant(call, a, "weight"),
        _constant(call, a, "bias"),
        float(a["eps"]),
    )
    return c.add(call, layer, source)


def _relu(c: Converter, call: Call, a: Arguments) -> Value:
    source = _value(call, a, "self")
    return c.add(call, ReLU(source.shape), source, nonnegative=True)


def _leaky_relu(c: Converter, call: Call, a: Arguments) -> Value:
    source, slope = _value(call, a, "self"), float(a.get("negative_slope", 0.01))
    if not 0 <= slope < math.inf:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: negative slope {slope} is not increasing")
    return c.add(call, LeakyReLU(source.shape, slope), source)


def _sigmoid(c: Converter, call: Call, a: Arguments) -> Value:
    source = _value(call, a, "self")
    return c.add(call, Sigmoid(source.shape), source, nonnegative=True)


def _tanh(c: Converter, call: Call, a: Arguments) -> Value:
    source = _value(call, a, "self")
    return c.add(call, Tanh(source.shape), source)


def _softplus(c: Converter, call: Call, a: Arguments) -> Value:
    source, beta = _value(call, a, "self"), float(a.get("beta", 1.0))
    if not 0 < beta < math.inf:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: beta must be positive, got {beta}")
    layer = Softplus(source.shape, beta, float(a.get("threshold", 20.0)))
    return c.add(call, layer, source, nonnegative=True)


def _same(c: Converter, call: Call, a: Arguments) -> Any:
    """Dropout at inference, copies: the value itself."""
    if a.get("train", False):
        raise UnsupportedLayerError(f"{call.target}{place(call)} is random; call model.eval() before exporting")
    return a["self"] if "self" in a else a["input"]


def _no_result(c: Converter, call: Call, a: Arguments) -> None:
    """Assertions about shapes, which the conversion checks itself."""


def _size(c: Converter, call: Call, a: Arguments) -> Any:
    source = _value(call, a, "self")
    dim = int(a["dim"]) % (len(source.shape) + 1)
    return BATCH if dim == 0 else source.shape[dim - 1]


def _reshape(c: Converter, call: Call, a: Arguments) -> Value:
    """Flatten, view, reshape, unflatten, squeeze, unsqueeze: any that leaves the batch dimension alone."""
    source = _value(call, a, "self")
    operator = call.target.split(".")[1].rstrip("_")
    given: list[Any] = a.get("size", a.get("shape", a.get("sizes"))) or []
    whole = operator in ("view", "reshape")
    sizes = [2 if i == 0 and whole and (v is BATCH or v == c.traced_batch) else int(v) for i, v in enumerate(given)]
    probe = torch.zeros(2, *source.shape)
    try:
        if operator in ("view", "reshape"):
            result = probe.reshape(sizes)
        elif operator == "flatten":
            result = probe.flatten(a.get("start_dim", 0), a.get("end_dim", -1))
        elif operator == "unflatten":
            result = probe.unflatten(a["dim"], sizes)
        elif operator == "unsqueeze":
            result = probe.unsqueeze(a["dim"])
        else:
            dims = a.get("dim", list(range(1 if c.traced_batch > 1 else 0, probe.dim())))
            dims = [dim % probe.dim() for dim in (dims if isinstance(dims, list) else [dims])]
            if 0 in dims:
                raise UnsupportedLayerError(
                    f"{call.target}{place(call)} removes the batch dimension where the batch is 1; name the "
                    "dimensions to squeeze"
                )
            result = probe.squeeze(tuple(dims))
    except (RuntimeError, TypeError) as error:
        raise UnsupportedLayerError(f"{call.target}{place(call)} on {source.shape}: {error}") from error
    if result.dim() < 2 or result.shape[0] != 2:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} mixes the batch with the sample: from (batch, {source.shape}) to "
            f"{tuple(result.shape)} for a batch of 2. Start flattening at dimension 1"
        )
    return c.add(call, Reshape(source.shape, tuple(result.shape[1:])), source, nonnegative=source.nonnegative)


def _arithmetic(c: Converter, call: Call, a: Arguments) -> Value:
    """x + y, x - y of two values; x op constant and constant op x for +, -, *, and x / constant; -x."""
    operator = call.target.split(".")[1].rstrip("_")
    left, right = a["self"], -1.0 if operator == "neg" else a["other"]
    if operator == "rsub":
        operator, left, right = "sub", right, left
    if operator == "neg":
        operator = "mul"
    alpha = float(a.get("alpha", 1))
    if isinstance(left, Value) and isinstance(right, Value):
        if operator not in ("add", "sub") or left.shape != right.shape:
            raise UnsupportedLayerError(
                f"{call.target}{place(call)} of two values that depend on the input, of shapes {left.shape} and "
                f"{right.shape}: only sums and differences of one shape are supported"
            )
        factor = alpha if operator == "add" else -alpha
        if factor != 1.0:
            right = _affine(c, call, right, factor, 0.0)
        return c.add(call, Add(), left, right)
    value, constant = (left, right) if isinstance(left, Value) else (right, left)
    if not isinstance(value, Value) or not isinstance(constant, Tensor | int | float):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: operands must be values and stored constants")
    reverse = value is right
    if operator == "add":
        return _affine(c, call, value, alpha if reverse else 1.0, constant * (1.0 if reverse else alpha))
    if operator == "sub":
        shift = constant if reverse else -1.0 * alpha * constant
        return _affine(c, call, value, -alpha if reverse else 1.0, shift)
    if operator == "mul":
        return _affine(c, call, value, constant, 0.0)
    if reverse:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: a constant over a value has no bound here")
    if isinstance(constant, int | float) and constant == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} divides by 0")
    inverse = 1.0 / constant if isinstance(constant, int | float) else constant
    return _affine(c, call, value, inverse.reciprocal() if isinstance(inverse, Tensor) else inverse, 0.0)


def _affine(c: Converter, call: Call, value: Value, scale: Any, shift: Any) -> Value:
    """A node for scale * value + shift, whose constants broadcast over the sample, not over the batch."""
    dtype = next((v.dtype for v in c.values.values() if isinstance(v, Tensor) and v.is_floating_point()), None)
    scale, shift = (torch.as_tensor(v, dtype=dtype or torch.float32) for v in (scale, shift))
    for constant in (scale, shift):
        extra = constant.dim() - len(value.shape)
        if extra > 1 or (extra == 1 and constant.shape[0] != 1):
            raise UnsupportedLayerError(
                f"{call.target}{place(call)}: a constant of shape {tuple(constant.shape)} does not fit samples of "
                f"shape {value.shape}"
            )
    scale, shift = (v.reshape(v.shape[1:]) if v.dim() > len(value.shape) else v for v in (scale, shift))
    for constant in (scale, shift):
        try:
            fits = torch.broadcast_shapes(constant.shape, value.shape) == value.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise UnsupportedLayerError(
                f"{call.target}{place(call)}: a constant of shape {tuple(constant.shape)} does not broadcast to "
                f"samples of shape {value.shape}"
            )
    return c.add(call, Diagonal(value.shape, scale, shift), value)


def _concat(c: Converter, call: Call, a: Arguments) -> Value:
    values = a["tensors"]
    if not all(isinstance(v, Value) for v in values):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: all parts must depend on the input")
    dim = int(a.get("dim", 0)) % (len(values[0].shape) + 1)
    if dim == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} concatenates along the batch dimension")
    return c.add(call, Concat(dim), *values, nonnegative=all(v.nonnegative for v in values))


def _final_softmax(c: Converter, call: Call, a: Arguments) -> Probabilities:
    source = _value(call, a, "self")
    if len(source.shape) != 1 or int(a["dim"]) not in (1, -1):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: only a final softmax over the classes is supported (it is dropped, and "
            "the logits are certified)"
        )
    return Probabilities(source, "log" in call.target)


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
    "aten.dropout": _same,
    "aten.feature_dropout": _same,
    "aten.clone": _same,
    "aten.contiguous": _same,
    "aten.detach": _same,
    "aten.lift_fresh_copy": _same,
    "aten._assert_tensor_metadata": _no_result,
    "aten.sym_size": _size,
    **{f"aten.{name}": _reshape for name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    **{f"aten.{name}": _arithmetic for name in ("add", "sub", "rsub", "mul", "div", "neg")},
    "aten.cat": _concat,
    "aten.softmax": _final_softmax,
    "aten.log_softmax": _final_softmax,
    "aten._softmax": _final_softmax,
    "aten._log_softmax": _final_softmax,
}
