"""A file in CIFAR's binary format: for each image its label, or two, then 3 x 32 x 32 bytes."""

from __future__ import annotations

import gzip
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.mapped import InFile, InMemory, Numbers
from pertbound.errors import DataError

_PIXELS = 3 * 32 * 32
_KINDS = (("CIFAR-10", 1, 10), ("CIFAR-100", 2, 100))
"""A name, how many labels each image has (the last, the finest, is taken), and how many classes."""
_MOST_BYTES = 1 << 30
ENDINGS = (".bin", ".bin.gz", ".bin.xz")
"""How such files end."""


def load_cifar_binary(path: Path) -> DataSet:
    """The images of one such file, (N, 3, 32, 32) in [0, 1], with CIFAR-10's labels or the fine ones of CIFAR-100.

    A plain file is read slice by slice, one that is packed is held in memory as bytes. Raises `DataError` when it is
    absent or damaged.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    content = None if path.suffix == ".bin" else np.frombuffer(unpacked(path, _MOST_BYTES), np.uint8)
    size = path.stat().st_size if content is None else len(content)
    for name, heads, classes in _KINDS:
        record = heads + _PIXELS
        if size == 0 or size % record:
            continue
        shape = (size // record, record)
        stored = InFile(path, "|u1", 0, shape) if content is None else InMemory(content.reshape(shape))
        labels = _labels(stored, heads)
        if int(labels.max()) >= classes:
            continue
        return DataSet(
            name=path.name.partition(".")[0],
            inputs=Numbers(stored, (3, 32, 32), divisor=255.0),
            labels=torch.from_numpy(labels.astype(np.int64)),
            pixel_scale=255.0,
            positions=torch.arange(len(labels)),
            notes=(f"read as a file of {name}",),
            source=str(path),
            units=pixel_units(255),
        )
    raise DataError(
        f"{path} is no file of CIFAR-10 or CIFAR-100 in the binary format, or is damaged: {size} bytes are no whole "
        f"number of images of {_PIXELS + 1} or {_PIXELS + 2} bytes with labels below 10 or 100"
    )


def unpacked(path: Path, most: int) -> bytes:
    """At most so many bytes of a plain, `.gz` or `.xz` file. Raises `DataError` when it is damaged."""
    try:
        with _open(path) as stream:
            return stream.read(most)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {error}; the file is damaged, fetch it again") from error


def _labels(stored: InFile | InMemory, heads: int) -> NDArray[Any]:
    """Read a few thousand records at a time: a column of a whole file would take the whole file."""
    parts = [stored.rows(slice(at, at + 4096))[:, heads - 1] for at in range(0, stored.shape[0], 4096)]
    return np.concatenate(parts)


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return lzma.open(path) if path.suffix == ".xz" else path.open("rb")
