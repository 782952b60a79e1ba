"""The fast gradient sign method: as small as the closed form says, and never a false witness."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pertbound as pb
from pertbound.graph import Node
from pertbound.layers import Dense


def linear_graph(weight: Tensor, bias: Tensor) -> pb.Graph:
    """A linear classifier without tracing."""
    return pb.Graph([Node("l", Dense((weight.shape[1],), weight, bias), ("input",))], (weight.shape[1],),
                    dtype=weight.dtype)  # fmt: skip


def traced(model: nn.Module, *shape: int) -> pb.Graph:
    return pb.from_torch(model, torch.zeros(1, *shape))


def smallest_steps(graph: pb.Graph, x: Tensor) -> np.ndarray:
    """margin / norm_1(w_c - w_j), in float64, for a linear classifier of two classes."""
    (node,) = graph.nodes
    assert isinstance(node.layer, Dense)
    assert node.layer.bias is not None
    weight, bias = node.layer.weight.double().numpy(), node.layer.bias.double().numpy()
    logits = x.double().numpy() @ weight.T + bias
    return np.abs(logits[:, 0] - logits[:, 1]) / np.abs(weight[0] - weight[1]).sum()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_two_linear_classes_need_the_step_of_the_closed_form(seed: int, dimension: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, dimension, generator=generator)
    bias = torch.randn(2, generator=generator)
    x = torch.randn(20, dimension, generator=generator)
    graph = linear_graph(weight, bias)
    steps = smallest_steps(graph, x)
    limit = 1.0
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=limit))
    near = np.abs(steps - limit) < 1e-3
    assert (found.found.numpy() == (steps < limit))[~near].all()
    clear = (steps > 0.02) & (steps < 0.999 * limit)  # below, rounding and the last bisection show
    ratio = found.linf.numpy()[clear] / steps[clear]
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= 1 + 1e-4).all()


def test_more_bisections_come_closer() -> None:
    weight, bias = torch.randn(2, 12, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    graph = linear_graph(weight, bias)
    x = torch.randn(30, 12, dtype=torch.float64)
    steps = torch.from_numpy(smallest_steps(graph, x))
    kept = steps > 0.01
    excess = []
    for bisections in (0, 4, 12, 40):
        found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=5.0, bisections=bisections))
        assert bool(found.found.all())
        excess.append(float((found.linf / steps - 1)[kept].max()))
    assert excess == sorted(excess, reverse=True)
    assert excess[-1] < 1e-3  # the reserve of a witness is what is left


def test_the_step_is_the_same_in_every_entry_and_the_distance_is_its_length() -> None:
    graph = linear_graph(torch.randn(2, 9), torch.zeros(2))
    x = torch.randn(15, 9)
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=3.0))
    assert bool(found.found.all())
    moved = (found.adversarial - x).abs().double()
    assert torch.allclose(moved.amax(1), moved.amin(1), rtol=1e-3)
    assert torch.allclose(found.linf, (found.adversarial.double() - x.double()).abs().amax(1), rtol=1e-15)
    exact = torch.linalg.vector_norm(found.adversarial.double() - x.double(), dim=1)
    assert bool((found.distance >= exact).all())
    assert torch.allclose(found.distance, exact, rtol=1e-11)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-0.25, 0.5), (-math.inf, 0.3), (0.2, math.inf)])
def test_every_entry_stays_in_the_box(box: tuple[float, float]) -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)), 9)
    ball = pb.Ball(box=box)
    x = ball.clamped(torch.rand(60, 9))  # in the inputs' own precision the ends may be outside
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=2.0), within=ball)
    free = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=2.0))
    assert bool((found.adversarial.double() >= box[0]).all())
    assert bool((found.adversarial.double() <= box[1]).all())
    assert 0 < int(found.found.sum()) <= 60
    assert int(free.found.sum()) >= int(found.found.sum())


def test_the_box_bites() -> None:
    """x is at the upper end already, and only larger inputs would change the class."""
    graph = linear_graph(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([-2.5, 0.0]))
    x = torch.ones(1, 2)
    method = pb.FastGradientSign(max_epsilon=1.0)
    assert bool(pb.attack(graph, x, method).found)
    clipped = pb.attack(graph, x, method, within=pb.Ball(box=(0.0, 1.0)))
    assert not bool(clipped.found)
    assert torch.equal(clipped.adversarial, x)


def test_where_nothing_is_found_x_comes_back() -> None:
    graph = linear_graph(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([100.0, 0.0]))
    x = torch.randn(4, 2)
    found = pb.attack(graph, x, pb.FastGradientSign())
    assert not bool(found.found.any())
    assert bool(torch.isinf(found.distance).all())
    assert bool((found.distance > 0).all())
    assert bool(torch.isinf(found.linf).all())
    assert torch.equal(found.adversarial, x)


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e12, 1e30])
def test_a_saturated_softmax_does_not_hide_the_gradient(scale: float) -> None:
    """Cross-entropy's own gradient would be exactly 0 there."""
    torch.manual_seed(0)
    weight = torch.randn(3, 8)
    graph = linear_graph(weight * scale, torch.zeros(3))
    x = torch.randn(50, 8)
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=5.0))
    assert bool(found.found.all())
    plain = pb.attack(linear_graph(weight, torch.zeros(3)), x, pb.FastGradientSign(max_epsilon=5.0))
    assert bool((found.distance <= plain.distance * 1.05).float().mean() > 0.8)


