"""Small files that would unpack to huge arrays, and files that lie about what they hold: refused in bounded memory."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertbound.data import load, load_cifar_binary, load_folder, load_idx, load_npy, load_npz, npz
from pertbound.errors import DataError, InputError

MIB = 2**20
X = np.random.default_rng(0).random((600, 40))


def header(shape: str, dtype: str = "<f4", version: int = 1) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text.encode()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def lying(path: Path, member: bytes, *, file_size: int | None = None, compress_size: int | None = None) -> Path:
    """A member x.npy whose sizes in the zip directory are not its own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member)
        info = archive.getinfo("x.npy")
        info.file_size, info.compress_size = file_size or info.file_size, compress_size or info.compress_size
    return path


def refused(load: Callable[[Path], Any], path: Path, message: str, most: int = 8 * MIB) -> None:
    """The file is refused in one line that names it, and no more than `most` bytes are taken for that."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert peak < most


def test_an_npz_that_unpacks_to_far_more_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = zipped(tmp_path / "bomb.npz", {"x.npy": header(f"({MIB}, 4)") + bytes(16 * MIB)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(npz, "ALWAYS", MIB)
    refused(load_npz, path, "more than 200 times what it takes in the file")
    assert len(load_npz(path, limit=3)) == 3, "what is needed of it takes little"
    monkeypatch.setattr(npz, "allowed", lambda *sizes: 2**62)  # the mutant without the guard unpacks all of it
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refused(load_npz, path, "more than 200 times")


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ("(9, 5)", {}, "has bytes left over"),
        ("(11, 5)", {}, "is truncated"),
        ("(1000000000000, 1000)", {}, "truncated|claims the shape"),
        ("(10, 5)", {"file_size": 2**31}, "has bytes left over"),
        (f"({2**28}, 25)", {"file_size": 128 + 2**28 * 100}, "more than 200 times what it takes"),
        (f"({2**28}, 25)", {"file_size": 128 + 2**28 * 100, "compress_size": 2**40}, "larger than the file"),
        ("(True, 50)", {}, r"claims the shape \(True, 50\)"),
        ("(-1, 50)", {}, "claims the shape"),
        (f"({10**30}, 50)", {}, "claims the shape"),
    ],
)
def test_headers_that_lie_are_found_out_before_anything_is_unpacked(
    tmp_path: Path, shape: str, sizes: dict[str, int], message: str
):
    refused(load_npz, lying(tmp_path / "lies.npz", header(shape) + bytes(200), **sizes), message)


def test_one_true_row_is_no_shape_of_a_npy_file_either(tmp_path: Path):
    (tmp_path / "true.npy").write_bytes(header("(True, 16)") + bytes(64))
    refused(load_npy, tmp_path / "true.npy", "claims the shape")


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path):
    bomb = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * (8 * MIB)
    (tmp_path / "long.npy").write_bytes(bomb)
    refused(load_npy, tmp_path / "long.npy", "header claims", MIB)
    refused(load_npz, zipped(tmp_path / "long.npz", {"x.npy": bomb}), "header claims", MIB)


def test_other_things_that_a_zip_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner = zipped(tmp_path / "inner.npz", {"x.npy": header("(2, 3)") + bytes(24)}).read_bytes()
    refused(load_npz, zipped(tmp_path / "nested.npz", {"x.npy": inner}), "not in the .npy format")
    path = zipped(tmp_path / "bz.npz", {"x.npy": header("(2, 3)") + bytes(24)}, zipfile.ZIP_BZIP2)
    refused(load_npz, path, "compressed in another way")
    broken = bytearray(zipped(tmp_path / "crc.npz", {"x.npy": header("(2, 3)") + bytes(24)}, 0).read_bytes())
    broken[broken.index(b"\n", 40) + 5] ^= 1
    (tmp_path / "crc.npz").write_bytes(broken)
    refused(load_npz, tmp_path / "crc.npz", "CRC")
    many = zipped(tmp_path / "many.npz", {f"{'a' * 200}{n}.npy": b"" for n in range(40)}, 0)
    refused(load_npz, many, "no array x, only .* and 35 more")
    monkeypatch.setattr(npz, "MOST_READ", 5_000)
    refused(load_npz, many, "its zip directory takes")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_limit_gives_the_first_of_them(tmp_path: Path, save: Any, order: Any):
    save(tmp_path / "mine.npz", x=np.asarray(X, order=order), y=np.arange(600))
    whole = load_npz(tmp_path / "mine.npz")
    for limit in (1, 7, 600, 10_000):
        assert load(str(tmp_path / "mine.npz"), limit=limit).sha256() == whole.limit(limit).sha256()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_limit_reads_no_more_than_it_needs(tmp_path: Path, save: Any):
    """What stands behind the first rows is damaged, and only who reads it notices."""
    save(tmp_path / "mine.npz", x=X)
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    content[-20_000:-19_000] = bytes(1000)
    (tmp_path / "mine.npz").write_bytes(content)
    assert len(load_npz(tmp_path / "mine.npz", limit=300)) == 300
    refused(load_npz, tmp_path / "mine.npz", "cannot read")


def test_a_limit_does_not_hide_labels_of_another_length(tmp_path: Path, idx: Callable[[np.ndarray], bytes]):
    np.savez(tmp_path / "mine.npz", x=X, y=np.arange(599))
    np.save(tmp_path / "mine.npy", X)
    np.save(tmp_path / "mine.labels.npy", np.arange(599))
    for end, images in ((".npz", None), (".npy", None), ("-images-idx3-ubyte.gz", np.zeros((9, 2, 2), np.uint8))):
        if images is not None:
            (tmp_path / f"mine{end}").write_bytes(gzip.compress(idx(images)))
            (tmp_path / "mine-labels-idx1-ubyte").write_bytes(idx(np.zeros(8, np.uint8)))
        with pytest.raises(DataError, match=r"labels must be int64 of shape|do not belong together"):
            load(str(tmp_path / f"mine{end}"), limit=2)


def test_an_idx_file_is_unpacked_as_far_as_its_header_goes(tmp_path: Path):
    begin = b"\0\0\x08\x03" + struct.pack(">III", 10, 28, 28)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(begin + bytes(16 * MIB)))
    refused(load_idx, path, "left over", MIB)
    assert len(load_idx(path, limit=3)) == 3
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    refused(load_idx, path, "too large", MIB)
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2**20, 2, 2) + bytes(9)))
    refused(load_idx, path, "is truncated", 16 * MIB)


@pytest.mark.parametrize(("ending", "pack"), [(".bin.gz", gzip.compress), (".bin.xz", lzma.compress)])
def test_a_packed_cifar_file_is_unpacked_up_to_a_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, pack: Callable[[bytes], bytes]
):
    from pertbound.data import cifar_binary

    path = tmp_path / f"bomb{ending}"
    path.write_bytes(pack(bytes(3073 * 9)))
    assert len(load_cifar_binary(path, limit=5)) == 5
    path.write_bytes(pack(bytes(3073 * 2**13)))
    monkeypatch.setattr(cifar_binary, "_ALWAYS", MIB)
    refused(load_cifar_binary, path, "inflates to more than", 20 * MIB)


def test_many_inputs_of_nothing_have_no_positions(tmp_path: Path):
    """A sparse file of 2^28 inputs: their positions alone would take 2 GiB."""
    with (tmp_path / "sparse.npy").open("wb") as stream:
        stream.write(header(f"({2**28}, 1)", "|u1"))
        os.truncate(stream.fileno(), stream.tell() + 2**28)
    refused(load_npy, tmp_path / "sparse.npy", r"inputs are more than .* \(--limit\)", MIB)
    assert len(load_npy(tmp_path / "sparse.npy", limit=3)) == 3


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "flat"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    return folder


def test_listings_of_a_folder_that_hurt(flat: Path):
    for text in (f"a.png,{'1' * 200_000}\n", "a.png," + ",".join(["7"] * 50_000), f'"{"a" * 100_000}",1\n'):
        (flat / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=r"labels\.csv must") as caught:
            load_folder(flat)
        assert len(str(caught.value)) < 1500
    (flat / "labels.csv").unlink()
    os.mkfifo(flat / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv must be a file"):
        load_folder(flat)
    (flat / "labels.csv").unlink()
    with (flat / "labels.csv").open("wb") as stream:
        os.truncate(stream.fileno(), 2**40)
    with pytest.raises(DataError, match=r"labels\.csv must be a file of at most"):
        load_folder(flat)


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG file that claims that size."""
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + bytes(40)


def test_images_that_unpack_to_gigabytes(flat: Path):
    for size in ((2**15, 2**15), (2**31 - 1, 2**31 - 1), (1, 2**27)):
        (flat / "b.png").write_bytes(png(*size))
        with pytest.raises(DataError, match=r"b\.png") as caught:
            load_folder(flat)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, -3])
def test_limits_below_1(tmp_path: Path, limit: int):
    np.savez(tmp_path / "mine.npz", x=X)
    with pytest.raises(InputError, match="at least 1"):
        load(str(tmp_path / "mine.npz"), limit=limit)
