"""The form that every data set takes here."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pertbound.errors import InputError


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs with their labels and where each of them stood in the original data set.

    Construction checks everything below and raises `InputError` otherwise.
    """

    name: str
    inputs: Tensor
    """(N, *shape) float32, finite, N >= 1."""
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

    def __post_init__(self) -> None:
        inputs = self.inputs
        if inputs.dtype != torch.float32 or inputs.ndim < 2:
            raise InputError(
                f"inputs must be float32 of shape (N, *shape), got {inputs.dtype} of shape {tuple(inputs.shape)}"
            )
        if inputs.numel() == 0:
            raise InputError(f"the data set is empty: its inputs have the shape {tuple(inputs.shape)}")
        wrong = ~torch.isfinite(inputs).flatten(1).all(1)
        if wrong.any():
            raise InputError(
                f"{int(wrong.sum())} of {len(inputs)} inputs hold NaN or infinity, the first at position "
                f"{int(wrong.nonzero()[0])}; remove or repair them"
            )
        _check_column("positions", self.positions, len(inputs))
        if self.labels is not None:
            _check_column("labels", self.labels, len(inputs))
        if not (math.isfinite(self.pixel_scale) and self.pixel_scale > 0):
            raise InputError(f"pixel_scale must be finite and positive, got {self.pixel_scale}")

    def __len__(self) -> int:
        return len(self.inputs)

    def limit(self, n: int) -> DataSet:
        """The first `n` inputs, or all of them where there are fewer."""
        if n < 1:
            raise InputError(f"a limit of at least 1 input is needed, got {n}")
        labels = None if self.labels is None else self.labels[:n]
        return replace(self, inputs=self.inputs[:n], labels=labels, positions=self.positions[:n])

    def sha256(self) -> str:
        """A hash of the bytes and shapes of inputs and labels: equal for equal data from anywhere."""
        digest = hashlib.sha256()
        for column in (self.inputs, self.labels):
            if column is not None:
                array = column.detach().cpu().contiguous().numpy()
                digest.update(f"{array.dtype.str} {array.shape}\n".encode())
                digest.update(array.data)
        return digest.hexdigest()


def _check_column(name: str, column: Tensor, count: int) -> None:
    if column.dtype != torch.int64 or column.shape != (count,):
        raise InputError(
            f"{name} must be int64 of shape ({count},), one for each input, got {column.dtype} of shape "
            f"{tuple(column.shape)}"
        )
    if int(column.min()) < 0:
        raise InputError(f"{name} count from 0, got {int(column.min())} at place {int(column.argmin())}")
