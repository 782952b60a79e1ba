"""Foolbox's attacks, asked and checked like our own; and what is said without Foolbox."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from contracts.attacks import check_fails_closed, demand_honest
from contracts.certificates import Question, question

VALID = pb.Ball(box=(0.0, 1.0))


@pytest.fixture(scope="module")
def foolbox() -> Any:
    return pytest.importorskip("foolbox", reason="the extra pertbound[foolbox] is not installed")


@pytest.fixture(scope="module")
def graph() -> pb.Graph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    return pb.from_torch(model, torch.zeros(1, 1, 6, 6))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "p", "epsilons"),
    [
        ("LInfFMNAttack", math.inf, ()), ("L2FMNAttack", 2.0, ()), ("L1FMNAttack", 1.0, ()), ("DDNAttack", 2.0, ()),
        ("L2DeepFoolAttack", 2.0, ()), ("LinfPGD", math.inf, (0.02, 0.1, 0.5)), ("DDNAttack", 1.0, ()),
    ],
)  # fmt: skip
def test_its_witnesses_are_witnesses(
    foolbox: Any, graph: pb.Graph, x: Tensor, name: str, p: float, epsilons: tuple[float, ...]
) -> None:
    within = pb.Ball(p=p, box=(0.0, 1.0))
    found = pb.attack(graph, x, pb.FoolboxAttack(name, epsilons=epsilons), within=within)
    assert int(found.found.sum()) >= 6
    assert bool((graph(found.adversarial).argmax(1) != found.reference)[found.found].all())
    assert bool(within.in_box(found.adversarial).all())
    r = (found.adversarial.double() - x.double()).flatten(1)[found.found]
    assert torch.allclose(found.distance[found.found], torch.linalg.vector_norm(r, p, dim=1))
    own = pb.attack(graph, x, pb.FMN(), within=within)
    assert float((own.distance / found.distance).max()) < 1.01  # ours are as near


def test_never_nearer_than_the_exact_minimum(foolbox: Any) -> None:
    asked: Question = question("two layers", 2.0, "free")
    method = pb.FoolboxAttack("L2FMNAttack", bounds=(-10.0, 10.0))
    demand_honest(asked, pb.attack(asked.graph, asked.x, method, within=asked.ball))


def test_models_that_are_not_numbers_are_never_fooled(foolbox: Any) -> None:
    check_fails_closed(pb.FoolboxAttack("L2FMNAttack", bounds=(-1e4, 1e4)))


def test_an_attack_that_was_made_already(foolbox: Any, graph: pb.Graph, x: Tensor) -> None:
    quick = pb.FoolboxAttack(foolbox.attacks.L2FMNAttack(steps=1))
    slow = pb.FoolboxAttack(foolbox.attacks.L2FMNAttack(steps=200))
    assert quick.name == slow.name == "foolbox(L2FMNAttack)"
    few, many = (pb.attack(graph, x, method, within=VALID) for method in (quick, slow))
    assert int(few.found.sum()) <= int(many.found.sum())


def test_a_member_of_an_ensemble(foolbox: Any, graph: pb.Graph, x: Tensor) -> None:
    both = pb.Ensemble(attacks=(pb.FoolboxAttack("DDNAttack"), pb.DeepFool()))
    found = pb.attack(graph, x, both, within=VALID)
    assert set(found.methods) <= {"foolbox(DDNAttack)", "deepfool"}
    assert bool(found.found.all())


def test_random_numbers_are_the_callers(foolbox: Any, graph: pb.Graph, x: Tensor) -> None:
    method = pb.FoolboxAttack("LinfPGD", epsilons=(0.2,))
    state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    one = pb.attack(graph, x, method, within=VALID)
    torch.rand(3)
    other = pb.attack(graph, x, method, within=VALID)
    assert torch.equal(one.adversarial, other.adversarial)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002
    torch.set_rng_state(state)


def test_misclassified_samples_stay(foolbox: Any, graph: pb.Graph, x: Tensor) -> None:
    labels = (graph(x).argmax(1) + 1) % 3
    found = pb.attack(graph, x, pb.FoolboxAttack("L2DeepFoolAttack"), labels, within=VALID)
    assert torch.equal(found.adversarial, x)
    assert bool((found.distance == 0).all())


def test_it_must_know_the_range(foolbox: Any, graph: pb.Graph, x: Tensor) -> None:
    with pytest.raises(pb.InputError, match="bounds="):
        pb.attack(graph, x, pb.FoolboxAttack("L2FMNAttack"))
    with pytest.raises(pb.InputError, match="go from"):
        pb.attack(graph, x, pb.FoolboxAttack("L2FMNAttack", bounds=(0.4, 0.6)))
    free = pb.attack(graph, x, pb.FoolboxAttack("L2FMNAttack", bounds=(-2.0, 3.0)))
    half = pb.attack(graph, x, pb.FoolboxAttack("L2FMNAttack", bounds=(-2.0, 3.0)), within=pb.Ball(box=(0, math.inf)))
    assert int(free.found.sum()) >= 6
    assert float(half.adversarial.min()) >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "NoSuchAttack"}, "NoSuchAttack"), ({"attack": "SpatialAttack"}, "SpatialAttack"),
        ({"attack": 3}, "3"), ({"attack": "LinfPGD"}, "epsilons"),
        ({"attack": "L2FMNAttack", "epsilons": (1.0,)}, "leave"),
        ({"attack": "LinfPGD", "epsilons": (-1.0,)}, "positive"),
        ({"attack": "DDNAttack", "bounds": (1.0, 0.0)}, "low"),
        ({"attack": "DDNAttack", "bounds": (0.0, math.inf)}, "finite"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(foolbox: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.InputError, match=message):
        pb.FoolboxAttack(**options)


def test_without_foolbox_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(pb.InputError, match=r"pip install 'pertbound\[foolbox\]'"):
        pb.FoolboxAttack("L2FMNAttack")
