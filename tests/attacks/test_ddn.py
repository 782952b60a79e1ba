"""Small L2 witnesses: as near as the closed form, an independent solver and brute force say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

import pertbound as pb
from pertbound.attacks.geometry import onto_half_space
from pertbound.graph import Node
from pertbound.layers import Dense

QUICK = pb.DDN(steps=20, restarts=1, targets=1)
VALID = pb.Ball(box=(0.0, 1.0))


def linear_graph(weight: Tensor, bias: Tensor) -> pb.Graph:
    """A linear classifier without tracing."""
    return pb.Graph([Node("l", Dense((weight.shape[1],), weight, bias), ("input",))], (weight.shape[1],),
                    dtype=weight.dtype)  # fmt: skip


def traced(model: nn.Module, *shape: int) -> pb.Graph:
    return pb.from_torch(model.eval(), torch.zeros(1, *shape))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_distances(weight: Tensor, bias: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """min over j of (logit_c - logit_j) / norm_2(w_c - w_j), and logit_c - logit_j there over the largest logit."""
    w, z = weight.double().numpy(), x.double().numpy()
    logits = z @ w.T + bias.double().numpy()
    c = logits.argmax(1)
    gaps = logits[np.arange(len(z)), c][:, None] - logits
    norms = np.linalg.norm(w[c][:, None] - w[None], axis=2)
    ratio = np.where(norms > 0, gaps / np.where(norms > 0, norms, 1), np.inf)
    j = ratio.argmin(1)
    return ratio.min(1), gaps[np.arange(len(z)), j] / (1 + np.abs(logits).max(1))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 12), st.sampled_from([1e-3, 1.0, 1e3]))
def test_linear_classifiers_need_the_distance_of_the_closed_form(
    seed: int, dimension: int, classes: int, scale: float
) -> None:
    weight, bias = draw(seed, classes, dimension), draw(seed + 1, classes) * scale
    x = draw(seed + 2, 20, dimension) * scale
    found = pb.attack(linear_graph(weight, bias), x, QUICK)
    distance, clearness = linear_distances(weight, bias, x)
    clear = clearness > 0.02  # below, the reserve of a witness shows
    ratio = found.distance.numpy()[clear] / distance[clear]
    assert bool(found.found[torch.from_numpy(clear)].all())
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= 1 + 1e-3).all()


def test_a_linear_classifier_in_double_precision_is_exact_to_a_ten_thousandth() -> None:
    weight, bias, x = draw(0, 5, 30).double(), draw(1, 5).double(), draw(2, 60, 30).double()
    found = pb.attack(linear_graph(weight, bias), x, QUICK)
    distance, clearness = linear_distances(weight, bias, x)
    clear = clearness > 0.05
    assert np.abs(found.distance.numpy()[clear] / distance[clear] - 1).max() < 1e-4


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_inputs_does_not_matter(scale: float) -> None:
    """The paper's steps are in pixels; these are parts of the distance."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    x = draw(1, 30, 8)
    plain = pb.attack(traced(model, 8), x, QUICK)
    with torch.no_grad():
        model[0].weight.div_(scale)  # type: ignore[operator]
    scaled = pb.attack(traced(model, 8), x * scale, QUICK)
    assert bool(plain.found.all())
    assert torch.allclose(scaled.distance / scale, plain.distance, rtol=0.02)


def boxed_distance(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> float:
    """The distance to the nearest change of class within [0, 1], by sequential quadratic programming."""
    c = int((weight @ x + bias).argmax())
    best = math.inf
    for j in range(len(weight)):
        if j == c:
            continue
        w, b = weight[j] - weight[c], bias[j] - bias[c]
        solved = minimize(
            lambda z: ((z - x) ** 2).sum(),
            x,
            jac=lambda z: 2 * (z - x),
            bounds=[(0.0, 1.0)] * len(x),
            constraints={"type": "ineq", "fun": lambda z, w=w, b=b: w @ z + b, "jac": lambda _, w=w: w},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 200},
        )
        if solved.success and w @ solved.x + b > -1e-6:
            best = min(best, float(np.linalg.norm(solved.x - x)))
    return best


@pytest.mark.parametrize("faces", [False, True], ids=["inside", "at the faces"])
def test_linear_classifiers_in_a_box_against_another_solver(faces: bool) -> None:
    weight, bias, x = draw(3, 4, 10), draw(4, 4) * 0.1, torch.rand(15, 10, generator=torch.Generator().manual_seed(5))
    x = x.round() if faces else x
    found = pb.attack(linear_graph(weight, bias), x, pb.DDN(), within=VALID)
    free = pb.attack(linear_graph(weight, bias), x, pb.DDN())
    expected = np.array([boxed_distance(weight.double().numpy(), bias.double().numpy(), z.double().numpy()) for z in x])
    assert (expected[np.isfinite(expected)] > free.distance.numpy()[np.isfinite(expected)] * 1.01).any()  # it bites
    assert (found.found.numpy() == np.isfinite(expected)).all()
    ratio = found.distance.numpy()[found.found] / expected[found.found]
    assert np.abs(ratio - 1).max() < 0.01


