"""Several attacks in one: the nearest witness, who gave it, and nothing lost to the polish."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from oracles.networks import chain
from pertbound.attacks.ensemble import USUAL
from pertbound.layers import Dense
from pertbound.problem import Problem


@final
@dataclass(frozen=True, kw_only=True)
class Moves(pb.Attack):
    """Adds what it was told to, and remembers what it was asked."""

    by: Tensor
    title: str
    asked: list[Problem]

    @property
    def name(self) -> str:
        return self.title

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        self.asked.append(problem)
        return problem.x + self.by


def plane() -> pb.Graph:
    """Class 1 where the first entry is above 1."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    return chain([Dense((2,), weight, torch.tensor([1.0, 0.0]))], (2,))


def test_the_nearest_wins_is_named_and_polished() -> None:
    x = torch.zeros(3, 2)
    far = Moves(by=torch.tensor([5.0, 5.0]), title="far", asked=[])
    near = Moves(by=torch.tensor([[2.0, 1.0], [0.5, 0.0], [9.0, 9.0]]), title="near", asked=[])
    found = pb.attack(plane(), x, pb.Ensemble(attacks=(far, near)))
    assert found.methods == ("near", "far", "far")
    assert found.distance.tolist() == pytest.approx([1.0] * 3, rel=1e-3)
    (first,), (second,) = far.asked, near.asked
    assert bool(torch.isinf(first.known()).all())
    assert second.known().tolist() == pytest.approx([50**0.5] * 3)


def test_a_false_claim_does_not_hide_a_true_witness() -> None:
    liar = Moves(by=torch.tensor([0.1, 0.0]), title="liar", asked=[])
    true = Moves(by=torch.tensor([3.0, 0.0]), title="true", asked=[])
    found = pb.attack(plane(), torch.zeros(2, 2), pb.Ensemble(attacks=(liar, true)))
    assert found.methods == ("true", "true")
    alone = pb.attack(plane(), torch.zeros(2, 2), pb.Ensemble(attacks=(liar,)))
    assert bool(alone.found.all())  # this boundary is found from x
    assert alone.methods == ("polish", "polish")


def test_a_polish_that_the_original_does_not_confirm_is_taken_back() -> None:
    """The model behind the graph changes its mind only at 2."""
    graph = plane()

    def original(z: Tensor) -> Tensor:
        return torch.stack([torch.full((len(z),), 2.0), z[:, 0]], 1)

    told = pb.Graph(graph.nodes, graph.input_shape, original=original)
    far = Moves(by=torch.tensor([3.0, 0.0]), title="far", asked=[])
    found = pb.attack(told, torch.zeros(1, 2), pb.Ensemble(attacks=(far,)))
    assert bool(found.found)
    assert float(found.distance) == pytest.approx(3.0)


def test_ensembles_of_ensembles_name_the_innermost() -> None:
    far = Moves(by=torch.tensor([5.0, 5.0]), title="far", asked=[])
    found = pb.attack(plane(), torch.zeros(2, 2), pb.Ensemble(attacks=(pb.Ensemble(attacks=(far,)),)))
    assert found.methods == ("far", "far")


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_the_usual_members_are_made_for_the_norm(p: float) -> None:
    assert any(p in member.norms for member in USUAL[p])
    torch.manual_seed(0)
    graph = pb.from_torch(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 5))
    x = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
    found = pb.attack(graph, x, pb.Ensemble(), within=pb.Ball(p=p, box=(0.0, 1.0)))
    assert len(found.methods) == 6
    assert {who for who in found.methods if who} <= {member.name for member in USUAL[p]}


def test_a_bracket_and_a_run_take_it(tmp_path: Any) -> None:
    from pertbound.experiments.work import rows_of

    graph = plane()
    both = pb.bracket(graph, torch.zeros(2, 2), attacks=(pb.Ensemble(),))
    assert both.upper_method == ("ensemble", "ensemble")
    rows = rows_of(both.witnesses[0], torch.arange(2).numpy(), None, 0.1)
    assert all(note.startswith("found by ") for note in rows.column("note").to_pylist())
