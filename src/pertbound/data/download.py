"""Fetching a public file: checked, limited in size, and never left half written."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pertbound.disk import write_whole
from pertbound.errors import DataError

_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to fetch and how to know it."""

    urls: Sequence[str]
    """Places that hold the same file, tried in this order; http and https only."""
    algorithm: str
    """The checksum's algorithm, by its `hashlib` name."""
    checksum: str
    most_bytes: int
    """A larger answer is given up as something else."""
    timeout: float = 30.0
    """Seconds without any data after which a place is given up."""


def fetch(file: Download, path: Path, on_progress: Callable[[int], None] | None = None) -> None:
    """Fetch `file` to `path` from the first place that has it, telling `on_progress` the bytes so far.

    `path` appears only when the checksum is right. Raises `DataError` with every place that was tried and
    what went wrong there.
    """
    failures: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in file.urls:
            failure = _try(url, file, path, on_progress)
            if failure is None:
                return
            failures.append(f"{url}: {failure}")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; choose a folder that can be written") from error
    raise DataError(f"could not download {path.name}; tried " + "; ".join(failures))


class _GivenUpError(Exception):
    pass


def _try(url: str, file: Download, path: Path, on_progress: Callable[[int], None] | None) -> str | None:
    try:
        write_whole(path, lambda temporary: _receive(url, file, temporary, on_progress))
    except _GivenUpError as error:
        return str(error)
    return None


def _receive(url: str, file: Download, path: Path, on_progress: Callable[[int], None] | None) -> None:
    if not url.startswith(("https://", "http://")):
        raise _GivenUpError("not an http or https address")
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    got = 0
    with path.open("wb") as stream:
        for block, announced in _blocks(url, file.timeout):
            got += len(block)
            if max(got, announced or 0) > file.most_bytes:
                raise _GivenUpError(f"larger than {file.most_bytes} bytes")
            digest.update(block)
            stream.write(block)
            if on_progress is not None:
                on_progress(got)
    if digest.hexdigest() != file.checksum:
        raise _GivenUpError(f"wrong {file.algorithm} {digest.hexdigest()} after {got} bytes, expected {file.checksum}")


def _blocks(url: str, timeout: float) -> Iterator[tuple[bytes, int | None]]:
    """The answer's blocks, each with the size that was announced; a short answer is given up."""
    got = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            announced = answer.length
            while block := answer.read(_BLOCK):
                got += len(block)
                yield block, announced
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _GivenUpError(str(error) or type(error).__name__) from error
    if announced is not None and got < announced:
        raise _GivenUpError(f"truncated: {got} of {announced} bytes came")
