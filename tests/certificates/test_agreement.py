"""What every certificate's radii are held against: the executed network, and perturbations that were seen."""

from __future__ import annotations

import functools
import importlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from oracles.networks import random_relu_graph
from pertbound.certificates.base import Certificate
from pertbound.certificates.published import Published
from pertbound.data import DataSet
from pertbound.errors import ROUNDING, contradicts
from pertbound.experiments.work import Work
from pertbound.problem import Certified, Problem

EVERY = (
    pb.Lipschitz(),
    pb.Lipschitz(floor=0.0),
    pb.Interval(),
    pb.LinearRelaxation(),
    pb.QuadraticRelaxation(steps=3),
    pb.BranchAndBound(seconds=0.02, root_steps=2),
    pb.Auto(seconds=0.02),
)
QUICK = pb.DDN(steps=8)
TWO_LINES = r"\Asample {}: {} proves that no perturbation smaller than .+ but {} of size .+\n.*report it as a bug.*\Z"


@final
@dataclass(frozen=True, kw_only=True)
class Lies(pb.Certificate):
    """A certificate of somebody else, which says `times` what Lipschitz proves, or a number."""

    times: float = 1.0
    radius: float | None = None

    @property
    def name(self) -> str:
        return "lies"

    def certify(self, problem: Problem) -> Certified:
        found = pb.Lipschitz().certify(problem)
        radius = found.radius * self.times if self.radius is None else torch.full_like(found.radius, self.radius)
        return replace(found, radius=radius, method=self.name)


@functools.cache
def _tied(count: int) -> tuple[pb.Graph, Tensor, Tensor]:
    """Classifiers of two classes whose float32 logits tie, or are the wrong way round, while exact ones are not.

    Class 1 has the bias at which the exact margin is a tiny positive or negative number. Returns a graph, samples, and
    the classes that win in exact arithmetic.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 64, generator=generator)
    for _ in range(400):
        model = nn.Linear(64, 2)
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 64, generator=generator) / 8)
            own, other = model.weight.double()
            model.bias.copy_(torch.tensor([0.0, float((own - other) @ x[0].double())]))
        with torch.no_grad():
            executed, exact = int(model(x).argmax()), int((own - other) @ x[0].double() < float(model.bias[1].double()))
        if exact != executed:
            many = x.expand(count, -1).contiguous()
            return pb.from_torch(nn.Sequential(model).eval(), x), many, torch.full((count,), exact)
    raise AssertionError("no such classifier was found")


@pytest.mark.parametrize("certificate", [*EVERY, Lies(radius=1.0)], ids=lambda c: c.name)
@pytest.mark.parametrize("labelled", [False, True])
def test_ties_and_misclassified_samples_have_radius_zero(certificate: pb.Certificate, labelled: bool) -> None:
    graph, x, exact = _tied(2)
    found = pb.certify(graph, x, certificate, exact if labelled else None)
    executed = graph(x).argmax(1)
    assert torch.equal(found.predicted, executed)
    assert torch.equal(found.reference, exact if labelled else executed)
    tied = graph(x)[:, 0] == graph(x)[:, 1]
    if labelled or bool(tied.all()):
        assert found.radius.tolist() == [0.0, 0.0]


def test_exact_ties_have_radius_zero_whoever_says_what() -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[1], model.bias[1] = model.weight[0], model.bias[0]
        model.bias[2] = -100.0
    graph, x = pb.from_torch(nn.Sequential(model).eval(), torch.zeros(1, 4)), torch.randn(3, 4)
    for certificate in (*EVERY, Lies(radius=1.0)):
        for labels in (None, torch.tensor([0, 1, 2])):
            assert pb.certify(graph, x, certificate, labels).radius.tolist() == [0.0] * 3


@pytest.mark.parametrize("value", [1e38, float("nan"), float("inf"), -1.0])
def test_what_is_not_finite_or_negative_counts_as_nothing(value: float) -> None:
    """Logits that overflow, and radii that are no numbers."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    graph = pb.from_torch(nn.Sequential(model).eval(), torch.zeros(1, 2))
    if value == 1e38:
        x = torch.tensor([[3e38, 0.0]])
        assert not bool(torch.isfinite(graph(x)).all())
        assert all(pb.certify(graph, x, c).radius.tolist() == [0.0] for c in (*EVERY, Lies(radius=1.0)))
    else:
        assert pb.certify(graph, torch.ones(1, 2), Lies(radius=value)).radius.tolist() == [0.0]


