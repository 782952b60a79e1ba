from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pertbound.data import load
from pertbound.errors import InputError, ModelFileError
from pertbound.models import ARCHITECTURES, accuracy, digits_network, lenet, load_lenet, load_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (2, 16)])
def test_channels_and_size_are_told_from_the_weights(path: Path, channels: int, size: int):
    model = lenet(channels, size)
    save_file(model.state_dict(), path)
    again, shape = load_model(path, "lenet")
    assert shape == (channels, size, size)
    inputs = torch.rand(2, *shape)
    assert torch.equal(again(inputs), model.eval()(inputs))


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def with_shape(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("2.bias"), r"lacks 2\.bias"),
        (without("0.weight"), "not of the architecture lenet"),
        (with_shape("8.weight", 1), r"has 8\.weight besides"),
        (with_shape("7.weight", 10, 400), r"has 7\.weight of shape \(10, 400\), expected \(10, 500\)"),
        (with_shape("0.weight", 20, 25), "not of the architecture lenet"),
        (with_shape("0.weight", 20, 0, 5, 5), "not of the architecture lenet"),
        (with_shape("5.weight", 500, 801), "not of the architecture lenet"),
        (with_shape("5.weight", 500, 0), "not of the architecture lenet"),
        (with_shape("0.weight", 20, 1, 3, 3), r"has 0\.weight of shape \(20, 1, 3, 3\)"),
    ],
)
def test_a_mismatch_is_named(path: Path, change: Callable[[dict[str, Tensor]], object], message: str):
    tensors = lenet(1, 28).state_dict()
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(ModelFileError, match=message):
        load_lenet(path)


def test_a_file_of_another_architecture_is_refused(path: Path):
    save_file(digits_network().state_dict(), path)
    with pytest.raises(ModelFileError, match="lenet"):
        load_model(path, "lenet")
    save_file(lenet(1, 28).state_dict(), path)
    with pytest.raises(ModelFileError, match=r"has 0\.weight of shape \(20, 1, 5, 5\), expected \(16, 1, 3, 3\)"):
        load_model(path, "digits")


def test_an_unknown_architecture_lists_the_choices(path: Path):
    with pytest.raises(InputError, match="no architecture 'resnet'; the choices are lenet, digits"):
        load_model(path, "resnet")


@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 28)), ("lenet", (3, 32, 32)), ("digits", (1, 8, 8))])
def test_architectures_build_untrained_networks(name: str, shape: tuple[int, ...]):
    assert ARCHITECTURES[name](shape)(torch.zeros(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 24)), ("lenet", (784,)), ("digits", (1, 28, 28))])
def test_shapes_that_an_architecture_does_not_take_are_refused(name: str, shape: tuple[int, ...]):
    with pytest.raises(InputError, match="takes inputs of shape"):
        ARCHITECTURES[name](shape)


@pytest.mark.parametrize(("name", "right"), [("mnist", 0.9926), ("cifar10", 0.7037)])
def test_the_networks_at_hand_reach_their_accuracy(data_root: Path, name: str, right: float):
    file = data_root / "lenet" / f"{name}.safetensors"
    if not file.exists():
        pytest.skip(f"no {file}")
    assert accuracy(load_lenet(file), load(name, data_root, download=False)) == pytest.approx(right, abs=2e-4)
