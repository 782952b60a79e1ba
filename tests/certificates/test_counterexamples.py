"""Where the paper's statements fail: each counterexample as a test, with the sound bound beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import pertbound as pb
from pertbound.layers import Conv


def _set(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    layer.weight.data, layer.bias.data = weight, bias  # pyright: ignore
    return layer


def test_relu_has_no_local_bound_from_its_jacobian() -> None:
    """h = ReLU at -1 has Jacobian 0, so Theorem 4.1 without curvature is infinite; r = 1.5 changes the class."""
    model = nn.Sequential(
        _set(nn.Linear(1, 1), torch.ones(1, 1), torch.zeros(1)),
        nn.ReLU(),
        _set(nn.Linear(1, 2), torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])),
    ).eval()
    x, adversarial = torch.tensor([[-1.0]]), torch.tensor([[0.51]])
    network = pb.from_torch(model, x)
    assert int(network(x).argmax()) == 0
    assert int(model(adversarial).argmax()) == 1
    estimate = pb.certify(network, x, pb.Published(relu=pb.CurvatureFree()))
    assert float(estimate.radius) == math.inf
    certified = pb.certify(network, x, pb.Lipschitz())
    assert 0.49 < float(certified.radius) <= float((adversarial - x).norm())


def test_convolution_theorem_underestimates_a_kernel_of_ones() -> None:
    """Theorem 4.2 divides by the kernel's Frobenius norm, 5; the operator norm on 28 x 28 inputs is 24.3."""
    layer = Conv((1, 28, 28), torch.ones(1, 1, 5, 5), None, (1, 1), (0, 0), (1, 1), 1)
    rows = []
    for i in range(24):  # the matrix, written out without any convolution
        for j in range(24):
            row = np.zeros((28, 28))
            row[i : i + 5, j : j + 5] = 1.0
            rows.append(row.ravel())
    exact = np.linalg.norm(np.array(rows), 2)
    assert round(exact, 1) == 24.3
    assert float(layer.weight.norm()) == 5.0
    assert exact <= layer.norm_upper <= 1.001 * exact
    kappa = torch.ones(1, dtype=torch.float64)
    assert float(layer.published_kappa(kappa)) > 4.8 / exact


def test_published_exceeds_the_distance_to_a_real_adversarial_example() -> None:
    """Two convolutions without pooling between them, as in VGG: the published value is above a witness."""
    ones = torch.ones(1, 1, 5, 5) / 5
    spread = torch.ones(1, 64) / 8
    model = nn.Sequential(
        _set(nn.Conv2d(1, 1, 5), ones, torch.ones(1)),
        nn.ReLU(),
        _set(nn.Conv2d(1, 1, 5), ones, torch.ones(1)),
        nn.ReLU(),
        nn.Flatten(),
        _set(nn.Linear(64, 2), torch.cat([-spread, spread]), torch.zeros(2)),
    ).eval()
    x = torch.full((1, 1, 16, 16), 1.0)
    with torch.no_grad():
        model[5].bias.data = torch.tensor([0.0, -float(model(x)[0, 1] - model(x)[0, 0]) - 1.0])
    network = pb.from_torch(model, x)
    assert int(network(x).argmax()) == 0
    probe = x.clone().requires_grad_(True)
    logits = model(probe)
    (gradient,) = torch.autograd.grad(logits[0, 1] - logits[0, 0], probe)
    adversarial = x + gradient * (1.01 / float(gradient.square().sum()))
    distance = float((adversarial - x).double().norm())
    assert int(model(adversarial).argmax()) == 1  # a real adversarial example
    for relu in (pb.CurvatureFree(), pb.Softened()):
        estimate = float(pb.certify(network, x, pb.Published(relu=relu)).radius)
        assert estimate > 10 * distance
    certified = float(pb.certify(network, x, pb.Lipschitz()).radius)
    assert 0.5 * distance < certified <= distance


def test_entries_of_second_derivatives_do_not_bound_curvature() -> None:
    """Theorem 4.1 with M bounding entries: h(x) = (M / 2) (sum x)^2 moves by kappa at a radius sqrt(d) below."""
    d, m, kappa = 25, 3.0, 0.7
    published = math.sqrt(2 * m * kappa) / m  # n = 1, J(0) = 0
    r = np.full(d, math.sqrt(2 * kappa / m) / d)
    assert np.isclose(m / 2 * r.sum() ** 2, kappa)
    assert np.isclose(np.linalg.norm(r), published / math.sqrt(d))


def test_misclassification_need_not_lengthen_an_activation() -> None:
    """The paper asks norm(h(y + r)) = norm(h(y)) + kappa; a perturbation can turn the activation instead."""
    y, z = np.array([1.0, 0.2]), np.array([0.2, 1.0])
    assert np.linalg.norm(y) == np.linalg.norm(z)
    assert y.argmax() != z.argmax()
