"""The paper's formulas, held against a transcription that shares no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import pertbound as pb


def _lenet_like(generator: torch.Generator) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )
    for parameter in model.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _section_5(model: nn.Sequential, x: torch.Tensor, slope: str, m: float) -> float:
    """kappa_1 to kappa_6 as section 5 of the paper writes them, for one sample, in numpy."""
    with torch.no_grad():
        penultimate = model[:7](x).numpy()[0].astype(np.float64)
        z = model[:6](x).numpy()[0].astype(np.float64)
    v, b = model[7].weight.detach().numpy().astype(np.float64), model[7].bias.detach().numpy().astype(np.float64)
    y = v @ penultimate + b
    c = int(y.argmax())
    k6 = min(abs(y[j] - y[c]) / np.linalg.norm(v[j] - v[c]) for j in range(len(y)) if j != c)
    gates = (z > 0).astype(float) if slope == "step" else 1 / (1 + np.exp(-10.0 * z))
    jacobian = np.linalg.norm(gates[:, None] * model[5].weight.detach().numpy(), 2)
    n = len(z)
    if m == 0:
        k5 = k6 / jacobian
    else:
        k5 = (math.sqrt(jacobian**2 + 2 * m * math.sqrt(n) * k6) - jacobian) / (m * math.sqrt(n))
    w1, w2 = (float(model[i].weight.detach().double().norm()) for i in (0, 2))
    k4 = k5 / 2  # t2 = 2
    k3 = k4 / w2
    k2 = k3 / 6  # t1 = 6
    return k2 / w1


@pytest.mark.parametrize("softened", [False, True])
def test_equals_section_5_of_the_paper(generator: torch.Generator, softened: bool) -> None:
    model = _lenet_like(generator)
    x = torch.randn(6, 1, 14, 14, generator=generator)
    network = pb.from_torch(model, x)
    rows = float(model[5].weight.detach().abs().double().sum(1).max())
    m = 10.0 / 4 * rows**2 if softened else 0.0
    method = pb.Published(relu=pb.Softened(sharpness=10.0) if softened else pb.CurvatureFree(), iterations=300)
    got = pb.certify(network, x, method).radius.numpy()
    want = [_section_5(model, x[i : i + 1], "logistic" if softened else "step", m) for i in range(len(x))]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_says_what_stood_in_for_relu(generator: torch.Generator) -> None:
    model = _lenet_like(generator)
    x = torch.randn(2, 1, 14, 14, generator=generator)
    network = pb.from_torch(model, x)
    flat = pb.certify(network, x, pb.Published(relu=pb.CurvatureFree()))
    soft = pb.certify(network, x, pb.Published(relu=pb.Softened(sharpness=7.5)))
    assert isinstance(flat, pb.Estimate)
    assert "curvature-free" in flat.basis
    assert "softplus of sharpness 7.5" in soft.basis
    assert flat.method != soft.method
    assert bool((soft.radius < flat.radius).all())


def test_second_derivative_bound_covers_the_hessian(generator: torch.Generator) -> None:
    """Theorem A.5: M bounds every entry of every output's second derivatives, here by automatic differentiation."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    network = pb.from_torch(model, torch.zeros(1, 3))
    from pertbound.certificates.published import _Block, _steps

    (block,) = _steps(network)
    assert isinstance(block, _Block)
    bound = pb.Published()._second_derivative(block)
    largest = 0.0
    for _ in range(50):
        x = torch.randn(3, generator=generator)
        for output in range(4):
            hessian = torch.autograd.functional.hessian(lambda v, i=output: model[:4](v)[i], x)
            largest = max(largest, float(hessian.abs().max()))
    assert 0 < largest <= bound


def test_theorem_4_1_inverts_the_quadratic(generator: torch.Generator) -> None:
    """The bound r solves norm(J) r + (M sqrt(n) / 2) r^2 = kappa, and M -> 0 gives kappa / norm(J)."""
    j, m, n, kappa = 2.0, 3.0, 7, 0.9
    r = (math.sqrt(j * j + 2 * m * math.sqrt(n) * kappa) - j) / (m * math.sqrt(n))
    assert j * r + 0.5 * m * math.sqrt(n) * r * r == pytest.approx(kappa)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).eval()
    x = torch.randn(4, 3, generator=generator)
    network = pb.from_torch(model, x)
    got = pb.certify(network, x, pb.Published(iterations=200)).radius
    w, v = model[0].weight.detach().double(), model[1].weight.detach().double()
    logits = model(x).detach().double()
    k = (logits[:, 0] - logits[:, 1]).abs() / (v[0] - v[1]).norm()
    torch.testing.assert_close(got, k / torch.linalg.matrix_norm(w, 2), rtol=1e-4, atol=0)


def test_labels_make_misclassified_samples_zero(generator: torch.Generator) -> None:
    model = _lenet_like(generator)
    x = torch.randn(8, 1, 14, 14, generator=generator)
    network = pb.from_torch(model, x)
    predicted = network(x).argmax(1)
    labels = (predicted + torch.arange(8) % 2) % 4
    radius = pb.certify(network, x, pb.Published(), labels).radius
    assert bool((radius[1::2] == 0).all())
    assert bool((radius[::2] > 0).all())


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(x + self.inner(x).relu())


@pytest.mark.parametrize(
    ("model", "example", "named"),
    [
        (_Residual(), torch.zeros(2, 4), "chains"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)),
            torch.zeros(2, 1, 4, 4),
            "Diagonal",
        ),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 4), "last layer is ReLU"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)), torch.zeros(2, 1, 4, 4), "Tanh"),
    ],
)
def test_refuses_what_the_paper_does_not_treat(model: nn.Module, example: torch.Tensor, named: str) -> None:
    network = pb.from_torch(model, example)
    with pytest.raises(pb.UnsupportedLayerError, match=named):
        pb.certify(network, example, pb.Published())
    assert pb.certify(network, example, pb.Lipschitz()).radius.shape == (2,)


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardswish(), nn.SELU(), nn.PReLU(4)])
def test_activations_without_a_second_derivative_are_refused(activation: nn.Module) -> None:
    """Only ReLU has a stand-in."""
    network = pb.from_torch(nn.Sequential(nn.Linear(5, 4), activation, nn.Linear(4, 3)), torch.zeros(2, 5))
    with pytest.raises(pb.UnsupportedLayerError, match="second derivative"):
        pb.certify(network, torch.randn(2, 5), pb.Published())
