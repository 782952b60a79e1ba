from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pertbound.errors import ModelFileError
from pertbound.models import digits_network, initialise, load_model, read_metadata, save_checkpoint


def test_weights_and_metadata_come_back(tmp_path: Path, generator: torch.Generator):
    model = digits_network()
    initialise(model, generator)
    path = tmp_path / "new" / "model.safetensors"
    save_checkpoint(model, path, {"seed": "1", "recipe": "DIGITS"})
    again, shape = load_model(path, "digits")
    assert shape == (1, 8, 8)
    assert read_metadata(path) == {"seed": "1", "recipe": "DIGITS"}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not again.training
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="cannot write the model file"):
        save_checkpoint(digits_network(), tmp_path / "file" / "model.safetensors", {})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.safetensors"])
def test_a_pickle_is_never_opened_and_the_remedy_is_named(tmp_path: Path, name: str, zipped: bool):
    torch.save(digits_network().state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match=r"looks like a pickle.*safetensors\.torch\.save_file"):
        load_model(tmp_path / name, "digits")


def test_a_sound_file_may_begin_like_a_pickle(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    starts: set[bytes] = set()
    for length in range(256):
        save_checkpoint(digits_network(), path, {"padding": "x" * length})
        starts.add(path.read_bytes()[:1])
        assert len(read_metadata(path)["padding"]) == length
    assert b"\x80" in starts


@pytest.mark.parametrize("content", [b"", b"short", b"<html>not here</html>", b"\xff" * 100])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="cannot read"):
        load_model(tmp_path / "model.safetensors", "digits")


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(digits_network(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="cannot read"):
        load_model(path, "digits")


@pytest.mark.parametrize("name", ["nowhere.safetensors", "."])
def test_an_absent_file_or_a_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ModelFileError, match="cannot read"):
        load_model(tmp_path / name, "digits")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    tensors = digits_network().state_dict()
    tensors["2.bias"][3] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"2\.bias in .* NaN or infinity"):
        load_model(tmp_path / "model.safetensors", "digits")


def test_weights_of_another_type_are_refused(tmp_path: Path):
    tensors = {name: value.half() for name, value in digits_network().state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"is torch\.float16, expected torch\.float32"):
        load_model(tmp_path / "model.safetensors", "digits")
