from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pertbound.data import load
from pertbound.errors import DataError


@pytest.fixture
def mnist(tmp_path: Path, idx: Callable[[np.ndarray], bytes]) -> Path:
    """A folder named like none of the data sets, which holds MNIST test files."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 28, 28), dtype=np.uint8)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2, 3], dtype=np.uint8)))
    return folder


def test_the_folder_may_be_the_files_own(mnist: Path):
    assert len(load("mnist", mnist, download=False)) == 3


def test_the_folder_may_be_the_one_above(mnist: Path):
    mnist.rename(mnist.parent / "mnist")
    assert len(load("mnist", mnist.parent, limit=2, download=False)) == 2


def test_the_environment_names_the_folder(mnist: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PERTBOUND_DATA", str(mnist))
    assert len(load("mnist", download=False)) == 3


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_folder_it_is_data_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.delenv("PERTBOUND_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"in data/{name}"):
        load(name, download=False)


def test_a_folder_of_the_data_sets_name_is_used_as_it_is(tmp_path: Path):
    with pytest.raises(DataError, match=r"CIFAR-10 is not in \S*/cifar10;"):
        load("cifar10", tmp_path / "cifar10", download=False)


def test_digits_and_arrays_need_no_folder(tmp_path: Path):
    assert len(load("digits", train=True, limit=7)) == 7
    np.savez(tmp_path / "own.npz", x=np.zeros((4, 2)))
    assert load(str(tmp_path / "own.npz"), limit=3).name == "own"


def test_an_own_file_has_no_training_split(tmp_path: Path):
    with pytest.raises(DataError, match="no training split"):
        load(str(tmp_path / "own.npz"), train=True)


@pytest.mark.parametrize("name", ["imagenet", "", "MNIST", "data.npy"])
def test_an_unknown_name_lists_the_choices(name: str):
    with pytest.raises(DataError, match=r"choices are mnist, cifar10, digits, .* a folder of images"):
        load(name)
