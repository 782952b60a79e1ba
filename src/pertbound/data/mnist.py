"""MNIST: 28 x 28 grey images of handwritten digits, 60,000 for training and 10,000 for testing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.download import Download, fetch
from pertbound.data.idx import read_idx
from pertbound.errors import DataError, InputError

MIRRORS: tuple[str, ...] = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Public copies of the four files."""

CHECKSUMS: dict[str, str] = {
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
}
"""SHA-256 of each file, gzipped as published."""

_MOST_BYTES = 20_000_000


def load_mnist(
    folder: Path,
    *,
    train: bool,
    download: bool = True,
    mirrors: Sequence[str] = MIRRORS,
    on_progress: Callable[[int], None] | None = None,
) -> DataSet:
    """MNIST's training or test images as (N, 1, 28, 28) in [0, 1], from the standard files in `folder`.

    Files may be plain or `.gz`. Those of the asked split that are absent are downloaded, where allowed, and
    checked. Raises `DataError` when files are absent or damaged.
    """
    split = "train" if train else "t10k"
    pixels_at = _find(folder, f"{split}-images-idx3-ubyte", download, mirrors, on_progress)
    labels_at = _find(folder, f"{split}-labels-idx1-ubyte", download, mirrors, on_progress)
    pixels = torch.from_numpy(read_idx(pixels_at, 3).copy())
    labels = torch.from_numpy(read_idx(labels_at, 1).copy()).long()
    if pixels.shape[1:] != (28, 28):
        raise DataError(f"{pixels_at} holds images of {tuple(pixels.shape[1:])} pixels, and MNIST's are (28, 28)")
    if len(labels) and int(labels.max()) > 9:
        raise DataError(f"{labels_at} holds the label {int(labels.max())}, and MNIST's go from 0 to 9")
    try:
        return DataSet(
            name="mnist",
            inputs=pixels.float().div_(255).unsqueeze(1),
            labels=labels,
            pixel_scale=255.0,
            positions=torch.arange(len(pixels)),
            notes=(),
            source=f"{pixels_at}, {labels_at.name}",
            units=pixel_units(255),
        )
    except InputError as error:
        raise DataError(f"{pixels_at} and {labels_at} do not belong together: {error}") from error


def _find(
    folder: Path,
    name: str,
    download: bool,
    mirrors: Sequence[str],
    on_progress: Callable[[int], None] | None,
) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    remedy = f"put MNIST's files {', '.join(f'{known}.gz' for known in CHECKSUMS)} in {folder}"
    if not download:
        raise DataError(f"no {name} or {name}.gz in {folder}; {remedy}, or allow the download")
    target = folder / f"{name}.gz"
    file = Download(
        urls=[f"{base}{target.name}" for base in mirrors],
        algorithm="sha256",
        checksum=CHECKSUMS[name],
        most_bytes=_MOST_BYTES,
    )
    try:
        fetch(file, target, on_progress)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error
    return target
