"""Bounds over boxes against points in them; search and branching each by itself; broken copies are caught."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clocks import now
from oracles.crown import crown, dense_layers
from oracles.milp import smallest_perturbation
from oracles.networks import random_conv_graph, random_relu_graph, random_smooth_graph
from pertbound.frontends.vnnlib import Case, parse_vnnlib
from pertbound.graph import INPUT, Graph, in_float64
from pertbound.sets import Box
from pertbound.verification import boxes, branches
from pertbound.verification.boxes import Rest, ahead
from pertbound.verification.branches import Branches, Domains
from pertbound.verification.question import question
from pertbound.verification.splitting import Splitting
from pertbound.verification.witness import Counterexample

MAKE: list[Callable[[torch.Generator], Graph]] = [random_relu_graph, random_smooth_graph, random_conv_graph]


def boxes_around(network: Graph, generator: torch.Generator, size: float) -> tuple[Tensor, Box]:
    """Five points, and boxes of uneven sides that hold them, some sides of length 0."""
    x = torch.randn(5, *network.input_shape, generator=generator)
    sides = (size * torch.rand(2, *x.shape, generator=generator).round(decimals=1)).double()
    return x, Box(x.double() - sides[0], x.double() + sides[1])


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("tighten", [None, 2**24])
def test_boxes_hold_what_points_in_them_give(make: Any, tighten: int | None, generator: torch.Generator) -> None:
    network = make(generator)
    exact = network.derive(in_float64)
    for size in (1e-3, 0.1, 1.0):
        x, box = boxes_around(network, generator, size)
        rest = Rest.of(network, x)
        with boxes.plain_numbers():
            regions = rest.regions(box, tighten)
            other = torch.ones(5, dtype=torch.int64)
            _, value = ahead(network, rest.logits, other, regions)
        for trial in range(60):
            part = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            z = torch.where(part.round() > 0 if trial % 2 else part > 2, box.upper, box.lower)
            z = z if trial % 2 else box.lower + part * (box.upper - box.lower)
            seen: dict[str, Tensor] = {INPUT: z}
            logits = exact.run(z, lambda node, _, found, seen=seen: seen.update({node.name: found}))
            for name, found in seen.items():
                slack = 1e-12 * (1 + found.abs())
                assert bool((found >= regions[name].box.lower - slack).all()), name
                assert bool((found <= regions[name].box.upper + slack).all()), name
            assert bool((value <= logits[:, 0] - logits[:, 1] + 1e-12).all())


def test_tightened_boxes_are_tighter_and_exact_for_one_hidden_layer(generator: torch.Generator) -> None:
    network = random_relu_graph(generator, (4, 8, 8, 3))
    x, box = boxes_around(network, generator, 0.5)
    rest = Rest.of(network, x)
    with boxes.plain_numbers():
        plain, tight = rest.regions(box), rest.regions(box, 2**24)
    widths = [(r[network.output.name].box.upper - r[network.output.name].box.lower).sum() for r in (plain, tight)]
    assert float(widths[1]) < 0.9 * float(widths[0])
    linear = random_relu_graph(generator, (4, 3))
    rest, other = Rest.of(linear, x), torch.ones(5, dtype=torch.int64)
    with boxes.plain_numbers():
        _, value = ahead(linear, rest.logits, other, rest.regions(box))
    weight = linear.output.layer.weight.double()  # type: ignore[attr-defined]
    bias = linear.output.layer.bias.double()  # type: ignore[attr-defined]
    c = weight[0] - weight[1]
    least = torch.where(c > 0, c * box.lower, c * box.upper).sum(1) + bias[0] - bias[1]
    assert bool((value <= least).all())
    assert torch.allclose(value, least, atol=1e-9)


def test_what_crown_proves_is_proved(generator: torch.Generator) -> None:
    proved = 0
    for trial in range(40):
        network = random_relu_graph(generator, (6, 12, 12, 12, 3))
        x = torch.randn(1, 6, generator=generator)
        label = int(network(x).argmax())
        case = asked(network, x, (0.02 + 0.006 * trial) * torch.rand(x.shape, generator=generator), label)
        ask = question(network, case)
        rows = np.delete(np.eye(3)[label] - np.eye(3), label, axis=0)
        low, high = (end.flatten().numpy() for end in (ask.box.lower, ask.box.upper))
        if bool((crown(dense_layers(network), low, high, rows) > 1e-9).all()):
            assert Branches(network, ask).begin(tighten=True), trial
            proved += 1
    assert 10 <= proved <= 36


def asked(network: Graph, x: Tensor, side: Tensor, label: int) -> Case:
    """That no output is as large as the label's in x +- side."""
    low, high = (x - side).double().flatten().tolist(), (x + side).double().flatten().tolist()
    names = [*(f"X_{i}" for i in range(len(low))), *(f"Y_{i}" for i in range(network.classes))]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    text += "".join(
        f"(assert (and (>= X_{i} {a!r}) (<= X_{i} {b!r})))" for i, (a, b) in enumerate(zip(low, high, strict=True))
    )
    others = "".join(f"(and (>= Y_{j} Y_{label}))" for j in range(network.classes) if j != label)
    return parse_vnnlib(text + f"(assert (or {others}))").cases[0]


