from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pertbound.data import load_mnist
from pertbound.data.mnist import CHECKSUMS
from pertbound.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], dtype=np.uint8)
NAMES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def folder(tmp_path: Path, idx: Callable[[np.ndarray], bytes]) -> Path:
    (tmp_path / NAMES[0]).write_bytes(idx(PIXELS))
    (tmp_path / f"{NAMES[1]}.gz").write_bytes(gzip.compress(idx(LABELS)))
    return tmp_path


def test_files_become_images_between_0_and_1(folder: Path):
    data = load_mnist(folder, train=False)
    assert data.inputs.shape == (5, 1, 28, 28)
    assert torch.equal((data.inputs * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(PIXELS))
    assert data.labels is not None
    assert data.labels.tolist() == LABELS.tolist()
    assert data.positions.tolist() == [0, 1, 2, 3, 4]
    assert (data.name, data.pixel_scale, data.notes) == ("mnist", 255.0, ())
    assert str(folder) in data.source


def test_absent_files_are_an_error_without_download(tmp_path: Path):
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte.*put MNIST's files"):
        load_mnist(tmp_path, train=True, download=False)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (NAMES[0], PIXELS[:, :27], r"\(27, 28\)"),
        (NAMES[0], PIXELS[:3], "do not belong together"),
        (NAMES[0], PIXELS[:0], "empty"),
        (f"{NAMES[1]}.gz", LABELS + 1, "label 10"),
    ],
)
def test_files_that_are_not_mnist_are_refused(
    folder: Path, idx: Callable[[np.ndarray], bytes], name: str, array: np.ndarray, message: str
):
    content = idx(array)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=message):
        load_mnist(folder, train=False)


def test_absent_files_come_from_the_first_mirror_that_has_them(
    tmp_path: Path, server: Any, idx: Callable[[np.ndarray], bytes], monkeypatch: pytest.MonkeyPatch
):
    (server.folder / "second").mkdir()
    for name, array in zip(NAMES, (PIXELS, LABELS), strict=True):
        packed = gzip.compress(idx(array))
        (server.folder / "second" / f"{name}.gz").write_bytes(packed)
        monkeypatch.setitem(CHECKSUMS, name, hashlib.sha256(packed).hexdigest())
    data = load_mnist(tmp_path / "to", train=False, mirrors=[f"{server.url}first/", f"{server.url}second/"])
    assert len(data) == 5
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [f"{name}.gz" for name in NAMES]
    asked = len(server.requests)
    load_mnist(tmp_path / "to", train=False, mirrors=[server.url])
    assert len(server.requests) == asked


def test_a_failed_download_names_the_mirrors_and_the_remedy(tmp_path: Path, server: Any):
    with pytest.raises(DataError) as caught:
        load_mnist(tmp_path / "to", train=False, mirrors=[f"{server.url}a/", f"{server.url}b/"])
    message = str(caught.value)
    assert f"{server.url}a/{NAMES[0]}.gz: HTTP Error 404" in message
    assert f"{server.url}b/{NAMES[0]}.gz: HTTP Error 404" in message
    assert f"in {tmp_path / 'to'}" in message


def test_the_real_test_images(data_root: Path):
    data = load_mnist(data_root / "mnist", train=False, download=False)
    assert data.inputs.shape == (10000, 1, 28, 28)
    assert data.labels is not None
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_the_real_training_images(data_root: Path):
    data = load_mnist(data_root / "mnist", train=True, download=False)
    assert data.labels is not None
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.labels.bincount().tolist() == counts
    assert float(data.inputs.mean()) == pytest.approx(0.1306605, abs=1e-6)


def test_the_real_files_are_the_ones_that_would_be_downloaded(data_root: Path):
    for name, checksum in CHECKSUMS.items():
        assert hashlib.sha256((data_root / "mnist" / f"{name}.gz").read_bytes()).hexdigest() == checksum
