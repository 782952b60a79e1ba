"""A user's own data, from a `.npz` or a `.npy` file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from pertbound.data.dataset import BYTES, DataSet
from pertbound.data.inputs import Inputs
from pertbound.data.mapped import InFile, Numbers
from pertbound.data.npy import read_header
from pertbound.data.npz import read_npz
from pertbound.data.numbers import as_inputs, as_labels, places, require_inputs_kind
from pertbound.errors import DataError, InputError

T = TypeVar("T")


def load_npz(path: Path, limit: int | None = None) -> DataSet:
    """The data set of a `.npz` file: inputs `x` and, optionally, labels `y`; held in memory.

    `x` is (N, *shape), floating point or uint8; its values become float32 at the scale they have. `y` is (N,), integers
    from 0 up. Of `limit` inputs no more is unpacked than they take. Nothing is unpickled. Raises `DataError` when the
    file is absent, damaged, unpacks to far more than it takes (see `read_npz`), or holds something else.
    """

    def made() -> DataSet:
        arrays = read_npz(path, limit)
        x, y = arrays["x"], arrays.get("y")
        labels = None if y is None else as_labels(y, f"y in {path}")
        return _data_set(path, as_inputs(x, f"x in {path}"), labels, x.dtype)

    return _naming(path, made)


def load_npy(path: Path, limit: int | None = None) -> DataSet:
    """The data set of a `.npy` file, read slice by slice: inputs as `x` in `load_npz`.

    Labels, where there are any, stand beside it: `NAME.labels.npy` for `NAME.npy`. Values are checked when they are
    read; with `limit` only the first so many inputs count. Nothing is unpickled. Raises `DataError` when a file is
    absent, damaged, or holds something else.
    """
    stored = _in_file(path)
    beside = path.with_name(f"{path.stem}.labels.npy")

    def made() -> DataSet:
        dtype = np.dtype(stored.dtype)
        require_inputs_kind(dtype, "the array")
        if len(stored.shape) < 2:
            raise InputError(f"the array must have the shape (N, *shape), got {stored.shape}")
        labels = _labels(beside, stored.shape[0], limit) if beside.exists() else None
        return _data_set(path, Numbers(stored, stored.shape[1:]).first(limit), labels, dtype)

    return _naming(path, made)


def _labels(path: Path, count: int, limit: int | None) -> Tensor:
    stored = _in_file(path)
    if stored.shape != (count,):
        raise InputError(
            f"labels must be int64 of shape ({count},), one for each input, got {path.name} of shape {stored.shape}"
        )
    return as_labels(stored.rows(slice(0, count if limit is None else limit)), path.name)


def _data_set(path: Path, inputs: Inputs, labels: Tensor | None, dtype: np.dtype[Any]) -> DataSet:
    return DataSet(
        name=path.stem,
        inputs=inputs,
        labels=labels,
        pixel_scale=1.0,
        positions=places(inputs.shape[0] if len(inputs.shape) else 0),
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
            header = read_header(stream, str(path))
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    header.require_size(size, str(path))
    if header.size == 0:
        raise DataError(f"{path} is empty: its array has the shape {header.shape}")
    return InFile(path, header.dtype.str, header.offset, header.shape, header.fortran)