def answers(
    kind: type[Branches] | type[Splitting], generator: torch.Generator, trials: int, seconds: float = 20.0
) -> list[bool | None]:
    """What one of both says of random questions, held against exact minima: holds, has a counterexample, or None."""
    found: list[bool | None] = []
    for trial in range(trials):
        network = random_relu_graph(generator, (3, 6, 6, 3) if kind is Splitting else (10, 8, 8, 3), 2.0)
        x = torch.randn(1, *network.input_shape, generator=generator)
        label = int(network(x).argmax())
        side = (0.5 if kind is Splitting else 0.15) * (1 + trial % 4) * torch.rand(x.shape, generator=generator)
        case = asked(network, x, side, label)
        low, high = (x - side).double()[0], (x + side).double()[0]
        exact = smallest_perturbation(network, x[0], label, p=math.inf, box=(low, high)).distance_upper
        search = kind(network, question(network, case))
        if isinstance(search, Branches) and search.begin(tighten=True):
            answer: bool | None = True
        else:
            got = search.run(now() + seconds)
            answer = False if isinstance(got, Counterexample) else True if got else None
        assert answer in (None, math.isinf(exact)), trial
        found.append(answer)
    return found


@pytest.mark.parametrize("kind", [Branches, Splitting])
def test_each_search_decides_by_itself(kind: Any, generator: torch.Generator) -> None:
    found = answers(kind, generator, 12)
    assert found.count(True) >= 3
    assert found.count(False) >= 3
    assert found.count(None) <= 1


def test_branching_on_networks_with_nothing_to_split(generator: torch.Generator) -> None:
    """Lines of smooth activations climb, and more is proved than without."""
    network = random_smooth_graph(generator, (6, 10, 10, 3))
    x = torch.randn(1, 6, generator=generator)
    label = int(network(x).argmax())
    proved = {"begin": 0, "run": 0}
    for size in torch.linspace(0.25, 0.29, 5):
        search = Branches(network, question(network, asked(network, x, size * torch.ones(1, 6), label)))
        if search.begin(tighten=True):
            proved["begin"] += 1
        elif search.run(now() + 20.0) is True:
            proved["run"] += 1
    assert proved["begin"] >= 1
    assert proved["run"] >= 1


# --- broken copies ---------------------------------------------------------------------------------------------------


def _one_half_only(self: Branches, domains: Domains) -> Domains:
    halves = _split(self, domains)
    return halves.take(torch.arange(len(halves.other) // 2))


def _nearer_ends(ground: Any, region: Any) -> Tensor:
    middle = Box(region.box.lower * 0.5 + region.value * 0.5, region.box.upper * 0.5 + region.value * 0.5)
    return _lowest(ground, type(region)(region.value, middle, region.radius, region.noise))


def _first_part_only(self: Splitting) -> Box:
    both = _halves(self)
    return Box(both.lower[: len(both.lower) // 2], both.upper[: len(both.upper) // 2])


_split, _lowest, _halves = Branches._split, boxes.lowest, Splitting._halves


def test_a_forgotten_half_is_caught(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(Branches, "_split", _one_half_only)
    monkeypatch.setattr(branches.Branches, "_look", _without_counterexamples)
    with pytest.raises(AssertionError):
        answers(Branches, generator, 12, 1.0)


def _without_counterexamples(self: Branches, domains: Domains, exact: Any) -> Any:
    return None, _look(self, domains, exact)[1]


_look = Branches._look


def test_a_box_that_is_too_small_is_caught(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(boxes, "lowest", _nearer_ends)
    with pytest.raises(AssertionError):
        answers(Branches, generator, 12)


def test_a_forgotten_part_is_caught(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(Splitting, "_halves", _first_part_only)
    with pytest.raises(AssertionError):
        answers(Splitting, generator, 12)
