"""Bytes of files that strangers wrote: whole, or gzipped, and never more of them than was allowed."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

from pertbound.errors import PertboundError

_BLOCK = 1 << 20
_RATIO = 200
"""How many times larger than the file what is inflated from it may be; weights and properties shrink ten times."""
_ALWAYS = 1 << 24
"""What may be inflated from any file, in bytes."""


def read_bytes(path: Path, most: int, error: type[PertboundError]) -> bytes:
    """The bytes of a regular file, inflated where its name ends in .gz; at most `most`.

    Raises `error` when it is absent, no regular file, larger than that, or damaged.
    """
    try:
        if not path.is_file():  # no pipes and devices, which may never end
            raise error(f"{path}: {'is not a file' if path.exists() else 'no such file'}; check the path")
        size = path.stat().st_size
        if size > most:
            raise error(f"{path}: has {size} bytes; at most {most} are read")
        data = path.read_bytes()
    except (OSError, ValueError, MemoryError) as cause:
        raise error(f"{path}: cannot be read ({cause})") from cause
    return _inflated(path, data, min(most, max(_ALWAYS, _RATIO * size)), error) if path.suffix == ".gz" else data


def _inflated(path: Path, data: bytes, most: int, error: type[PertboundError]) -> bytes:
    """All members of a gzip file, one after the other."""
    result, rest = io.BytesIO(), data
    try:
        while rest:
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof:
                block = stream.decompress(rest, _BLOCK)
                rest = stream.unconsumed_tail
                result.write(block)
                if result.tell() > most:
                    raise error(f"{path}: inflates to more than {most} bytes; unpack it and look at it first")
                if not block and not rest and not stream.eof:
                    raise error(f"{path}: ends within its gzip data; copy or download it again")
            rest = stream.unused_data.lstrip(b"\0")
    except zlib.error as cause:
        raise error(f"{path}: is no gzip file, or damaged ({cause}); copy or download it again") from cause
    return result.getvalue()
