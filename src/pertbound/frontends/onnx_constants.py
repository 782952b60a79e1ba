"""ONNX operators on constants alone: the arithmetic of shapes that exporters write out, and folded weights.

Each takes an `Op` whose inputs are tensors or absent, and gives a tensor. Results are bounded in size before they are
made. What is not in `FOLDED` is not folded, and its operator is then refused like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pertbound.errors import ConversionError

MOST = 2**26
"""Entries of a folded tensor."""


@final
@dataclass(frozen=True, eq=False)
class Op:
    """One node, read: `inputs` are what its names stand for, None where left out."""

    kind: str
    where: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    opset: int

    def input(self, position: int) -> Any:
        """An input, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attributes.get(name, default)

    def number(self, name: str, default: float) -> float:
        """A number that is an attribute, or its default, rounded to float32 like all such attributes."""
        return float(torch.tensor(self.get(name, default), dtype=torch.float32))

    def ints(self, name: str, position: int, since: int) -> list[int] | None:
        """A list of integers that is an input from operator set `since` on, and an attribute before."""
        if self.opset < since:
            return self.get(name)
        given = self.input(position)
        if given is None:
            return None
        if not isinstance(given, Tensor) or given.is_floating_point() or given.numel() > 10_000:
            raise ConversionError(f"{self.where}: {name} must be a stored list of integers")
        return [int(v) for v in given.flatten().tolist()]

    def tensor(self, position: int) -> Tensor:
        """An input that must be a constant."""
        found = self.input(position)
        if not isinstance(found, Tensor):
            raise ConversionError(f"{self.where}: input {position} must be a stored tensor, got {type(found).__name__}")
        return found


Folder = Callable[[Op], Tensor]


