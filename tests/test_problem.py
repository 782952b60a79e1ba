"""The question and its answers: what is asked is checked, and a certificate's answer means what it says."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pertbound as pb
from pertbound.graph import Node
from pertbound.layers import Dense
from pertbound.problem import Problem, strictly_misclassified
from pertbound.search import LARGEST

LIPSCHITZ = pb.Lipschitz()


def linear_graph(weight: Tensor, bias: Tensor) -> pb.Graph:
    """A linear classifier without tracing."""
    shape = (weight.shape[1],)
    return pb.Graph([Node("l", Dense(shape, weight, bias), ("input",))], shape, dtype=weight.dtype)


@pytest.fixture(scope="module")
def graph() -> pb.Graph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)
    )
    return pb.from_torch(model, torch.zeros(1, 1, 8, 8))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))


# --- the question ---------------------------------------------------------------------------------------------------


def test_batches_cover_every_sample_once_in_order(graph: pb.Graph, x: Tensor) -> None:
    labels = torch.arange(30) % 4
    for size in (1, 7, 30, 100):
        parts = Problem(graph, x, labels).batches(size)
        assert all(0 < len(part.x) <= size for part in parts)
        assert torch.equal(torch.cat([part.x for part in parts]), x)
        assert torch.equal(torch.cat([part.labels for part in parts if part.labels is not None]), labels)
    assert all(part.labels is None for part in Problem(graph, x).batches(7))


def test_the_reference_is_the_prediction_or_the_label(graph: pb.Graph, x: Tensor) -> None:
    predicted = torch.zeros(30, dtype=torch.int64)
    assert torch.equal(Problem(graph, x).reference(predicted), predicted)
    labels = (torch.arange(30) % 4).to(torch.uint8)
    reference = Problem(graph, x, labels).reference(predicted)
    assert reference.dtype == torch.int64
    assert reference.tolist() == labels.tolist()


def test_the_first_bad_sample_is_named(graph: pb.Graph, x: Tensor) -> None:
    x[7, 0, 3, 3] = math.nan
    x[9, 0, 0, 0] = -math.inf
    with pytest.raises(pb.InputError, match=r"2 samples .* position 7"):
        Problem(graph, x)


def test_finite_inputs_whose_sum_overflows_are_taken(graph: pb.Graph) -> None:
    Problem(graph, torch.full((3, 1, 8, 8), 3e38))
    opposite = torch.full((2, 1, 8, 8), 3e38)
    opposite[1] = -3e38
    Problem(graph, opposite)


def test_infinities_that_cancel_in_a_sum_are_refused(graph: pb.Graph, x: Tensor) -> None:
    x[0, 0, 0, 0], x[1, 0, 0, 0] = math.inf, -math.inf
    with pytest.raises(pb.InputError, match="position 0"):
        Problem(graph, x)


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_no_size_are_refused(graph: pb.Graph, x: Tensor, size: int) -> None:
    with pytest.raises(pb.InputError):
        Problem(graph, x).batches(size)


def test_answers_cannot_be_changed_or_taken_for_each_other(graph: pb.Graph, x: Tensor) -> None:
    certified = pb.certify(graph, x, LIPSCHITZ)
    estimate = pb.certify(linear_graph(torch.randn(3, 5), torch.zeros(3)), torch.randn(4, 5), pb.Published())
    assert isinstance(certified, pb.Certified)
    assert isinstance(estimate, pb.Estimate)
    assert not isinstance(estimate, pb.Certified)
    with pytest.raises(dataclasses.FrozenInstanceError):
        certified.radius = torch.zeros(30)  # type: ignore[misc]


def test_a_guarantee_says_norm_domain_and_arithmetic(graph: pb.Graph, x: Tensor) -> None:
    text = str(pb.certify(graph, x, LIPSCHITZ).guarantee)
    assert "L2" in text
    assert "R^d" in text
    assert "arithmetic" in text


# --- strict misclassification ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 1.0], True), ([1.0, 0.0], False), ([1.0, 1.0], False), ([1.0, 1.0 + 1e-7], False),
        ([math.nan, 1.0], False), ([0.0, math.nan], False), ([math.inf, 1.0], False), ([0.0, math.inf], False),
        ([-math.inf, 0.0], False), ([1e30, 1.0001e30], True), ([1e30, 1e30 * (1 + 1e-7)], False), ([0.0, 1e-5], True),
        ([-5.0, -4.0], True),
    ],
)  # fmt: skip
def test_only_a_clear_finite_win_of_another_class_counts(logits: list[float], expected: bool) -> None:
    values = torch.tensor([logits], dtype=torch.float64)
    reference = torch.tensor([0])
    assert strictly_misclassified(values, reference).tolist() == [expected]


def test_every_other_class_counts() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0], [1.0, 2.0, 0.0], [3.0, 2.0, 1.0]])
    assert strictly_misclassified(logits, torch.zeros(3, dtype=torch.int64)).tolist() == [True, True, False]
    assert strictly_misclassified(logits, torch.tensor([2, 1, 1])).tolist() == [False, False, True]


# --- the certificate's answer --------------------------------------------------------------------------------------


def exact_radii(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The distance to the nearest decision boundary of a linear classifier; 0 where misclassified."""
    logits = x @ weight.T + bias
    radii = np.full(len(x), np.inf)
    for sample, own in enumerate(reference):
        for other in range(len(weight)):
            if other != own:
                gap = np.linalg.norm(weight[own] - weight[other])
                radii[sample] = min(radii[sample], (logits[sample, own] - logits[sample, other]) / gap)
    return np.maximum(radii, 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7), st.booleans())
