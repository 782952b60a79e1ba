"""What the inputs of a data set are: a tensor, or something that reads them when a slice is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, final, overload, runtime_checkable

import torch
from torch import Tensor

from pertbound.errors import DataError, InputError

Rows = slice | Tensor | Sequence[int]
"""Which inputs: a slice, or places counted from 0."""


class Inputs(Protocol):
    """(N, *shape) float32, finite, read slice by slice. A `torch.Tensor` is one.

    `inputs[a:b]` and `inputs[places]` are tensors of the samples asked for; nothing else need be in memory. Equal
    questions must have equal answers. A `DataSet` asks for `0 <= a <= b <= N` and places from 0 to N - 1 only, and
    checks every answer.
    """

    @property
    def shape(self) -> Sequence[int]:
        """(N, *shape)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Tensor: ...


@runtime_checkable
class Fingerprinted(Protocol):
    """Inputs that have something better to hash than their values: the files that they are read from."""

    def fingerprint(self, count: int) -> Iterator[bytes]:
        """What the first `count` inputs depend on."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Checked:
    """The first `count` of some inputs that are not in memory, each slice checked when it is read.

    Reading raises `DataError`, naming `where` and the position, for NaN, infinity, or anything but float32 of the
    shape announced.
    """

    stored: Inputs
    count: int
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *shape)."""
        return (self.count, *self.stored.shape[1:])

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, rows: Rows, /) -> Tensor: ...
    @overload
    def __getitem__(self, rows: int, /) -> Tensor: ...
    def __getitem__(self, rows: Rows | int, /) -> Tensor:
        """The inputs asked for, in memory, (k, *shape); for one place, (*shape,)."""
        if isinstance(rows, int):
            place = rows + self.count if rows < 0 else rows
            if not 0 <= place < self.count:
                raise IndexError(f"{self.where} has {self.count} inputs, and none at place {rows}")
            return self[place : place + 1][0]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.count)
            if step == 1:
                return self._read(slice(start, max(start, stop)), max(stop - start, 0), start, None)
            rows = range(start, stop, step)
        places = torch.as_tensor(list(rows) if isinstance(rows, range) else rows)
        if places.dtype == torch.bool:
            places = places.nonzero().flatten()
        places = places.to("cpu", torch.int64).reshape(-1)
        places = torch.where(places < 0, places + self.count, places)
        if len(places) and not (int(places.min()) >= 0 and int(places.max()) < self.count):
            raise IndexError(f"{self.where} has {self.count} inputs, got places {int(places.min())} to {places.max()}")
        return self._read(places, len(places), 0, places)

    def first(self, count: int) -> Checked:
        """The first `count` of these."""
        return Checked(self.stored, min(count, self.count), self.where)

    def _read(self, rows: Rows, count: int, start: int, places: Tensor | None) -> Tensor:
        if count == 0:
            return torch.empty(0, *self.shape[1:])
        x = self.stored[rows]
        expected = (count, *self.shape[1:])
        if not isinstance(x, Tensor) or x.dtype != torch.float32 or tuple(x.shape) != expected:  # pyright: ignore[reportUnnecessaryIsInstance]
            got = f"{x.dtype} of {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(f"{self.where}: {count} inputs must be float32 of shape {expected}, got {got}")
        wrong = not_finite(x)
        if len(wrong):
            place = int(wrong[0])
            place = start + place if places is None else int(places[place])
            raise DataError(
                f"{self.where}: {len(wrong)} of the {count} inputs read hold NaN or infinity, the first at position "
                f"{place}; remove or repair them"
            )
        return x


def not_finite(x: Tensor) -> Tensor:
    """Which rows of x hold NaN or infinity, in their order."""
    if bool(torch.isfinite(x.sum())):  # a finite sum has finite terms, and costs a tenth of testing each
        return torch.empty(0, dtype=torch.int64)
    return (~torch.isfinite(x).flatten(1).all(1)).nonzero().flatten()


def checked(inputs: Inputs, where: str) -> Checked:
    """`inputs` that are not a tensor, with every slice checked. Raises `InputError` for an impossible shape."""
    if isinstance(inputs, Checked):
        return inputs
    shape = cast("Sequence[int] | None", getattr(inputs, "shape", None))
    if shape is None or not all(hasattr(inputs, name) for name in ("__len__", "__getitem__")):
        raise InputError(
            f"inputs must be a tensor, or have shape, __len__ and __getitem__, got {type(inputs).__name__}"
        )
    shape = tuple(int(size) for size in shape)
    if len(shape) < 2 or shape[0] != len(inputs) or any(size < 0 for size in shape):
        raise InputError(f"inputs must have the shape (N, *shape), got {shape} and the length {len(inputs)}")
    return Checked(inputs, len(inputs), where)
