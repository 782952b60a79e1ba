"""Operators that only move, repeat or drop entries, or put zeros beside them; handlers as in `operators.py`.

Each of them is run once, on the numbers of the entries: what comes out says which entry each output is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import BATCH, Arguments, BatchConstant, Converter, Stacked, Value, place, value_of
from pertbound.frontends.folding import checked, on_device, overload_of
from pertbound.frontends.program import Call
from pertbound.layers import Concat, Diagonal, Reshape, Select, Shape

REARRANGING = (
    *("slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "index_select"),
    *("index", "permute", "transpose", "swapaxes", "swapdims", "t", "mT", "adjoint", "movedim", "moveaxis", "flip"),
    *("fliplr", "flipud", "rot90", "roll", "repeat", "tile", "repeat_interleave", "expand", "broadcast_to"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "unfold", "tril", "triu", "diagonal"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
)
"""Names of ATen operators for `rearranged`."""
MOST_SELECTED = 2**24
"""Entries whose numbers are written down, 8 bytes each."""


def select(c: Converter, call: Call, source: Value, index: Tensor) -> Value:
    """The entries of `source` that `index` says, as `Select` reads it.

    What was selected before is selected from where it came first. No node where all entries stay where they are, nor
    where the same was selected before.
    """
    shape = tuple(index.shape)
    if source.node in c.views:
        source, before = c.views[source.node]
        if before is not None:
            index = torch.where(index >= 0, before.flatten()[index.clamp_min(0)], -1)
    source, index = _from_part(c, source, index)
    entries = math.prod(source.shape)
    if index.numel() == entries and bool((index.flatten() == torch.arange(entries)).all()):
        return reshaped(c, call, source, shape)
    key = (source.node, shape, index.numpy().tobytes())
    if key not in c.selected:
        layer = Select(source.shape, index.contiguous().to(_device(c)))
        found = c.add(call, layer, source)
        c.selected[key], c.views[found.node] = found, (source, index)
    return c.selected[key]


def _from_part(c: Converter, source: Value, index: Tensor) -> tuple[Value, Tensor]:
    """The part itself, where only entries of one part of a concatenation are read: its radius is smaller."""
    if source.node not in c.parts or math.prod(source.shape) > MOST_SELECTED:
        return source, index
    dim, values = c.parts[source.node]
    owners = torch.cat([torch.full(v.shape, n) for n, v in enumerate(values)], dim).flatten()
    places = torch.cat([numbered(v.shape) for v in values], dim).flatten()
    read = index[index >= 0].flatten()
    owner = owners[read].unique()
    if len(owner) != 1:
        return source, index
    part, index = values[int(owner)], torch.where(index >= 0, places[index.clamp_min(0)], -1)
    if part.node in c.views:
        part, before = c.views[part.node]
        index = index if before is None else torch.where(index >= 0, before.flatten()[index.clamp_min(0)], -1)
    return _from_part(c, part, index)


def reshaped(c: Converter, call: Call, source: Value, shape: Shape) -> Value:
    """The same entries in another shape, which may be that of an earlier value."""
    if source.shape == shape:
        return source
    if source.node in c.views:
        source, before = c.views[source.node]
        if before is not None:
            return select(c, call, source, before.reshape(shape))
        if source.shape == shape:
            return source
    key = (source.node, shape, b"")
    if key not in c.selected:
        found = c.add(call, Reshape(source.shape, shape), source)
        c.selected[key], c.views[found.node] = found, (source, None)
    return c.selected[key]


def _device(c: Converter) -> torch.device:
    """Where the program's tensors are."""
    return next((v.device for v in c.values.values() if isinstance(v, Tensor)), torch.device("cpu"))


def numbered(shape: Shape) -> Tensor:
    """The numbers of a sample's entries, in its shape."""
    return torch.arange(math.prod(shape)).reshape(shape)


