"""Operators over whole dimensions or of two branches: sums, means, extremes, sorting; handlers as in `operators.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import PLACES, Arguments, BatchConstant, Converter, Value, place, value_of
from pertbound.frontends.plumbing import affine
from pertbound.frontends.program import Call
from pertbound.frontends.rearranging import expand_to, join, numbered, reshaped, select
from pertbound.layers import AveragePool, Clip, Dense, MaxPool, PReLU, ReLU, Shape, Sort


def _dims(call: Call, source: Value, given: Any) -> list[int]:
    """Dimensions of a sample, from dimensions counted with the batch."""
    rank = len(source.shape) + 1
    listed: list[int] = given if isinstance(given, list) else [] if given is None else [given]
    dims = sorted({int(dim) % rank for dim in listed})
    if not dims or 0 in dims:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} goes over the batch; name dimensions of the sample, from 1 on"
        )
    return [dim - 1 for dim in dims]


def _as_rows(c: Converter, call: Call, source: Value, dims: list[int]) -> tuple[Value, Shape, Shape]:
    """(rows, count) with the entries of `dims` in each row; the shapes of the result without and with them."""
    kept = [dim for dim in range(len(source.shape)) if dim not in dims]
    count = math.prod(source.shape[dim] for dim in dims)
    index = numbered(source.shape).permute(*kept, *dims).reshape(-1, count)
    without = tuple(source.shape[dim] for dim in kept)
    return select(c, call, source, index), without, tuple(1 if d in dims else n for d, n in enumerate(source.shape))


def _shaped(c: Converter, call: Call, rows: Value, shape: Shape) -> Value:
    if not shape:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} leaves one number a sample; keep a dimension (keepdim)"
        )
    return reshaped(c, call, rows, shape)


def average(c: Converter, call: Call, a: Arguments) -> Value:
    """Means and sums over dimensions of the sample: one window for each row."""
    source = value_of(call, a, "self")
    if a.get("dtype") is not None and str(a["dtype"]) != str(c.dtype):
        raise UnsupportedLayerError(f"{call.target}{place(call)} changes the dtype; compute in one dtype throughout")
    rows, without, wide = _as_rows(c, call, source, _dims(call, source, a.get("dim")))
    flat = reshaped(c, call, rows, (1, *rows.shape))  # one channel, windows of one row
    window, total = (1, rows.shape[1]), call.target.startswith("aten.sum")
    layer = AveragePool(flat.shape, window, window, (0, 0), False, True, 1 if total else None)
    result = c.add(call, layer, flat)
    return _shaped(c, call, result, wide if a.get("keepdim", False) else without)


def extreme(c: Converter, call: Call, a: Arguments) -> Any:
    """Largest or smallest entries over dimensions, or of two branches, or of a value and a constant."""
    operator = call.target.split(".")[1]
    if "other" in a:
        return of_two(c, call, a["self"], a["other"], largest="max" in operator)
    source, largest = value_of(call, a, "self"), "max" in operator
    given = a.get("dim")
    rows, without, wide = _as_rows(c, call, source, _dims(call, source, given))
    rows = rows if largest else affine(c, call, rows, -1.0, 0.0)
    window = (rows.shape[1],)
    pooled = c.add(call, MaxPool(rows.shape, window, window, (0,), (1,), False), rows)
    pooled = pooled if largest else affine(c, call, pooled, -1.0, 0.0)
    result = _shaped(c, call, pooled, wide if a.get("keepdim", False) else without)
    return [result, PLACES] if operator in ("max", "min") else result


def of_two(c: Converter, call: Call, left: Any, right: Any, *, largest: bool) -> Value:
    """Of two values: one column of them side by side and sorted. max(x, t) = t + max(x - t, 0) for a constant t."""
    if not (isinstance(left, Value) and isinstance(right, Value)):
        value, constant = (left, right) if isinstance(left, Value) else (right, left)
        constant = constant.tensor if isinstance(constant, BatchConstant) else constant
        if not isinstance(value, Value) or not isinstance(constant, Tensor | int | float):
            raise UnsupportedLayerError(f"{call.target}{place(call)}: operands must be values and stored constants")
        return _with_constant(c, call, value, constant, 1.0 if largest else -1.0)
    if len(left.shape) != len(right.shape):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} of two values of shapes {left.shape} and {right.shape} broadcasts one's batch "
            "over the other's samples; give both the same number of dimensions"
        )
    shape = tuple(torch.broadcast_shapes(left.shape, right.shape))
    left, right = expand_to(c, call, left, shape), expand_to(c, call, right, shape)
    if left.node == right.node and left == right:
        return left
    key = (left.node, right.node) if left.node < right.node else (right.node, left.node)
    if key not in c.sorted:
        columns = [reshaped(c, call, v, (math.prod(v.shape), 1)) for v in (left, right)]
        c.sorted[key] = sort_rows(c, call, join(c, call, columns, 2))
    both = c.sorted[key]
    return select(c, call, both, numbered(both.shape)[:, 1 if largest else 0].reshape(shape))


def _with_constant(c: Converter, call: Call, value: Value, constant: Any, sign: float) -> Value:
    """max(x, t), or min(x, t) = -max(-x, -t)."""
    plain = isinstance(constant, int | float) and constant == 0
    moved = value if plain and sign > 0 else affine(c, call, value, sign, -sign * constant)
    rectified = c.add(call, ReLU(moved.shape), moved)
    return rectified if plain and sign > 0 else affine(c, call, rectified, sign, constant)


def clamp(c: Converter, call: Call, a: Arguments) -> Value:
    """clamp, clamp_min, clamp_max, hardtanh, ReLU6: numbers or stored tensors for the ends."""
    source = value_of(call, a, "self")
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    if call.target.startswith("aten.hardtanh"):
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if call.target.startswith("aten.relu6"):
        low, high = 0.0, 6.0
    return clipped(c, call, source, low, high)


def clipped(c: Converter, call: Call, source: Value, low: Any, high: Any) -> Value:
    """min(max(x, low), high); ends that are None are none."""
    low, high = (_one_number(end) for end in (low, high))
    numbers = [end for end in (low, high) if isinstance(end, float)]
    if any(math.isnan(end) for end in numbers):
        raise UnsupportedLayerError(f"{call.target}{place(call)} clips to NaN")
    low = None if isinstance(low, float) and low == -math.inf else low
    high = None if isinstance(high, float) and high == math.inf else high
    if isinstance(low, float) and isinstance(high, float):
        if not -math.inf < low < high < math.inf:
            raise UnsupportedLayerError(f"{call.target}{place(call)} clips to [{low:g}, {high:g}], which is a point")
        return c.add(call, Clip(source.shape, low, high), source)
    if any(end is not None and not isinstance(end, float | Tensor | BatchConstant) for end in (low, high)):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: ends must be numbers or stored tensors")
    found = source if low is None else of_two(c, call, source, low, largest=True)
    return found if high is None else of_two(c, call, found, high, largest=False)


def _one_number(end: Any) -> Any:
    """A number, tensors of one entry as well."""
    if isinstance(end, Tensor) and end.numel() == 1:
        end = end.item()
    return float(end) if isinstance(end, int | float) else end


def sort(c: Converter, call: Call, a: Arguments) -> list[Any]:
    """Entries in order along one dimension of the sample; where they came from is not known."""
    source = value_of(call, a, "self")
    (dim,) = _dims(call, source, a.get("dim", -1))
    rows, _, _ = _as_rows(c, call, source, [dim])
    found = sort_rows(c, call, rows)
    index = numbered(found.shape)
    index = index.flip(1) if a.get("descending", False) else index
    others = [n for d, n in enumerate(source.shape) if d != dim]
    return [select(c, call, found, index.reshape(*others, -1).movedim(-1, dim)), PLACES]


def sort_rows(c: Converter, call: Call, rows: Value) -> Value:
    """Each row of (rows, n) in increasing order.

    Of two entries the smaller and the larger are ((a + b) -+ abs(a - b)) / 2: two linear maps, whose norms cancel,
    around an activation that keeps a + b and makes a - b positive, and which relaxations and branching know.
    """
    if rows.shape[1] == 1:
        return rows
    if rows.shape[1] > 2:
        return c.add(call, Sort(rows.shape), rows)
    device = next((v.device for v in c.values.values() if isinstance(v, Tensor)), torch.device("cpu"))
    both = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=c.dtype, device=device)
    back = torch.tensor([[0.5, -0.5], [0.5, 0.5]], dtype=c.dtype, device=device)
    turned = c.add(call, Dense(rows.shape, both, None), rows)
    slopes = torch.tensor([1.0, -1.0], dtype=c.dtype, device=device)
    risen = c.add(call, PReLU(turned.shape, slopes), turned)
    known = c.range(rows)  # the results are the entries themselves
    return c.narrow(c.add(call, Dense(risen.shape, back, None), risen), known.low, known.high)


def adaptive_average(c: Converter, call: Call, a: Arguments) -> Value:
    """Windows of one size where sizes divide; else, along each dimension, a matrix of means."""
    source, wanted = value_of(call, a, "self"), a["output_size"]
    dims = int(call.target.split(".")[1].rstrip("_").removesuffix("d")[-1])
    sizes: list[Any] = wanted if isinstance(wanted, list) else [wanted]
    sizes = sizes * dims if len(sizes) == 1 else sizes
    spatial = source.shape[-dims:]
    sizes = [n if t is None else int(t) for n, t in zip(spatial, sizes, strict=True)]
    if min(sizes) < 1 or len(source.shape) != dims + 1:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: {source.shape} to {sizes} is not a pooling of channels"
        )
    if all(n % t == 0 for n, t in zip(spatial, sizes, strict=True)):
        window = tuple(n // t for n, t in zip(spatial, sizes, strict=True))
        layer = AveragePool(source.shape, window, window, (0,) * dims, False, True, None)
        return c.add(call, layer, source)
    for dim, (n, t) in enumerate(zip(spatial, sizes, strict=True), start=1):
        if n != t:
            last = numbered(source.shape).movedim(dim, -1)
            members = _members(c, n, t)
            sums = c.add(call, Dense(tuple(last.shape), members, None), select(c, call, source, last))
            means = affine(c, call, sums, 1.0 / members.to(torch.float64).sum(1), 0.0)
            back = numbered(means.shape).movedim(-1, dim)
            source = select(c, call, means, back)
    return source


def _members(c: Converter, n: int, t: int) -> Tensor:
    """(t, n): 1 in row i for the entries from floor(i n / t) to ceil((i + 1) n / t)."""
    found = torch.zeros(t, n, dtype=c.dtype)
    for i in range(t):
        found[i, i * n // t : -(-(i + 1) * n // t)] = 1.0
    device = next((v.device for v in c.values.values() if isinstance(v, Tensor)), torch.device("cpu"))
    return found.to(device)


def adaptive_maximum(c: Converter, call: Call, a: Arguments) -> list[Any]:
    """Windows of one size; where they came from is not known."""
    source, wanted = value_of(call, a, "self"), a["output_size"]
    dims = int(call.target.split(".")[1].rstrip("_").removesuffix("d")[-1])
    sizes: list[Any] = wanted if isinstance(wanted, list) else [wanted]
    sizes = sizes * dims if len(sizes) == 1 else sizes
    spatial = source.shape[-dims:]
    sizes = [n if t is None else int(t) for n, t in zip(spatial, sizes, strict=True)]
    if len(source.shape) != dims + 1 or min(sizes) < 1 or any(n % t for n, t in zip(spatial, sizes, strict=True)):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: {spatial} to {sizes} needs windows of unequal size, which have no bound here "
            "yet; use sizes that divide"
        )
    window = tuple(n // t for n, t in zip(spatial, sizes, strict=True))
    layer = MaxPool(source.shape, window, window, (0,) * dims, (1,) * dims, False)
    return [c.add(call, layer, source), PLACES]
