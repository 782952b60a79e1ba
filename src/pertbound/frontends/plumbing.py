"""Operators that arrange, combine or scale values; handlers as in `operators.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import BATCH, Arguments, Converter, Probabilities, Value, place, value_of
from pertbound.frontends.program import Call
from pertbound.layers import Add, Concat, Diagonal, Reshape


def same(c: Converter, call: Call, a: Arguments) -> Any:
    """Dropout at inference, copies: the value itself."""
    if a.get("train", False):
        raise UnsupportedLayerError(f"{call.target}{place(call)} is random; call model.eval() before exporting")
    return a["self"] if "self" in a else a["input"]


def no_result(c: Converter, call: Call, a: Arguments) -> None:
    """Assertions about shapes, which the conversion checks itself."""


def size(c: Converter, call: Call, a: Arguments) -> Any:
    """One size of a value: a number, or `BATCH`."""
    source = value_of(call, a, "self")
    dim = int(a["dim"]) % (len(source.shape) + 1)
    return BATCH if dim == 0 else source.shape[dim - 1]


def reshape(c: Converter, call: Call, a: Arguments) -> Value:
    """Flatten, view, reshape, unflatten, squeeze, unsqueeze: any that leaves the batch dimension alone."""
    source = value_of(call, a, "self")
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


def arithmetic(c: Converter, call: Call, a: Arguments) -> Value:
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


def concat(c: Converter, call: Call, a: Arguments) -> Value:
    """Values side by side, along any dimension but the batch."""
    values = a["tensors"]
    if not all(isinstance(v, Value) for v in values):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: all parts must depend on the input")
    dim = int(a.get("dim", 0)) % (len(values[0].shape) + 1)
    if dim == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} concatenates along the batch dimension")
    return c.add(call, Concat(dim), *values, nonnegative=all(v.nonnegative for v in values))


def final_softmax(c: Converter, call: Call, a: Arguments) -> Probabilities:
    """Softmax or its logarithm over the classes."""
    source = value_of(call, a, "self")
    if len(source.shape) != 1 or int(a["dim"]) not in (1, -1):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: only a final softmax over the classes is supported (it is dropped, and "
            "the logits are certified)"
        )
    return Probabilities(source, "log" in call.target)
