"""A data set by its name or its path, as the command line's `--data` gives it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pertbound.data import cifar_binary, huggingface, idx
from pertbound.data.arrays import load_npy, load_npz
from pertbound.data.cifar10 import load_cifar10
from pertbound.data.dataset import DataSet
from pertbound.data.digits import load_digits
from pertbound.data.folder import load_folder
from pertbound.data.images import Images
from pertbound.data.mnist import load_mnist
from pertbound.errors import DataError, InputError

FOLDER_VARIABLE = "PERTBOUND_DATA"
"""The environment variable that names the folder of data sets; `data` in the working folder otherwise."""

CHOICES = (
    "mnist, cifar10, digits, hf:NAME, or the path of a .npz file, a .npy file, an IDX file "
    "(...-images-idx3-ubyte[.gz]), a CIFAR binary file (.bin[.gz|.xz]), or a folder of images"
)
"""What `load` takes, in words."""

_MARKS = {
    "mnist": ("*-images-idx3-ubyte", "*-images-idx3-ubyte.gz"),
    "cifar10": ("*_batch*.bin*", "cifar-10-batches-bin"),
}


def load(
    name_or_path: str,
    folder: Path | None = None,
    *,
    train: bool = False,
    limit: int | None = None,
    download: bool = True,
    on_progress: Callable[[int], None] | None = None,
    images: Images | None = None,
) -> DataSet:
    """The data set `mnist`, `cifar10` or `digits`, one of Hugging Face's (`hf:NAME`), or the one in a file or a folder.

    `folder` holds the files of MNIST or CIFAR-10, itself or in its `mnist` or `cifar10`; without one it is
    the environment's `PERTBOUND_DATA`, or `data` in the working folder. What is absent is downloaded there,
    where allowed. A user's own files have no split, so `train` must be false. `limit` keeps the first inputs only.
    `images` says what is done to images in files. Raises `DataError`.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of at least 1 input is needed, got {limit}")
    try:
        data = _named(name_or_path, folder, train, download, on_progress)
        if data is None:
            data = _own(name_or_path, train, limit, images or Images())
        elif images is not None:
            _require_as_they_are(name_or_path, images)
    except (OSError, ValueError) as error:  # of paths: too long, with a zero byte, not to be read
        raise DataError(f"cannot read the data set {name_or_path[:200]!r}: {error}") from error
    return data if limit is None else data.limit(limit)


def _named(
    name: str, folder: Path | None, train: bool, download: bool, on_progress: Callable[[int], None] | None
) -> DataSet | None:
    if name == "digits":
        return load_digits(train=train)
    if name == "mnist":
        return load_mnist(_place(folder, "mnist"), train=train, download=download, on_progress=on_progress)
    if name == "cifar10":
        return load_cifar10(_place(folder, "cifar10"), train=train, download=download, on_progress=on_progress)
    return None


def _own(name: str, train: bool, limit: int | None, images: Images) -> DataSet:
    """A user's own data, by what its path is, or how it ends."""
    if name.startswith(huggingface.PREFIX):
        return huggingface.load_huggingface(name.removeprefix(huggingface.PREFIX), images, train=train)
    path = Path(name)
    if name and path.is_dir():
        if any((path / marker).is_file() for marker in huggingface.SAVED):
            return huggingface.load_huggingface(name, images, train=train)
        if any(path.glob(_MARKS["cifar10"][0])):
            _require_as_they_are(name, images)
            return load_cifar10(path, train=train, download=False)
        _require_no_split(name, train)
        return load_folder(path, images, limit=limit)
    readers: tuple[tuple[bool, Callable[[Path, int | None], DataSet]], ...] = (
        (name.endswith(".npz"), load_npz),
        (name.endswith(".npy"), load_npy),
        (idx.NAME.fullmatch(path.name) is not None, idx.load_idx),
        (name.endswith(cifar_binary.ENDINGS), cifar_binary.load_cifar_binary),
    )
    read = next((reader for fits, reader in readers if fits), None)
    if read is None or not (path.is_file() or name.endswith(".npz")):
        absent = "" if path.exists() else ", and no such file or folder"
        raise DataError(f"no data set {name!r}{absent}; the choices are {CHOICES}")
    _require_as_they_are(name, images)
    _require_no_split(name, train)
    return read(path, limit)


def _require_as_they_are(name: str, images: Images) -> None:
    if str(images):
        raise DataError(f"{name} has no image files: its images are neither resized nor cropped")


def _require_no_split(name: str, train: bool) -> None:
    if train:
        raise DataError(f"{name} has no training split: a file or a folder is one data set; leave train out")


def _place(folder: Path | None, name: str) -> Path:
    """Where the files of `name` are, or should be put: `folder` itself or the folder in it."""
    if folder is None:
        folder = Path(os.environ.get(FOLDER_VARIABLE) or "data")
    inner = folder / name
    if inner.is_dir():
        return inner
    holds = any(True for mark in _MARKS[name] for _ in folder.glob(mark))
    return folder if holds or folder.name == name else inner
