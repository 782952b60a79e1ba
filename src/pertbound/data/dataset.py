"""The form that every data set takes here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pertbound.data.inputs import Checked, Fingerprinted, Inputs, checked, not_finite
from pertbound.errors import InputError

_ENTRIES = 2**22
"""How many numbers are hashed at once: 16 MiB."""

BYTES = "pixel values from 0 to 255"
"""`DataSet.units` of inputs that are bytes, as they are."""


def pixel_units(levels: int) -> str:
    """`DataSet.units` of inputs that are pixels divided by their largest value."""
    return f"pixel values from 0 to 1, where 1 is {levels} grey levels"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs with their labels and where each of them stood in the original data set.

    Construction checks everything below and raises `InputError` otherwise. Inputs that are not in memory are checked
    when a slice of them is read, which raises `DataError`.
    """

    name: str
    inputs: Inputs
    """(N, *shape) float32, finite, N >= 1: a tensor, or something that gives `inputs[a:b]` as one."""
    labels: Tensor | None
    """(N,) int64, from 0 up, or None where the data set has none."""
    pixel_scale: float
    """How many of the data's own units (grey levels, say) one unit of `inputs` is."""
    positions: Tensor
    """(N,) int64: the 0-based position of each input in the original data set."""
    notes: tuple[str, ...]
    """What a reader of results must know, such as images that are not exact."""
    source: str
    """Where the data was read from."""
    units: str = ""
    """What `inputs` are measured in, in words, and so every distance: "pixel values from 0 to 255". Empty: unknown."""

    def __post_init__(self) -> None:
        inputs = self.inputs
        if isinstance(inputs, Tensor):
            _check_tensor(inputs)
        else:
            inputs = checked(inputs, self.source or self.name)
            object.__setattr__(self, "inputs", inputs)
        if 0 in inputs.shape:
            raise InputError(f"the data set is empty: its inputs have the shape {tuple(inputs.shape)}")
        if isinstance(inputs, Tensor) and len(wrong := not_finite(inputs)):
            raise InputError(
                f"{len(wrong)} of {len(inputs)} inputs hold NaN or infinity, the first at position {int(wrong[0])}; "
                "remove or repair them"
            )
        _check_column("positions", self.positions, len(inputs))
        if self.labels is not None:
            _check_column("labels", self.labels, len(inputs))
        if not (math.isfinite(self.pixel_scale) and self.pixel_scale > 0):
            raise InputError(f"pixel_scale must be finite and positive, got {self.pixel_scale}")

    def __len__(self) -> int:
        return len(self.inputs)

    @staticmethod
    def from_batches(
        batches: Iterable[Any],
        *,
        name: str = "batches",
        limit: int | None = None,
        pixel_scale: float = 1.0,
        units: str = "",
    ) -> DataSet:
        """The data set of any iterable of batches, such as a `torch.utils.data.DataLoader`; held in memory.

        A batch is x or (x, y): tensors or arrays, x (n, *shape) floating point or uint8, whose values are kept and
        become float32, y (n,) integers. Positions count the samples as they come, so let the loader not shuffle. No
        more batches are asked for than `limit` samples need. Raises `InputError` naming the batch that cannot be meant.
        """
        from pertbound.data.batches import gathered  # here, because it knows this class

        return gathered(batches, name, limit, pixel_scale, units)

    @staticmethod
    def from_samples(
        samples: Any, *, labels: Tensor | None = None, name: str = "samples", pixel_scale: float = 1.0, units: str = ""
    ) -> DataSet:
        """The data set of anything with `__len__` and `__getitem__`, such as a `torch.utils.data.Dataset`.

        An item is x or (x, y), as in `from_batches`, without the first dimension. Inputs are not kept: each is read
        again when a slice is asked for, so an item must be the same whenever it is read. Without `labels`, all items
        are read once for theirs. Raises `InputError` naming the item that cannot be meant.
        """
        from pertbound.data.batches import mapped  # here, because it knows this class

        return mapped(samples, labels, name, pixel_scale, units)

    def limit(self, n: int) -> DataSet:
        """The first `n` inputs, or all of them where there are fewer."""
        if n < 1:
            raise InputError(f"a limit of at least 1 input is needed, got {n}")
        labels = None if self.labels is None else self.labels[:n]
        inputs = self.inputs.first(n) if isinstance(self.inputs, Checked) else self.inputs[:n]
        return replace(self, inputs=inputs, labels=labels, positions=self.positions[:n])

    def sha256(self) -> str:
        """A hash of the bytes and shapes of inputs and labels: equal for equal data from memory, file or memory map.

        Of images in files it is a hash of their names, their bytes and what is done to them instead.
        """
        digest = hashlib.sha256()
        for part in self._fingerprint():
            digest.update(part)
        if self.labels is not None:
            _hash(digest, self.labels)
        return digest.hexdigest()

    def _fingerprint(self) -> Iterator[bytes]:
        stored = self.inputs.stored if isinstance(self.inputs, Checked) else None
        if isinstance(stored, Fingerprinted):
            yield from stored.fingerprint(len(self))
            return
        shape = tuple(self.inputs.shape)
        yield f"<f4 {shape}\n".encode()
        rows = max(1, _ENTRIES // math.prod(shape[1:]))
        for start in range(0, len(self), rows):
            yield _bytes(self.inputs[start : start + rows])


def _hash(digest: Any, column: Tensor) -> None:
    digest.update(f"<i8 {tuple(column.shape)}\n".encode())
    digest.update(_bytes(column))


def _bytes(values: Tensor) -> bytes:
    array = values.detach().cpu().contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _check_tensor(inputs: Tensor) -> None:
    if inputs.dtype != torch.float32 or inputs.ndim < 2:
        raise InputError(
            f"inputs must be float32 of shape (N, *shape), got {inputs.dtype} of shape {tuple(inputs.shape)}"
        )


def _check_column(name: str, column: Tensor, count: int) -> None:
    if column.dtype != torch.int64 or column.shape != (count,):
        raise InputError(
            f"{name} must be int64 of shape ({count},), one for each input, got {column.dtype} of shape "
            f"{tuple(column.shape)}"
        )
    if int(column.min()) < 0:
        raise InputError(f"{name} count from 0, got {int(column.min())} at place {int(column.argmin())}")
