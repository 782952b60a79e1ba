"""The named architectures are those of their papers: parameters, layer sizes, and what the layers compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pertbound.errors import InputError
from pertbound.models import ARCHITECTURES, alexnet, googlenet, nin, resnet18, resnet50, vgg16

Make = Callable[..., nn.Sequential]

# Caffe's reference models for AlexNet and GoogLeNet (no auxiliary heads), torchvision's documentation for the others;
# NIN is the sum over its authors' prototxt.
PARAMETERS = {
    nin: 966_986,
    alexnet: 60_965_224,
    vgg16: 138_357_544,
    googlenet: 6_998_552,
    resnet18: 11_689_512,
    resnet50: 25_557_032,
}
SIZES = {nin: 32, alexnet: 227, vgg16: 224, googlenet: 224, resnet18: 224, resnet50: 224}
EVERY = pytest.mark.parametrize("make", PARAMETERS, ids=lambda make: make.__name__)


@EVERY
def test_parameters_and_output(make: Make) -> None:
    with torch.device("meta"):
        model = make()
        assert sum(weights.numel() for weights in model.parameters()) == PARAMETERS[make]
        classes = 10 if make is nin else 1000
        assert model.eval()(torch.zeros(2, 3, SIZES[make], SIZES[make])).shape == (2, classes)


# Feature maps by the name of the layer that they come out of: (channels, side) as in the papers' tables and figures.
STAGES: dict[Make, dict[str, tuple[int, int]]] = {
    nin: {"5": (96, 32), "6": (96, 16), "13": (192, 16), "14": (192, 8), "21": (10, 8)},
    alexnet: {
        "features.0": (96, 55),
        "features.3": (96, 27),
        "features.4": (256, 27),
        "features.8": (384, 13),
        "features.12": (256, 13),
        "features.14": (256, 6),
    },
    vgg16: {"features.4": (64, 112), "features.9": (128, 56), "features.16": (256, 28), "features.30": (512, 7)},
    googlenet: {  # Table 1, "output size"
        "conv1": (64, 112),
        "pool1": (64, 56),
        "conv2": (192, 56),
        "pool2": (192, 28),
        "inception_3a": (256, 28),
        "inception_3b": (480, 28),
        "pool3": (480, 14),
        "inception_4a": (512, 14),
        "inception_4b": (512, 14),
        "inception_4c": (512, 14),
        "inception_4d": (528, 14),
        "inception_4e": (832, 14),
        "pool4": (832, 7),
        "inception_5a": (832, 7),
        "inception_5b": (1024, 7),
    },
    resnet18: {"conv1": (64, 112), "layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)},
    resnet50: {"conv1": (64, 112), "layer1": (256, 56), "layer2": (512, 28), "layer3": (1024, 14), "layer4": (2048, 7)},
}


@EVERY
def test_feature_maps(make: Make) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        model = make().eval()
        for name in STAGES[make]:
            model.get_submodule(name).register_forward_hook(lambda m, i, y, at=name: seen.update({at: tuple(y.shape)}))
        model(torch.zeros(1, 3, SIZES[make], SIZES[make]))
    assert seen == {name: (1, channels, side, side) for name, (channels, side) in STAGES[make].items()}


@EVERY
def test_weights_depend_on_the_generator_alone(make: Make) -> None:
    state = torch.get_rng_state()
    one, two, other = (make(torch.Generator().manual_seed(seed), width=1 / 8).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights, two[name]) for name, weights in one.items())
    assert not all(torch.equal(weights, other[name]) for name, weights in one.items())
    assert all(bool(torch.isfinite(weights).all()) for weights in one.values())


@pytest.mark.parametrize("make", [vgg16, resnet18], ids=lambda make: make.__name__)
def test_signals_keep_their_size(make: Make, generator: torch.Generator) -> None:
    """He's initialisation: 0.01 times normal entries would leave 1e-9 behind sixteen layers."""
    model = make(generator, width=0.25).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / layer.weight[0].numel()), rel=0.1)
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
            assert bool((layer.running_var == 1).all())
            assert not bool(layer.running_mean.any())
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 224, 224, generator=generator))
    assert 1e-3 < float(outputs.std()) < 1e3


