"""The red team against the library: random networks, dense grids, properties; and against broken copies of it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound import layers
from redteam import claims
from redteam.attack import Question, nearest
from redteam.blocks import Dice
from redteam.image_stages import IMAGES
from redteam.mutants import EVERYTHING_HOLDS, MUTANTS, candidates
from redteam.networks import Drawn, draw
from redteam.properties import check_property, draw_property
from redteam.rounding import margin_and_error
from redteam.stages import ACTIVATIONS, FLAT, NORMS
from redteam.tally import Tally

SHARDS, NETWORKS, SMALL, PROPERTIES = 18, 36, 18, 90
"""Networks of any shape, and of one to three inputs: 12 samples, 9 certificates and 2 settings each; properties."""
KINDS = [*FLAT, *NORMS, *IMAGES, *ACTIVATIONS]
QUICK = {"lipschitz": pb.Lipschitz(), "linear, plain boxes": pb.LinearRelaxation(tighten=False, passes=3)}


def _two_layers() -> Drawn:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).eval().requires_grad_(False)
        return Drawn(1, model, copy.deepcopy(model).double(), torch.randn(4, 2), ("linear", "relu"), "plain")


def test_a_small_network_is_not_contradicted(tally: Tally) -> None:
    claims.check(_two_layers(), tally, 1, QUICK)
    tally.require_none()
    assert tally["certificate checks"] == 8


def test_the_attack_finds_the_boundary_of_a_linear_network() -> None:
    """Distances to a plane are known in all norms, and within a box that cuts nothing."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, -1.0, 2.0], [0.5, 0.25, -0.5]], dtype=torch.float64)
    gap = (x @ weight.T)[:, 0].abs()
    for p, dual in ((1.0, 2.0), (2.0, 5.25**0.5), (float("inf"), 3.5)):
        question = Question(lambda z: z @ weight.T, x, (x @ weight.T).argmax(1), p, (-50.0, 50.0))
        found = question.distance(nearest(question))
        assert bool((found >= gap / dual * (1 - 1e-12)).all())
        assert bool((found <= gap / dual * 1.01).all())


def test_float64_is_not_believed_beyond_its_rounding() -> None:
    """1e8 + z - 1e8 with z below 1e-8 is noise; a margin of 1 is not."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.fill_(1e8)
        model[1].weight.copy_(torch.tensor([[0.0], [1.0]])), model[1].bias.copy_(torch.tensor([0.0, -1e8]))
    for z, decided in ((1e-9, False), (1.0, True)):
        margin, error = margin_and_error(model, torch.full((1, 1), z, dtype=torch.float64), 0)
        assert (margin > error) is decided
        assert abs(margin - z) <= error


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_networks(shard: int, tally: Tally) -> None:
    for seed in range(shard, NETWORKS, SHARDS):
        claims.check(draw(seed), tally)
    tally.require_none()


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_small_networks_on_dense_grids(shard: int, tally: Tally) -> None:
    for seed in range(shard, SMALL, SHARDS):
        claims.check(draw(500 + seed, dims=1 + seed % 3), tally)
    tally.require_none()


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_verdicts_on_random_properties(shard: int, tally: Tally) -> None:
    for seed in range(shard, PROPERTIES // 5, SHARDS):
        drawn = draw(2000 + seed, dims=2 + seed % 2)
        try:
            graph = pb.from_torch(drawn.model, drawn.x)
        except pb.PertboundError:
            continue
        for number in range(5):
            check_property(drawn, draw_property(drawn, Dice(100 * seed + number)), graph, tally, 0.3)
    tally.require_none()


@pytest.mark.slow
def test_every_layer_is_reached(tally: Tally) -> None:
    """Each kind is drawn and read, and together they reach all layers."""
    reached: set[str] = set()
    refused: list[str] = []
    for kind in KINDS:
        for seed in range(8):
            drawn = draw(7000 + seed, only=kind, scale="plain")
            try:
                graph = pb.from_torch(drawn.model, drawn.x)
            except pb.PertboundError as error:
                refused.append(f"{drawn}: {error}")
                continue
            reached |= {type(node.layer).__name__ for node in graph.nodes}
            claims.check(drawn, tally, 1, QUICK)
            break
    every = {name for name in layers.__all__ if inspect.isclass(getattr(layers, name))} - {"Shape"}
    abstract = {name for name in every if inspect.isabstract(getattr(layers, name))}
    assert every - abstract - reached == set()
    assert len(refused) <= len(KINDS) // 4, "\n".join(refused)
    tally.require_none()


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copies_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, kind, certificate = MUTANTS[name]
    broken(monkeypatch)
    tally = Tally()
    for drawn in candidates(kind):
        claims.check(drawn, tally, 2, {certificate: claims.CERTIFICATES[certificate]})
        if tally.faults:
            return
    pytest.fail(f"nothing was found in {tally['certificate checks']} checks")


@pytest.mark.slow
def test_a_verdict_without_proof_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    EVERYTHING_HOLDS(monkeypatch)
    tally = Tally()
    for seed in range(3):
        drawn = draw(2000 + seed, dims=2)
        graph = pb.from_torch(drawn.model, drawn.x)
        for number in range(5):
            check_property(drawn, draw_property(drawn, Dice(100 * seed + number)), graph, tally, 0.3)
    assert tally.faults


def test_a_radius_too_large_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    certify = pb.LinearRelaxation.certify

    def more(self: pb.LinearRelaxation, problem: Any) -> pb.Certified:
        found = certify(self, problem)
        return type(found)(1.5 * found.radius, found.reference, found.predicted, found.method, found.guarantee)

    monkeypatch.setattr(pb.LinearRelaxation, "certify", more)
    tally = Tally()
    claims.check(_two_layers(), tally, 1, {"linear": pb.LinearRelaxation(passes=3)})
    assert tally.faults
