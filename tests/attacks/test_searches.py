"""What each search does in its own way: DeepFool, PGD, FMN, Carlini-Wagner, L-BFGS, and the polish they share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from oracles.networks import chain, random_relu_graph
from pertbound.attacks import ATTACKS, named
from pertbound.attacks.lbfgs import _Objective
from pertbound.attacks.nearest import Nearest
from pertbound.attacks.polish import polish, shorten
from pertbound.graph import in_float64
from pertbound.layers import Dense, ReLU
from pertbound.sets import Ball


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def counted(graph: pb.Graph) -> tuple[pb.Graph, list[int]]:
    """The same graph, and a list of the sizes of all batches that go through it."""
    sizes: list[int] = []
    run = graph.run

    def spy(x: Tensor, *options: object) -> Tensor:
        sizes.append(len(x))
        return run(x, *options)  # type: ignore[arg-type]

    graph.run = spy  # type: ignore[method-assign, assignment]
    return graph, sizes


@pytest.fixture
def graph() -> pb.Graph:
    return random_relu_graph(torch.Generator().manual_seed(0), (6, 16, 16, 4))


# --- the polish -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_polish_finds_the_nearest_point_of_a_plane_from_anywhere(p: float) -> None:
    weight = draw(0, 2, 5)
    graph = chain([Dense((5,), weight, torch.tensor([3.0, 0.0]))], (5,))
    x = 0.1 * draw(1, 20, 5)
    reference = graph(x).argmax(1)
    nearest = Nearest(graph, x, reference, Ball(p=p))
    nearest.probe(x + 20 * draw(2, 20, 5))
    with torch.no_grad():
        polish(nearest)
    w = (weight[0] - weight[1]).double()
    expected = (graph(x)[:, 0] - graph(x)[:, 1]).abs().double() / torch.linalg.vector_norm(
        w, {1: math.inf, 2: 2}.get(p, 1)
    )
    assert torch.allclose(nearest.distance, expected, rtol=1e-3)


def test_the_polish_never_loses(graph: pb.Graph) -> None:
    x = draw(3, 30, 6)
    reference = graph(x).argmax(1)
    for p in (1.0, 2.0, math.inf):
        nearest = Nearest(graph, x, reference, Ball(p=p, box=(-4.0, 4.0)))
        with torch.no_grad():
            nearest.probe(nearest.inside(x + 3 * draw(4, 30, 6)))
            start = nearest.distance
            shorten(nearest)
            short = nearest.distance
            polish(nearest)
        hit = torch.isfinite(start)
        assert int(hit.sum()) > 5
        assert bool((short <= start).all())
        assert bool((nearest.distance <= short).all())
        assert float((nearest.distance / short)[hit].mean()) < 0.8
        assert bool((graph(nearest.point).argmax(1) != reference)[hit].all())


# --- each search ------------------------------------------------------------------------------------------------------


def test_deepfool_rests_samples_that_are_done(graph: pb.Graph) -> None:
    told, sizes = counted(graph)
    assert bool(pb.attack(told, draw(5, 40, 6), pb.DeepFool()).found.all())
    assert min(sizes) < 40
    assert sum(sizes) < 40 * 90


def test_pgd_rests_samples_that_are_done_and_takes_a_hint(graph: pb.Graph) -> None:
    x = draw(5, 40, 6)
    told, sizes = counted(graph)
    plain = pb.attack(told, x, pb.PGD())
    assert bool(plain.found.all())
    assert sum(sizes) < 40 * 20 * 2 * 12 / 2
    sizes.clear()
    small = pb.PGD(radii=1, restarts=1)
    far, near = (pb.attack(told, x, small, upper=part * plain.distance).found.sum() for part in (1e-4, 2.0))
    assert int(far) < int(near)


def test_more_radii_and_restarts_come_nearer(graph: pb.Graph) -> None:
    x = draw(6, 20, 6)
    for p in (1.0, 2.0, math.inf):
        few, many = (
            pb.attack(graph, x, method, within=pb.Ball(p=p)).distance.clamp_max(100).mean()
            for method in (pb.PGD(steps=2, radii=1, restarts=1), pb.PGD(radii=10, restarts=3))
        )
        assert float(many) <= float(few)


@pytest.mark.parametrize("method", [pb.FMN(restarts=3), pb.PGD(restarts=3), pb.DDN(restarts=3)])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_flat_start_is_left(method: pb.Attack, p: float) -> None:
    """All rectifiers are off at x: only a random direction leads out."""
    first = Dense((2,), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), -torch.ones(4))
    last = Dense((4,), torch.tensor([[0.0] * 4, [1.0] * 4]), torch.tensor([0.5, 0.0]))
    found = pb.attack(chain([first, ReLU((4,)), last], (2,)), torch.tensor([[0.1, 0.0]]), method, within=pb.Ball(p=p))
    expected = {1.0: 1.4, 2.0: 1.4, math.inf: 1.4 if method.name.startswith("ddn") else 1.25}[p]
    assert float(found.distance) <= expected * 1.13


def test_carlini_and_wagner_find_the_balance_by_themselves() -> None:
    """Whatever the slope of the logits: the first c follows from it, the others from what was found."""
    weight, bias, x = draw(0, 3, 8), draw(1, 3), draw(2, 10, 8)
    plain = pb.attack(chain([Dense((8,), weight, bias)], (8,)), x, pb.CarliniWagner(steps=60, searches=3))
    steep = pb.attack(chain([Dense((8,), 1e4 * weight, 1e4 * bias)], (8,)), x, pb.CarliniWagner(steps=60, searches=3))
    assert bool(plain.found.all())
    assert torch.allclose(plain.distance, steep.distance, rtol=1e-2)


def test_the_objective_of_lbfgs_has_the_gradient_that_differences_show(graph: pb.Graph) -> None:
    x = draw(7, 1, 6)
    nearest = Nearest(graph, x, graph(x).argmax(1), Ball(box=(-5.0, 5.0)))
    (rival,) = nearest.rivals(1, Ball())
    objective = _Objective(nearest, graph.derive(in_float64), rival, 0.7)
    s = 0.3 * draw(8, 6).double().numpy()
    value, gradient = objective.value(0.4, s)
    assert value > 0
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-6
        difference = (objective.value(0.4, s + step)[0] - objective.value(0.4, s - step)[0]) / 2e-6
        assert gradient[i] == pytest.approx(difference, rel=1e-4, abs=1e-7)
    assert [pair[0] for pair in objective.bounds] == pytest.approx(((-5 - x[0]) / 0.7).tolist(), rel=1e-5)


def test_lbfgs_closes_the_paper_s_gap_on_a_smooth_network() -> None:
    """As near as the search that is exact on nearly everything here."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    graph = pb.from_torch(model, torch.zeros(1, 8))
    x = draw(9, 12, 8)
    best = pb.attack(graph, x, pb.DDN(restarts=4, targets=3)).distance
    found = pb.attack(graph, x, pb.LBFGS()).distance
    assert float((found / best).median()) < 1.001
    assert float((found / best).max()) < 1.2


# --- by name ----------------------------------------------------------------------------------------------------------


def test_every_name_is_an_attack_s_own() -> None:
    for name, method in ATTACKS.items():
        assert method.name == name
        assert named(name) is method


def test_other_names_are_refused() -> None:
    with pytest.raises(pb.InputError, match=r"'magic'.*ddn"):
        named("magic")