def test_small_networks_against_brute_force() -> None:
    """Every point of a fine grid: at most one sample in twenty may be missed by more than a hundredth.

    A local search can miss what no gradient points to: on other random networks of this kind, small islands.
    """
    line = torch.linspace(-4, 4, 601, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    compared, missed = 0, 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        x = draw(seed, 30, 2).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            classes, reference = model(points).argmax(1), model(x).argmax(1)
        distance = pb.attack(pb.from_torch(model, torch.zeros(1, 2, dtype=torch.float64)), x, pb.DDN()).distance
        between = torch.cdist(x, points).masked_fill(classes == reference[:, None], torch.inf)
        expected = between.amin(1)  # of a grid, so a little too long, and more where a sliver lies between its points
        reached = (expected > 0.02) & (expected < 2.0)
        compared += int(reached.sum())
        missed += int((distance > expected * 1.01 + 1e-9)[reached].sum())
    assert compared > 90
    assert missed <= compared / 20


def test_more_effort_is_never_worse_by_much_and_the_defaults_beat_the_sign_method() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5))
    graph = traced(model, 1, 8, 8)
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sign = pb.attack(graph, x, pb.FastGradientSign(max_epsilon=5.0, probes=50)).distance
    quick = pb.attack(graph, x, QUICK).distance
    usual = pb.attack(graph, x, pb.DDN()).distance
    more = pb.attack(graph, x, pb.DDN(steps=100, restarts=3, targets=4)).distance
    assert bool((usual < sign).all())
    assert float(usual.mean()) <= float(quick.mean()) * 1.001
    assert float(more.mean()) <= float(usual.mean()) * 1.001


def test_targets_find_what_the_likeliest_class_hides() -> None:
    """Class 1 is next by logit and far by distance: its gradient is small."""
    weight = torch.tensor([[0.0, 0.0], [0.01, 0.0], [0.0, 1.0]])
    graph = linear_graph(weight, torch.tensor([0.0, -0.1, -0.5]))
    x = torch.zeros(1, 2)
    assert float(pb.attack(graph, x, pb.DDN(targets=1, restarts=1)).distance) == pytest.approx(0.5, rel=1e-3)


def test_the_same_seed_gives_the_same_witnesses_and_batches_do_not_matter() -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4)), 10)
    x = draw(1, 23, 10)
    state = torch.get_rng_state()
    one = pb.attack(graph, x, pb.DDN(steps=30))
    assert torch.equal(torch.get_rng_state(), state)
    again = pb.attack(graph, x, pb.DDN(steps=30))
    assert torch.equal(one.adversarial, again.adversarial)
    parts = pb.attack(graph, x, pb.DDN(steps=30), batch_size=5)
    assert torch.allclose(parts.distance, one.distance, rtol=1e-3)
    other = pb.attack(graph, x, pb.DDN(steps=30, seed=1))
    assert bool(other.found.all())


@pytest.mark.parametrize("box", [(0.0, 1.0), (-0.25, 0.5), (-math.inf, 0.3), (0.2, math.inf)])
@pytest.mark.parametrize("faces", [False, True], ids=["inside", "at the faces"])
def test_every_entry_stays_in_the_box(box: tuple[float, float], faces: bool) -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)), 9)
    x = (torch.rand(40, 9) * 10 - 5 if faces else torch.rand(40, 9)).clamp(*box)
    ball = pb.Ball(box=box)
    x = ball.clamped(x)  # in the inputs' own precision the ends may be outside
    found = pb.attack(graph, x, pb.DDN(steps=30), within=ball)
    free = pb.attack(graph, x, pb.DDN(steps=30))
    assert bool((found.adversarial.double() >= box[0]).all())
    assert bool((found.adversarial.double() <= box[1]).all())
    assert int(found.found.sum()) > 0
    assert int(free.found.sum()) >= int(found.found.sum())
    assert float((found.distance >= free.distance * 0.999).double().mean()) > 0.9


def test_inputs_outside_the_box_are_refused() -> None:
    graph = linear_graph(draw(0, 3, 5), draw(1, 3))
    with pytest.raises(pb.InputError, match=r"within \[-1, 1\]"):
        pb.attack(graph, draw(2, 40, 5) * 3, QUICK, within=pb.Ball(box=(-1.0, 1.0)))


def test_misclassified_samples_stay_as_they_are() -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4)), 10)
    x = draw(1, 30, 10)
    with torch.no_grad():
        labels = graph(x).argmax(1)
    labels[::2] = (labels[::2] + 1) % 4
    found = pb.attack(graph, x, QUICK, labels)
    assert bool(found.found.all())
    assert torch.equal(found.adversarial[::2], x[::2])
    assert bool((found.distance[::2] == 0).all())
    assert bool((found.distance[1::2] > 0).all())


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_constant_logits_have_no_witness(box: tuple[float, float] | None) -> None:
    graph = linear_graph(torch.zeros(3, 6), torch.tensor([0.0, 1.0, -1.0]))
    x = torch.rand(5, 6)
    found = pb.attack(graph, x, pb.DDN(steps=100), within=pb.Ball(box=box))
    assert not bool(found.found.any())
    assert torch.equal(found.adversarial, x)
    assert bool(torch.isinf(found.distance).all())