def test_lipschitz_is_exact_on_linear_classifiers(seed: int, dimension: int, classes: int, double: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    weight = torch.randn(classes, dimension, generator=generator, dtype=dtype)
    bias = torch.randn(classes, generator=generator, dtype=dtype)
    x = torch.randn(25, dimension, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (25,), generator=generator)
    graph = linear_graph(weight, bias)
    numbers = [tensor.double().numpy() for tensor in (weight, bias, x)]
    for given_labels in (None, labels):
        answer = pb.certify(graph, x, LIPSCHITZ, given_labels)
        exact = exact_radii(*numbers, answer.reference.numpy())
        radius = answer.radius.numpy()
        assert (radius <= exact).all()
        # what may be missing is the tolerance, and what the worst rounding of the logits can explain
        size = np.abs(numbers[0]).sum(1).max() * np.abs(numbers[2]).max() + np.abs(numbers[1]).max()
        gaps = np.linalg.norm(numbers[0][:, None] - numbers[0][None], axis=2) + np.eye(classes) * 1e9
        rounding = 8 * (dimension + 8) * (2.0**-53 if double else 2.0**-24) * size / gaps.min()
        assert (radius >= exact * (1 - 1e-5) - rounding).all()
        clear = exact > 1e5 * rounding
        assert (radius[clear] >= exact[clear] * (1 - 1e-4)).all()


def test_a_classifier_that_cannot_change_its_mind_has_the_largest_radius() -> None:
    graph = linear_graph(torch.zeros(3, 5), torch.tensor([0.0, 1.0, 0.5]))
    answer = pb.certify(graph, torch.randn(4, 5), LIPSCHITZ)
    assert answer.predicted.tolist() == [1] * 4
    assert bool(torch.isfinite(answer.radius).all())
    assert bool((answer.radius <= LARGEST).all())
    assert bool((answer.radius > 0.99 * LARGEST).all())


def test_ties_have_radius_0() -> None:
    graph = linear_graph(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.zeros(3))
    x = torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 1.0], [-1.0, -1.0]])
    radius = pb.certify(graph, x, LIPSCHITZ).radius
    assert radius[0] == radius[1] == 0
    assert float(radius[2]) == pytest.approx(1 / math.sqrt(2), rel=1e-5)
    assert float(radius[3]) == pytest.approx(1.0, rel=1e-5)


def test_labels_give_misclassified_samples_radius_0(graph: pb.Graph, x: Tensor) -> None:
    plain = pb.certify(graph, x, LIPSCHITZ)
    labels = plain.predicted.clone()
    labels[::3] = (labels[::3] + 1) % 4
    answer = pb.certify(graph, x, LIPSCHITZ, labels)
    wrong = labels != plain.predicted
    assert torch.equal(answer.reference, labels)
    assert torch.equal(answer.predicted, plain.predicted)
    assert bool((answer.radius[wrong] == 0).all())
    assert torch.allclose(answer.radius[~wrong], plain.radius[~wrong], rtol=1e-6)
    assert bool((plain.radius > 0).all())


@pytest.mark.parametrize("batch_size", [1, 7, 29, 30, 1000])
def test_radii_do_not_depend_on_the_batch(graph: pb.Graph, x: Tensor, batch_size: int) -> None:
    whole = pb.certify(graph, x, LIPSCHITZ)
    parts = pb.certify(graph, x, LIPSCHITZ, batch_size=batch_size)
    assert torch.equal(parts.predicted, whole.predicted)
    assert torch.allclose(parts.radius, whole.radius, rtol=2e-6)  # logits differ by rounding; the tolerance is 1e-6


