from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pertbound.data.idx import read_idx
from pertbound.errors import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_plain_and_gzipped_files_give_the_array(tmp_path: Path, idx: Callable[[np.ndarray], bytes]):
    (tmp_path / "plain").write_bytes(idx(IMAGES))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(IMAGES)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain", 3), IMAGES)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz", 3), IMAGES)


@given(array=arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=5)), cut=st.integers(1, 30))
def test_every_array_survives_and_no_truncated_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, idx: Callable[[np.ndarray], bytes], array: np.ndarray, cut: int
):
    path = tmp_path_factory.getbasetemp() / "any"
    content = idx(array)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)
    path.write_bytes(content[:-cut])
    with pytest.raises(DataError, match="truncated"):
        read_idx(path, array.ndim)


def test_bytes_left_over_are_refused(tmp_path: Path, idx: Callable[[np.ndarray], bytes]):
    (tmp_path / "long").write_bytes(idx(IMAGES) + b"\0")
    with pytest.raises(DataError, match="left over"):
        read_idx(tmp_path / "long", 3)


def test_another_number_of_axes_is_refused(tmp_path: Path, idx: Callable[[np.ndarray], bytes]):
    (tmp_path / "images").write_bytes(idx(IMAGES))
    with pytest.raises(DataError, match=r"begins with 0x00000803, expected 0x00000801"):
        read_idx(tmp_path / "images", 1)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "garbage inside"])
def test_a_damaged_gz_file_is_refused(tmp_path: Path, idx: Callable[[np.ndarray], bytes], damage: str):
    packed = gzip.compress(idx(IMAGES))
    broken = {
        "truncated": packed[:-12],
        "garbage": b"<html>not here</html>",
        "garbage inside": packed[:14] + b"\xff\xfe\xfd" + packed[17:],
    }
    (tmp_path / "broken.gz").write_bytes(broken[damage])
    with pytest.raises(DataError, match=r"broken\.gz"):
        read_idx(tmp_path / "broken.gz", 3)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere"):
        read_idx(tmp_path / "nowhere", 3)
