"""Networks that begin in every way: the first activation behind other layers, at the input, or nowhere at all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.frontends.vnnlib import parse_vnnlib
from pertbound.layers.piecewise import TwoPieces
from pertbound.verification import lines
from pertbound.verification.branches import Branches
from pertbound.verification.question import question
from verification.test_verification import box_text, is_counterexample


class Does(nn.Module):
    """A function of the input, then dense layers with an activation between them."""

    def __init__(self, first: Callable[[Tensor], Tensor], shape: tuple[int, ...], act: nn.Module | None = None) -> None:
        super().__init__()
        self.first = first
        with torch.no_grad():
            size = first(torch.zeros(1, *shape)).flatten(1).shape[1]
        act = act or nn.ReLU()
        self.rest = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), act, nn.Linear(6, 6), act, nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(x + torch.relu(self.inner(x))))


class GroupSort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pairs = x.reshape(-1, x.shape[1] // 2, 2)
        return torch.stack([pairs.amax(2), pairs.amin(2)], 2).flatten(1)


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def _normed() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.2, 2.0)
        norm.weight.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Conv2d(1, 2, 2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def _bare(matrix: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ matrix + shift


FORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: Does(lambda x: x, (3,)), (3,)),
    "MatMul, Add": (lambda: Does(_bare(torch.randn(3, 4), torch.randn(4)), (3,)), (3,)),
    "Sub, Div": (lambda: Does(lambda x: (x - 0.5) / 0.25, (3,)), (3,)),
    "scaled by entry": (lambda: Does(lambda x: x * torch.tensor([1.0, -2.0, 0.5]), (3,)), (3,)),
    "convolution, batch norm": (_normed, (1, 2, 3)),
    "leading Flatten": (lambda: Does(lambda x: x.flatten(1), (1, 2, 2)), (1, 2, 2)),
    "Slice": (lambda: Does(lambda x: x[:, 1:], (4,)), (4,)),
    "Transpose": (lambda: Does(lambda x: x.transpose(1, 2), (2, 2)), (2, 2)),
    "Pad": (lambda: Does(lambda x: nn.functional.pad(x, (1, 1)), (3,)), (3,)),
    "residual at the input": (lambda: Residual(3), (3,)),
    "input beside itself": (lambda: Does(lambda x: torch.cat([x, 2 * x, x], 1), (2,)), (2,)),
    "AveragePool": (lambda: nn.Sequential(nn.AvgPool2d(2), *Does(lambda x: x, (1, 1, 2)).rest), (1, 2, 4)),
    "MaxPool": (lambda: nn.Sequential(nn.MaxPool2d((1, 2)), *Does(lambda x: x, (1, 2, 1)).rest), (1, 2, 2)),
    "Abs": (lambda: Does(lambda x: x, (3,), Absolute()), (3,)),
    "Abs at the input": (lambda: Does(torch.abs, (3,)), (3,)),
    "ReLU at the input": (lambda: Does(torch.relu, (3,)), (3,)),
    "only at the input": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), (3,)),
    "PReLU": (lambda: Does(lambda x: x, (3,), nn.PReLU()), (3,)),
    "Hardtanh": (lambda: Does(lambda x: x, (3,), nn.Hardtanh()), (3,)),
    "sigmoid": (lambda: Does(lambda x: x, (3,), nn.Sigmoid()), (3,)),
    "GroupSort": (lambda: nn.Sequential(nn.Linear(3, 4), GroupSort(), nn.Linear(4, 2)), (3,)),
    "GroupSort at the input": (lambda: nn.Sequential(GroupSort(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (4,)),
    "no activation": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,)),
    "one layer": (lambda: nn.Sequential(nn.Linear(3, 2)), (3,)),
}

QUICK = ("MatMul, Add", "Sub, Div", "convolution, batch norm", "Abs", "GroupSort at the input", "no activation")


def _made(name: str) -> tuple[pb.Graph, Tensor]:
    """The network, and its outputs Y_0 in [-1, 1] at 20,000 random points, corners and the middle among them."""
    make, shape = FORMS[name]
    torch.manual_seed(0)
    graph = pb.from_torch(make().eval(), torch.randn(2, *shape))
    points = torch.rand(20_000, *shape) * 2 - 1
    points[:5_000] = points[:5_000].sign()
    points[0] = 0
    return graph, graph(points)[:, 0].detach()


def _claim(graph: pb.Graph, limit: float) -> pb.Property:
    one = torch.ones(graph.input_shape)
    return parse_vnnlib(box_text(-one, one, 2) + f"(assert (>= Y_0 {limit!r}))")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FORMS])
def test_every_stage_runs(name: str) -> None:
    """On a property that is true, and that linear relaxation at once need not prove; no stage says what is false."""
    graph, seen = _made(name)
    top, middle = float(seen.max()), float(seen.mean())
    for part, holds in ((1.3, True), (0.8, False)):
        asked = question(graph, _claim(graph, middle + part * (top - middle)).cases[0])
        branches = Branches(graph, asked)
        stages = (
            lambda b=branches: b.begin(tighten=False),
            lambda b=branches: b.begin(tighten=True),
            lambda b=branches: b.improve(math.inf),
            lambda b=branches: b.run(time.process_time() + 0.02),
        )
        for stage in stages:
            found = stage()
            assert found is False or found is holds or (isinstance(found, pb.Counterexample) and not holds)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_answers_are_those_of_dense_samples(name: str) -> None:
    graph, seen = _made(name)
    top, middle = float(seen.max()), float(seen.mean())
    answers: list[pb.Answer] = []
    for part in (0.9, 0.99, 1.01, 1.1, 1.5, 3.0):
        claim = _claim(graph, middle + part * (top - middle))
        verdict = pb.verify(graph, claim, seconds=5.0)
        if part < 1:
            assert verdict.answer is pb.Answer.VIOLATED
        if verdict.answer is pb.Answer.VIOLATED:
            assert verdict.counterexample is not None
            assert is_counterexample(graph, claim, verdict.counterexample)
        answers.append(verdict.answer)
    assert answers[-2:] == [pb.Answer.HOLDS] * 2
    splits = all(isinstance(n.layer, TwoPieces) or n.layer.terms for n in graph.nodes if hasattr(n.layer, "terms"))
    assert answers.count(pb.Answer.UNKNOWN) <= (1 if splits else 3)


def test_a_climb_that_needs_variables_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The climb as it was: gradients with respect to nothing."""
    climb = lines.Lines.climb

    def without(self: lines.Lines, value: Callable[..., Tensor], start: lines.Raw, *options: object, **more: object):  # type: ignore[no-untyped-def]
        if not start:
            torch.autograd.grad(torch.ones(1, requires_grad=True).sum(), [])
        return climb(self, value, start, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lines.Lines, "climb", without)
    with pytest.raises(RuntimeError, match="cannot be empty"):
        test_every_stage_runs("MatMul, Add")