def test_tied_classes_have_no_witness_between_them() -> None:
    """Two equal logits everywhere: their margin has no gradient, and neither ever strictly wins."""
    graph = linear_graph(torch.ones(2, 6), torch.zeros(2))
    assert not bool(pb.attack(graph, torch.rand(5, 6), QUICK).found.any())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e6, 1e12, 1e30, 1e37])
def test_large_and_small_logits_leave_no_nan(scale: float) -> None:
    weight, x = draw(0, 3, 8), draw(1, 20, 8)
    found = pb.attack(linear_graph(weight * scale, torch.zeros(3)), x, QUICK)
    assert bool(torch.isfinite(found.adversarial).all())
    assert not bool(torch.isnan(found.distance).any())
    if 1 <= scale <= 1e30:
        plain = pb.attack(linear_graph(weight, torch.zeros(3)), x, QUICK)
        assert torch.allclose(found.distance, plain.distance, rtol=1e-2, atol=1e-4)


def test_a_saturated_activation_leaves_no_nan() -> None:
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    with torch.no_grad():
        first.weight.mul_(1e4)
    graph = traced(nn.Sequential(first, nn.Sigmoid(), nn.Linear(8, 3)), 6)
    found = pb.attack(graph, draw(1, 30, 6), pb.DDN())
    assert bool(torch.isfinite(found.adversarial).all())
    assert int(found.found.sum()) > 20  # no gradient at x, but random directions cross the boundaries


def test_a_flat_start_is_left() -> None:
    """All rectifiers are off at x: only a random direction leads out."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        model[0].bias.fill_(-1.0)  # type: ignore[operator]
        model[2].weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
        model[2].bias.copy_(torch.tensor([0.5, 0.0]))
    found = pb.attack(traced(model, 2), torch.tensor([[0.1, 0.0], [0.5, 0.5]]), pb.DDN(restarts=4))
    assert found.distance.tolist() == pytest.approx([1.4, 1.0], rel=1e-3)


def test_entries_without_a_gradient_do_not_spoil_the_others() -> None:
    """The derivative of a root at 0 is not a number in PyTorch: Lp pooling over a black background has such entries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(36, 3))
    x = torch.rand(20, 1, 8, 8)
    x[:, :, :, 4:] = 0
    found = pb.attack(traced(model, 1, 8, 8), x, pb.DDN(), within=VALID)
    assert bool(torch.isfinite(found.adversarial).all())
    assert float(found.found.float().mean()) > 0.8


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans())
def test_the_projection_on_a_half_space_in_a_box(seed: int, dimension: int, faces: bool) -> None:
    """Feasible, and no nearer than a bisection of its dual, which is not how it is found."""
    generator = np.random.default_rng(seed)
    x = generator.random((5, dimension)).round() if faces else generator.random((5, dimension))
    normal = generator.normal(size=(5, dimension))
    most = (normal * (normal > 0)).sum(1)
    start = (normal * x).sum(1)
    level = start + 0.9 * (most - start) * generator.random(5)
    z = onto_half_space(*(torch.from_numpy(a) for a in (x, normal, level)), VALID).numpy()
    assert (z >= 0).all()
    assert (z <= 1).all()
    assert ((normal * z).sum(1) >= level - 1e-9 * (1 + np.abs(level))).all()
    low, high = np.zeros(5), np.full(5, 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        enough = (normal * np.clip(x + middle[:, None] * normal, 0, 1)).sum(1) >= level
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    assert np.allclose(z, np.clip(x + high[:, None] * normal, 0, 1), atol=1e-6)


def test_a_bracket_with_it_closes_on_linear_classifiers() -> None:
    graph = linear_graph(draw(0, 2, 12), draw(1, 2))
    both = pb.bracket(graph, draw(2, 30, 12), attacks=(QUICK, pb.FastGradientSign(max_epsilon=3.0)))
    clear = both.upper > 0.05
    assert float((both.upper / both.lower)[clear].max()) < 1.01
    assert set(both.upper_method) == {QUICK.name}


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0}, {"steps": -1}, {"restarts": 0}, {"targets": -1}, {"gamma": 0.0}, {"gamma": 1.0},
        {"gamma": math.nan},
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(pb.InputError):
        pb.DDN(**options)  # type: ignore[arg-type]


def test_the_name_says_what_was_asked() -> None:
    assert pb.DDN().name == "ddn"
    assert pb.DDN(steps=200, gamma=0.05).name == "ddn(steps=200, gamma=0.05)"


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.enable_grad, lambda: torch.inference_mode(True)],
    ids=["no_grad", "grad", "inference"],
)
def test_attacks_work_in_every_gradient_mode(context: Callable[[], torch.no_grad]) -> None:
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), 6)
    x = draw(1, 10, 6)
    outside = pb.attack(graph, x, QUICK)
    with context():
        inside = pb.attack(graph, x * 1, QUICK)
    assert torch.equal(inside.distance, outside.distance)
