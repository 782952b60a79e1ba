"""IDX files, the format of MNIST: a magic number, the sizes, then unsigned bytes."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.mapped import InFile, InMemory, Numbers
from pertbound.data.numbers import places
from pertbound.errors import DataError, InputError
from pertbound.unpacking import DAMAGED, opened

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 1 << 30
_MOST_AXES = 8

NAME = re.compile(r"(?P<stem>.*)images(?P<mark>[-.]idx)\d(?P<end>-ubyte)(\.gz)?")
"""How IDX files of images are called: `t10k-images-idx3-ubyte`, `train-images.idx3-ubyte.gz`."""


def load_idx(path: Path, limit: int | None = None) -> DataSet:
    """The images of an IDX file, (N, 1, height, width) in [0, 1]; those with a fourth axis keep it as channels.

    Their labels are read from the file beside it that has `labels` and `idx1` in its name instead, plain or `.gz`,
    where there is one. A plain file is read slice by slice, one that is packed is held in memory as bytes; of `limit`
    images no more is unpacked than they take. Raises `DataError` when files are absent or damaged, or do not belong
    together.
    """
    found = NAME.fullmatch(path.name)
    if found is None or not path.is_file():
        raise DataError(f"there is no file of images {path}; such files are called like t10k-images-idx3-ubyte[.gz]")
    shape = _shape(path)
    axes = len(shape)
    stored = InMemory(read_idx(path, axes, limit)) if path.suffix == ".gz" else _in_file(path, axes)
    if axes < 2 or 0 in shape:
        raise DataError(f"{path} holds no images: its array has the shape {shape}")
    sample = (1, *shape[1:]) if len(shape) == 3 else shape[1:]
    beside = f"{found['stem']}labels{found['mark']}1{found['end']}"
    labels_at = next((at for end in ("", ".gz") if (at := path.with_name(beside + end)).is_file()), None)
    if labels_at is not None and _shape(labels_at) != shape[:1]:
        raise DataError(f"{path} and {labels_at} do not belong together: {shape[0]} images, labels {_shape(labels_at)}")
    labels = None if labels_at is None else torch.from_numpy(read_idx(labels_at, 1, limit).astype(np.int64))
    inputs = Numbers(stored, sample, divisor=255.0).first(limit)
    try:
        return DataSet(
            name=found["stem"].strip("-._") or path.name,
            inputs=inputs,
            labels=labels,
            pixel_scale=255.0,
            positions=places(len(inputs)),
            notes=(),
            source=str(path) if labels_at is None else f"{path}, {labels_at.name}",
            units=pixel_units(255),
        )
    except InputError as error:
        raise DataError(f"{path} and {labels_at} do not belong together: {error}") from error


def read_idx(path: Path, axes: int, limit: int | None = None) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes with `axes` axes, or its first `limit` entries; `.gz` is unpacked.

    The header is compared with what is wanted before more is read. Raises `DataError` unless the file is exactly one
    such array, neither shorter nor longer; with a `limit`, what comes after it is not looked at in a packed file.
    """
    header = 4 + 4 * axes
    try:
        with opened(path) as stream:
            begin = stream.read(header)
            shape = _claimed(path, begin, axes)
            rows = shape[0] if limit is None else min(limit, shape[0])
            wanted = rows * math.prod(shape[1:])
            if wanted > _MOST_BYTES:
                raise DataError(
                    f"{path} is truncated, or too large: its header claims {wanted} bytes, and at most {_MOST_BYTES} "
                    "are unpacked"
                )
            content = stream.read(wanted + (rows == shape[0]))  # a byte more, which must not be there
    except DAMAGED as error:
        raise DataError(f"cannot read {path}: {error}; the file is absent or damaged, fetch it again") from error
    if rows == shape[0] or len(content) < wanted:
        _require_size(path, shape, header + len(content), over=len(content) > wanted)
    return np.frombuffer(content, np.uint8, count=wanted).reshape(rows, *shape[1:])


def _in_file(path: Path, axes: int) -> InFile:
    """Where the array of a plain file stands."""
    try:
        with path.open("rb") as stream:
            shape = _claimed(path, stream.read(4 + 4 * axes), axes)
        _require_size(path, shape, path.stat().st_size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return InFile(path, "|u1", 4 + 4 * axes, shape)


def _shape(path: Path) -> tuple[int, ...]:
    """The shape that the file says that it has."""
    try:
        with opened(path) as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= _MOST_AXES:
                raise DataError(
                    f"{path} is not an IDX file of unsigned bytes: it begins with {magic.hex() or 'nothing'}"
                )
            return _claimed(path, magic + stream.read(4 * magic[3]), magic[3])
    except DAMAGED as error:
        raise DataError(f"cannot read {path}: {error}; the file is damaged, fetch it again") from error


def _claimed(path: Path, begin: bytes, axes: int) -> tuple[int, ...]:
    """The array's shape, from the first bytes of a file."""
    if len(begin) < 4 + 4 * axes:
        raise DataError(f"{path} is truncated: {len(begin)} bytes, and its header alone takes {4 + 4 * axes}")
    magic, *shape = struct.unpack(f">{1 + axes}I", begin)
    expected = _UNSIGNED_BYTE << 8 | axes
    if magic != expected:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it begins with 0x{magic:08x}, "
            f"expected 0x{expected:08x}"
        )
    return tuple(shape)


def _require_size(path: Path, shape: tuple[int, ...], size: int, *, over: bool = False) -> None:
    """Raise `DataError` unless a file of that size holds the header and that shape; `over`: or has even more bytes."""
    expected = 4 + 4 * len(shape) + math.prod(shape)
    if size != expected or over:
        problem = "is truncated" if size < expected else "has bytes left over"
        got = f"more than {expected}" if over else size
        raise DataError(f"{path} {problem}: shape {shape} takes {expected} bytes, got {got}")
