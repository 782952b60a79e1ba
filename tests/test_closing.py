"""Brackets under a budget: both sides climb where it narrows most, and what is known is never lost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import pertbound as pb
from clocks import ticking
from oracles.milp import smallest_perturbation
from oracles.networks import random_relu_graph
from pertbound.bracket import Bracket


def _asked(generator: torch.Generator, samples: int = 6) -> tuple[pb.Graph, torch.Tensor]:
    return random_relu_graph(generator, (4, 8, 8, 3)), torch.randn(samples, 4, generator=generator)


@pytest.mark.parametrize(
    "p", [pytest.param(1.0, marks=pytest.mark.slow), 2.0, pytest.param(math.inf, marks=pytest.mark.slow)]
)
def test_small_networks_are_closed(p: float, generator: torch.Generator) -> None:
    graph, x = _asked(generator, 3)
    found = pb.bracket(graph, x, budget=15.0, within=pb.Ball(p=p))
    own = graph(x).argmax(1).tolist()
    exact = [smallest_perturbation(graph, one, c, p=p).distance_upper for one, c in zip(x, own, strict=True)]
    exact = torch.tensor(exact, dtype=torch.float64)
    assert bool((found.lower <= exact).all())
    assert bool((found.upper >= exact * (1 - 1e-5)).all())
    assert float((found.lower / found.upper).min()) > 0.9
    assert all(found.lower_method)
    assert all(found.upper_method)


def test_witnesses_are_kept(generator: torch.Generator) -> None:
    graph, x = _asked(generator)
    found = pb.bracket(graph, x, budget=0.2)
    assert found.adversarial is not None
    far = torch.linalg.vector_norm((found.adversarial - x).to(torch.float64), dim=1)
    seen = torch.isfinite(found.upper)
    torch.testing.assert_close(far[seen], found.upper[seen], rtol=1e-6, atol=0.0)
    assert bool((graph(found.adversarial).argmax(1) != graph(x).argmax(1))[seen].all())


@pytest.mark.slow
def test_steps_are_seen_and_only_narrow(generator: torch.Generator) -> None:
    graph, x = _asked(generator)
    steps: list[Bracket] = []
    last = pb.bracket(graph, x, budget=1.0, ratio=1.0, on_step=steps.append)
    assert len(steps) >= 3
    for before, after in itertools.pairwise(steps):
        assert bool((after.lower >= before.lower).all())
        assert bool((after.upper <= before.upper).all())
    assert steps[-1] is last


def test_it_resumes(generator: torch.Generator) -> None:
    graph, x = _asked(generator)
    first = pb.bracket(graph, x, budget=0.05)
    second = pb.bracket(graph, x, budget=0.2, start=first)
    assert bool((second.lower >= first.lower).all())
    assert bool((second.upper <= first.upper).all())
    assert second.effort is not None
    assert first.effort is not None
    assert all(bool((b >= a).all()) for a, b in zip(first.effort, second.effort, strict=True))
    with pytest.raises(pb.InputError, match="same 5 samples"):
        pb.bracket(graph, x[:5], budget=0.5, start=first)
    with pytest.raises(pb.InputError, match="without a budget"):
        pb.bracket(graph, x, budget=0.5, start=pb.bracket(graph, x))


def test_closed_brackets_cost_nothing_more(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops long before the time where the ratio is reached, and does not touch samples that are closed."""
    graph, x = _asked(generator, 3)
    clock = ticking(monkeypatch, 0.05)
    found = pb.bracket(graph, x, budget=60.0, ratio=0.3)
    assert clock.seconds < 30
    assert bool((found.lower >= 0.3 * found.upper).all())
    again = pb.bracket(graph, x, budget=60.0, ratio=0.3, start=found)
    assert torch.equal(again.lower, found.lower)


def test_misclassified_samples_are_done_at_once(generator: torch.Generator) -> None:
    graph, x = _asked(generator)
    wrong = (graph(x).argmax(1) + 1) % 3
    found = pb.bracket(graph, x, wrong, budget=5.0)
    assert found.lower.tolist() == [0.0] * 6
    assert found.upper.tolist() == [0.0] * 6
    with pytest.raises(pb.InputError, match="budget"):
        pb.bracket(graph, x, budget=-1.0)
