"""Which ONNX operator becomes which ATen calls: a handler of a few lines each, under its name in `OPERATORS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends import onnx_patterns
from pertbound.frontends.conversion import Probabilities, Value
from pertbound.frontends.onnx_constants import Op
from pertbound.frontends.onnx_normalising import NORMALISING
from pertbound.frontends.onnx_reader import Handler, Reader
from pertbound.frontends.onnx_shapes import SHAPES, axis_of, permuted
from pertbound.frontends.onnx_windows import WINDOWS


def _same(reader: Reader, op: Op) -> Any:
    """The input itself: Identity, dropout at inference, and a cast that changes nothing."""
    training = op.input(2) if op.kind == "Dropout" else None
    if training is not None and bool(op.tensor(2).any()):
        raise UnsupportedLayerError(f"{op.where} is random; export the model in evaluation mode")
    number = {torch.float32: 1, torch.float64: 11}[reader.file.dtype]
    if op.kind == "Cast" and op.get("to") != number:
        raise UnsupportedLayerError(f"{op.where} changes the dtype of a value; compute in one dtype throughout")
    return op.input(0)


def _plain(target: str) -> Handler:
    """An operator without options."""
    return lambda reader, op: reader.call(op, target, self=reader.value(op, 0))


def _with(target: str, **options: tuple[str, float | str]) -> Handler:
    """An operator whose options are attributes: PyTorch's name = (ONNX's name, ONNX's default)."""

    def handler(reader: Reader, op: Op) -> Value:
        given = {
            name: op.number(key, default) if isinstance(default, float) else op.get(key, default)
            for name, (key, default) in options.items()
        }
        return reader.call(op, target, self=reader.value(op, 0), **given)

    return handler


def _softplus(reader: Reader, op: Op) -> Value:
    """log(1 + exp(x)) for every x: ONNX knows no threshold."""
    return reader.call(op, "aten.softplus.default", self=reader.value(op, 0), beta=1.0, threshold=math.inf)


def _selu(reader: Reader, op: Op) -> Value:
    alpha, gamma = op.get("alpha", 1.67326319217681884765625), op.get("gamma", 1.05070102214813232421875)
    return reader.call(op, "aten.elu.default", self=reader.value(op, 0), alpha=alpha, scale=gamma, input_scale=1.0)


def _prelu(reader: Reader, op: Op) -> Value:
    slope = reader.constant(op, 1)
    if slope.numel() == 1:
        return reader.call(op, "aten.leaky_relu.default", self=reader.value(op, 0), negative_slope=float(slope.item()))
    channels = slope.flatten() if slope.numel() == slope.shape[0] else slope
    return reader.call(op, "aten.prelu.default", self=reader.value(op, 0), weight=channels)


def _hard_sigmoid(reader: Reader, op: Op) -> Value:
    """max(0, min(1, alpha x + beta))."""
    value = reader.value(op, 0)
    scaled = reader.call(op, "aten.mul.Tensor", self=value, other=op.number("alpha", 0.2))
    moved = reader.call(op, "aten.add.Tensor", self=scaled, other=op.number("beta", 0.5))
    return _clamped(reader, op, moved, 0.0, 1.0)


def _clip(reader: Reader, op: Op) -> Value:
    low, high = (op.get("min"), op.get("max")) if op.opset < 11 else (op.input(1), op.input(2))
    if op.opset >= 11:
        low, high = (None if v is None else float(reader.constant(op, i).item()) for i, v in ((1, low), (2, high)))
    return _clamped(reader, op, reader.value(op, 0), low, high)


def _extreme(reader: Reader, op: Op) -> Any:
    """Max or Min of values and constants, two at a time."""
    target = "aten.maximum.default" if op.kind == "Max" else "aten.minimum.default"
    return _folded(reader, op, target, torch.maximum if op.kind == "Max" else torch.minimum)


