"""Bytes of files that strangers wrote: whole, or gzipped, and never more of them than was allowed."""

from __future__ import annotations

from pathlib import Path

from pertbound import unpacking
from pertbound.errors import PertboundError


def read_bytes(path: Path, most: int, error: type[PertboundError]) -> bytes:
    """The bytes of a regular file, inflated where its name ends in .gz; at most `most`.

    What is inflated is bounded by `unpacking.allowed` too. Raises `error` when the file is absent, no regular file,
    larger than that, or damaged.
    """
    try:
        if not path.is_file():  # no pipes and devices, which may never end
            raise error(f"{path}: {'is not a file' if path.exists() else 'no such file'}; check the path")
        size = path.stat().st_size
        if size > most:
            raise error(f"{path}: has {size} bytes; at most {most} are read")
        if path.suffix == ".gz":
            return unpacking.unpacked(path, unpacking.allowed(size, most), error)
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as cause:
        raise error(f"{path}: cannot be read ({cause})") from cause