def test_entries_without_a_gradient_do_not_spoil_the_others() -> None:
    """The derivative of a root at 0 is not a number in PyTorch: Lp pooling over a black background has such entries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(36, 3))
    graph = traced(model, 1, 8, 8)
    x = torch.rand(30, 1, 8, 8)
    method = pb.FastGradientSign(max_epsilon=5.0, probes=50)
    everywhere = pb.attack(graph, x, method).found
    x[:, :, :, 4:] = 0
    background = pb.attack(graph, x, method).found
    assert float(everywhere.float().mean()) > 0.9
    assert float(background.float().mean()) > 0.9


class Bump(nn.Module):
    """Class 1 only between x = 1 and x = 2: a step may succeed where a longer one fails."""

    def __init__(self, low: float = 1.0, high: float = 2.0) -> None:
        super().__init__()
        self.first = nn.Linear(1, 2)
        self.last = nn.Linear(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0], [1.0]]))
            self.first.bias.copy_(torch.tensor([-low + 0.5, -high + 0.5]))
            self.last.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
            self.last.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_probes_find_a_step_that_the_largest_step_jumps_over() -> None:
    graph = traced(Bump(), 1)
    x = torch.tensor([[0.6]])  # in class 0, and the logits rise from there
    one = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=10.0, probes=1))
    many = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=10.0, probes=20))
    assert not bool(one.found)
    assert bool(many.found)
    assert float(many.linf) == pytest.approx(0.4, rel=1e-4)


def test_the_first_successful_probe_is_refined_not_a_later_one() -> None:
    graph = traced(Bump(), 1)
    x = torch.tensor([[0.6], [0.7], [0.9]])
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=2.0, probes=40))
    assert found.linf.tolist() == pytest.approx([0.4, 0.3, 0.1], rel=1e-3)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_no_shorter_step_of_a_fine_grid_succeeds_by_much(seed: int) -> None:
    """Against trying 2,000 steps one by one: the method misses at most what lies between two probes."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    graph = pb.from_torch(model, torch.zeros(1, 6, dtype=torch.float64))
    x = torch.randn(8, 6, dtype=torch.float64)
    limit, probes = 2.0, 10
    found = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=limit, probes=probes, bisections=30))
    with torch.no_grad():
        reference = graph(x).argmax(1)
    inputs = x.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(model(inputs), reference, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs)
    steps = torch.linspace(0, limit, 2001, dtype=torch.float64)[1:]
    with torch.no_grad():
        trials = x + steps[:, None, None] * gradient.sign()
        wrong = model(trials.reshape(-1, 6)).argmax(1).reshape(len(steps), -1) != reference
    for sample in range(len(x)):
        hits = steps[wrong[:, sample]]
        if len(hits) == 0:
            assert not bool(found.found[sample]) or float(found.linf[sample]) > 0
            continue
        first = float(hits[0])
        if bool(found.found[sample]):
            assert float(found.linf[sample]) <= limit * (1 + 1e-9)
            assert first <= float(found.linf[sample]) * (1 + 1e-6) + limit / 2000
        grid = steps[wrong[:, sample]] * probes / limit
        on_probe = bool(((grid - grid.round()).abs() < 1e-9).any())
        if on_probe:
            assert bool(found.found[sample])


@pytest.mark.parametrize(
    "options",
    [
        {"max_epsilon": 0.0}, {"max_epsilon": -1.0}, {"max_epsilon": math.nan}, {"max_epsilon": math.inf},
        {"probes": 0}, {"probes": -3}, {"bisections": -1},
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(pb.InputError):
        pb.FastGradientSign(**options)  # type: ignore[arg-type]


def test_the_name() -> None:
    assert pb.FastGradientSign().name == "fgs"


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.enable_grad, lambda: torch.inference_mode(True)],
    ids=["no_grad", "grad", "inference"],
)
def test_attacks_work_in_every_gradient_mode(context: Callable[[], torch.no_grad]) -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), 6)
    x = torch.randn(10, 6)
    outside = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=3.0))
    with context():
        inside = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=3.0))
    assert torch.equal(inside.distance, outside.distance)
