"""Verdicts against exact minima and dense grids; counterexamples that anyone can check; broken copies are caught."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pertbound as pb
from clocks import ticking
from oracles.milp import smallest_perturbation
from oracles.networks import random_conv_graph, random_relu_graph, random_smooth_graph
from oracles.onnx_models import mlp, model, node, weights, written
from pertbound.frontends.vnnlib import Case, Inequality, parse_vnnlib
from pertbound.graph import Graph
from pertbound.verification import question as questions
from pertbound.verification import verdict as verdicts
from pertbound.verification.question import question
from pertbound.verification.witness import confirmed

HOLDS, VIOLATED, UNKNOWN = pb.Answer.HOLDS, pb.Answer.VIOLATED, pb.Answer.UNKNOWN


def box_text(low: Tensor, high: Tensor, outputs: int) -> str:
    """Declarations and bounds; every number with all its digits."""
    ends = list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True))
    names = [*(f"X_{i}" for i in range(len(ends))), *(f"Y_{i}" for i in range(outputs))]
    bounds = (f"(assert (<= X_{i} {b!r}))(assert (>= X_{i} {a!r}))" for i, (a, b) in enumerate(ends))
    return "".join(f"(declare-const {name} Real)" for name in names) + "".join(bounds)


def robustness(low: Tensor, high: Tensor, label: int, outputs: int) -> pb.Property:
    """That no output is as large as that of the label."""
    conditions = "".join(f"(and (>= Y_{j} Y_{label}))" for j in range(outputs) if j != label)
    return parse_vnnlib(box_text(low, high, outputs) + f"(assert (or {conditions}))")


def is_counterexample(network: Graph, claim: pb.Property, found: pb.Counterexample) -> bool:
    """What the competition's checker asks, exactly: the printed numbers alone, run again."""
    text = str(found)
    assert text[:2] == "(("
    assert text[-2:] == "))"
    pairs = [part.strip(" ()\n").split(" ") for part in text[1:-1].split(")") if part.strip(" ()\n")]
    inputs = [value for name, value in pairs if name.startswith("X_")]
    outputs = [value for name, value in pairs if name.startswith("Y_")]
    assert [name for name, _ in pairs] == [
        *(f"X_{i}" for i in range(len(inputs))),
        *(f"Y_{i}" for i in range(len(outputs))),
    ]
    x = torch.tensor([np.float32(float(value)) for value in inputs]).reshape(1, *network.input_shape)
    assert torch.equal(x[0], found.x)
    ran = (network.original or network)(x)[0]
    assert torch.equal(ran, torch.tensor([np.float32(float(value)) for value in outputs]))
    return any(
        all(a <= Fraction(v) <= b for a, v, b in zip(case.lower, inputs, case.upper, strict=True))
        and any(all(one.holds([Fraction(v) for v in outputs]) for one in part) for part in case.conditions)
        for case in claim.cases
    )


def test_robustness_against_exact_minima(generator: torch.Generator) -> None:
    """Boxes of uneven sides, around which integer programs say whether any other class wins."""
    found: list[pb.Answer] = []
    for trial in range(10):
        network = random_relu_graph(generator) if trial % 4 else random_conv_graph(generator, (1, 4, 4))
        x = torch.randn(1, *network.input_shape, generator=generator)
        label = int(network(x).argmax())
        side = 0.2 * 2 ** (trial % 4) * torch.rand(x.shape, generator=generator).round(decimals=1)
        low, high = (x - side).double()[0], (x + side).double()[0]
        exact = smallest_perturbation(network, x[0], label, p=math.inf, box=(low, high)).distance_upper
        claim = robustness(low, high, label, network.classes)
        verdict = pb.verify(network, claim, seconds=20.0)
        assert verdict.answer in (UNKNOWN, HOLDS if math.isinf(exact) else VIOLATED), (trial, exact)
        if verdict.answer is VIOLATED:
            assert verdict.counterexample is not None
            assert is_counterexample(network, claim, verdict.counterexample)
        found.append(verdict.answer)
    assert min(found.count(HOLDS), found.count(VIOLATED)) >= 3
    assert found.count(UNKNOWN) <= 1


