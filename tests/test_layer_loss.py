"""What each layer's step costs: hand-computed networks, sums that must be the margin, and steps that are unsound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import pertbound as pb
from oracles.networks import chain, random_conv_graph, random_relu_graph, random_smooth_graph
from pertbound.forms import Duals, Form, Pulled, Region, Regions
from pertbound.graph import INPUT, Graph
from pertbound.layer_loss import layer_factors, layer_losses, step_losses
from pertbound.layers import Dense, ReLU
from pertbound.regions import Rest, take
from pertbound.relaxation import Ground, margin_form, pull_to_input

FIVE = pb.QuadraticRelaxation(steps=25)


def dense(weight: list[list[float]], bias: list[float]) -> Dense:
    return Dense((len(weight[0]),), torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64))


def two_ramps(relu: type[ReLU] = ReLU) -> Graph:
    """Margin 1 - relu(z1) - relu(z2): behind an identity, so that the exact radius at 0 is 1 / sqrt(2)."""
    layers = [dense([[1, 0], [0, 1]], [0, 0]), relu((2,)), dense([[0, 0], [1, 1]], [1, 0])]
    return chain(layers, (2,), torch.float64)


def pulled_linearly(graph: Graph, x: Tensor, radius: float) -> tuple[Ground, Regions, dict[str, Tensor]]:
    """Linear relaxation of class 0 against class 1 within L2 radius of x, and the nodes' values at x."""
    rest = Rest.of(graph, x)
    regions = take(
        rest.regions(pb.Ball(), torch.full((1,), radius, dtype=torch.float64)), torch.zeros(1, dtype=torch.int64)
    )
    form = margin_form(torch.tensor([0]), torch.tensor([1]), 2, torch.float64)
    return pull_to_input(graph, form, graph.output.name, regions), regions, rest.values


def test_the_steps_of_linear_relaxation_by_hand():
    """On [-e, e] the chord over relu is (z + e) / 2: its bound reaches 0 at e = 1 / (1 + 1 / sqrt(2))."""
    graph = two_ramps()
    e = 1 / (1 + math.sqrt(0.5))
    x = torch.zeros(1, 2, dtype=torch.float64)
    ground, regions, values = pulled_linearly(graph, x, e)
    assert 1 + ground.lower(pb.Ball(), x, torch.tensor([e], dtype=torch.float64)).item() == pytest.approx(0, abs=1e-9)
    at = e * math.sqrt(0.5)
    moved = {INPUT: torch.full((1, 2), at, dtype=torch.float64)}
    for node in graph.nodes:
        moved[node.name] = node.layer.forward(*(values[n] + moved[n] for n in node.inputs)) - values[node.name]
    lost = step_losses(graph, ground, regions, moved)
    assert lost["dense0"].item() == pytest.approx(0, abs=1e-12)
    assert lost["dense2"].item() == pytest.approx(0, abs=1e-12)
    assert lost["relu1"].item() == pytest.approx(2 * ((at + e) / 2 - at), rel=1e-9)


