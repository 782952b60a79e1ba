from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import pertbound as pb
from pertbound.data import load
from pertbound.errors import InputError, ModelFileError
from pertbound.models import (
    ARCHITECTURES,
    accuracy,
    digits_network,
    initialise,
    lenet,
    load_lenet,
    load_model,
    resnet18,
    save_checkpoint,
    vgg16,
)


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
    with pytest.raises(InputError, match=r"no architecture 'resnet'; the choices are lenet, digits, .*resnet50"):
        load_model(path, "resnet")


THIN: dict[str, tuple[int, ...]] = {
    "nin": (3, 32, 32),
    "alexnet": (3, 67, 67),
    "vgg16": (3, 64, 64),
    "googlenet": (3, 224, 224),
    "resnet18": (3, 224, 224),
    "resnet50": (3, 224, 224),
}


@pytest.mark.parametrize(("name", "shape"), THIN.items(), ids=THIN)
def test_classes_width_and_size_are_told_from_the_weights(
    path: Path, name: str, shape: tuple[int, ...], generator: torch.Generator
):
    model = ARCHITECTURES[name](shape, classes=7, width=0.125)
    initialise(model, generator)
    save_checkpoint(model, path, {})
    again, found = load_model(path, name)
    assert found == shape
    assert not again.training
    x = torch.rand(1, *shape, generator=generator)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))


def test_a_file_states_the_shape_that_its_weights_cannot_tell(path: Path, generator: torch.Generator):
    model = resnet18(generator, classes=10, width=1 / 16)
    save_checkpoint(model, path, {"shape": "3, 32,32"})
    assert load_model(path, "resnet18")[1] == (3, 32, 32)
    save_checkpoint(vgg16(generator, size=32, width=1 / 16), path, {"shape": "3,64,64"})
    assert load_model(path, "vgg16")[1] == (3, 32, 32)  # these can
    for stated in ("3,32", "1,32,32", "3,16,16"):
        save_checkpoint(model, path, {"shape": stated})
        with pytest.raises(ModelFileError, match=r"takes inputs of shape \(3, height, width\) from 32 up"):
            load_model(path, "resnet18")
    save_checkpoint(model, path, {"shape": "3x32x32"})
    with pytest.raises(ModelFileError, match="states its input's shape as '3x32x32'; write it as 3,64,64"):
        load_model(path, "resnet18")


def test_counts_of_batches_may_be_missing(path: Path, generator: torch.Generator):
    """As in files of other libraries: no prediction reads them."""
    model = resnet18(generator, classes=10, width=1 / 16).eval()
    state = model.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    save_file(kept, path)
    again, _ = load_model(path, "resnet18")
    x = torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert pb.from_torch(again, x).classes == 10


@pytest.mark.parametrize(("name", "other"), [("resnet18", "resnet50"), ("resnet50", "resnet18"), ("nin", "vgg16")])
def test_weights_of_a_relative_are_refused(path: Path, name: str, other: str, generator: torch.Generator):
    model = ARCHITECTURES[name](THIN[name], classes=7, width=0.125)
    initialise(model, generator)
    save_checkpoint(model, path, {})
    with pytest.raises(ModelFileError, match=rf"is not of th(is|e) architecture.*({other}|in \d+ more tensors)?"):
        load_model(path, other)


@pytest.mark.parametrize("channels", [63, 0])
def test_widths_that_fit_no_network_are_refused(path: Path, channels: int):
    state = {"conv1.weight": torch.zeros(channels, 3, 7, 7), "fc.weight": torch.zeros(10, 512)}
    save_file(state, path)
    with pytest.raises(ModelFileError, match="is not of th"):
        load_model(path, "resnet18")


@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 28)), ("lenet", (3, 32, 32)), ("digits", (1, 8, 8))])
def test_architectures_build_untrained_networks(name: str, shape: tuple[int, ...]):
    assert ARCHITECTURES[name](shape)(torch.zeros(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 24)), ("lenet", (784,)), ("digits", (1, 28, 28))])
def test_shapes_that_an_architecture_does_not_take_are_refused(name: str, shape: tuple[int, ...]):
    with pytest.raises(InputError, match="takes inputs of shape"):
        ARCHITECTURES[name](shape)


@pytest.mark.parametrize(
    ("name", "right"), [("mnist", 0.9926), pytest.param("cifar10", 0.7037, marks=pytest.mark.slow)]
)
def test_the_networks_at_hand_reach_their_accuracy(data_root: Path, name: str, right: float):
    file = data_root / "lenet" / f"{name}.safetensors"
    if not file.exists():
        pytest.skip(f"no {file}")
    assert accuracy(load_lenet(file), load(name, data_root, download=False)) == pytest.approx(right, abs=2e-4)
