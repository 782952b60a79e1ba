from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pertbound.data import load_npz
from pertbound.errors import DataError

X = np.arange(12, dtype=np.float64).reshape(3, 4)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path / "mine.npz", **arrays)
    return path / "mine.npz"


def test_inputs_and_labels_are_read_at_the_scale_they_have(tmp_path: Path):
    data = load_npz(saved(tmp_path, x=X, y=np.array([1, 0, 2], dtype=np.uint8), more=np.zeros(1)))
    assert torch.equal(data.inputs, torch.from_numpy(X).float())
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 2]
    assert data.positions.tolist() == [0, 1, 2]
    assert (data.name, data.pixel_scale) == ("mine", 1.0)


def test_bytes_become_float32_unscaled_and_labels_may_be_left_out(tmp_path: Path):
    data = load_npz(saved(tmp_path, x=np.full((2, 1, 2, 2), 255, dtype=np.uint8)))
    assert data.inputs.dtype == torch.float32
    assert float(data.inputs.min()) == 255.0
    assert data.labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": X}, r"no array x, only \['inputs'\]"),
        ({"x": np.array([[{}]], dtype=object)}, "object arrays are not read"),
        ({"x": X.astype(np.int64)}, "floating point or uint8, got int64"),
        ({"x": X.astype(np.complex128)}, "floating point or uint8, got complex128"),
        ({"x": np.where(X == 5, np.nan, X)}, "1 of 3 inputs hold NaN"),
        ({"x": np.where(X == 5, 1e300, X)}, "1 of 3 inputs hold NaN or infinity"),
        ({"x": X[:0]}, "empty"),
        ({"x": X[:, :0]}, "empty"),
        ({"x": np.float64(3)}, r"\(N, \*shape\)"),
        ({"x": X, "y": np.array([1, 2])}, "labels must be int64 of shape"),
        ({"x": X, "y": np.array([[1], [2], [0]])}, "labels must be int64 of shape"),
        ({"x": X, "y": np.array([1.0, 2.0, 0.0])}, "must hold integers, got float64"),
        ({"x": X, "y": np.array([1, -2, 0])}, "labels count from 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message) as caught:
        load_npz(saved(tmp_path, **arrays))
    assert "mine.npz" in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no file .*nowhere\.npz"):
        load_npz(tmp_path / "nowhere.npz")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path):
    path = tmp_path / "other.npz"
    with path.open("wb") as stream:
        np.save(stream, X)
    with pytest.raises(DataError, match=r"is not a \.npz file"):
        load_npz(path)


@pytest.mark.parametrize("where", [0.3, 0.6])
def test_a_damaged_file_is_refused(tmp_path: Path, where: float):
    path = saved(tmp_path, x=np.random.default_rng(0).random((50, 50)))
    content = bytearray(path.read_bytes())
    middle = int(len(content) * where)
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        load_npz(path)


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = saved(tmp_path, x=X)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError):
        load_npz(path)