def _random_claim(dice: random.Random, low: Tensor, high: Tensor, typical: list[list[float]]) -> pb.Property:
    """Disjunctions of conjunctions of inequalities between outputs and numbers that outputs take."""

    def inequality() -> str:
        some = dice.choice(typical)
        i, j = dice.sample(range(len(some)), 2)
        if dice.random() < 0.5:
            return f"({dice.choice(['<=', '>=', '<'])} Y_{i} {some[i] + dice.uniform(-0.3, 0.3):.3f})"
        shift = some[i] - 0.5 * some[j] + dice.uniform(-0.3, 0.3)
        return f"({dice.choice(['<=', '>='])} (- Y_{i} (* 0.5 Y_{j})) {shift:.3f})"

    parts = [
        f"(and {' '.join(inequality() for _ in range(dice.choice([1, 2, 3])))})" for _ in range(dice.choice([1, 2]))
    ]
    return parse_vnnlib(box_text(low, high, len(typical[0])) + f"(assert (or {' '.join(parts)}))")


def test_linear_conditions_against_grids() -> None:
    """No grid of 90,000 points shows a counterexample where the property is said to hold."""
    found: list[pb.Answer] = []
    for seed in range(30):
        dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        make = random_smooth_graph if seed % 3 == 0 else random_relu_graph
        network = make(generator, (2, 5, 3))
        low = torch.randn(2, generator=generator, dtype=torch.float64)
        high = low + torch.rand(2, generator=generator, dtype=torch.float64) * dice.choice([0.2, 0.5, 1.0])
        grid = torch.cartesian_prod(*(torch.linspace(float(a), float(b), 300) for a, b in zip(low, high, strict=True)))
        values = network(grid).double().numpy()
        claim = _random_claim(dice, low, high, [values[0].tolist(), values[-1].tolist(), values[30_000].tolist()])
        shown = np.zeros(len(values), dtype=bool)
        for condition in claim.cases[0].conditions:
            every = np.ones(len(values), dtype=bool)
            for one in condition:
                every &= sum(float(c) * values[:, i] for i, c in one.coefficients) < float(one.bound) - 1e-5
            shown |= every
        verdict = pb.verify(network, claim, seconds=20.0)
        assert not (shown.any() and verdict.answer is HOLDS), seed
        assert shown.any() or verdict.answer is not UNKNOWN, seed
        if verdict.answer is VIOLATED:
            assert verdict.counterexample is not None
            assert is_counterexample(network, claim, verdict.counterexample), seed
        found.append(verdict.answer)
    assert min(found.count(HOLDS), found.count(VIOLATED)) >= 8
    assert found.count(UNKNOWN) <= 3


def test_cases_without_points_or_conditions(generator: torch.Generator) -> None:
    network = random_relu_graph(generator)
    low, high = torch.full((4,), 0.1, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)
    text = box_text(low, high, 3)
    empty = parse_vnnlib(text + "(assert (<= X_0 0))")
    assert pb.verify(network, empty).answer is HOLDS
    every = parse_vnnlib(text)
    verdict = pb.verify(network, every)
    assert verdict.answer is VIOLATED
    assert verdict.counterexample is not None
    assert is_counterexample(network, every, verdict.counterexample)


def test_boxes_that_hold_no_float(generator: torch.Generator) -> None:
    """X_0 = 0.1 is no float32: the counterexample says 0.1, which reads as the float that was run."""
    network = random_relu_graph(generator)
    text = box_text(torch.zeros(4), torch.zeros(4), 3).replace("X_0 0.0", "X_0 0.1").replace("X_1 0.0", "X_1 1e-9")
    text = text.replace("(<= X_2 0.0)", "(<= X_2 0.123456789013)").replace("(>= X_2 0.0)", "(>= X_2 0.123456789012)")
    x = torch.tensor([[0.1, 1e-9, 0.123456789012, 0.0]])
    best = int(network(x).argmax())
    for other, answer in ((best, VIOLATED), ((best + 1) % 3, HOLDS)):
        third = 3 - best - (best + 1) % 3
        claim = parse_vnnlib(
            text + f"(assert (and (>= Y_{other} Y_{third}) (>= Y_{other} Y_{(best + (other == best)) % 3})))"
        )
        verdict = pb.verify(network, claim, seconds=5)
        assert verdict.answer is answer
        if answer is VIOLATED:
            assert verdict.counterexample is not None
            assert verdict.counterexample.decimals[0] == "0.1"
            assert is_counterexample(network, claim, verdict.counterexample)


