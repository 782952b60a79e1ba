"""Unpacking what others packed: in blocks, and never more of it than was allowed."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, cast

from pertbound.errors import PertboundError

BLOCK = 2**20
"""How many bytes are unpacked at once."""
ALWAYS = 2**24
"""What may be unpacked from any file, in bytes."""
RATIO = 200
"""How many times larger than the file what is unpacked from it may be; weights, images and properties shrink ten times.
Deflated zeros shrink a thousand times, and so do decompression bombs."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What the decoders raise for files that are damaged, or end too early."""


def allowed(packed: int, most: int, always: int = ALWAYS) -> int:
    """How many bytes may be unpacked from `packed` bytes: `RATIO` times as many, or `always`, and at most `most`."""
    return min(most, max(always, RATIO * packed))


def opened(path: Path) -> IO[bytes]:
    """The contents of a plain, `.gz` or `.xz` file as a stream. Reading it raises one of `DAMAGED`."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return lzma.open(path) if path.suffix == ".xz" else path.open("rb")


def unpacked(path: Path, most: int, error: type[PertboundError]) -> bytes:
    """All bytes of a plain, `.gz` or `.xz` file. Raises `error` when it is damaged, or holds more than `most`."""
    found = io.BytesIO()
    try:
        with opened(path) as stream:
            while block := stream.read(BLOCK):
                if found.tell() + len(block) > most:
                    raise error(f"{path}: inflates to more than {most} bytes; unpack it and look at it first")
                found.write(block)
    except EOFError as cause:
        raise error(
            f"cannot read {path}: it ends within its packed data ({cause}); copy or download it again"
        ) from cause
    except DAMAGED as cause:
        kind = {".gz": "it is no gzip file, or damaged", ".xz": "it is no xz file, or damaged"}.get(
            path.suffix, "it is damaged"
        )
        raise error(f"cannot read {path}: {kind} ({cause}); copy or download it again") from cause
    return found.getvalue()
