"""One small module of each kind from PyTorch to certificates, which no attack may contradict."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pertbound as pb

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec", "ignore:The tensor attributes", "ignore:Using padding")

INPUTS, CLASSES, SAMPLES = 5, 3, 2
Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A dense layer, the module on samples of some shape, a dense layer."""

    def __init__(self, middle: nn.Module | Function, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.middle, self.shape = middle, shape
        self.first = nn.Linear(INPUTS, torch.zeros(shape).numel())
        with torch.no_grad():
            self.last = nn.Linear(self.hidden(torch.zeros(2, INPUTS)).shape[1], CLASSES)

    def hidden(self, x: Tensor) -> Tensor:
        found: Any = self.middle(self.first(x).reshape(-1, *self.shape))
        return (found[0] if isinstance(found, tuple) else found).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class MaxMin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


class GroupSort(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.size)).sort(-1).values.flatten(1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.two(functional.relu(self.norm(self.one(x)))))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.one(x), self.three(x), functional.max_pool2d(x, 3, stride=1, padding=1)]
        return functional.relu(torch.cat(parts, 1)).mean((2, 3))


class Last(nn.Module):
    """The output of a recurrent layer at the last step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


class Cells(nn.Module):
    """A cell applied by hand, step by step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


class Function_(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def of(function: Function) -> nn.Module:
    return Function_(function)


def averages(x: Tensor) -> Tensor:
    one, more = functional.adaptive_avg_pool2d(x.relu(), 1), functional.adaptive_avg_pool2d(x, (3, 2))
    return torch.cat([one.flatten(1), more.flatten(1)], 1)


def moved(x: Tensor) -> Tensor:
    wide = functional.pad(x, (1, 2), value=0.5)[:, :, ::2].unsqueeze(1).relu().squeeze(1)
    first, second = wide.permute(0, 2, 1).chunk(2, 1)
    return torch.cat([first.mean(2) - first.sum(2), second.flip(-1).flatten(1)], 1)


def last_state(layer: nn.Module) -> nn.Module:
    class State(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[1][0][-1]

    return State()


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 2, dilation=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(2, 1, 2, stride=2)).to(memory_format=torch.channels_last)


def parametrised() -> nn.Module:
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    return nn.Sequential(weighted, nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)))


FLAT, SEQUENCE, IMAGE, VOLUME = (6,), (2, 4), (2, 4, 4), (1, 3, 2, 2)
Case = tuple[Callable[[], nn.Module], tuple[int, ...], float]

