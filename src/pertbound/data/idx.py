"""Reading IDX files, the format of MNIST: a magic number, the sizes, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pertbound.errors import DataError

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 1 << 30


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes with `axes` axes; `.gz` files are unpacked.

    Raises `DataError` unless the file is exactly one such array, neither shorter nor longer.
    """
    content = _content(path)
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{path} is truncated: {len(content)} bytes, and its header alone takes {header}")
    magic, *shape = struct.unpack(f">{1 + axes}I", content[:header])
    expected = _UNSIGNED_BYTE << 8 | axes
    if magic != expected:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it begins with 0x{magic:08x}, "
            f"expected 0x{expected:08x}"
        )
    size = math.prod(shape)
    if len(content) != header + size:
        problem = "is truncated" if len(content) < header + size else "has bytes left over"
        raise DataError(f"{path} {problem}: shape {tuple(shape)} takes {header + size} bytes, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