def krizhevsky(a: Tensor, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> Tensor:
    """Section 3.3, written out, for a of shape (batch, N, height, width)."""
    b = torch.empty_like(a)
    for i in range(a.shape[1]):
        window = a[:, max(0, i - n // 2) : min(a.shape[1] - 1, i + n // 2) + 1]
        b[:, i] = a[:, i] / (k + alpha * window.square().sum(1)) ** beta
    return b


def responses(model: nn.Module) -> list[nn.LocalResponseNorm]:
    return [layer for layer in model.modules() if isinstance(layer, nn.LocalResponseNorm)]


def test_alexnet_normalises_as_in_section_3_3(generator: torch.Generator) -> None:
    a = 30 * torch.randn(2, 12, 5, 5, generator=generator)  # sums large enough to tell alpha from alpha / 5
    with torch.device("meta"):
        found = responses(alexnet())
    assert len(found) == 2
    for layer in found:
        torch.testing.assert_close(layer(a), krizhevsky(a))
    wrong = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    assert float((wrong(a) - krizhevsky(a)).abs().max()) > 1e-2 * float(a.abs().max())


def test_alexnets_halves_meet_where_the_paper_says() -> None:
    with torch.device("meta"):
        convolutions = [layer for layer in alexnet().modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.groups, layer.kernel_size[0]) for layer in convolutions] == [(1, 11), (2, 5), (1, 3), (2, 3), (2, 3)]


def test_googlenet_has_the_papers_operators() -> None:
    with torch.device("meta"):
        model = googlenet()
    assert [(n.size, n.alpha, n.beta, n.k) for n in responses(model)] == [(5, 1e-4, 0.75, 1.0)] * 2
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    # Table 1, "params": weights, in units of 1024
    for name, thousands in {"3a": 159, "3b": 380, "4a": 364, "4d": 580, "5b": 1388}.items():
        block = model.get_submodule(f"inception_{name}")
        weights = sum(w.numel() for w in block.parameters() if w.dim() == 4)
        assert weights == pytest.approx(1024 * thousands, rel=0.02)


def test_a_block_adds_its_input(generator: torch.Generator) -> None:
    """With its last batch normalisation at zero a block without projection is the identity on positive inputs."""
    block = resnet18(generator, width=0.125).eval().get_submodule("layer1.0")
    nn.init.zeros_(block.get_submodule("bn2").weight)
    x = torch.rand(2, 8, 6, 6, generator=generator)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(("first", "stride"), [(False, "layer2.0.conv2"), (True, "layer2.0.conv1")])
def test_where_a_bottleneck_strides(first: bool, stride: str) -> None:
    with torch.device("meta"):
        model = resnet50(stride_first=first)
    strided = [name for name, layer in model.named_modules() if getattr(layer, "stride", 1) == (2, 2)]
    assert [name for name in strided if name.startswith("layer2")] == [stride, "layer2.0.downsample.0"]


@pytest.mark.parametrize("name", ["nin", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50"])
def test_thinner_networks_have_the_same_layers(name: str) -> None:
    with torch.device("meta"):
        shape = (3, 227, 227) if name == "alexnet" else (3, 64, 64)
        whole, thin = ARCHITECTURES[name](shape), ARCHITECTURES[name](shape, classes=7, width=0.125)
        assert list(whole.state_dict()) == list(thin.state_dict())
        assert thin.eval()(torch.zeros(1, *shape)).shape == (1, 7)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (vgg16, {"width": 0.3}, r"64 channels times a width of 0\.3 has 19\.2"),
        (googlenet, {"width": 1 / 16}, "has 1.5 channels|has 6.0|times a width"),
        (nin, {"width": 0.0}, "take a width that makes"),
        (vgg16, {"size": 100}, "multiple of 32, got 100"),
        (alexnet, {"size": 224}, "67, 99, ..., 227, 259, ..., got 224"),
    ],
)
def test_what_cannot_be_built_is_refused(make: Make, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