def bounded(op: Op, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, if a tensor of it may be made."""
    sizes = tuple(int(n) for n in shape)
    if len(sizes) > 16 or min(sizes, default=0) < 0 or math.prod(sizes) > MOST:
        raise ConversionError(f"{op.where} makes a constant of shape {str(sizes)[:80]}, larger than {MOST} entries")
    return sizes


def reshaped(sizes: Sequence[int], wanted: Sequence[int], *, copy_zeros: bool) -> list[int]:
    """The sizes that ONNX's Reshape means by `wanted`: 0 copies the input's, -1 takes what is left."""
    result = [sizes[i] if n == 0 and copy_zeros else n for i, n in enumerate(wanted)]
    if result.count(-1) == 1:
        rest = math.prod(n for n in result if n != -1)
        if rest <= 0 or math.prod(sizes) % rest:
            raise ValueError(f"{list(sizes)} does not fit {list(wanted)}")
        result[result.index(-1)] = math.prod(sizes) // rest
    if min(result, default=0) < 0 or math.prod(result) != math.prod(sizes):
        raise ValueError(f"{list(sizes)} does not fit {list(wanted)}")
    return result


def squeezed(sizes: Sequence[int], axes: Sequence[int] | None) -> list[int]:
    """The sizes without those of `axes`, which must be 1; without all 1s where no axes are given."""
    gone = [n == 1 for n in sizes]
    if axes is not None:
        gone = [False] * len(sizes)
        for axis in axes:
            if sizes[axis] != 1:
                raise ValueError(f"axis {axis} of {list(sizes)} is not 1")
            gone[axis] = True
    return [n for n, out in zip(sizes, gone, strict=True) if not out]


def unsqueezed(sizes: Sequence[int], axes: Sequence[int]) -> list[int]:
    """The sizes with 1s at `axes`, counted in the result."""
    rank = len(sizes) + len(axes)
    places = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(places) != len(axes):
        raise ValueError(f"axes {list(axes)[:10]} do not fit a tensor of {len(sizes)} dimensions")
    left = iter(sizes)
    return [1 if place in places else next(left) for place in range(rank)]


def slices(op: Op, rank: int) -> list[tuple[int, int, int, int]]:
    """Slice's (axis, start, end, step), from its inputs or, before operator set 10, its attributes."""
    starts, ends = op.ints("starts", 1, 10), op.ints("ends", 2, 10)
    if starts is None or ends is None:
        raise ConversionError(f"{op.where}: starts and ends are missing")
    axes = op.ints("axes", 3, 10)
    steps = op.ints("steps", 4, 10) if op.opset >= 10 else None
    axes = list(range(len(starts))) if axes is None else [axis % rank for axis in axes]
    return list(zip(axes, starts, ends, [1] * len(starts) if steps is None else steps, strict=True))


def cast(op: Op, value: Tensor) -> Tensor:
    """Cast of a constant."""
    dtypes = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    return value.to(dtypes[op.get("to")])


def _constant(op: Op) -> Tensor:
    for name, dtype in (("value", None), ("value_float", torch.float32), ("value_int", torch.int64)):
        if name in op.attributes:
            return torch.as_tensor(op.attributes[name], dtype=dtype)
    for name, dtype in (("value_floats", torch.float32), ("value_ints", torch.int64)):
        if name in op.attributes:
            return torch.tensor(op.attributes[name], dtype=dtype)
    raise ConversionError(f"{op.where} holds no numbers")


def _constant_of_shape(op: Op) -> Tensor:
    value = op.get("value", torch.zeros(1))
    return value.reshape(()).expand(bounded(op, op.tensor(0).tolist())).clone()


def _divided(op: Op) -> Tensor:
    left, right = op.tensor(0), op.tensor(1)
    bounded(op, torch.broadcast_shapes(left.shape, right.shape))
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def _gather(op: Op) -> Tensor:
    source, index = op.tensor(0), op.tensor(1).to(torch.int64)
    axis = op.get("axis", 0) % max(source.dim(), 1)
    size = source.shape[axis]
    bounded(op, (*source.shape[:axis], *index.shape, *source.shape[axis + 1 :]))
    flat = torch.where(index < 0, index + size, index).flatten()
    return source.index_select(axis, flat).reshape((*source.shape[:axis], *index.shape, *source.shape[axis + 1 :]))


def _concat(op: Op) -> Tensor:
    parts = [op.tensor(i) for i in range(len(op.inputs))]
    bounded(op, (sum(part.numel() for part in parts),))
    return torch.cat(parts, op.get("axis", 1))


def _slice(op: Op) -> Tensor:
    value = op.tensor(0)
    for axis, start, end, step in slices(op, value.dim()):
        places = range(value.shape[axis])[start:end:step]
        value = value.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return value


def _expand(op: Op) -> Tensor:
    value = op.tensor(0)
    shape = bounded(op, torch.broadcast_shapes(value.shape, tuple(op.tensor(1).tolist())))
    return value.expand(shape).clone()


def _range(op: Op) -> Tensor:
    start, limit, step = (op.tensor(i).item() for i in range(3))
    bounded(op, (max(0, math.ceil((limit - start) / step)),))
    return torch.arange(start, limit, step, dtype=op.tensor(0).dtype)


def _transpose(op: Op) -> Tensor:
    value = op.tensor(0)
    return value.permute(op.get("perm", list(range(value.dim()))[::-1])).contiguous()


def _product(op: Op) -> Tensor:
    axes, keep = op.ints("axes", 1, 18), bool(op.get("keepdims", 1))
    value = op.tensor(0)
    if axes is None:
        return value.prod().reshape([1] * value.dim() if keep else [])
    for axis in sorted((axis % value.dim() for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep, dtype=value.dtype)
    return value


def _unsqueeze(op: Op) -> Tensor:
    return op.tensor(0).reshape(unsqueezed(op.tensor(0).shape, op.ints("axes", 1, 13) or []))


def _where(op: Op) -> Tensor:
    parts = [op.tensor(i) for i in range(3)]
    bounded(op, torch.broadcast_shapes(*(part.shape for part in parts)))
    return torch.where(*parts)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Folder:
    def fold(op: Op) -> Tensor:
        bounded(op, torch.broadcast_shapes(op.tensor(0).shape, op.tensor(1).shape))
        return function(op.tensor(0), op.tensor(1))

    return fold


def _unary(function: Callable[[Tensor], Tensor]) -> Folder:
    return lambda op: function(op.tensor(0))


FOLDED: dict[str, Folder] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": _unary(lambda x: x),
    "Cast": lambda op: cast(op, op.tensor(0)),
    "Shape": lambda op: torch.tensor(op.tensor(0).shape)[op.get("start", 0) : op.get("end")],
    "Size": lambda op: torch.tensor(op.tensor(0).numel()),
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Expand": _expand,
    "Range": _range,
    "Transpose": _transpose,
    "ReduceProd": _product,
    "Reshape": lambda op: op.tensor(0).reshape(
        reshaped(op.tensor(0).shape, op.tensor(1).tolist(), copy_zeros=not op.get("allowzero", 0))
    ),
    "Squeeze": lambda op: op.tensor(0).reshape(squeezed(op.tensor(0).shape, op.ints("axes", 1, 13))),
    "Unsqueeze": _unsqueeze,
    "Div": _divided,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Pow": _binary(torch.pow),
    "Max": _binary(torch.maximum),
    "Min": _binary(torch.minimum),
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "Greater": _binary(torch.gt),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Not": _unary(torch.logical_not),
    "Where": _where,
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Sqrt": _unary(torch.sqrt),
    "Exp": _unary(torch.exp),
    "Reciprocal": _unary(torch.reciprocal),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
}
