"""ONNX operators that arrange, repeat or drop entries, or tell shapes; handlers as in `onnx_operators.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import BATCH, BatchConstant, Value
from pertbound.frontends.onnx_constants import Op, reshaped, slices, squeezed, unsqueezed
from pertbound.frontends.onnx_reader import PER_MOVE, Handler, Reader


def _shape(reader: Reader, op: Op) -> Tensor:
    sizes = reader.sizes(reader.value(op, 0))
    return torch.tensor(sizes, dtype=torch.int64)[op.get("start", 0) : op.get("end")]


def _reshape(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    wanted = op.ints("shape", 1, 5) or []
    sizes = reader.sizes(value)
    if wanted[:1] == [1] and reader.traced_batch != 1:  # written for the batch of 1 that it was exported with
        sizes = [1, *value.shape]
    result = reshaped(sizes, wanted, copy_zeros=not op.get("allowzero", 0))
    return reader.reshape(op, value, reader.without_batch(op, value, result))


def _flatten(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    sizes, rank = reader.sizes(value), len(value.shape) + 1
    axis = op.get("axis", 1)
    if not -rank <= axis <= rank:
        raise ValueError(f"axis {axis} of {rank} dimensions")
    axis = axis + rank if axis < 0 else axis
    ends = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    return reader.reshape(op, value, reader.without_batch(op, value, ends))


def _squeeze(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    axes = op.ints("axes", 1, 13)
    if axes is None and value.shape.count(1) < len(value.shape):
        kept = [n for n in value.shape if n != 1]
        return reader.reshape(op, value, kept if reader.traced_batch != 1 else [])
    return reader.reshape(op, value, reader.without_batch(op, value, squeezed(reader.sizes(value), axes)))


def _unsqueeze(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    result = unsqueezed(reader.sizes(value), op.ints("axes", 1, 13) or [])
    return reader.reshape(op, value, reader.without_batch(op, value, result))


def _expand(reader: Reader, op: Op) -> Value:
    value, wanted = reader.value(op, 0), op.tensor(1).tolist()
    sizes = reader.sizes(value)
    if len(wanted) > len(sizes):
        raise UnsupportedLayerError(f"{op.where} puts dimensions before the batch")
    shape = torch.broadcast_shapes(tuple(sizes), tuple(wanted))
    if shape[0] != reader.traced_batch:
        raise UnsupportedLayerError(f"{op.where} repeats the batch")
    return (
        value
        if list(shape) == sizes
        else reader.move(op, "aten.expand.default", value, shape[1:], size=[BATCH, *shape[1:]])
    )


def _tile(reader: Reader, op: Op) -> Value:
    value, repeats = reader.value(op, 0), op.tensor(1).tolist()
    if len(repeats) != len(value.shape) + 1 or repeats[0] != 1 or min(repeats) < 1:
        raise UnsupportedLayerError(f"{op.where} repeats the batch, or nothing of a sample is left")
    shape = [n * times for n, times in zip(value.shape, repeats[1:], strict=True)]
    return reader.move(op, "aten.repeat.default", value, shape, repeats=repeats)


def _resize(reader: Reader, op: Op) -> Value:
    """To the nearest neighbour, by whole factors: every entry is repeated."""
    value = reader.value(op, 0)
    scales = op.tensor(1 if op.kind == "Upsample" or op.opset < 11 else 2) if len(op.inputs) > 1 else None
    factors = op.get("scales") if scales is None else scales.tolist()
    if op.get("mode", "nearest") != "nearest" or not factors or len(factors) != len(value.shape) + 1:
        raise UnsupportedLayerError(f"{op.where}: only scales of the nearest neighbour have a bound here")
    if factors[0] != 1 or any(f != int(f) or f < 1 for f in factors):
        raise UnsupportedLayerError(f"{op.where}: scales must be whole, and 1 for the batch, got {factors[:8]}")
    for dim, times in enumerate(map(int, factors)):
        if times > 1:
            shape = [n * (times if axis == dim else 1) for axis, n in enumerate(value.shape, start=1)]
            value = reader.move(op, "aten.repeat_interleave.self_int", value, shape, repeats=times, dim=dim)
    return value


def _blocks(reader: Reader, op: Op) -> Value:
    """DepthToSpace and SpaceToDepth: channels become blocks of the image, or the other way round."""
    value, size = reader.value(op, 0), op.get("blocksize")
    (channels, high, wide) = value.shape
    if op.kind == "SpaceToDepth":
        cells = reader.reshape(op, value, (channels, high // size, size, wide // size, size))
        turned = permuted(reader, op, cells, (2, 4, 0, 1, 3))
        return reader.reshape(op, turned, (channels * size * size, high // size, wide // size))
    depth = channels // (size * size)
    first = op.get("mode", "DCR") == "DCR"
    cells = reader.reshape(op, value, (size, size, depth, high, wide) if first else (depth, size, size, high, wide))
    turned = permuted(reader, op, cells, (2, 3, 0, 4, 1) if first else (0, 3, 1, 4, 2))
    return reader.reshape(op, turned, (depth, high * size, wide * size))


def _transpose(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    order = op.get("perm", list(range(len(value.shape) + 1))[::-1])
    if sorted(order) != list(range(len(value.shape) + 1)):
        raise ValueError(f"perm is {order[:10]} for {len(value.shape) + 1} dimensions")
    if order[0] != 0:
        raise UnsupportedLayerError(f"{op.where} moves the batch, which must stay the first dimension")
    return permuted(reader, op, value, [axis - 1 for axis in order[1:]])


def permuted(reader: Reader, op: Op, value: Value, order: Sequence[int]) -> Value:
    """A sample's dimensions in another order."""
    shape = [value.shape[axis] for axis in order]
    return reader.move(op, "aten.permute.default", value, shape, dims=[0, *(axis + 1 for axis in order)])


