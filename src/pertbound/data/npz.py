"""Arrays in a `.npz` file: each is looked at before it is unpacked, and no more of it is unpacked than is wanted."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pertbound.data.npy import Header, read_header
from pertbound.data.numbers import require_inputs_kind, require_labels_kind
from pertbound.errors import DataError
from pertbound.unpacking import BLOCK, RATIO, allowed

EXAMPLE = "numpy.savez_compressed(path, x=inputs, y=labels)"
"""How such a file is written."""
MOST_READ = 2**22
"""What the zip library may read at once: longer directories are of some ten thousand members."""
ALWAYS = 2**30
"""What may be unpacked from any file, in bytes; more only from files of which it is at most `RATIO` times the size."""
_SHOWN = 5
_FAILS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, MemoryError, struct.error)
_DAMAGED = (zipfile.BadZipFile, zlib.error, *_FAILS)


def read_npz(path: Path, limit: int | None = None) -> dict[str, NDArray[Any]]:
    """The arrays `x` and, where there is one, `y` of a `.npz` file, or the first `limit` entries of each.

    Raises `DataError` before anything is unpacked where a header and the sizes in the zip directory contradict each
    other, where x and y differ in length, or where more would be unpacked than `unpacking.allowed` (with `ALWAYS`);
    `InputError` for numbers that can be neither inputs nor labels. Checksums are compared where a whole array is read.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; write one with {EXAMPLE}")
    try:
        with _Guarded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if "x" not in members:
                raise DataError(f"{path} has no array x, only {_listed(members)}; write it with {EXAMPLE}")
            wanted = {name: members[name] for name in ("x", "y") if name in members}
            headers = {name: _header(archive, info, f"{name} in {path}") for name, info in wanted.items()}
            require_inputs_kind(headers["x"].dtype, f"x in {path}")
            if "y" in headers:
                require_labels_kind(headers["y"].dtype, f"y in {path}")
            _require_lengths(headers, path)
            return {
                name: _read(archive, info, headers[name], limit, f"{name} in {path}") for name, info in wanted.items()
            }
    except DataError:
        raise
    except zipfile.BadZipFile as error:
        raise DataError(f"cannot read {path}: {error}; it is not a .npz file, or is damaged: {EXAMPLE}") from error
    except _DAMAGED as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"cannot read {path}: {said}; it is damaged, or not written by numpy.savez") from error


class _Guarded(io.BufferedReader):
    """A file that refuses huge single reads, so that a forged zip directory cannot fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_READ:
            raise DataError(f"{self.name}: its zip directory takes {size} bytes, and at most {MOST_READ} are read")
        return super().read(size)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str) -> Header:
    """The header of a member, which must agree with what the zip directory says."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{what} is compressed in another way than numpy does; write the file with {EXAMPLE}")
    there = Path(str(archive.filename)).stat().st_size
    if info.compress_size > there or (info.compress_type == zipfile.ZIP_STORED and info.compress_size < info.file_size):
        raise DataError(f"{what} is damaged: the zip directory says that it is larger than the file")
    with archive.open(info) as stream:
        header = read_header(stream, what)
    header.require_size(info.file_size, what)
    return header


def _require_lengths(headers: dict[str, Header], path: Path) -> None:
    """Raise `DataError` unless there is one label for each input."""
    shape = headers["x"].shape
    if "y" in headers and shape and headers["y"].shape != shape[:1]:
        raise DataError(
            f"{path}: labels must be int64 of shape ({shape[0]},), one for each input, got y of shape "
            f"{headers['y'].shape}"
        )


def _read(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header, limit: int | None, what: str
) -> NDArray[Any]:
    """The first `limit` entries along the first axis; of an array whose first index runs fastest, all are read."""
    partly = limit is not None and bool(header.shape) and limit < header.shape[0] and not header.fortran
    rows = limit if partly and limit is not None else None
    size = header.size if rows is None else rows * header.row
    most = allowed(info.compress_size, 2**62, ALWAYS)
    if info.compress_type != zipfile.ZIP_STORED and size > most:
        raise DataError(
            f"{what} takes {size} bytes when unpacked, which is more than {RATIO} times what it takes in the file "
            f"(and than {ALWAYS} bytes); take fewer inputs (--limit), or use numpy.save, whose files are read in parts"
        )
    shape = header.shape if rows is None else (rows, *header.shape[1:])
    flat = np.empty(size, np.uint8)
    with archive.open(info) as stream:
        stream.read(header.offset)
        _fill(stream, flat.data, what)
    array = flat.view(header.dtype)
    whole = array.reshape(shape, order="F" if header.fortran else "C")
    return whole if limit is None or not shape else whole[:limit]


def _fill(stream: IO[bytes], into: memoryview, what: str) -> None:
    at = 0
    while at < len(into):
        block = stream.read(min(BLOCK, len(into) - at))
        if not block:
            raise DataError(f"{what} is truncated: {at} of {len(into)} bytes are there")
        into[at : at + len(block)] = block
        at += len(block)


def _listed(members: dict[str, zipfile.ZipInfo]) -> str:
    names = [name[:40] for name in list(members)[:_SHOWN]]
    return str(names) + (f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else "")