def rearranged(c: Converter, call: Call, a: Arguments) -> Any:
    """Any operator whose results are entries of its first argument, or zeros."""
    name = next(iter(a))
    if isinstance(a[name], Stacked):
        return unstacked(c, call, a)
    if isinstance(a[name], Tensor | BatchConstant):
        return _of_constant(c, call, a, name)
    source = value_of(call, a, name)
    samples = 2
    rest = {key: _sizes(call, value) for key, value in a.items() if key != name}
    sizes = rest.get("size")
    if isinstance(sizes, list) and len(sizes) == len(source.shape) + 1 and sizes[0] == c.traced_batch:
        rest["size"] = [-1, *sizes[1:]]  # of `expand`: a batch that was written out
    operator = overload_of(call.target)
    if operator is None:
        raise UnsupportedLayerError(f"{call.target}{place(call)} is no operator of this PyTorch")
    rest = checked(call.target, operator, rest)
    entries = math.prod(source.shape)
    try:
        for batch in (c.traced_batch, samples, samples + 1):  # sizes, before anything is made
            result = operator(torch.empty(batch, *source.shape, device="meta"), **on_device(rest, "meta"))
            for part in result if isinstance(result, list | tuple) else [result]:
                if part.dim() < 2 or part.shape[0] != batch:
                    raise _mixes(call, source, tuple(part.shape), batch)
                _require_room(call, max(part[0].numel(), entries))
        # numbers from 1, because 0 is what padding puts there
        numbers = torch.arange(1, samples * entries + 1, dtype=torch.float64).reshape(samples, *source.shape)
        result = operator(numbers, **on_device(rest, "cpu"))
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        raise UnsupportedLayerError(f"{call.target}{place(call)} on {source.shape}: {str(error)[:200]}") from error
    parts = [result] if isinstance(result, Tensor) else list(result)
    found: list[Value] = []
    for part in parts:
        index = part[0].to(torch.int64) - 1
        other = torch.where(index >= 0, index + entries, -1)
        if bool((index >= entries).any()) or not torch.equal(part[1].to(torch.int64) - 1, other):
            raise _mixes(call, source, tuple(part.shape), samples)
        found.append(select(c, call, source, index))
    return found[0] if isinstance(result, Tensor) else found


def _sizes(call: Call, value: Any) -> Any:
    """The batch size, where it stands first in a list of sizes; -1 lets it be whatever it is."""
    if (isinstance(value, list) and any(v is BATCH for v in value[1:])) or value is BATCH:
        raise UnsupportedLayerError(f"{call.target}{place(call)} uses the batch size for something else than the batch")
    if isinstance(value, list) and value and value[0] is BATCH:
        return [-1, *value[1:]]
    return value


def _require_room(call: Call, entries: int) -> None:
    """Refuse to write down too many entries' numbers."""
    if entries > MOST_SELECTED:
        raise UnsupportedLayerError(f"{call.target}{place(call)} moves more than {MOST_SELECTED} numbers a sample")


def _mixes(call: Call, source: Value, shape: Sequence[int], batch: int) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"{call.target}{place(call)} mixes the batch with the sample: from (batch, {source.shape}) to {tuple(shape)} "
        f"for a batch of {batch}. Keep the batch as the first dimension"
    )


def unstacked(c: Converter, call: Call, a: Arguments) -> Any:
    """One of several values, or all of them with the batch in front."""
    parts, operator = a["self"].parts, call.target.split(".")[1]
    if operator == "select" and a["dim"] in (0, -3):
        return parts[a["index"]]
    if operator == "squeeze" and a.get("dim", 0) in (0, -3) and len(parts) == 1:
        return parts[0]
    turned = (operator in ("transpose", "swapaxes") and sorted(v % 3 for v in list(a.values())[1:]) == [0, 1]) or (
        operator == "permute" and [v % 3 for v in a["dims"]] == [1, 0, 2]
    )
    if turned and all(isinstance(v, Value) for v in parts):
        return join(c, call, [reshaped(c, call, v, (1, *v.shape)) for v in parts], 1)
    raise UnsupportedLayerError(
        f"{call.target}{place(call)} on the last states of a recurrent layer: take one of them by its number first"
    )


def _of_constant(c: Converter, call: Call, a: Arguments, name: str) -> BatchConstant:
    """A constant that is repeated once for each sample."""
    operator = call.target.split(".")[1]
    given, sizes = a[name], a.get("size")
    if operator != "expand" or not isinstance(given, Tensor) or not isinstance(sizes, list) or BATCH not in sizes:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {name} must depend on the input")
    return BatchConstant(given.expand([1 if size is BATCH else size for size in sizes]))


def pad(c: Converter, call: Call, a: Arguments) -> Value:
    """Zeros, one number, or the sample's own entries around it."""
    source, number = value_of(call, a, "self"), float(a.get("value") or 0.0)
    if a.get("mode", "constant") != "constant":
        return rearranged(c, call, {k: v for k, v in a.items() if k != "value"})
    found = rearranged(c, call, {"self": source, "pad": a["pad"]})
    if number == 0.0 or found is source:
        return found
    _, index = c.views[found.node]
    assert index is not None, "padding is no reshape"
    shift = torch.zeros(index.shape, dtype=torch.float64).masked_fill(index < 0, number).to(_device(c))
    return c.add(call, Diagonal(found.shape, torch.ones_like(shift), shift), found)


