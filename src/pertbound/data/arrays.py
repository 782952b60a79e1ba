"""A user's own data, from a `.npz` or a `.npy` file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pertbound.data.dataset import BYTES, DataSet
from pertbound.data.inputs import Inputs
from pertbound.data.mapped import InFile, Numbers
from pertbound.data.numbers import as_inputs, as_labels, require_inputs_kind
from pertbound.errors import DataError, InputError

_EXAMPLE = "numpy.savez_compressed(path, x=inputs, y=labels)"

T = TypeVar("T")


def load_npz(path: Path) -> DataSet:
    """The data set of a `.npz` file: inputs `x` and, optionally, labels `y`; held in memory.

    `x` is (N, *shape), floating point or uint8; its values become float32 at the scale they have. `y` is (N,), integers
    from 0 up. Nothing is unpickled. Raises `DataError` when the file is absent, damaged, or holds something else.
    """
    arrays = _arrays(path)
    x, y = arrays["x"], arrays.get("y")

    def made() -> DataSet:
        labels = None if y is None else as_labels(y, f"y in {path}")
        return _data_set(path, as_inputs(x, f"x in {path}"), labels, x.dtype)

    return _naming(path, made)


def load_npy(path: Path) -> DataSet:
    """The data set of a `.npy` file, read slice by slice: inputs as `x` in `load_npz`.

    Labels, where there are any, stand beside it: `NAME.labels.npy` for `NAME.npy`. Values are checked when they are
    read. Nothing is unpickled. Raises `DataError` when a file is absent, damaged, or holds something else.
    """
    stored = _in_file(path)
    beside = path.with_name(f"{path.stem}.labels.npy")

    def made() -> DataSet:
        dtype = np.dtype(stored.dtype)
        require_inputs_kind(dtype, "the array")
        labels = as_labels(_in_file(beside).rows(slice(None)), beside.name) if beside.exists() else None
        if len(stored.shape) < 2:
            raise InputError(f"the array must have the shape (N, *shape), got {stored.shape}")
        return _data_set(path, Numbers(stored, stored.shape[1:]), labels, dtype)

    return _naming(path, made)


def _data_set(path: Path, inputs: Inputs, labels: Tensor | None, dtype: np.dtype[Any]) -> DataSet:
    return DataSet(
        name=path.stem,
        inputs=inputs,
        labels=labels,
        pixel_scale=1.0,
        positions=torch.arange(inputs.shape[0] if len(inputs.shape) else 0),
        notes=(),
        source=str(path),
        units=BYTES if dtype == np.uint8 else f"the values in {path.name}",
    )


def _naming(path: Path, made: Callable[[], T]) -> T:
    try:
        return made()
    except InputError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _in_file(path: Path) -> InFile:
    """Where the array of a `.npy` file stands, which is all of the rest of the file."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; write one with numpy.save(path, inputs)")
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise DataError(f"{path} is of version {version} of the format, which is not read; save plain numbers")
            shape, fortran, dtype = read[version](stream)
            offset = stream.tell()
        size = path.stat().st_size - offset
    except DataError:
        raise
    except Exception as error:  # numpy fails in many ways, such as with tokenize.TokenError
        raise DataError(
            f"{path} is not a .npy file, or is damaged: {error}; write one with numpy.save(path, inputs)"
        ) from error
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects, which are never unpickled; save plain numbers")
    if any(length < 0 for length in shape):
        raise DataError(f"{path} is damaged: its header claims the shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        problem = "is truncated" if size < expected else "has bytes left over"
        raise DataError(f"{path} {problem}: shape {shape} of {dtype} takes {expected} bytes, got {size}")
    if expected == 0:
        raise DataError(f"{path} is empty: its array has the shape {shape}")
    return InFile(path, dtype.str, offset, shape, fortran)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; write one with {_EXAMPLE}")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not a .npz file, or is damaged; write one with {_EXAMPLE}")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if "x" not in stored.files:
                raise DataError(f"{path} has no array x, only {stored.files}; write it with {_EXAMPLE}")
            return {name: stored[name] for name in ("x", "y") if name in stored.files}
    except DataError:
        raise
    except Exception as error:  # as above, and MemoryError for a file that claims too much
        raise DataError(f"cannot read {path}: {error}; object arrays are not read, save plain numbers") from error