MODULES: dict[str, Case] = {
    # what, on which shape, and which part of the best attack's distance is certified at least
    "residual": (Residual, IMAGE, 0.2),
    "inception": (Inception, IMAGE, 0.2),
    "convolutions": (convolutions, IMAGE, 0.08),
    "1-D": (lambda: nn.Sequential(nn.Conv1d(2, 2, 2, padding="same"), nn.ReLU()), SEQUENCE, 0.6),
    "3-D": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU()), VOLUME, 0.8),
    "averages": (lambda: of(averages), IMAGE, 0.5),
    "global maximum": (lambda: nn.AdaptiveMaxPool2d(1), IMAGE, 0.05),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU(), nn.AlphaDropout()), FLAT, 0.7),
    "moved": (lambda: of(moved), SEQUENCE, 0.5),
    "reflected": (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 1, 3), nn.ReLU()), IMAGE, 0.6),
    "normalised": (lambda: of(lambda x: ((x - torch.tensor([0.4, 0.5])[:, None]) / 0.3).relu()), SEQUENCE, 0.4),
    "parametrised": (parametrised, FLAT, 0.5),
    "ReLU6": (nn.ReLU6, FLAT, 0.5),
    "leaky": (nn.LeakyReLU, FLAT, 0.5),
    "PReLU": (lambda: nn.PReLU(2, init=-0.3), SEQUENCE, 0.1),
    "ELU": (nn.ELU, FLAT, 0.6),
    "SELU": (nn.SELU, FLAT, 0.6),
    "GELU": (nn.GELU, FLAT, 0.5),
    "SiLU": (nn.SiLU, FLAT, 0.5),
    "tanh": (nn.Tanh, FLAT, 0.6),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.3), FLAT, 0.5),
    "hardswish": (nn.Hardswish, FLAT, 0.5),
    "GroupSort": (lambda: GroupSort(2), FLAT, 0.4),
    "GroupSort of three": (lambda: GroupSort(3), FLAT, 0.4),
    "MaxMin": (MaxMin, FLAT, 0.4),
    "abs": (lambda: of(torch.abs), FLAT, 0.5),
    "clamp": (lambda: of(lambda x: x.clamp(-0.4, 0.2) + x.clamp(min=0.1)), FLAT, 0.4),
    "maximum of branches": (lambda: of(lambda x: torch.maximum(x[:, :3], 0.5 * x[:, 3:])), FLAT, 0.6),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()), FLAT, 0.4),
    "layer norm": (lambda: nn.LayerNorm(6), FLAT, 0.4),
    "group norm": (lambda: nn.GroupNorm(1, 2), SEQUENCE, 0.3),
    "RMS norm": (lambda: nn.RMSNorm(6), FLAT, 0.4),
    "local response": (lambda: nn.LocalResponseNorm(2, alpha=0.3), (4, 2), 0.5),
    "Lp pooling": (lambda: nn.LPPool2d(2, 2), IMAGE, 0.2),
    "gated": (lambda: nn.GLU(1), FLAT, 0.25),
    "RNN": (lambda: Last(nn.RNN(4, 3, batch_first=True)), SEQUENCE, 0.6),
    "GRU": (lambda: Last(nn.GRU(4, 2, batch_first=True)), SEQUENCE, 0.4),
    "LSTM": (lambda: Last(nn.LSTM(4, 2, batch_first=True)), SEQUENCE, 0.25),
}
MORE: dict[str, Case] = {
    "CELU": (lambda: nn.CELU(0.5), FLAT, 0.5),
    "GELU by tanh": (lambda: nn.GELU("tanh"), FLAT, 0.5),
    "Mish": (nn.Mish, FLAT, 0.5),
    "sigmoid": (nn.Sigmoid, FLAT, 0.6),
    "softplus": (nn.Softplus, FLAT, 0.6),
    "log sigmoid": (nn.LogSigmoid, FLAT, 0.6),
    "hardsigmoid": (nn.Hardsigmoid, FLAT, 0.7),
    "layer norm of rows": (lambda: nn.LayerNorm(4), SEQUENCE, 0.3),
    "instance norm": (lambda: nn.InstanceNorm1d(2), SEQUENCE, 0.3),
    "RNN of ReLUs": (lambda: Last(nn.RNN(4, 3, nonlinearity="relu", batch_first=True)), SEQUENCE, 0.1),
    "both ways": (lambda: Last(nn.RNN(4, 2, 2, bidirectional=True, batch_first=True)), SEQUENCE, 0.25),
    "last state of an LSTM": (lambda: last_state(nn.LSTM(4, 2, batch_first=True)), (1, 4), 0.1),
    "cells of an LSTM": (lambda: Cells(nn.LSTMCell(4, 2)), SEQUENCE, 0.25),
}
CASES = [*MODULES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
CERTIFICATES = (pb.Lipschitz(), pb.LinearRelaxation(tighten=False), pb.QuadraticRelaxation(steps=6))


@pytest.mark.parametrize("name", CASES)
def test_certified_below_what_an_attack_finds(name: str) -> None:
    torch.manual_seed(1)
    build, shape, share = (MODULES | MORE)[name]
    model = Between(build(), shape).eval()
    graph = pb.from_torch(model, torch.zeros(2, INPUTS))
    x = torch.randn(SAMPLES, INPUTS)
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=1e-5)
    upper = pb.attack(graph, x, pb.DDN(steps=25, restarts=1)).distance
    radii = torch.stack([pb.certify(graph, x, certificate).radius for certificate in CERTIFICATES])
    assert bool((radii > 0).all()), radii
    assert bool((radii <= upper).all()), (radii, upper)
    part = float((radii.amax(0) / upper).amin())
    assert part >= share, (part, radii / upper)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells_applied_by_hand_are_the_layer(kind: str) -> None:
    torch.manual_seed(2)
    layer, cell = getattr(nn, kind)(3, 2, batch_first=True), getattr(nn, f"{kind}Cell")(3, 2)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    one, two = (pb.from_torch(model.eval(), torch.zeros(2, 4, 3)) for model in (Last(layer), Cells(cell)))
    x = torch.randn(6, 4, 3)
    assert torch.allclose(one(x), two(x), atol=1e-6)
    assert torch.allclose(pb.certify(one, x, pb.Lipschitz()).radius, pb.certify(two, x, pb.Lipschitz()).radius)


def test_a_maximum_and_a_minimum_of_the_same_two_cost_nothing() -> None:
    """MaxMin is an isometry between pairs: its radius is that of the layers around it."""
    torch.manual_seed(3)
    first, last = (torch.linalg.qr(torch.randn(6, 6)).Q for _ in range(2))
    for middle in (MaxMin(), GroupSort(2), GroupSort(3)):
        model = nn.Sequential(nn.Linear(6, 6, bias=False), middle, nn.Linear(6, 6, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(first)
            model[2].weight.copy_(last)
        graph = pb.from_torch(model, torch.zeros(2, 6))
        x = torch.randn(8, 6)
        top = graph(x).topk(2, 1).values
        exact = (top[:, 0] - top[:, 1]).double() / math.sqrt(2)  # the last rows are orthonormal
        assert torch.allclose(pb.certify(graph, x, pb.Lipschitz()).radius, exact, rtol=1e-3)
