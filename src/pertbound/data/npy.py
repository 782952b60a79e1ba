"""What a `.npy` file says of itself, read before anything else of it, and compared with what is there."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import IO, Any, final

import numpy as np

from pertbound.errors import DataError

_START = 12
"""The bytes that hold the magic number, the version and the header's length."""
_MOST_HEADER = 10_000
"""Longer headers are of many columns; numpy refuses them too, but after having read them."""


@final
@dataclass(frozen=True)
class Header:
    """Shape, order and dtype of an array, and how many bytes stand before its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index runs fastest."""
    dtype: np.dtype[Any]
    offset: int

    @property
    def row(self) -> int:
        """The bytes of one entry along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """The bytes of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def require_size(self, size: int, what: str) -> None:
        """Raise `DataError` unless the file's or member's `size` is exactly what the header announces."""
        held = size - self.offset
        if held != self.size:
            problem = "is truncated" if held < self.size else "has bytes left over"
            raise DataError(f"{what} {problem}: shape {self.shape} of {self.dtype} takes {self.size} bytes, got {held}")


def read_header(stream: IO[bytes], what: str) -> Header:
    """The header at the beginning of a stream, of which no more is read. Raises `DataError`, which begins with `what`.

    The shape must be of integers (True is none) from 0 up whose product, in bytes, fits 63 bits; Python objects are
    refused, as they would have to be unpickled.
    """
    try:
        begin = stream.read(_START)
        version = np.lib.format.read_magic(io.BytesIO(begin))
        width = {(1, 0): 2, (2, 0): 4}.get(version)
        if width is None:
            raise DataError(f"{what} is of version {version} of the format, which is not read; save plain numbers")
        length = int.from_bytes(begin[8 : 8 + width], "little")
        if length > _MOST_HEADER:
            raise DataError(f"{what} is damaged: its header claims {length} bytes, and at most {_MOST_HEADER} are read")
        offset = 8 + width + length
        whole = io.BytesIO((begin + stream.read(max(0, offset - len(begin))))[8:offset])
        read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(whole)
    except DataError:
        raise
    except Exception as error:  # numpy fails in many ways, such as with tokenize.TokenError
        said = str(error).partition("\n")[0][:200]
        raise DataError(f"{what} is not in the .npy format, or is damaged: {said}; write it with numpy.save") from error
    if dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects, which are never unpickled: object arrays are not read; save plain numbers"
        )
    claimed: tuple[Any, ...] = shape
    whole_numbers = all(type(length) is int and 0 <= length < 2**63 for length in claimed)
    if not whole_numbers or math.prod(max(length, 1) for length in claimed) * max(dtype.itemsize, 1) >= 2**63:
        raise DataError(f"{what} is damaged: its header claims the shape {str(claimed)[:80]} of {str(dtype)[:80]}")
    return Header(tuple(claimed), bool(fortran), dtype, offset)