def test_a_bound_that_is_exact_loses_nothing():
    """|z| <= z^2 / 2t + t / 2 makes the quadratic bound of the two ramps exact at the right t."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    result = layer_losses(two_ramps(), x, certificate=pb.QuadraticRelaxation(steps=200, tolerance=0.0))
    assert result.nodes == ("input", "dense0", "relu1", "dense2")
    assert result.layers == ("Ball", "Dense", "ReLU", "Dense")
    assert result.radius.item() == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert (result.margin.item(), result.other.item()) == (pytest.approx(1), 1)
    assert result.real.item() > 0.97
    assert result.lost.sum().item() < 0.03


def test_a_linear_classifier_loses_nothing():
    graph = chain([dense([[1, 2], [0, -1], [3, 0]], [0.5, 0, 0])], (2,), torch.float64)
    x = torch.tensor([[0.25, 1.0], [2.0, 0.125]], dtype=torch.float64)
    result = layer_losses(graph, x)
    assert torch.allclose(result.real, result.margin, rtol=1e-3)
    assert result.lost.abs().max() < 1e-9


@pytest.mark.parametrize("within", [pb.Ball(), pb.Ball(p=math.inf), pb.Ball(p=1, box=(-2, 2)), pb.Ball(box=(-2, 2))])
@pytest.mark.parametrize("make", [random_relu_graph, random_smooth_graph, random_conv_graph])
def test_what_is_lost_adds_up_to_the_margin_and_is_never_negative(make: Callable[..., Graph], within: pb.Ball):
    generator = torch.Generator().manual_seed(11)
    graph = make(generator, dtype=torch.float64)
    x = torch.randn(4, *graph.input_shape, generator=generator, dtype=torch.float64).clamp(-2, 2)
    result = layer_losses(graph, x, certificate=FIVE, within=within)
    some = result.radius > 0
    assert some.any()
    assert result.margin[~some].isnan().all()
    whole = result.real + result.lost.sum(1) + result.left
    assert torch.allclose(whole[some], result.margin[some], rtol=1e-9)
    assert (result.share[some] > -1e-9).all()
    assert (result.left[some] >= 0).all()
    assert (result.real[some] > 0).all()
    certified = pb.certify(graph, x, FIVE, within=within).radius
    assert (result.radius <= certified * (1 + 1e-9)).all()
    simple = pb.certify(graph, x, pb.Lipschitz(), within=within).radius
    assert ((result.radius >= 0.97 * certified) | (certified <= simple)).all()


@dataclass(frozen=True, eq=False)
class Bold(ReLU):
    """Claims a little more than is true."""

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        pulled = super().pull_back(form, inputs, output, duals)
        return replace(pulled, constant=pulled.constant + 0.05)


def test_an_unsound_step_shows_as_a_negative_loss():
    x = torch.zeros(1, 2, dtype=torch.float64)
    result = layer_losses(two_ramps(Bold), x, certificate=pb.QuadraticRelaxation(steps=200, tolerance=0.0))
    assert (result.share < -0.01).any()


def test_what_is_not_certified_has_no_losses():
    graph = random_relu_graph(torch.Generator().manual_seed(3))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(4))
    labels = (graph(x).argmax(1) + torch.tensor([0, 1, 0])) % 3
    result = layer_losses(graph, x, labels, certificate=FIVE)
    assert result.radius[1] == 0
    assert result.other[1] == -1
    assert result.lost[1].isnan().all()
    assert (result.radius[[0, 2]] > 0).all()
    assert result.lost[[0, 2]].isfinite().all()


def test_factors_by_hand():
    """Norms 4 and 1; the input moves along the first axis, which the first layer stretches by 3 only."""
    layers = [dense([[3, 0], [0, 4]], [10, 10]), ReLU((2,)), dense([[1, 0], [0, 1]], [0, 0])]
    graph = chain(layers, (2,), torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    move = torch.tensor([[-0.5, 0.0]], dtype=torch.float64)
    result = layer_factors(graph, x, x + move)
    assert result.nodes == ("input", "dense0", "relu1", "dense2", "decision")
    expected = [1, 4 / 3, 4 / 3, 4 / 3]
    assert result.looseness[0, :4].tolist() == pytest.approx(expected, rel=1e-6)
    assert result.factor[0, :4].tolist() == pytest.approx([1, 4 / 3, 1, 1], rel=1e-6)
    # the difference of two logits is 3 z1 - 4 z2: (5 + sqrt(2) 4) / 2 by the averaged ReLU, and it moves by 3
    assert result.looseness[0, 4].item() == pytest.approx((5 + math.sqrt(2) * 4) / 2 / 3, rel=1e-6)
    cube = layer_factors(graph, x, x + move, within=pb.Ball(p=math.inf))
    assert cube.looseness[0].tolist() == pytest.approx((math.sqrt(2) * result.looseness[0]).tolist(), rel=1e-6)
    assert cube.factor[0, 0].item() == pytest.approx(math.sqrt(2), rel=1e-6)


def test_factors_multiply_to_the_ratio_of_the_bracket():
    generator = torch.Generator().manual_seed(2)
    graph = random_relu_graph(generator, (4, 8, 8, 2), dtype=torch.float64)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    witness = pb.attack(graph, x, pb.DDN())
    found = witness.found.nonzero().flatten()
    x, z = x[found], witness.adversarial[found]
    result = layer_factors(graph, x, z)
    assert (result.looseness >= 1 - 1e-9).all()
    assert torch.allclose(result.factor.prod(1), result.looseness[:, -1])
    radius = pb.certify(graph, x, pb.Lipschitz()).radius
    margin, after = (y.max(1).values - y.min(1).values for y in (graph(x), graph(z)))  # two classes, which change
    ratio = (z - x).norm(dim=1) / radius
    assert torch.allclose(result.looseness[:, -1] * (margin + after) / margin, ratio, rtol=1e-4)


def test_a_sample_that_is_not_moved_has_no_factors():
    graph = random_relu_graph(torch.Generator().manual_seed(3))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(4))
    result = layer_factors(graph, x, x + torch.tensor([[0.0], [0.5]]))
    assert result.looseness[0].isnan().all()
    assert result.looseness[1].isfinite().all()


def test_what_does_not_fit_is_refused():
    graph = random_relu_graph(torch.Generator().manual_seed(3))
    x = torch.randn(2, 4)
    with pytest.raises(pb.InputError, match="shape"):
        layer_factors(graph, x, x[:1])
    with pytest.raises(pb.InputError, match="shape"):
        layer_losses(graph, x, adversarial=x[:1])
