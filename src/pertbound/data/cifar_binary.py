"""A file in CIFAR's binary format: for each image its label, or two, then 3 x 32 x 32 bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.mapped import InFile, InMemory, Numbers
from pertbound.data.numbers import places
from pertbound.errors import DataError
from pertbound.unpacking import allowed, unpacked

_PIXELS = 3 * 32 * 32
_KINDS = (("CIFAR-10", 1, 10), ("CIFAR-100", 2, 100))
"""A name, how many labels each image has (the last, the finest, is taken), and how many classes."""
_MOST_BYTES, _ALWAYS = 2**30, 2**28
ENDINGS = (".bin", ".bin.gz", ".bin.xz")
"""How such files end."""


def load_cifar_binary(path: Path, limit: int | None = None) -> DataSet:
    """The images of one such file, (N, 3, 32, 32) in [0, 1], with CIFAR-10's labels or the fine ones of CIFAR-100.

    A plain file is read slice by slice, one that is packed is held in memory as bytes: at most `_MOST_BYTES` of them,
    and at most what `unpacking.allowed` says. Of `limit` images only so many are kept. Raises `DataError` when the file
    is absent or damaged.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    size = path.stat().st_size
    content = None
    if path.suffix != ".bin":
        content = np.frombuffer(unpacked(path, allowed(size, _MOST_BYTES, _ALWAYS), DataError), np.uint8)
        size = len(content)
    for name, heads, classes in _KINDS:
        record = heads + _PIXELS
        if size == 0 or size % record:
            continue
        shape = (size // record, record)
        stored = InFile(path, "|u1", 0, shape) if content is None else InMemory(content.reshape(shape))
        labels = _labels(stored, heads)
        if int(labels.max()) >= classes:
            continue
        inputs = Numbers(stored, (3, 32, 32), divisor=255.0).first(limit)
        return DataSet(
            name=path.name.partition(".")[0],
            inputs=inputs,
            labels=torch.from_numpy(labels[:limit].astype(np.int64)),
            pixel_scale=255.0,
            positions=places(len(inputs)),
            notes=(f"read as a file of {name}",),
            source=str(path),
            units=pixel_units(255),
        )
    raise DataError(
        f"{path} is no file of CIFAR-10 or CIFAR-100 in the binary format, or is damaged: {size} bytes are no whole "
        f"number of images of {_PIXELS + 1} or {_PIXELS + 2} bytes with labels below 10 or 100"
    )


def _labels(stored: InFile | InMemory, heads: int) -> NDArray[Any]:
    """Read a few thousand records at a time: a column of a whole file would take the whole file."""
    parts = [stored.rows(slice(at, at + 4096))[:, heads - 1] for at in range(0, stored.shape[0], 4096)]
    return np.concatenate(parts)