def _concat(reader: Reader, op: Op) -> Value:
    """Constants have one row for each sample, that is one."""
    parts = [BatchConstant(v) if isinstance(v, Tensor) and v.shape[:1] == (1,) else v for v in op.inputs]
    if any(isinstance(v, BatchConstant) for v in parts) and reader.traced_batch != 1:
        raise UnsupportedLayerError(f"{op.where} of stored constants, which have no row for each sample of a batch")
    plain = [v.tensor if isinstance(v, BatchConstant) else v for v in parts]
    entries = sum(math.prod(v.shape) for v in plain if isinstance(v, Value | Tensor))
    reader.require_room(op, entries)
    reader.spend(op, PER_MOVE * entries)
    return reader.call(op, "aten.cat.default", tensors=parts, dim=op.get("axis", 1))


def axis_of(op: Op, axis: int, value: Value) -> int:
    """An axis counted with the batch, which it must not be."""
    rank = len(value.shape) + 1
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} dimensions")
    if axis % rank == 0:
        raise UnsupportedLayerError(f"{op.where} works along the batch, which must stay whole")
    return axis % rank


def _slice(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    for axis, start, end, step in slices(op, len(value.shape) + 1):
        size = reader.sizes(value)[axis]
        places = range(size)[start:end:step]
        if places == range(size):
            continue
        if axis == 0 or step < 1 or not places:
            raise UnsupportedLayerError(f"{op.where}: only parts of a sample, with positive steps, have a bound here")
        ends = {"start": places[0], "end": places[-1] + 1, "step": step}
        shape = [len(places) if dim == axis else n for dim, n in enumerate(value.shape, start=1)]
        value = reader.move(op, "aten.slice.Tensor", value, shape, dim=axis, **ends)
    return value


def _split(reader: Reader, op: Op) -> tuple[Value, ...]:
    value = reader.value(op, 0)
    axis, parts = axis_of(op, op.get("axis", 0), value), op.ints("split", 1, 13)
    size, count = value.shape[axis - 1], len(op.outputs)
    if parts is None:
        each = -(-size // count)
        parts = [min(each, size - each * n) for n in range(count)]
    if len(parts) != count or min(parts) < 1 or sum(parts) != size:
        raise ValueError(f"{size} entries do not split into {parts[:10]}")
    ends = [sum(parts[: n + 1]) for n in range(count)]
    return tuple(
        reader.move(op, "aten.slice.Tensor", value, (), dim=axis, start=end - part, end=end, step=1)
        for end, part in zip(ends, parts, strict=True)
    )


def _gather(reader: Reader, op: Op) -> Value:
    value, index = reader.value(op, 0), reader.constant(op, 1).to(torch.int64)
    axis = axis_of(op, op.get("axis", 0), value)
    size = value.shape[axis - 1]
    index = torch.where(index < 0, index + size, index)
    if index.dim() > 1 or index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= size:
        raise UnsupportedLayerError(f"{op.where}: only one stored row of indices within the sample is read")
    if index.dim() == 0:
        return reader.move(op, "aten.select.int", value, (), dim=axis, index=int(index))
    shape = [len(index) if dim == axis else n for dim, n in enumerate(value.shape, start=1)]
    return reader.move(op, "aten.index_select.default", value, shape, dim=axis, index=index)


SHAPES: dict[str, Handler] = {
    "Shape": _shape,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
}
"""The handlers of these operators, by name."""
