"""IDX files, the format of MNIST: a magic number, the sizes, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.mapped import InFile, InMemory, Numbers
from pertbound.errors import DataError, InputError

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 1 << 30
_MOST_AXES = 8

NAME = re.compile(r"(?P<stem>.*)images(?P<mark>[-.]idx)\d(?P<end>-ubyte)(\.gz)?")
"""How IDX files of images are called: `t10k-images-idx3-ubyte`, `train-images.idx3-ubyte.gz`."""


def load_idx(path: Path) -> DataSet:
    """The images of an IDX file, (N, 1, height, width) in [0, 1]; those with a fourth axis keep it as channels.

    Their labels are read from the file beside it that has `labels` and `idx1` in its name instead, plain or `.gz`,
    where there is one. A plain file is read slice by slice, one that is packed is held in memory as bytes. Raises
    `DataError` when files are absent or damaged, or do not belong together.
    """
    found = NAME.fullmatch(path.name)
    if found is None or not path.is_file():
        raise DataError(f"there is no file of images {path}; such files are called like t10k-images-idx3-ubyte[.gz]")
    axes = _axes(path)
    stored = InMemory(read_idx(path, axes)) if path.suffix == ".gz" else _in_file(path, axes)
    shape = stored.shape
    if len(shape) < 2 or 0 in shape:
        raise DataError(f"{path} holds no images: its array has the shape {shape}")
    sample = (1, *shape[1:]) if len(shape) == 3 else shape[1:]
    beside = f"{found['stem']}labels{found['mark']}1{found['end']}"
    labels_at = next((at for end in ("", ".gz") if (at := path.with_name(beside + end)).is_file()), None)
    labels = None if labels_at is None else torch.from_numpy(read_idx(labels_at, 1).astype(np.int64))
    try:
        return DataSet(
            name=found["stem"].strip("-._") or path.name,
            inputs=Numbers(stored, sample, divisor=255.0),
            labels=labels,
            pixel_scale=255.0,
            positions=torch.arange(shape[0]),
            notes=(),
            source=str(path) if labels_at is None else f"{path}, {labels_at.name}",
            units=pixel_units(255),
        )
    except InputError as error:
        raise DataError(f"{path} and {labels_at} do not belong together: {error}") from error


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes with `axes` axes; `.gz` files are unpacked.

    Raises `DataError` unless the file is exactly one such array, neither shorter nor longer.
    """
    content = _content(path)
    shape, header = _shape(path, content[: 4 + 4 * axes], len(content), axes)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _in_file(path: Path, axes: int) -> InFile:
    """Where the array of a plain file stands."""
    try:
        with path.open("rb") as stream:
            shape, header = _shape(path, stream.read(4 + 4 * axes), path.stat().st_size, axes)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return InFile(path, "|u1", header, shape)


def _axes(path: Path) -> int:
    """How many axes the file says that it has."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic = stream.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; the file is damaged, fetch it again") from error
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= _MOST_AXES:
        raise DataError(f"{path} is not an IDX file of unsigned bytes: it begins with {magic.hex() or 'nothing'}")
    return magic[3]


def _shape(path: Path, begin: bytes, size: int, axes: int) -> tuple[tuple[int, ...], int]:
    """The array's shape and the header's length, from the first bytes of a file of that size."""
    header = 4 + 4 * axes
    if len(begin) < header:
        raise DataError(f"{path} is truncated: {size} bytes, and its header alone takes {header}")
    magic, *shape = struct.unpack(f">{1 + axes}I", begin)
    expected = _UNSIGNED_BYTE << 8 | axes
    if magic != expected:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it begins with 0x{magic:08x}, "
            f"expected 0x{expected:08x}"
        )
    entries = math.prod(shape)
    if size != header + entries:
        problem = "is truncated" if size < header + entries else "has bytes left over"
        raise DataError(f"{path} {problem}: shape {tuple(shape)} takes {header + entries} bytes, got {size}")
    return tuple(shape), header


def _content(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            content = stream.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; the file is absent or damaged, fetch it again") from error
    if len(content) == _MOST_BYTES:
        raise DataError(f"{path} unpacks to more than {_MOST_BYTES} bytes, so it is not an image data set")
    return content
