"""Strict inequalities that hold with nothing to spare, and those that do not; in fractions, against exact values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.frontends.vnnlib import Case, Inequality, parse_vnnlib
from pertbound.verification import exact, verdict
from pertbound.verification.exact import Exact
from verification.test_verification import box_text

HOLDS, VIOLATED = pb.Answer.HOLDS, pb.Answer.VIOLATED
SEEDS = 10
"""Networks that are compared with grids in fractions."""


class Minus(nn.Module):
    """-ReLU of two layers: never above 0, and 0 in a part of the box; and its sum with a residual."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2), nn.ReLU())
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return -self.layers(x) @ torch.tensor([[1.0, 1.0], [0.0, 1.0]])


class Sums(nn.Module):
    """x_0, x_1 and x_0 + x_1 by way of ReLUs."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(x) - torch.relu(-x)) @ torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def _asked(model: nn.Module, low: float, high: float, condition: str, outputs: int = 2) -> tuple[pb.Graph, pb.Property]:
    graph = pb.from_torch(model.eval(), torch.zeros(2, 2))
    ends = torch.full((2,), low), torch.full((2,), high)
    return graph, parse_vnnlib(box_text(*ends, outputs) + f"(assert {condition})")


STRICT = [
    ("minus", -1.0, 1.0, "(> Y_0 0)", HOLDS),
    ("minus", -1.0, 1.0, "(> Y_1 0)", HOLDS),
    ("minus", -1.0, 1.0, "(> Y_1 Y_0)", HOLDS),
    ("minus", -1.0, 1.0, "(>= Y_0 0)", VIOLATED),
    ("minus", -1.0, 1.0, "(or (and (> Y_0 0)) (and (> Y_1 0)))", HOLDS),
    ("minus", -1.0, 1.0, "(and (> Y_0 0) (<= Y_1 5))", HOLDS),
    ("minus", -1.0, 1.0, "(or (and (> Y_0 0)) (and (>= Y_1 0)))", VIOLATED),
    ("sums", 0.0, 1.0, "(> Y_2 2)", HOLDS),
    ("sums", 0.0, 1.0, "(>= Y_2 2)", VIOLATED),
    ("sums", 0.0, 1.0, "(> Y_2 1.75)", VIOLATED),
    ("sums", -1.0, 1.0, "(> Y_2 2)", HOLDS),
    ("sums", -1.0, 1.0, "(< Y_2 (- 2))", HOLDS),
    ("sums", -1.0, 1.0, "(not (<= Y_2 2))", HOLDS),
    ("sums", -1.0, 1.0, "(> (- Y_2 Y_0) 1)", HOLDS),
    ("sums", -1.0, 1.0, "(and (> Y_0 0) (< Y_0 0))", HOLDS),
]


@pytest.mark.parametrize(
    ("model", "low", "high", "condition", "answer"),
    [row if i % 3 == 0 else pytest.param(*row, marks=pytest.mark.slow) for i, row in enumerate(STRICT)],
)
def test_strict_inequalities_that_hold_are_said_to(
    model: str, low: float, high: float, condition: str, answer: pb.Answer
) -> None:
    made, outputs = (Minus(), 2) if model == "minus" else (Sums(), 3)
    graph, claim = _asked(made, low, high, condition, outputs)
    found = pb.verify(graph, claim, seconds=20.0)
    assert found.answer is answer, found.by


def _network(dice: random.Random) -> tuple[nn.Module, Callable[[list[Fraction]], list[Fraction]]]:
    """Small whole weights, ReLU or leaky ReLU, perhaps a residual; and the same in fractions, written anew."""
    leak = dice.choice([Fraction(0), Fraction(1, 4), Fraction(1)])
    w1, w2, w3 = ([[dice.randint(-2, 2) for _ in range(i)] for _ in range(o)] for i, o in ((2, 3), (3, 3), (3, 2)))
    b1, b2 = ([dice.randint(-1, 1) for _ in range(3)] for _ in range(2))
    residual = dice.random() < 0.5
    layers = [nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2, bias=False)]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, (w1, w2, w3), (b1, b2, None), strict=True):
            layer.weight.copy_(torch.tensor(weight).float())
            if bias is not None:
                layer.bias.copy_(torch.tensor(bias).float())
    act = nn.ReLU() if leak == 0 else nn.LeakyReLU(float(leak))

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.act = nn.ModuleList(layers), act

        def forward(self, x: Tensor) -> Tensor:
            first = self.act(self.layers[0](x))
            second = self.act(self.layers[1](first))
            return self.layers[2](first + second if residual else second)

    def affine(weight: list[list[int]], bias: list[int], x: list[Fraction]) -> list[Fraction]:
        rows = zip(weight, bias, strict=True)
        return [sum((w * v for w, v in zip(row, x, strict=True)), Fraction(b)) for row, b in rows]

    def bent(x: list[Fraction]) -> list[Fraction]:
        return [v if v > 0 else leak * v for v in x]

    def run(x: list[Fraction]) -> list[Fraction]:
        first = bent(affine(w1, b1, x))
        second = bent(affine(w2, b2, first))
        return affine(w3, [0, 0], [a + b for a, b in zip(first, second, strict=True)] if residual else second)

    return Made(), run


def test_nothing_is_excluded_that_is_there() -> None:
    """Whole weights, bounds at values that are attained: a point of a grid in fractions fulfils nothing excluded."""
    said = 0
    for seed in range(SEEDS):
        dice = random.Random(seed)
        model, run = _network(dice)
        sides = [Fraction(dice.randint(-4, 4), 4) for _ in range(2)]
        steps = itertools.product(range(5), repeat=2)
        grid = [[sides[0] + Fraction(i, 4), sides[1] + Fraction(j, 4)] for i, j in steps]
        values = [run(point) for point in grid]
        graph = pb.from_torch(model.eval(), torch.zeros(2, 2))
        index = dice.randrange(2)
        for sign, strict in itertools.product((1, -1), (True, False)):
            bound = min(sign * y[index] for y in values)  # sign * y < bound: at no point of the grid
            one = Inequality(((index, Fraction(sign)),), bound, strict)
            two = replace(one, bound=bound + Fraction(1, 1000))
            upper = tuple(end + 1 for end in sides)
            for inequality in (one, two):
                case = Case(
                    tuple(sides), upper, ((inequality, Inequality(((0, Fraction(1)),), Fraction(10**6), True)),)
                )
                found = Exact(graph, case)
                assert found.possible
                excluded = found.excluded(case.lower, case.upper)
                assert not (excluded and any(inequality.holds(y) for y in values)), seed
                said += excluded
    assert said >= SEEDS / 4


def test_what_fractions_cannot_follow_is_left_to_others() -> None:
    strict = Case((Fraction(0),) * 2, (Fraction(1),) * 2, ((Inequality(((0, Fraction(1)),), Fraction(0), True),),))
    plain = replace(strict, conditions=((Inequality(((0, Fraction(1)),), Fraction(0), False),),))
    for model, case, possible in (
        (nn.Sequential(nn.Linear(2, 2)), strict, True),
        (nn.Sequential(nn.Linear(2, 2)), plain, False),
        (nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), strict, False),
        (nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1)), strict, False),
        (nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.25)), strict, True),
        (nn.Sequential(nn.Linear(2, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2)), strict, False),
    ):
        assert Exact(pb.from_torch(model.eval(), torch.zeros(2, 2)), case).possible is possible
    torch.set_flush_denormal(True)
    try:
        assert not Exact(pb.from_torch(nn.Sequential(nn.Linear(2, 2)), torch.zeros(2, 2)), strict).possible
    finally:
        torch.set_flush_denormal(False)


# --- broken copies: each must be caught by the tests above ------------------------------------------------------------


def _all_strict(self: Exact, one: Inequality, boxes: dict[str, exact.Ends]) -> bool:
    return _NEVER(self, replace(one, strict=True), boxes)


def _none_strict(self: Exact, one: Inequality, boxes: dict[str, exact.Ends]) -> bool:
    return _NEVER(self, replace(one, strict=False), boxes)


def _chord_through_zero(
    left: Fraction, low: Fraction, high: Fraction, above: bool, slopes: str
) -> tuple[Fraction, Fraction]:
    slope, _ = _LINE(left, low, high, above, slopes)
    return slope, Fraction(0)


def _any_inequality(self: Exact, lower: list[Fraction], upper: list[Fraction]) -> bool:
    """One condition that is excluded is enough."""
    boxes = self._intervals(lower, upper)
    return any(any(self._never(one, boxes) for one in condition) for condition in self._case.conditions)


_NEVER, _LINE = Exact._never, exact._line


@pytest.mark.parametrize(
    ("place", "name", "broken", "check"),
    [
        (Exact, "_never", _all_strict, test_nothing_is_excluded_that_is_there),
        (exact, "_line", _chord_through_zero, test_nothing_is_excluded_that_is_there),
        (Exact, "_never", _none_strict, lambda: _ask(7)),
        (Exact, "excluded", _any_inequality, lambda: _ask(6)),
        (verdict, "_exact", lambda *_: None, lambda: _ask(7)),
    ],
)
def test_broken_copies_are_caught(
    place: object, name: str, broken: object, check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError):
        check()


def _ask(number: int) -> None:
    """A case of the table, with little time, without the other search in fractions."""
    model, low, high, condition, answer = STRICT[number]
    made, outputs = (Minus(), 2) if model == "minus" else (Sums(), 3)
    graph, claim = _asked(made, low, high, condition, outputs)
    if answer is VIOLATED:  # the search finds it before
        assert not Exact(graph, claim.cases[0]).excluded(claim.cases[0].lower, claim.cases[0].upper)
        return
    assert verdict._exact(_Only(Exact(graph, claim.cases[0]), claim.cases[0]), 0.0, 0.0) is not None  # type: ignore[arg-type]


class _Only:
    """What the stage looks at."""

    def __init__(self, found: Exact, case: Case) -> None:
        self.exact, self.question = found, type("Asked", (), {"case": case})
