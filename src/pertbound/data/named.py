"""A data set by its name, as the command line's `--data` gives it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pertbound.data.arrays import load_npz
from pertbound.data.cifar10 import load_cifar10
from pertbound.data.dataset import DataSet
from pertbound.data.digits import load_digits
from pertbound.data.mnist import load_mnist
from pertbound.errors import DataError

FOLDER_VARIABLE = "PERTBOUND_DATA"
"""The environment variable that names the folder of data sets; `data` in the working folder otherwise."""

CHOICES = "mnist, cifar10, digits, or the path of a .npz file"
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
) -> DataSet:
    """The data set `mnist`, `cifar10` or `digits`, or the one in a `.npz` file.

    `folder` holds the files of MNIST or CIFAR-10, itself or in its `mnist` or `cifar10`; without one it is
    the environment's `PERTBOUND_DATA`, or `data` in the working folder. What is absent is downloaded there,
    where allowed. A `.npz` file has no split, so `train` must be false. `limit` keeps the first inputs only.
    """
    if name_or_path == "digits":
        data = load_digits(train=train)
    elif name_or_path == "mnist":
        data = load_mnist(_place(folder, "mnist"), train=train, download=download, on_progress=on_progress)
    elif name_or_path == "cifar10":
        data = load_cifar10(_place(folder, "cifar10"), train=train, download=download, on_progress=on_progress)
    elif name_or_path.endswith(".npz"):
        if train:
            raise DataError(f"{name_or_path} has no training split: a .npz file is one data set; leave train out")
        data = load_npz(Path(name_or_path))
    else:
        raise DataError(f"no data set {name_or_path!r}; the choices are {CHOICES}")
    return data if limit is None else data.limit(limit)


def _place(folder: Path | None, name: str) -> Path:
    """Where the files of `name` are, or should be put: `folder` itself or the folder in it."""
    if folder is None:
        folder = Path(os.environ.get(FOLDER_VARIABLE) or "data")
    inner = folder / name
    if inner.is_dir():
        return inner
    holds = any(True for mark in _MARKS[name] for _ in folder.glob(mark))
    return folder if holds or folder.name == name else inner