def test_radii_do_not_depend_on_the_other_samples(graph: pb.Graph, x: Tensor) -> None:
    whole = pb.certify(graph, x, LIPSCHITZ).radius
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(pb.certify(graph, x[order], LIPSCHITZ).radius, whole[order], rtol=2e-6)
    alone = torch.cat([pb.certify(graph, x[i : i + 1], LIPSCHITZ).radius for i in range(30)])
    assert torch.allclose(alone, whole, rtol=2e-6)
    huge = torch.cat([x, torch.full_like(x[:1], 3e38)])
    assert torch.allclose(pb.certify(graph, huge, LIPSCHITZ).radius[:30], whole, rtol=2e-6)


def test_asking_twice_gives_the_same(graph: pb.Graph, x: Tensor) -> None:
    assert torch.equal(pb.certify(graph, x, LIPSCHITZ).radius, pb.certify(graph, x, LIPSCHITZ).radius)


def test_inputs_of_any_memory_layout_give_the_same(graph: pb.Graph, x: Tensor) -> None:
    plain = pb.certify(graph, x, LIPSCHITZ).radius
    turned = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not turned.is_contiguous()
    assert torch.allclose(pb.certify(graph, turned, LIPSCHITZ).radius, plain, rtol=2e-6)
    wanting = x.clone().requires_grad_(True)
    answer = pb.certify(graph, wanting, LIPSCHITZ)
    assert not answer.radius.requires_grad
    assert wanting.grad is None
    assert torch.allclose(answer.radius, plain, rtol=2e-6)


@pytest.mark.parametrize("scale", [1e10, 1e20])
def test_logits_that_overflow_give_radius_0(scale: float) -> None:
    torch.manual_seed(0)
    graph = linear_graph(torch.randn(3, 6) * 1e30, torch.zeros(3))
    answer = pb.certify(graph, torch.randn(5, 6) * scale, LIPSCHITZ)
    assert bool((answer.radius == 0).all())


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.Softplus()], ids=str)
def test_an_overflow_that_an_activation_hides_is_not_believed(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), activation, nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e30)
    x = torch.randn(5, 6) * 1e12
    answer = pb.certify(pb.from_torch(model, torch.zeros(1, 6)), x, LIPSCHITZ)
    assert bool(torch.isfinite(answer.radius).all())
    # float64 does not overflow: what it proves is about the exact network, and holds there
    for row, radius in enumerate(answer.radius.tolist()):
        away = torch.nn.functional.normalize(torch.randn(200, 6, dtype=torch.float64), dim=1) * radius
        seen = copy.deepcopy(model).double()(x[row].double() + away).argmax(1)
        assert radius == 0 or bool((seen == answer.reference[row]).all())


def test_a_tiny_margin_is_not_certified_on_the_strength_of_rounding() -> None:
    """The float32 logits say 1; the exact ones of the same weights and input say otherwise."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weight = torch.randn(2, 4000, generator=generator)
        x = torch.randn(1, 4000, generator=generator)
        exact = (weight.double() @ x.double().T).squeeze()
        gap = weight[0].double() - weight[1].double()
        x = (x.double() - (exact[0] - exact[1]) / gap.square().sum() * gap).float()  # on the boundary, but for rounding
        exact = (weight.double() @ x.double().T).squeeze()
        answer = pb.certify(linear_graph(weight, torch.zeros(2)), x, LIPSCHITZ)
        own = int(answer.predicted)
        distance = max(float(exact[own] - exact[1 - own]) / float(gap.norm()), 0.0)
        assert float(answer.radius) <= distance


@pytest.mark.parametrize("relu", [pb.Softened(), pb.CurvatureFree()], ids=str)
def test_published_estimates_keep_shape_labels_and_name(x: Tensor, relu: pb.Softened | pb.CurvatureFree) -> None:
    labels = torch.arange(30) % 4
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    estimate = pb.certify(pb.from_torch(model, torch.zeros(1, 1, 8, 8)), x, pb.Published(relu=relu), labels)
    assert estimate.radius.shape == (30,)
    assert estimate.radius.dtype == torch.float64
    assert bool((estimate.radius[estimate.predicted != labels] == 0).all())
    assert estimate.method.startswith("published(")
    assert estimate.basis


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_certificates_work_in_every_gradient_mode(x: Tensor, mode: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    outside = pb.certify(pb.from_torch(model, torch.zeros(1, 1, 8, 8)), x, LIPSCHITZ).radius
    fresh = pb.from_torch(model, torch.zeros(1, 1, 8, 8))  # its norms are computed inside
    with mode():
        inside = pb.certify(fresh, x, LIPSCHITZ).radius
    assert torch.equal(inside, outside)
