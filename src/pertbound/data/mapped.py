"""Numbers in a file that are read when a slice of them is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pertbound.data.inputs import Rows
from pertbound.errors import DataError


@final
@dataclass(frozen=True)
class InFile:
    """An array in the middle of a file, as plain numbers.

    It is mapped anew for each slice: what was read does not stay in the process, and a file that has become shorter
    meanwhile is an error instead of a crash.
    """

    path: Path
    dtype: str
    offset: int
    shape: tuple[int, ...]
    fortran: bool = False
    """Whether the first index runs fastest."""

    def rows(self, which: Rows) -> NDArray[Any]:
        """A copy of these rows. Raises `DataError` when the file no longer holds them."""
        order = "F" if self.fortran else "C"
        try:
            mapped = np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, order)
            return np.array(mapped[_index(which)])
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {self.path}: {error}; was it changed meanwhile?") from error


@final
@dataclass(frozen=True, eq=False)
class InMemory:
    """The same for an array in memory, in the dtype that it was stored in."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def rows(self, which: Rows) -> NDArray[Any]:
        """These rows."""
        return self.array[_index(which)]


@final
@dataclass(frozen=True, eq=False)
class Numbers:
    """Inputs that are numbers divided by `divisor`: the last entries of each flattened record, in `sample` shape."""

    stored: InFile | InMemory
    sample: tuple[int, ...]
    divisor: float = 1.0
    count: int | None = None
    """How many of the records there are to be; None for all."""

    def first(self, count: int | None) -> Numbers:
        """The first `count` of these, or all."""
        return replace(self, count=None if count is None else min(count, len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *sample)."""
        return (len(self), *self.sample)

    def __len__(self) -> int:
        return self.stored.shape[0] if self.count is None else self.count

    def __getitem__(self, rows: Rows, /) -> Tensor:
        """Those rows, (k, *sample) float32."""
        records = self.stored.rows(rows)
        entries = records.reshape(len(records), -1)[:, -math.prod(self.sample) :]
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as that
            x = torch.from_numpy(np.array(entries, np.float32, order="C")).reshape(len(records), *self.sample)
        return x if self.divisor == 1.0 else x.div_(self.divisor)


def _index(which: Rows) -> Any:
    return which.numpy() if isinstance(which, Tensor) else which
