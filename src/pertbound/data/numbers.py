"""A user's own numbers as inputs and labels: which kinds are meant, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pertbound.errors import InputError

MOST_INPUTS = 2**27
"""A data set of more inputs is refused: a file can claim any number of them, and each has a position in memory."""


def require_inputs_kind(dtype: np.dtype[Any], what: str) -> None:
    """Raise `InputError` unless numbers of that dtype can be inputs."""
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise InputError(f"{what} must be floating point or uint8, got {dtype}; convert it before")


def require_labels_kind(dtype: np.dtype[Any], what: str) -> None:
    """Raise `InputError` unless numbers of that dtype can be labels."""
    if not np.issubdtype(dtype, np.integer):
        raise InputError(f"{what} must hold integers, got {dtype}; convert it before")


def places(count: int) -> Tensor:
    """The positions of so many inputs, (count,) int64. Raises `InputError` where there are too many for memory."""
    if count > MOST_INPUTS:
        raise InputError(f"{count} inputs are more than the {MOST_INPUTS} that are read; take the first few (--limit)")
    return torch.arange(count)


def as_inputs(values: object, what: str) -> Tensor:
    """A tensor or an array, floating point or uint8, as a float32 tensor on the CPU with the same values."""
    array = _array(values, what)
    require_inputs_kind(array.dtype, what)
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as that
        return torch.from_numpy(np.array(array, np.float32, order="C"))


def as_labels(values: object, what: str) -> Tensor:
    """A tensor, an array or a number of an integer kind as an int64 tensor on the CPU."""
    array = _array(values, what)
    require_labels_kind(array.dtype, what)
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{what} counts classes from 0, got {array.max()}")
    return torch.from_numpy(np.array(array, np.int64, order="C"))


def _array(values: object, what: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.ndarray | np.generic | int | list):
        try:
            return np.asarray(values)
        except ValueError as error:
            raise InputError(f"{what} is no array: {error}") from error
    raise InputError(
        f"{what} must be a tensor or an array, got {type(values).__name__}; a torch data set of images needs a "
        "transform such as torchvision.transforms.ToTensor()"
    )