def test_bounds_of_inequalities_are_not_moved(generator: torch.Generator) -> None:
    """The largest output in a point is y; that an output is >= y + 1e-6 is excluded, that it is >= y - 1e-6 is not."""
    network = random_relu_graph(generator, dtype=torch.float64)
    x = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    y = float(network(x)[0, 1])
    for shift, answer in ((1e-6, HOLDS), (-1e-6, VIOLATED)):
        claim = parse_vnnlib(box_text(x[0], x[0], 3) + f"(assert (>= (* 3 Y_1) (* 3 {y + shift!r})))")
        assert pb.verify(network, claim).answer is answer


def test_time_is_kept(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_relu_graph(generator, (10, 60, 60, 60, 3), 3.0)
    claim = robustness(-torch.ones(10).double(), torch.ones(10).double(), 0, 3)
    hard = parse_vnnlib(box_text(-torch.ones(10), torch.ones(10), 3) + "(assert (>= Y_0 300))")
    assert pb.verify(network, claim, seconds=1e-9).answer is UNKNOWN
    clock = ticking(monkeypatch, 0.01)
    verdict = pb.verify(network, hard, seconds=1.0)
    assert verdict.answer is UNKNOWN
    assert "1 of 1 boxes are open after 1 seconds" in verdict.by
    assert clock.seconds < 1.2, "no step reads the clock often without looking whether the time is over"
    for limit in (0, -1, math.inf, math.nan):
        with pytest.raises(pb.InputError, match="time limit"):
            pb.verify(network, claim, seconds=limit)


def test_properties_that_do_not_fit_are_refused(generator: torch.Generator, tmp_path: Path) -> None:
    network = random_relu_graph(generator)
    point, far = torch.zeros(4), torch.full((4,), 1e300, dtype=torch.float64)
    with pytest.raises(pb.PropertyError, match="about 3 inputs and 3 outputs, the network has 4 and 3"):
        pb.verify(network, parse_vnnlib(box_text(torch.zeros(3), torch.zeros(3), 3)))
    for text, message in (
        ("(assert (<= (+ Y_0 (* 100000001 Y_1)) 1))", "small multiples"),
        ("(assert (<= Y_0 1e39))", "beyond torch.float32"),
    ):
        with pytest.raises(pb.PropertyError, match=message):
            pb.verify(network, parse_vnnlib(box_text(point, point, 3) + text))
    with pytest.raises(pb.PropertyError, match="beyond"):
        pb.verify(network, robustness(-far, far, 0, 3))
    source = mlp()
    source.graph.node[-1].output[0] = "z"
    source.graph.node.append(node("Softmax", "z", "y", axis=1))
    softmax = pb.from_onnx(written(source, tmp_path))
    with pytest.raises(pb.PropertyError, match="ends in a softmax"):
        pb.verify(softmax, parse_vnnlib(box_text(point, point, 3) + "(assert (>= Y_0 0.9))"))
    best = int(softmax(torch.zeros(1, 2, 2)).argmax())
    assert pb.verify(softmax, robustness(point, point, best, 3)).answer is HOLDS
    assert pb.verify(softmax, robustness(point, point, (best + 1) % 3, 3)).answer is VIOLATED
    with pytest.raises(pb.PropertyError, match="ends in a softmax"):
        pb.verify(pb.preprocessed(softmax, scale=2), parse_vnnlib(box_text(point, point, 3) + "(assert (>= Y_0 0.9))"))


def test_counterexamples_are_run_through_onnxruntime(tmp_path: Path, generator: torch.Generator) -> None:
    network = pb.from_onnx(written(mlp(), tmp_path))
    claim = robustness(-torch.ones(4), torch.ones(4), int(network(torch.zeros(1, 2, 2)).argmax()), 3)
    verdict = pb.verify(network, claim, seconds=10)
    assert verdict.answer is VIOLATED
    assert verdict.counterexample is not None
    assert is_counterexample(network, claim, verdict.counterexample)
    # a model that disagrees with the graph takes every counterexample back
    network.original = lambda x: torch.zeros(len(x), 3).index_fill(1, torch.tensor([claim_label(claim)]), 1.0)
    assert confirmed(network, claim.cases[0], verdict.counterexample.x[None]) is None
    assert pb.verify(network, claim, seconds=1).answer is UNKNOWN


def claim_label(claim: pb.Property) -> int:
    """The output that all conditions of a robustness property compare with."""
    return next(index for index, factor in claim.cases[0].conditions[0][0].coefficients if factor > 0)


def test_a_first_layer_that_only_reshapes_is_left_out(tmp_path: Path) -> None:
    network = pb.from_onnx(written(mlp(), tmp_path))
    asked = question(network, robustness(torch.zeros(4), torch.ones(4), 0, 3).cases[0])
    assert [type(n.layer).__name__ for n in asked.graph.nodes] == ["Dense", "ReLU", "Dense", "Dense"]
    assert asked.x.shape == (1, 4)


def test_sums_of_two_residual_branches_keep_their_input(tmp_path: Path) -> None:
    """A reshape whose result is read together with the input stays."""
    nodes = [
        node("Reshape", "x s", "r"),
        node("MatMul", "r w", "a"),
        node("MatMul", "x w", "b"),
        node("Add", "a b", "y"),
    ]
    path = written(model(nodes, ("N", 4), {"s": np.array([0, 4]), "w": weights(4, 3)}), tmp_path)
    network = pb.from_onnx(path)
    best = int(network(torch.zeros(1, 4) + 0.5).argmax())
    point = torch.full((4,), 0.5)
    assert pb.verify(network, robustness(point, point, best, 3)).answer is HOLDS


# --- broken copies: each must be caught by the tests above ------------------------------------------------------------


def _first_condition_only(network: Graph, case: Case) -> Any:
    return question(network, Case(case.lower, case.upper, case.conditions[:1]))


def _part_of_the_box(network: Graph, case: Case) -> Any:
    middle = [a / 10 + 9 * b / 10 for a, b in zip(case.lower, case.upper, strict=True)]
    return question(network, Case(tuple(middle), case.upper, case.conditions))


def _any_of_a_conjunction(network: Graph, case: Case) -> Any:
    return question(network, Case(case.lower, case.upper, tuple(part[:1] for part in case.conditions)))


def _other_sign(network: Graph, case: Case) -> Any:
    def turned(one: Inequality) -> Inequality:
        return Inequality(tuple((i, -c) for i, c in one.coefficients), -one.bound, one.strict)

    return question(network, Case(case.lower, case.upper, tuple(tuple(map(turned, part)) for part in case.conditions)))


@pytest.mark.parametrize("broken", [_first_condition_only, _part_of_the_box, _other_sign])
def test_broken_questions_are_caught(broken: Any, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(verdicts, "question", broken)
    with pytest.raises(AssertionError):
        test_robustness_against_exact_minima(generator)


def test_a_conjunction_that_is_read_as_its_first_inequality_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It proves less, so that too much stays unknown."""
    monkeypatch.setattr(verdicts, "question", _any_of_a_conjunction)
    with pytest.raises(AssertionError):
        test_linear_conditions_against_grids()


def test_a_bound_that_is_rounded_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Y_0 <= 1 + 2^-30 where Y_0 is 1 + 2^-31 at the least: rounded to 1, the inequality would seem excluded."""
    monkeypatch.setattr(questions, "_rounded_up", lambda value, dtype: float(np.float32(float(value))))
    inequality = Inequality(((0, Fraction(1)),), 1 + Fraction(1, 2**30), False)
    assert questions._row(inequality, 2, torch.float32)[1] == 1.0
    monkeypatch.undo()
    assert float(questions._row(inequality, 2, torch.float32)[1]) > 1.0