def test_radii_of_another_number_are_refused(generator: torch.Generator) -> None:
    @final
    @dataclass(frozen=True)
    class Short(pb.Certificate):
        @property
        def name(self) -> str:
            return "short"

        def certify(self, problem: Problem) -> Certified:
            found = pb.Lipschitz().certify(problem)
            return replace(found, radius=found.radius[:1])

    with pytest.raises(pb.InputError, match=r"short gave radii of shape \(1,\) for 3 samples"):
        pb.certify(random_relu_graph(generator), torch.randn(3, 4), Short())


def _asked(generator: torch.Generator, samples: int = 7) -> tuple[pb.Graph, Tensor, Tensor]:
    """A network, samples, and distances to witnesses."""
    graph, x = random_relu_graph(generator), torch.randn(samples, 4, generator=generator)
    return graph, x, pb.attack(graph, x, QUICK).distance


def test_upper_is_the_most_that_is_returned(generator: torch.Generator) -> None:
    """Where the distance is known to be exactly the radius, less a rounding, the radius is the distance."""
    graph, x, _ = _asked(generator)
    radius = pb.certify(graph, x, pb.Lipschitz()).radius
    for slack in (1.0, 1 - 2.0**-52, 1 - 0.5 * ROUNDING):
        again = pb.certify(graph, x, pb.Lipschitz(), upper=radius * slack).radius
        assert torch.equal(again, radius * slack)
    assert pb.certify(graph, x, Lies(times=100.0), upper=torch.zeros(7)).radius.tolist() == [0.0] * 7
    single = pb.certify(graph, x, pb.Lipschitz(), upper=radius.float())  # rounded by its dtype
    assert bool((single.radius <= radius.float()).all())


def test_a_radius_above_upper_is_an_error_that_says_where(generator: torch.Generator) -> None:
    graph, x, upper = _asked(generator)
    radius = pb.certify(graph, x, pb.Lipschitz(), upper=upper).radius
    assert bool((radius <= upper).all())
    wrong = torch.full_like(upper, torch.inf)
    wrong[5] = radius[5] * (1 - 1e-5)
    for size in (500, 3, 2):
        message = TWO_LINES.format(5, "lipschitz", "`upper` says that there is one")
        with pytest.raises(pb.ContradictionError, match=message) as caught:
            pb.certify(graph, x, pb.Lipschitz(), upper=wrong, batch_size=size)
        assert (caught.value.sample, caught.value.distance) == (5, float(wrong[5]))
        assert caught.value.radius == pytest.approx(float(radius[5]), rel=1e-6)
        assert "must be the distance of a perturbation that was seen" in str(caught.value)


def test_brackets_name_both_methods(generator: torch.Generator) -> None:
    graph, x, upper = _asked(generator)
    few = int(upper.isfinite().int().argmax())
    for options in ({}, {"batch_size": 2}):
        with pytest.raises(pb.ContradictionError, match=TWO_LINES.format(few, "lies", r"ddn\(.* found one")):
            pb.bracket(graph, x, certificates=(Lies(radius=1e6),), attacks=(QUICK,), **options)


