"""Whole files: what is read is a regular file of a bounded size, and nothing but a regular file is ever replaced.

Symbolic links are followed in the folders of a path, as everywhere, and never at its end: a link there is refused, to
whatever it leads. Nothing that is no file is opened: opening alone can block (a named pipe) or act (a device).
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DEEPEST = 64
"""Levels that JSON may have, one in the other."""
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def kind(path: Path) -> str:
    """What is there, itself and not what it leads to: "" for nothing, "a file", "a folder", "a symbolic link", ..."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return "a file" if stat.S_ISREG(mode) else next((word for test, word in _KINDS if test(mode)), "no file")


@contextmanager
def open_whole(path: Path, most: int) -> Generator[IO[bytes]]:
    """A regular file, to be read. Raises `OSError` for anything else, and for one of more than `most` bytes."""
    if (what := kind(path)) not in ("", "a file"):
        raise OSError(f"{path} is {what}; only regular files are read")
    with open(os.open(path, _OPEN), "rb") as stream:  # noqa: PTH123 - a descriptor, which follows no link
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path} is no regular file; only those are read")
        if about.st_size > most:
            raise OSError(f"{path} has {about.st_size:,} bytes; such a file has at most {most:,}")
        yield stream


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a regular file. Raises `OSError` for anything else, and for more than `most` bytes."""
    with open_whole(path, most) as stream:
        return stream.read(os.fstat(stream.fileno()).st_size)


def plain_json(data: bytes) -> Any:
    """The value of JSON. Raises `ValueError` where it is damaged or not plain.

    Not plain are NaN, infinity and integers beyond 64 bits, an object with one name twice, more than `DEEPEST` levels,
    and halves of surrogate pairs.
    """
    hooks: dict[str, Any] = {"parse_constant": _float, "parse_float": _float, "parse_int": _integer}
    try:
        value = json.loads(data, object_pairs_hook=_object, **hooks)
    except RecursionError:
        raise ValueError(f"its JSON has more than {DEEPEST} levels") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        if not level:
            return value
        level = [inner for outer in level for inner in _inside(outer)]
    raise ValueError(f"its JSON has more than {DEEPEST} levels")


def write_whole(path: Path, write_to: Callable[[Path], object], *, mark: str = "") -> None:
    """Call `write_to` with another name beside `path`, sync, then rename: readers never see half a file.

    Only a regular file is replaced: raises `OSError` where the path is a folder, a link, a pipe, a socket or a device.
    The other name is `.<name>.<mark>.part`, with a random mark where none is given; it must not exist.
    """
    require_replaceable(path)
    temporary = path.with_name(f".{path.name}.{mark or secrets.token_hex(8)}.part")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        write_to(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        require_replaceable(path)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """Raise `OSError` where something is there that a new file must not take the place of."""
    if (what := kind(path)) not in ("", "a file"):
        raise OSError(f"{path} is {what}, and only a regular file is replaced; name another file")


def require_folder(path: Path) -> None:
    """Raise `OSError` unless this is a folder itself, or nothing."""
    if (what := kind(path)) not in ("", "a folder"):
        raise OSError(f"{path} is {what}, and a folder is needed there")


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        value.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
        return ()
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds {text[:20]}, which is no finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"it holds {text[:20]}..., which is no integer of 64 bits")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object in it has the name {name[:50]!r} twice")
        found[name] = value
    return found


def _sync(folder: Path) -> None:
    """Make a new name in a folder last, where folders can be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
