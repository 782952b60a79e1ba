"""IDX and CIFAR files by their paths: the values of the named data sets, slice by slice."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pertbound.data import load, load_cifar10, load_cifar_binary, load_idx, load_mnist
from pertbound.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], dtype=np.uint8)
Encode = Callable[[np.ndarray], bytes]


def written(folder: Path, idx: Encode, mark: str = "-idx", packed: str = "") -> Path:
    images, labels = (f"t10k-{what}{mark}{n}-ubyte{packed}" for what, n in (("images", 3), ("labels", 1)))
    pack = gzip.compress if packed else bytes
    (folder / images).write_bytes(pack(idx(PIXELS)))
    (folder / labels).write_bytes(pack(idx(LABELS)))
    return folder / images


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-idx", ".idx"])
def test_an_idx_file_is_read_with_the_labels_beside_it(tmp_path: Path, idx: Encode, mark: str, packed: str):
    data = load(str(written(tmp_path, idx, mark, packed)))
    assert data.labels is not None
    assert data.labels.tolist() == LABELS.tolist()
    assert torch.equal(data.inputs[1:4], torch.from_numpy(PIXELS[1:4, None]).float() / 255)
    assert (data.name, data.pixel_scale) == ("t10k", 255.0)
    assert data.units == "pixel values from 0 to 1, where 1 is 255 grey levels"


def test_it_is_mnist_by_its_name(tmp_path: Path, idx: Encode):
    path = written(tmp_path, idx)
    assert load_idx(path).sha256() == load_mnist(tmp_path, train=False, download=False).sha256()


def test_labels_may_be_packed_or_absent_and_colours_keep_their_axis(tmp_path: Path, idx: Encode):
    path = written(tmp_path, idx)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels.read_bytes()))
    labels.unlink()
    assert load_idx(path).labels is not None
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert load_idx(path).labels is None
    (tmp_path / "images-idx4-ubyte").write_bytes(idx(PIXELS.reshape(5, 4, 14, 14)))
    assert load_idx(tmp_path / "images-idx4-ubyte").inputs.shape == (5, 4, 14, 14)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0", "left over"),
        (lambda content: content[:2], "begins with 0000"),
        (lambda content: b"", "begins with nothing"),
        (lambda content: b"\x00\x00\x0d" + content[3:], "not an IDX file of unsigned bytes"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "truncated"),
        (lambda content: content[:4] + bytes(12), "no images"),
    ],
)  # fmt: skip
def test_damaged_images_are_refused(
    tmp_path: Path, idx: Encode, packed: str, damage: Callable[[bytes], bytes], message: str
):
    path = written(tmp_path, idx, packed=packed)
    content = damage(idx(PIXELS))
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message):
        load_idx(path)


def test_labels_of_other_images_are_refused(tmp_path: Path, idx: Encode):
    path = written(tmp_path, idx)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    with pytest.raises(DataError, match="do not belong together"):
        load_idx(path)
    with pytest.raises(DataError, match="there is no file of images"):
        load_idx(tmp_path / "t10k-labels-idx1-ubyte")


def cifar(count: int, heads: int, classes: int) -> np.ndarray:
    labels = RNG.integers(0, classes, (count, heads), dtype=np.uint8)
    labels[0, -1] = classes - 1
    return np.concatenate([labels, RNG.integers(0, 256, (count, 3072), dtype=np.uint8)], 1)


@pytest.mark.parametrize("ending", [".bin", ".bin.gz", ".bin.xz"])
@pytest.mark.parametrize(("heads", "classes"), [(1, 10), (2, 100)])
def test_a_cifar_file_is_read_with_its_finest_labels(tmp_path: Path, ending: str, heads: int, classes: int):
    records = cifar(6, heads, classes)
    pack: Callable[[bytes], bytes] = {".bin": bytes, ".bin.gz": gzip.compress, ".bin.xz": lzma.compress}[ending]
    (tmp_path / f"some{ending}").write_bytes(pack(records.tobytes()))
    data = load(str(tmp_path / f"some{ending}"))
    assert data.labels is not None
    assert data.labels.tolist() == records[:, heads - 1].tolist()
    expected = torch.from_numpy(records[:, heads:]).float() / 255
    assert torch.equal(data.inputs[[4, 0]], expected[[4, 0]].reshape(2, 3, 32, 32))
    assert data.notes == (f"read as a file of CIFAR-{classes}",)
    assert (data.name, data.pixel_scale) == ("some", 255.0)


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, cifar(3, 1, 10).tobytes()[:-1], b"\xff" * 3073 * 2, b"text"])
def test_a_damaged_cifar_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.bin is no file of CIFAR-10 or CIFAR-100"):
        load_cifar_binary(tmp_path / "bad.bin")
    (tmp_path / "bad.bin.gz").write_bytes(b"\x1f\x8b" + content)
    with pytest.raises(DataError, match=r"cannot read .*bad\.bin\.gz"):
        load_cifar_binary(tmp_path / "bad.bin.gz")


def test_a_folder_of_cifar_batches_is_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pertbound.data.cifar10.PER_BATCH", 6)
    for name in ("test_batch", *(f"data_batch_{k}" for k in range(1, 6))):
        (tmp_path / f"{name}.bin").write_bytes(cifar(6, 1, 10).tobytes())
    assert load(str(tmp_path)).sha256() == load_cifar10(tmp_path, train=False).sha256()
    assert load(str(tmp_path)).sha256() == load(str(tmp_path / "test_batch.bin")).sha256()
    assert len(load(str(tmp_path), train=True)) == 30