@pytest.mark.parametrize("late", [False, True])
def test_brackets_under_a_budget_name_both_methods(
    late: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes last: a certificate above a witness, or a witness below a radius that was proved before."""
    graph, x, _ = _asked(generator)
    module = importlib.import_module("pertbound.bracket")
    monkeypatch.setattr(module, "_certificate", lambda _effort: Lies(radius=1e6))
    monkeypatch.setattr(module, "_attack", lambda _effort, _p: QUICK)
    monkeypatch.setattr(module.Closing, "_chosen", _turns(late))
    with pytest.raises(pb.ContradictionError, match=TWO_LINES.format(r"\d", "lies", r"ddn\(.* found one")):
        pb.bracket(graph, x, budget=1.0)


def _turns(certificates_first: bool) -> Callable[..., Tensor]:
    """Sides that come in that order, each about all samples, once."""

    def chosen(self: object, below: bool, ratio: float, left: float) -> Tensor:
        effort = self.bracket.effort  # type: ignore[attr-defined]
        done = [int(part[0]) for part in effort]
        mine = 0 if below else 1
        wanted = done[mine] == 0 and (below == certificates_first or done[1 - mine] > 0)
        return torch.arange(7) if wanted else torch.empty(0, dtype=torch.long)

    return chosen


@pytest.mark.parametrize("attack_first", [True, False])
def test_shards_with_a_contradiction_fail(attack_first: bool, generator: torch.Generator) -> None:
    graph, x, _ = _asked(generator)
    methods = (QUICK, Lies(radius=1e6)) if attack_first else (Lies(radius=1e6), QUICK)
    data = DataSet("some", x, None, 1.0, torch.arange(40, 47), (), "")
    work = Work(network=graph, data=data, methods=methods, batch_size=3, shard_size=7)
    with pytest.raises(pb.ContradictionError, match=TWO_LINES.format("4[0-9]", "lies", r"ddn\(.* found one")):
        work(0)
    Work(network=graph, data=data, methods=(QUICK, pb.Lipschitz(), Published()), shard_size=7)(0)


def test_a_sample_that_another_batch_misclassifies_closes_at_zero() -> None:
    """Executed alone or among others the prediction may differ by a rounding: both ends are then 0."""
    graph, x, exact = _tied(3)
    for labels in (None, exact):
        found = pb.bracket(graph, x, labels, budget=1e-3)
        assert bool((found.lower <= found.upper).all())
        again = pb.bracket(graph, x, labels, certificates=EVERY, attacks=(QUICK,))
        assert bool((again.lower <= again.upper).all())


def test_the_rule_is_one_for_numbers_arrays_and_tensors() -> None:
    for radius, distance, wrong in (
        (1.0, 1.0, False), (1.0 + 1e-13, 1.0, False), (1.0 + 1e-11, 1.0, True), (1e-300, 0.0, True), (0.0, 0.0, False),
        (np.inf, np.inf, False), (1.0, np.inf, False), (np.inf, 1.0, True), (np.nan, 1.0, False),
    ):  # fmt: skip
        assert bool(contradicts(radius, distance)) is wrong
        assert bool(contradicts(np.array([radius]), np.array([distance]))[0]) is wrong
        assert bool(contradicts(*torch.tensor([[radius], [distance]], dtype=torch.float64))[0]) is wrong


def test_the_error_crosses_processes() -> None:
    error = pb.ContradictionError("a", "b", 3, 2.0, 1.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.sample, again.radius) == (str(error), 3, 2.0)
    assert str(error.at(8)).startswith("sample 8: a proves that no perturbation smaller than 2 changes the class, ")


# --- broken copies: each must be caught by the tests above ------------------------------------------------------------


def _as_it_is(self: Certificate, problem: Problem) -> Certified:
    """Neither held against the executed network nor against upper."""
    return self.certify(problem)


def _cut_silently(self: Certificate, problem: Problem) -> Certified:
    whole = _ANSWER(self, replace(problem, upper=None))
    return replace(whole, radius=torch.minimum(whole.radius, problem.known()))


def _labels_only(self: Certificate, problem: Problem) -> Certified:
    """Ties count as won."""
    found = self.certify(problem)
    wrong = problem.reference(problem.logits.argmax(1)) != problem.logits.argmax(1)
    return replace(found, radius=torch.where(wrong, 0.0, found.radius))


def _one_side(self: object, lower: Tensor, by: object, upper: Tensor, seen: object) -> None:
    """Attacks that come later are not looked at."""


_ANSWER = Certificate.answer


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_as_it_is, test_exact_ties_have_radius_zero_whoever_says_what),
        (_labels_only, test_exact_ties_have_radius_zero_whoever_says_what),
        (_as_it_is, test_upper_is_the_most_that_is_returned),
        (_as_it_is, test_a_radius_above_upper_is_an_error_that_says_where),
        (_cut_silently, test_a_radius_above_upper_is_an_error_that_says_where),
    ],
)
def test_broken_copies_are_caught(
    broken: Callable[..., Certified], check: Callable[..., None], generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Certificate, "answer", broken)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(generator) if check.__code__.co_argcount else check()


def test_a_bracket_that_is_not_held_is_caught(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pb.Bracket, "__post_init__", lambda _self: None)
    with pytest.raises(pytest.fail.Exception):
        test_brackets_under_a_budget_name_both_methods(True, generator, monkeypatch)
