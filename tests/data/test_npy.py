"""Arrays in `.npy` files, read slice by slice; what is damaged or hostile is refused with its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pertbound.data import load, load_npy, load_npz
from pertbound.errors import DataError

X = np.random.default_rng(0).random((7, 2, 3))


def saved(folder: Path, array: Any, labels: Any = None) -> Path:
    np.save(folder / "mine.npy", array, allow_pickle=True)
    if labels is not None:
        np.save(folder / "mine.labels.npy", labels, allow_pickle=True)
    return folder / "mine.npy"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "|u1"])
def test_every_slice_has_the_values_of_the_array(tmp_path: Path, dtype: str, order: Any):
    array = (X * 200).astype(dtype, order=order)
    data = load_npy(saved(tmp_path, array, np.arange(7, dtype=np.int8)))
    expected = torch.from_numpy(array.astype(np.float32))
    for rows in (slice(None), slice(2, 5), [6, 0, 3], torch.tensor([1])):
        assert torch.equal(data.inputs[rows], expected[rows])
    assert data.labels is not None
    assert data.labels.tolist() == list(range(7))
    assert (data.name, data.pixel_scale) == ("mine", 1.0)
    assert data.units == ("pixel values from 0 to 255" if dtype == "|u1" else "the values in mine.npy")


def test_what_is_read_can_be_written_to(tmp_path: Path):
    data = load_npy(saved(tmp_path, X.astype(np.float32)))
    data.inputs[:2].zero_()
    assert float(data.inputs[:2].sum()) > 0


def test_it_is_the_npz_of_the_same_array(tmp_path: Path):
    np.savez(tmp_path / "mine.npz", x=X, y=np.arange(7))
    path = saved(tmp_path, X, np.arange(7))
    assert load(str(path), limit=5).sha256() == load(str(tmp_path / "mine.npz"), limit=5).sha256()
    assert load_npy(path).labels is not None
    (tmp_path / "mine.labels.npy").unlink()
    assert load_npy(path).labels is None


def test_a_nan_in_the_middle_is_met_where_it_is(tmp_path: Path):
    array = np.zeros((1000, 3), np.float32)
    array[617, 1] = np.nan
    data = load_npy(saved(tmp_path, array))
    assert len(data.inputs[:617]) == 617
    with pytest.raises(DataError, match=r"mine\.npy: 1 of the 400 inputs read .* position 617;"):
        data.inputs[600:]
    array[617, 1] = 0
    with pytest.raises(DataError, match="position 2;"):
        load_npy(saved(tmp_path, np.where(np.arange(8).reshape(4, 2) == 5, 1e300, 0.0))).inputs[:]


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        (np.array([[{}, 1]], dtype=object), None, "never unpickled"),
        (np.arange(6).reshape(3, 2), None, "floating point or uint8, got int64"),
        (np.zeros((3, 2), np.complex64), None, "got complex64"),
        (np.zeros((3, 2), bool), None, "got bool"),
        (np.array([["a", "b"]]), None, "got <U1"),
        (np.zeros(3, [("a", "f4")]), None, "floating point or uint8"),
        (np.zeros(3), None, r"\(N, \*shape\)"),
        (np.float32(3), None, r"\(N, \*shape\)"),
        (np.zeros((0, 3)), None, "empty"),
        (np.zeros((3, 0)), None, "empty"),
        (X, np.arange(6), "labels must be int64 of shape"),
        (X, np.arange(7).reshape(7, 1), "labels must be int64 of shape"),
        (X, np.arange(7.0), r"mine\.labels\.npy must hold integers"),
        (X, -np.arange(7), "labels count from 0"),
        (X, np.array([{}] * 7, dtype=object), "never unpickled"),
        (X, np.full(7, 2**63, np.uint64), "counts classes from 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, array: Any, labels: Any, message: str):
    with pytest.raises(DataError, match=message) as caught:
        load_npy(saved(tmp_path, array, labels))
    assert "mine." in str(caught.value)


def claimed(shape: str, dtype: str = "<f4", extra: str = "", content: bytes = bytes(24)) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, {extra}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"text\n" * 50,
        b"PK\x03\x04" + bytes(60),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"\x93NUMPY\x09\x00" + bytes(60),
        b"\x93NUMPY\x01\x00\xff\xff{",
        claimed("(1000000000000, 1000)"),
        claimed("(99999999999999999999999999, 99999999999999999999)"),
        claimed("(-2, -3)"),
        claimed("(2, -3)"),
        claimed("(2, 3.0)"),
        claimed("('a',)"),
        claimed("(2, 4)"),
        claimed("(2, 2)"),
        claimed("(2, 3)", dtype="|O"),
        claimed("(2, 3)", dtype="nonsense"),
        claimed("(2, 3)", extra="'more': 1"),
        claimed("().__class__"),
        claimed("(" * 99 + ")" * 99),
        claimed("(2, 3"),  # numpy's own error for this is one of Python's tokenizer
    ],
    ids=range(21),
)
def test_a_damaged_or_hostile_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "bad.npy"
    path.write_bytes(claimed("(2, 3)"))
    assert load_npy(path).inputs.shape == (2, 3)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npy"):
        load_npy(path)


def test_an_absurd_claim_inside_an_npz_is_refused(tmp_path: Path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", claimed("(1000000000000, 1000)"))
    with pytest.raises(DataError, match=r"bad\.npz"):
        load_npz(tmp_path / "bad.npz")


def test_a_file_that_shrinks_meanwhile_is_an_error_and_no_crash(tmp_path: Path):
    path = saved(tmp_path, np.zeros((100, 100), np.float32))
    data = load_npy(path)
    os.truncate(path, 5000)
    with pytest.raises(DataError, match=r"mine\.npy: .* changed meanwhile"):
        data.inputs[:10]
    path.unlink()
    with pytest.raises(DataError, match=r"mine\.npy"):
        data.inputs[:10]


SCRIPT = """
import resource, sys
from pathlib import Path
from pertbound.data import load_npy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load_npy(Path(sys.argv[1]))
data.sha256()
for start in range(0, len(data), 64):
    data.inputs[start : start + 64]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """256 MiB of numbers, read twice; in MiB, of which the hash takes 16 at once, a few times over."""
    with (tmp_path / "large.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (65536, 1024)})
        os.truncate(stream.fileno(), stream.tell() + 2**28)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "large.npy")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 100