def padded(c: Converter, call: Call, source: Value, before: Sequence[int], after: Sequence[int]) -> Value:
    """Zeros around the last dimensions of a sample."""
    sides = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
    return rearranged(
        c, Call(call.name, "aten.constant_pad_nd.default", {}, call.where), {"self": source, "pad": sides}
    )


def expand_to(c: Converter, call: Call, source: Value, shape: Shape) -> Value:
    """The value repeated along dimensions of size 1."""
    if source.shape == shape:
        return source
    _require_room(call, math.prod(shape))
    return select(c, call, source, numbered(source.shape).expand(shape))


def expand_as(c: Converter, call: Call, a: Arguments) -> Value:
    """A value repeated to the shape of another one."""
    source, other = value_of(call, a, "self"), value_of(call, a, "other")
    return expand_to(c, call, source, other.shape)


def stack(c: Converter, call: Call, a: Arguments) -> Value:
    """Values side by side along a new dimension."""
    parts: list[Any] = a["tensors"]
    first = next(v for v in parts if isinstance(v, Value))
    dim = int(a.get("dim", 0)) % (len(first.shape) + 2)
    if dim == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} stacks along the batch dimension")
    wide: list[Any] = []
    for part in parts:
        if isinstance(part, Value):
            shape = (*part.shape[: dim - 1], 1, *part.shape[dim - 1 :])
            wide.append(reshaped(c, call, part, shape))
        elif isinstance(part, BatchConstant):
            wide.append(BatchConstant(part.tensor.unsqueeze(dim)))
        else:
            wide.append(part)
    return join(c, call, wide, dim)


def concat(c: Converter, call: Call, a: Arguments) -> Value:
    """Values, and constants with one row for each sample, side by side along any dimension but the batch."""
    parts: list[Any] = a["tensors"]
    if not any(isinstance(v, Value) for v in parts):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: some part must depend on the input")
    first = next(v for v in parts if isinstance(v, Value))
    dim = int(a.get("dim", 0)) % (len(first.shape) + 1)
    if dim == 0:
        raise UnsupportedLayerError(f"{call.target}{place(call)} concatenates along the batch dimension")
    return join(c, call, parts, dim)


def join(c: Converter, call: Call, parts: Sequence[Any], dim: int) -> Value:
    """Parts along `dim`, counted with the batch. Entries of one and the same value are selected from it in one step,
    which is tighter than putting parts of it together again.
    """
    if not all(isinstance(v, Value | BatchConstant) for v in parts):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: all parts must depend on the input, or be repeated for each sample"
        )
    values = [v for v in parts if isinstance(v, Value)]
    sizes = [v.shape if isinstance(v, Value) else tuple(v.tensor.shape[1:]) for v in parts]
    entries = sum(math.prod(size) for size in sizes)
    origins = [c.views.get(v.node, (v, None)) for v in values]
    if len({origin.node for origin, _ in origins}) == 1 and len(parts) > 1 and entries <= MOST_SELECTED:
        whole, pieces = (
            origins[0][0],
            [
                before.reshape(v.shape) if before is not None else numbered(v.shape)
                for v, (_, before) in zip(values, origins, strict=True)
            ],
        )
    else:
        whole = values[0]
        if len(values) > 1:
            whole = c.add(call, Concat(dim), *values)
            c.parts[whole.node] = (dim - 1, tuple(values))
        if len(values) == len(parts):
            return whole
        _require_room(call, entries)
        pieces = list(numbered(whole.shape).split([v.shape[dim - 1] for v in values], dim - 1))
    each = iter(pieces)
    holes = (next(each) if isinstance(v, Value) else torch.full(size, -1) for v, size in zip(parts, sizes, strict=True))
    found = select(c, call, whole, torch.cat(list(holes), dim - 1))
    if len(values) == len(parts):
        return found
    constants = [v.tensor[0] if isinstance(v, BatchConstant) else torch.zeros(v.shape) for v in parts]
    shift = torch.cat([v.to(_device(c), torch.float64) for v in constants], dim - 1)
    if not bool(shift.any()):
        return found
    return c.add(call, Diagonal(found.shape, torch.ones_like(shift), shift), found)