def _folded(reader: Reader, op: Op, target: str, constants: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """All inputs, one after the other."""
    result = op.input(0)
    for other in op.inputs[1:]:
        if isinstance(result, Tensor) and isinstance(other, Tensor):
            result = constants(result, other)
        else:
            result = reader.call(op, target, self=result, other=other)
    return result


def _clamped(reader: Reader, op: Op, value: Value, low: float | None, high: float | None) -> Value:
    """Ends that are beyond all numbers, as some exporters write them, are none."""
    low = None if low is not None and low <= -3.4e38 else low
    high = None if high is not None and high >= 3.4e38 else high
    return (
        value if low is None and high is None else reader.call(op, "aten.clamp.default", self=value, min=low, max=high)
    )


def _arithmetic(target: str) -> Handler:
    def handler(reader: Reader, op: Op) -> Any:
        found = onnx_patterns.arithmetic(reader, op)
        return reader.call(op, target, self=op.input(0), other=op.input(1)) if found is None else found

    return handler


def _pow(reader: Reader, op: Op) -> Value:
    exponent = reader.constant(op, 1)
    if exponent.numel() != 1:
        raise UnsupportedLayerError(f"{op.where}: only one exponent for all entries is read")
    return reader.call(op, "aten.pow.Tensor_Scalar", self=reader.value(op, 0), exponent=exponent.item())


def _sum(reader: Reader, op: Op) -> Any:
    """Sum and Mean of several inputs."""
    total = _folded(reader, op, "aten.add.Tensor", torch.add)
    return total if op.kind == "Sum" else reader.call(op, "aten.div.Tensor", self=total, other=float(len(op.inputs)))


def _linear(reader: Reader, op: Op, value: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """x W^T + b over the last dimension."""
    outputs = math.prod(value.shape[:-1]) * weight.shape[0]
    reader.require_room(op, outputs)
    reader.spend(op, outputs * max(1, weight.shape[1]))
    return reader.call(op, "aten.linear.default", input=value, weight=weight.contiguous(), bias=bias)


def _gemm(reader: Reader, op: Op) -> Value:
    value, weight, addend = reader.value(op, 0), reader.constant(op, 1), op.input(2)
    if op.get("transA", 0) or len(value.shape) != 1 or weight.dim() != 2:
        raise UnsupportedLayerError(f"{op.where}: only x @ W + c with one row for each sample has a bound here")
    weight = weight if op.get("transB", 0) else weight.mT
    alpha, beta = float(op.get("alpha", 1.0)), float(op.get("beta", 1.0))
    one_row = isinstance(addend, Tensor) and (addend.dim() < 2 or len(addend) == 1)
    if one_row and alpha == beta == 1.0:
        return _linear(reader, op, value, weight, addend.flatten().expand(len(weight)))
    result = _linear(reader, op, value, weight, None)
    if alpha != 1.0:
        result = reader.call(op, "aten.mul.Tensor", self=result, other=alpha)
    return result if addend is None else reader.call(op, "aten.add.Tensor", self=result, other=addend, alpha=beta)


def _matmul(reader: Reader, op: Op) -> Value:
    left, right = op.input(0), op.input(1)
    if isinstance(left, Value) and isinstance(right, Tensor):
        weight = right.reshape(right.shape[-2:]) if right.dim() > 2 else right
        if weight.dim() == 1:
            return reader.reshape(op, _linear(reader, op, left, weight[None], None), left.shape[:-1])
        return _linear(reader, op, left, weight.mT, None)
    if isinstance(left, Tensor) and isinstance(right, Value) and left.dim() == 2 and len(right.shape) == 2:
        if right.shape[1] == 1:  # a column for each sample
            result = _linear(reader, op, reader.reshape(op, right, right.shape[:1]), left, None)
            return reader.reshape(op, result, (*result.shape, 1))
        turned = permuted(reader, op, right, (1, 0))
        return permuted(reader, op, _linear(reader, op, turned, left, None), (1, 0))
    raise UnsupportedLayerError(f"{op.where}: only products of a value and a stored matrix have a bound here")


def _reduce(reader: Reader, op: Op) -> Value:
    """Means, sums and extremes over dimensions of a sample."""
    value = reader.value(op, 0)
    axes = op.ints("axes", 1, 13 if op.kind == "ReduceSum" else 18)
    rank = len(value.shape)
    if not axes and op.get("noop_with_empty_axes", 0):
        return value
    dims = sorted({axis_of(op, axis, value) for axis in (axes or range(rank + 1))})
    keep = bool(op.get("keepdims", 1))
    shape = [1 if axis in dims else n for axis, n in enumerate(value.shape, start=1)]
    return reader.move(op, _REDUCTIONS[op.kind], value, shape, dim=dims, keepdim=keep)


def _softmax(reader: Reader, op: Op) -> Probabilities:
    """Over the classes, at the very end: dropped."""
    value = reader.value(op, 0)
    axis = op.get("axis", 1 if op.opset < 13 else -1)
    if math.prod(value.shape) != max(value.shape) or (value.shape[axis_of(op, axis, value) - 1] != max(value.shape)):
        raise UnsupportedLayerError(f"{op.where}: only a final softmax over the classes is supported")
    flat = reader.reshape(op, value, (math.prod(value.shape),))
    return Probabilities(flat, op.kind == "LogSoftmax")


_REDUCTIONS = {
    "ReduceMean": "aten.mean.dim",
    "ReduceSum": "aten.sum.dim_IntList",
    "ReduceMax": "aten.amax.default",
    "ReduceMin": "aten.amin.default",
}
_ENTRYWISE = ("Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Neg", "Abs")


OPERATORS: dict[str, Handler] = {
    **WINDOWS,
    **SHAPES,
    **NORMALISING,
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _same),
    **{kind: _plain(f"aten.{kind.lower()}.default") for kind in _ENTRYWISE},
    "Selu": _selu,
    "Softplus": _softplus,
    "LeakyRelu": _with("aten.leaky_relu.default", negative_slope=("alpha", 0.01)),
    "Elu": _with("aten.elu.default", alpha=("alpha", 1.0)),
    "Celu": _with("aten.celu.default", alpha=("alpha", 1.0)),
    "Gelu": _with("aten.gelu.default", approximate=("approximate", "none")),
    "PRelu": _prelu,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Max": _extreme,
    "Min": _extreme,
    **{kind: _arithmetic(f"aten.{kind.lower()}.Tensor") for kind in ("Add", "Sub", "Mul", "Div")},
    "Pow": _pow,
    "Erf": onnx_patterns.erf,
    "Sum": _sum,
    "Mean": _sum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
"""The handlers, by the operators' names."""
