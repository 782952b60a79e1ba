"""CIFAR-10: 32 x 32 colour photographs of ten classes, 50,000 for training and 10,000 for testing."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.download import Download, fetch
from pertbound.errors import DataError
from pertbound.unpacking import DAMAGED, opened

URLS: tuple[str, ...] = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
"""The authors' archive of the binary batches."""
MD5 = "c32a1d4ab5d03f1284b67883e8d13530"
"""The archive's checksum, as its authors publish it."""
PER_BATCH = 10_000
"""How many images each batch file holds."""

_TEST = ("test_batch",)
_TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
_FOLDER = "cifar-10-batches-bin"
_RECORD = 1 + 3 * 32 * 32
_MOST_BYTES = 200_000_000


def load_cifar10(
    folder: Path,
    *,
    train: bool,
    download: bool = True,
    urls: Sequence[str] = URLS,
    on_progress: Callable[[int], None] | None = None,
) -> DataSet:
    """CIFAR-10's training or test images as (N, 3, 32, 32) in [0, 1], from the binary batches.

    Each batch may be plain, `.gz` or `.xz`, in `folder` or in its `cifar-10-batches-bin`. When one is absent,
    the authors' archive is downloaded, where allowed, checked, and its batches are unpacked to the latter.
    A `not_exact.json` beside a batch (batch name -> positions of images that are only approximate) becomes a
    note. Raises `DataError` when files are absent or damaged.
    """
    names = _TRAIN if train else _TEST
    if any(_find(folder, name) is None for name in names):
        remedy = f"put {', '.join(f'{name}.bin' for name in names)} (plain, .gz or .xz) in {folder}"
        if not download:
            raise DataError(f"CIFAR-10 is not in {folder}; {remedy}, or allow the download")
        _download(folder, urls, remedy, on_progress)
    paths = [path for path in (_find(folder, name) for name in names) if path is not None]
    records = torch.from_numpy(np.concatenate([_records(path) for path in paths]))
    rough = [
        PER_BATCH * k + place
        for k, (path, name) in enumerate(zip(paths, names, strict=True))
        for place in _not_exact(path, name)
    ]
    notes = (f"{len(rough)} of the {len(records)} images of this split are not exact: positions {rough}",)
    return DataSet(
        name="cifar10",
        inputs=records[:, 1:].reshape(-1, 3, 32, 32).float().div_(255),
        labels=records[:, 0].long(),
        pixel_scale=255.0,
        positions=torch.arange(len(records)),
        notes=notes if rough else (),
        source=", ".join(str(path) for path in paths),
        units=pixel_units(255),
    )


def _find(folder: Path, name: str) -> Path | None:
    for place in (folder, folder / _FOLDER):
        for ending in (".bin", ".bin.gz", ".bin.xz"):
            if (place / f"{name}{ending}").is_file():
                return place / f"{name}{ending}"
    return None


def _records(path: Path) -> NDArray[np.uint8]:
    size = PER_BATCH * _RECORD
    content = _first(path, size + 1)
    if len(content) != size:
        problem = "is truncated" if len(content) < size else "has bytes left over"
        raise DataError(f"{path} {problem}: {PER_BATCH} images take {size} bytes, got {len(content)}")
    records = np.frombuffer(content, np.uint8).reshape(PER_BATCH, _RECORD)
    if records[:, 0].max() > 9:
        raise DataError(f"{path} holds the label {records[:, 0].max()}, and CIFAR-10's go from 0 to 9")
    return records


def _first(path: Path, most: int) -> bytes:
    """At most so many bytes of a plain or packed file."""
    try:
        with opened(path) as stream:
            return stream.read(most)
    except DAMAGED as error:
        raise DataError(f"cannot read {path}: {error}; the file is damaged, fetch it again") from error


def _not_exact(path: Path, name: str) -> list[int]:
    """The positions within batch `name` that the `not_exact.json` beside its file lists."""
    listing = path.parent / "not_exact.json"
    if not listing.exists():
        return []
    try:
        listed: dict[str, Any] = json.loads(listing.read_text(encoding="utf-8"))
        positions = [int(place) for place in listed.get(name, [])]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{listing} does not list positions for each batch: {error}") from error
    if any(not 0 <= place < PER_BATCH for place in positions):
        raise DataError(f"{listing} lists positions of {name} outside 0..{PER_BATCH - 1}: {positions}")
    return positions


def _download(folder: Path, urls: Sequence[str], remedy: str, on_progress: Callable[[int], None] | None) -> None:
    archive = folder / "cifar-10-binary.tar.gz"
    file = Download(urls=urls, algorithm="md5", checksum=MD5, most_bytes=_MOST_BYTES)
    try:
        fetch(file, archive, on_progress)
        try:
            _unpack(archive, folder / _FOLDER)
        finally:
            archive.unlink()
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def _unpack(archive: Path, folder: Path) -> None:
    """Write the six batches of `archive` to `folder`, under names of our own choice, and nothing else."""
    from pertbound.disk import write_whole  # here, because it loads pyarrow

    wanted = {f"{_FOLDER}/{name}.bin": folder / f"{name}.bin" for name in (*_TEST, *_TRAIN)}
    try:
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                target = wanted.get(member.name)
                content = members.extractfile(member) if target is not None and member.isfile() else None
                if target is not None and content is not None:
                    data = content.read(PER_BATCH * _RECORD + 1)
                    write_whole(target, lambda path, data=data: path.write_bytes(data))
                    del wanted[member.name]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"cannot unpack {archive}: {error}") from error
    if wanted:
        raise DataError(f"{archive} lacks {sorted(wanted)}")
