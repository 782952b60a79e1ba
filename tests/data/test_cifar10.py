from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pertbound.data import cifar10, load_cifar10
from pertbound.errors import DataError

NAMES = ["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]
PER_BATCH = 4


def records(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (PER_BATCH, 1), dtype=np.uint8)
    return np.concatenate([labels, rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)], axis=1)


@pytest.fixture(autouse=True)
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "data_root" not in request.fixturenames:
        monkeypatch.setattr(cifar10, "PER_BATCH", PER_BATCH)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cifar10").mkdir()
    for k, name in enumerate(NAMES):
        (tmp_path / "cifar10" / f"{name}.bin").write_bytes(records(k).tobytes())
    return tmp_path / "cifar10"


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Write a tar.gz with the given members and return its MD5."""
    with tarfile.open(path, "w:gz") as stream:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            stream.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_the_test_batch_becomes_images_between_0_and_1(folder: Path):
    data = load_cifar10(folder, train=False)
    expected = torch.from_numpy(records(0))
    assert data.inputs.shape == (PER_BATCH, 3, 32, 32)
    assert torch.equal((data.inputs * 255).round().to(torch.uint8).flatten(1), expected[:, 1:])
    assert data.labels is not None
    assert data.labels.tolist() == expected[:, 0].tolist()
    assert (data.name, data.pixel_scale, data.notes) == ("cifar10", 255.0, ())


def test_the_training_batches_come_in_their_order(folder: Path):
    data = load_cifar10(folder, train=True)
    assert data.labels is not None
    assert data.labels.tolist() == [label for k in range(1, 6) for label in records(k)[:, 0].tolist()]
    assert data.positions.tolist() == list(range(5 * PER_BATCH))


def test_packed_batches_and_the_archives_folder_are_found(folder: Path):
    plain = load_cifar10(folder, train=True)
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir()
    (inner / "data_batch_1.bin.gz").write_bytes(gzip.compress(records(1).tobytes()))
    (folder / "data_batch_1.bin").unlink()
    (folder / "data_batch_2.bin.xz").write_bytes(lzma.compress(records(2).tobytes()))
    (folder / "data_batch_2.bin").unlink()
    assert load_cifar10(folder, train=True, download=False).sha256() == plain.sha256()


def test_images_that_are_not_exact_are_noted_with_their_positions(folder: Path):
    listed = {"note": "why", "test_batch": [1], "data_batch_1": [3], "data_batch_3": [0, 2]}
    (folder / "not_exact.json").write_text(json.dumps(listed))
    assert load_cifar10(folder, train=False).notes == ("1 of the 4 images of this split are not exact: positions [1]",)
    assert load_cifar10(folder, train=True).notes == (
        "3 of the 20 images of this split are not exact: positions [3, 8, 10]",
    )


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"test_batch": ["a"]}', '{"test_batch": [4]}'])
def test_a_damaged_list_of_images_is_refused(folder: Path, content: str):
    (folder / "not_exact.json").write_text(content)
    with pytest.raises(DataError, match=r"not_exact\.json"):
        load_cifar10(folder, train=False)


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        (".bin", records(0).tobytes()[:-1], "truncated"),
        (".bin", records(0).tobytes() + b"\0", "left over"),
        (".bin", b"\x0a" + records(0).tobytes()[1:], "label 10"),
        (".bin.gz", gzip.compress(records(0).tobytes())[:-20], "cannot read"),
        (".bin.gz", b"garbage", "cannot read"),
        (".bin.xz", lzma.compress(records(0).tobytes())[:-20], "cannot read"),
        (".bin.xz", b"garbage", "cannot read"),
    ],
)
def test_a_damaged_batch_is_refused(tmp_path: Path, ending: str, content: bytes, message: str):
    (tmp_path / f"test_batch{ending}").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path, train=False)


def test_absent_batches_are_an_error_without_download(folder: Path):
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"put data_batch_1\.bin, .* in "):
        load_cifar10(folder, train=True, download=False)


def test_the_archive_is_downloaded_and_only_the_batches_are_unpacked(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
):
    members = {f"cifar-10-batches-bin/{name}.bin": records(k).tobytes() for k, name in enumerate(NAMES)}
    strange = {
        "../escaped.bin": b"x",
        "/escaped.bin": b"x",
        "cifar-10-batches-bin/../../test_batch.bin": b"x",
    }
    monkeypatch.setattr(cifar10, "MD5", archive(server.folder / "archive", {**strange, **members}))
    to = tmp_path / "below" / "to"
    data = load_cifar10(to, train=True, urls=[f"{server.url}archive"])
    assert data.labels is not None
    assert data.labels[:PER_BATCH].tolist() == records(1)[:, 0].tolist()
    written = sorted(str(path.relative_to(tmp_path / "below")) for path in (tmp_path / "below").rglob("*.*"))
    assert written == sorted(f"to/cifar-10-batches-bin/{name}.bin" for name in NAMES)
    load_cifar10(to, train=False, urls=[])


def test_an_archive_that_lacks_batches_is_refused(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch):
    checksum = archive(server.folder / "archive", {"cifar-10-batches-bin/test_batch.bin": records(0).tobytes()})
    monkeypatch.setattr(cifar10, "MD5", checksum)
    with pytest.raises(DataError, match=r"lacks.*data_batch_5"):
        load_cifar10(tmp_path / "to", train=True, urls=[f"{server.url}archive"])


def test_a_damaged_archive_is_refused(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch):
    (server.folder / "archive").write_bytes(b"not an archive")
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(b"not an archive").hexdigest())
    with pytest.raises(DataError, match=r"cannot unpack.*put test_batch\.bin"):
        load_cifar10(tmp_path / "to", train=False, urls=[f"{server.url}archive"])


def test_a_failed_download_names_the_place_and_the_remedy(tmp_path: Path, server: Any):
    with pytest.raises(DataError, match=rf"{server.url}archive: HTTP Error 404.*put test_batch\.bin"):
        load_cifar10(tmp_path / "to", train=False, urls=[f"{server.url}archive"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, server: Any):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write .*put test_batch\.bin"):
        load_cifar10(tmp_path / "file" / "below", train=False, urls=[f"{server.url}archive"])


def test_the_real_test_images(data_root: Path):
    data = load_cifar10(data_root / "cifar10", train=False, download=False)
    assert data.inputs.shape == (10000, 3, 32, 32)
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [1000] * 10
    assert data.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
