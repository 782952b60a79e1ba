"""A user's own data, from a `.npz` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet
from pertbound.errors import DataError, InputError

_EXAMPLE = "numpy.savez_compressed(path, x=inputs, y=labels)"


def load_npz(path: Path) -> DataSet:
    """The data set of a `.npz` file: inputs `x` and, optionally, labels `y`.

    `x` is (N, *shape), floating point or uint8; its values become float32 at the scale they have, so write
    what the classifier expects. `y` is (N,), integers from 0 up. Nothing is unpickled.
    Raises `DataError` when the file is absent, damaged, or holds something else.
    """
    arrays = _arrays(path)
    x, y = arrays["x"], arrays.get("y")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"x in {path} must be floating point or uint8, got {x.dtype}; convert it before saving")
    if y is not None and not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"y in {path} must hold integers, got {y.dtype}; convert it before saving")
    with np.errstate(over="ignore"):
        inputs = torch.from_numpy(x.astype(np.float32))
    try:
        return DataSet(
            name=path.stem,
            inputs=inputs,
            labels=None if y is None else torch.from_numpy(y.astype(np.int64)),
            pixel_scale=1.0,
            positions=torch.arange(len(inputs) if inputs.ndim else 0),
            notes=(),
            source=str(path),
        )
    except InputError as error:
        raise DataError(f"{path}: {error}") from error


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; write one with {_EXAMPLE}")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not a .npz file, or is damaged; write one with {_EXAMPLE}")
        with np.load(path, allow_pickle=False) as stored:
            if "x" not in stored.files:
                raise DataError(f"{path} has no array x, only {stored.files}; write it with {_EXAMPLE}")
            return {name: stored[name] for name in ("x", "y") if name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; object arrays are not read, save plain numbers") from error
