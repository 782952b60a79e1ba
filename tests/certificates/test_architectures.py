"""Named architectures from module to radius: thin copies here, the real sizes among the slow tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound.graph import in_float64
from pertbound.layers import Conv, Dense, Linear, linear
from pertbound.models import ARCHITECTURES, alexnet, googlenet, initialise, nin, resnet18, resnet50, vgg16

THIN = {"nin": 32, "alexnet": 67, "vgg16": 32, "googlenet": 32, "resnet18": 32, "resnet50": 32}
DEEP = ("googlenet", "resnet50")
"""Those whose thin copies take seconds, too."""
QUICK = pb.DDN(steps=20, restarts=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer maps are written out as matrices, which takes most of the time for small images."""
    monkeypatch.setattr(linear, "DENSE_SIDE", 256)


def thin(name: str) -> nn.Sequential:
    """An eighth of the channels, random weights; branches of ResNet-50 count for a tenth, or they multiply to 1e16."""
    model = ARCHITECTURES[name]((3, THIN[name], THIN[name]), classes=10, width=0.125)
    initialise(model, torch.Generator().manual_seed(0))
    for at, layer in model.named_modules():
        if at.endswith("bn3") and isinstance(layer, nn.BatchNorm2d):
            layer.weight.data *= 0.1
    return model.eval()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in THIN])
def test_from_module_to_bracket(name: str, generator: torch.Generator) -> None:
    model = thin(name)
    x = torch.rand(3, 3, THIN[name], THIN[name], generator=generator)
    network = pb.from_torch(model, x[:2])
    for batch in (x[:1], x[:2]):
        with torch.no_grad():
            torch.testing.assert_close(network(batch), model(batch), rtol=1e-4, atol=1e-4)
    certified = pb.certify(network, x, pb.Lipschitz(floor=0.0))  # many are less than what x is rounded by
    assert bool(torch.isfinite(certified.radius).all())
    assert float(certified.radius.min()) > 0
    assert bool((pb.certify(network, x, pb.Lipschitz()).radius <= certified.radius * (1 + 1e-6)).all())
    distance = pb.attack(network, x, QUICK).distance
    assert bool(torch.isfinite(distance).any())
    assert bool((certified.radius <= distance).all())


def stretch(layer: Linear, generator: torch.Generator, steps: int = 60) -> float:
    """The operator norm from below, by power iteration in float64."""
    v = torch.randn(1, *layer.input_shape, generator=generator, dtype=torch.float64)
    found = 0.0
    for _ in range(steps):
        image = layer.apply(v / torch.linalg.vector_norm(v))
        found = float(torch.linalg.vector_norm(image))
        v = layer.transpose(image)
    return found


def check_norms(norm_upper: Callable[[Linear], float], network: pb.Graph, generator: torch.Generator) -> None:
    """Above what power iteration finds, and not far above it: 1.26 where there is as much padding as image."""
    layers = [node.layer for node in network.derive(in_float64).nodes if isinstance(node.layer, Conv | Dense)]
    assert len(layers) > 5
    for layer in layers:
        least, most = stretch(layer, generator), norm_upper(layer)
        assert least * (1 - 1e-9) <= most, "a perturbation is stretched by more than the bound"
        assert most <= least * 1.3, "loose"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet18"])
def test_norms_of_every_layer(name: str, generator: torch.Generator) -> None:
    network = pb.from_torch(thin(name), torch.zeros(1, 3, THIN[name], THIN[name]))
    check_norms(lambda layer: layer.norm_upper, network, generator)
    with pytest.raises(AssertionError, match="stretched by more"):
        check_norms(lambda layer: layer.norm_upper * 0.85, network, generator)
    with pytest.raises(AssertionError, match="stretched by more"):
        check_norms(kernel_norm, network, generator)


def kernel_norm(layer: Linear) -> float:
    """As in the paper's Theorem 4.2, which is false: the norm of the kernel, here even the largest singular value."""
    assert isinstance(layer, Conv | Dense)
    return float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2))


REAL: dict[str, tuple[Callable[..., nn.Sequential], int]] = {
    "nin": (nin, 32),
    "alexnet": (alexnet, 227),
    "vgg16": (vgg16, 224),
    "googlenet": (googlenet, 224),
    "resnet18": (resnet18, 224),
    "resnet18, small images": (resnet18, 64),
    "resnet50": (resnet50, 224),
}
HOPELESS = ("googlenet", "resnet50")
"""With random weights float64's rounding, times all norms behind it, is larger than any difference of logits."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_sizes(name: str, generator: torch.Generator) -> None:
    make, size = REAL[name]
    model = make(generator).eval()
    x = torch.rand(2, 3, size, size, generator=generator)
    network = pb.from_torch(model, x[:1])
    for batch in (x[:1], x):
        with torch.no_grad():
            found, wanted = network(batch), model(batch)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    radius = pb.certify(network, x, pb.Lipschitz(floor=0.0)).radius  # some are less than what x is rounded by
    assert bool(torch.isfinite(radius).all())
    assert bool(((radius > 0) != (name in HOPELESS)).all())
    assert bool((radius <= pb.attack(network, x, QUICK).distance).all())


@pytest.mark.usefixtures("quick")
def test_quieter_networks_have_brackets_of_a_useful_width(generator: torch.Generator) -> None:
    """Weights scaled down leave the witnesses where they are, relatively, and certify far more: no factor is lost."""
    model = thin("resnet18")
    x = torch.rand(2, 3, 32, 32, generator=generator)
    loud = pb.certify(pb.from_torch(model, x), x, pb.Lipschitz()).radius
    for at, layer in model.named_modules():
        if at.endswith("bn2") and isinstance(layer, nn.BatchNorm2d):
            layer.weight.data *= 0.02
    network = pb.from_torch(model, x)
    quiet = pb.certify(network, x, pb.Lipschitz()).radius
    assert bool((quiet > 50 * loud).all())
    upper = pb.attack(network, x, QUICK).distance
    assert bool((quiet <= upper).all())
    assert float((upper / quiet).max()) < 1000
    assert math.isfinite(float(upper.max()))
