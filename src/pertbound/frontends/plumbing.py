"""Operators that arrange, combine or scale values; handlers as in `operators.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import (
    BATCH,
    Arguments,
    BatchConstant,
    Converter,
    Probabilities,
    Stacked,
    Value,
    place,
    value_of,
)
from pertbound.frontends.folding import MOST
from pertbound.frontends.program import Call
from pertbound.frontends.rearranging import expand_to, numbered, reshaped, select, unstacked
from pertbound.layers import Add, Diagonal, Multiply, Sigmoid


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


def reshape(c: Converter, call: Call, a: Arguments) -> Any:
    """Flatten, view, reshape, unflatten, squeeze, unsqueeze: any that leaves the batch dimension alone."""
    if isinstance(a["self"], Stacked):
        return unstacked(c, call, a)
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
    return reshaped(c, call, source, tuple(result.shape[1:]))


def arithmetic(c: Converter, call: Call, a: Arguments) -> Value:
    """Sums, differences and products of two values; x op constant and constant op x for +, -, *, and x / constant; -x.

    What does not depend on the input may be a number, a stored tensor, or one with a row for each sample. Shapes are
    broadcast over the sample.
    """
    operator = call.target.split(".")[1].rstrip("_")
    left, right = a["self"], -1.0 if operator == "neg" else a["other"]
    if operator == "rsub":
        operator, left, right = "sub", right, left
    if operator == "neg":
        operator = "mul"
    alpha = float(a.get("alpha", 1))  # constants are multiplied and inverted in float64, by one operation each
    if isinstance(left, Value) and isinstance(right, Value):
        return _of_two(c, call, operator, alpha, left, right)
    value, constant = (left, right) if isinstance(left, Value) else (right, left)
    if isinstance(constant, BatchConstant):
        constant = constant.tensor
    constant = constant.to(torch.float64) if isinstance(constant, Tensor) else constant
    if not isinstance(value, Value) or not isinstance(constant, Tensor | int | float):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: operands must be values and stored constants")
    reverse = value is right
    if operator == "add":
        return affine(c, call, value, alpha if reverse else 1.0, constant * (1.0 if reverse else alpha))
    if operator == "sub":
        shift = constant if reverse else -1.0 * alpha * constant
        return affine(c, call, value, -alpha if reverse else 1.0, shift)
    if operator == "mul":
        return affine(c, call, value, constant, 0.0)
    if reverse:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: a constant over a value has no bound here")
    if isinstance(constant, int | float) and constant == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} divides by 0")
    return affine(c, call, value, 1.0 / constant, 0.0)


def _of_two(c: Converter, call: Call, operator: str, alpha: float, left: Value, right: Value) -> Value:
    if operator not in ("add", "sub", "mul"):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} by a value that depends on the input has no bound here"
        )
    if len(left.shape) != len(right.shape):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} of two values of shapes {left.shape} and {right.shape} broadcasts one's batch "
            "over the other's samples; give both the same number of dimensions"
        )
    try:
        shape = tuple(torch.broadcast_shapes(left.shape, right.shape))
    except RuntimeError as error:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {error}") from error
    left, right = expand_to(c, call, left, shape), expand_to(c, call, right, shape)
    if operator == "mul":
        return product(c, call, left, right)
    factor = alpha if operator == "add" else -alpha
    if factor != 1.0:
        right = affine(c, call, right, factor, 0.0)
    return c.add(call, Add(), left, right)


def product(c: Converter, call: Call, left: Value, right: Value) -> Value:
    """Entry by entry; a square is never negative."""
    found = c.add(call, Multiply(left.shape, (c.range(left).size, c.range(right).size)), left, right)
    return c.narrow(found, 0.0, math.inf) if left.node == right.node else found


def power(c: Converter, call: Call, a: Arguments) -> Value:
    """Squares."""
    source, exponent = value_of(call, a, "self"), a.get("exponent", 2)
    if exponent == 1:
        return source
    if exponent != 2:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} with exponent {exponent}: only squares have a bound here"
        )
    return product(c, call, source, source)


def gated(c: Converter, call: Call, a: Arguments) -> Value:
    """GLU: the first half times the logistic function of the second."""
    source = value_of(call, a, "self")
    dim = int(a.get("dim", -1)) % (len(source.shape) + 1)
    if dim == 0 or source.shape[dim - 1] % 2:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} cannot halve dimension {dim} of (batch, {source.shape})"
        )
    first, second = (select(c, call, source, half) for half in numbered(source.shape).chunk(2, dim - 1))
    gate = c.add(call, Sigmoid(second.shape), second)
    return product(c, call, first, gate)


def affine(c: Converter, call: Call, value: Value, scale: Any, shift: Any) -> Value:
    """A node for scale * value + shift, whose constants broadcast over the sample, not over the batch.

    Constants are exact, or float64 within one rounding of what is meant (`Diagonal`).
    """
    scale, shift = (torch.as_tensor(v, dtype=torch.float64) for v in (scale, shift))
    for constant in (scale, shift):
        extra = constant.dim() - len(value.shape)
        if extra > 1 or (extra == 1 and constant.shape[0] != 1):
            raise UnsupportedLayerError(
                f"{call.target}{place(call)}: a constant of shape {tuple(constant.shape)} does not fit samples of "
                f"shape {value.shape}"
            )
    scale, shift = (v.reshape(v.shape[1:]) if v.dim() > len(value.shape) else v for v in (scale, shift))
    try:
        shape = tuple(torch.broadcast_shapes(scale.shape, shift.shape, value.shape))
    except RuntimeError as error:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: constants of shape {tuple(scale.shape)} and {tuple(shift.shape)} do not "
            f"broadcast to samples of shape {value.shape}"
        ) from error
    value = expand_to(c, call, value, shape)
    return c.add(call, Diagonal(value.shape, scale, shift), value)


def getitem(c: Converter, call: Call, a: Arguments) -> Any:
    """One of several results."""
    results, index = a["self"], a["index"]
    if not isinstance(results, list | tuple) or not isinstance(index, int):
        raise UnsupportedLayerError(f"getitem{place(call)}: only a result of several can be taken by its number")
    return results[index]


def converted(c: Converter, call: Call, a: Arguments) -> Any:
    """A change of device, layout or memory format: the value itself, in the one dtype that the model has."""
    value, other = value_of(call, a, "self"), a.get("other")
    if not (other is None or isinstance(other, Tensor | Value)):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: the other must be a tensor, got {other!r}")
    wanted = other.dtype if isinstance(other, Tensor) else a.get("dtype")
    if wanted is not None and str(wanted) != str(c.dtype):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} changes the dtype from {c.dtype} to {wanted}; compute in one dtype throughout"
        )
    return value


def new_constant(c: Converter, call: Call, a: Arguments) -> BatchConstant:
    """zeros, ones, full with one row for each sample."""
    operator = call.target.split(".")[1]
    number = {"zeros": 0.0, "ones": 1.0}.get(operator, a.get("fill_value"))
    sizes: Any = a.get("size")
    if not isinstance(sizes, list) or not isinstance(number, int | float):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: a new tensor must be a number and sizes")
    shape = [1 if size is BATCH else int(size) for size in sizes]
    if math.prod(shape) > MOST:
        raise UnsupportedLayerError(f"{call.target}{place(call)} makes a constant of more than {MOST} entries")
    return BatchConstant(torch.full(shape, float(number), dtype=c.dtype))


def final_softmax(c: Converter, call: Call, a: Arguments) -> Probabilities:
    """Softmax or its logarithm over the classes."""
    source = value_of(call, a, "self")
    if len(source.shape) != 1 or int(a["dim"]) not in (1, -1):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: only a final softmax over the classes is supported (it is dropped, and "
            "the logits are certified)"
        )
    return Probabilities(source, "log" in call.target)
