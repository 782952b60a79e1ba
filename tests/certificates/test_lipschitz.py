"""The certified modular bound on whole networks: exact where it must be, below every witness, above the product."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound.data import load
from pertbound.models import load_lenet
from pertbound.search import LARGEST


def _random(model: nn.Module, generator: torch.Generator, scale: float = 0.5) -> nn.Module:
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_linear_classifier_is_exact(generator: torch.Generator) -> None:
    model = _random(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4)), generator)
    x = torch.randn(50, 3, 4, generator=generator)
    network = pb.from_torch(model, x)
    radius = pb.certify(network, x, pb.Lipschitz(resolve=0.001)).radius.numpy()
    w = (model[2].weight.double() @ model[1].weight.double()).detach().numpy()
    b = (model[2].weight.double() @ model[1].bias.double() + model[2].bias.double()).detach().numpy()
    logits = x.flatten(1).double().numpy() @ w.T + b
    for i, y in enumerate(logits):
        c = y.argmax()
        exact = min((y[c] - y[j]) / np.linalg.norm(w[c] - w[j]) for j in range(4) if j != c)
        assert exact * 0.998 <= radius[i] <= exact


def test_two_dimensional_networks_against_a_dense_search(generator: torch.Generator) -> None:
    """No point of a fine polar grid inside the certified radius has another class."""
    angles = torch.linspace(0, 2 * torch.pi, 721)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    for activation in (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(beta=3.0), nn.LeakyReLU(0.2)):
        model = _random(
            nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3)), generator, 1.0
        )
        x = torch.randn(40, 2, generator=generator)
        network = pb.from_torch(model, x)
        certified = pb.certify(network, x, pb.Lipschitz())
        assert float(certified.radius.max()) > 0
        for share in (0.25, 0.5, 0.75, 0.999):
            ring = x[:, None] + share * certified.radius[:, None, None].float() * circle
            with torch.no_grad():
                classes = model(ring.reshape(-1, 2)).argmax(1).reshape(len(x), -1)
            assert bool((classes == certified.predicted[:, None]).all())


def test_saturated_units_help(generator: torch.Generator) -> None:
    """At a sample whose sigmoids are saturated the Jacobian-plus-curvature modulus is far below slope times norm."""
    first = nn.Linear(6, 6)
    first.weight.data, first.bias.data = 0.2 * torch.eye(6), torch.full((6,), 12.0)
    last = nn.Linear(6, 2)
    last.weight.data = torch.stack([torch.ones(6), -torch.ones(6)])
    last.bias.data = torch.tensor([-5.99, 5.99])
    model = nn.Sequential(first, nn.Sigmoid(), last).eval()
    x = torch.zeros(1, 6)
    network = pb.from_torch(model, x)
    radius = float(pb.certify(network, x, pb.Lipschitz()).radius)
    logits = model(x).detach()
    gap = float(logits[0, 0] - logits[0, 1])
    product = gap / (2 * 6**0.5 * 0.25 * 0.2)
    assert radius > 2 * product
    flipped = x - 100.0
    assert int(model(flipped).argmax()) == 1  # the class can change at all


def test_constant_classifier_gets_a_finite_radius() -> None:
    model = nn.Linear(3, 2)
    model.weight.data, model.bias.data = torch.zeros(2, 3), torch.tensor([1.0, 0.0])
    radius = float(pb.certify(pb.from_torch(model, torch.zeros(1, 3)), torch.zeros(1, 3), pb.Lipschitz()).radius)
    assert 0.99 * LARGEST < radius <= LARGEST


def test_overflow_and_ties_fail_closed() -> None:
    model = nn.Linear(2, 2)
    model.weight.data, model.bias.data = torch.tensor([[3e38, 3e38], [0.0, 0.0]]), torch.zeros(2)
    network = pb.from_torch(model, torch.zeros(1, 2))
    x = torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    assert pb.certify(network, x, pb.Lipschitz()).radius.tolist() == [0.0, 0.0]


def test_rounding_of_the_logits_is_counted(generator: torch.Generator) -> None:
    """Logits that differ by less than float32 can tell apart certify nothing in float32, and the truth in float64."""
    weight = torch.randn(1, 4000, generator=generator)
    model = nn.Linear(4000, 2)
    model.weight.data = torch.cat([weight, weight + 1e-7 * weight.abs()])
    model.bias.data = torch.zeros(2)
    x = torch.randn(20, 4000, generator=generator)
    network = pb.from_torch(model, x)
    got = pb.certify(network, x, pb.Lipschitz())
    exact = (x.double() @ (model.weight[0] - model.weight[1]).double()).abs()
    exact = exact / (model.weight[0].double() - model.weight[1].double()).norm()
    right = network(x).double().argmax(1) == (x.double() @ model.weight.double().T).argmax(1)
    assert bool((got.radius <= exact * (1 + 1e-9)).all())
    assert bool((got.radius[~right] == 0).all())


def _precisions(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes of all passes from here on."""
    seen: list[torch.dtype] = []
    run = pb.Graph.run
    monkeypatch.setattr(pb.Graph, "run", lambda self, x, visit=None: seen.append(x.dtype) or run(self, x, visit))
    return seen


def _silent(gain: float) -> nn.Module:
    """Six layers that stretch by `gain` what the sample (1, 0) has nothing of."""
    layers: list[nn.Module] = []
    for _ in range(6):
        layer = nn.Linear(2, 2, bias=False)
        layer.weight.data = torch.diag(torch.tensor([1.0, gain]))
        layers += [layer, nn.ReLU()]
    last = nn.Linear(2, 2, bias=False)
    last.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    return nn.Sequential(*layers, last).eval()


@pytest.mark.parametrize(("gain", "again"), [(2.0, False), (12.0, True), (30.0, False), (1e6, False)])
def test_float64_where_it_can_help(gain: float, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where float32 will do, and not where the radius is less than the rounding of x to float32."""
    x = torch.tensor([[1.0, 0.0]])
    network = pb.from_torch(_silent(gain), x)
    seen = _precisions(monkeypatch)
    radius = float(pb.certify(network, x, pb.Lipschitz()).radius)
    assert (torch.float64 in seen) == again
    assert (radius > 0) == (gain < 30)
    assert radius <= 1.0
    smaller = float(pb.certify(network, x, pb.Lipschitz(floor=0.0)).radius)
    assert (smaller > 0) == (gain < 1e6)
    assert smaller <= (radius if radius > 0 else 2.0**-24) * (1 + 1e-9)


def test_float64_where_float32_overflows() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1e30, 0.0], [0.0, 1e30]])
    x = torch.tensor([[1.5e8, 1e8]])
    radius = float(pb.certify(pb.from_torch(model, torch.zeros(1, 2)), x, pb.Lipschitz()).radius)
    assert radius == pytest.approx(0.5e8 / math.sqrt(2), rel=1e-3)


PRECISIONS = """
import sys, torch, pertbound as pb
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
x = torch.randn(9, 1, 8, 8)
network = pb.from_torch(model, x)
seen = []
run = pb.Graph.run
pb.Graph.run = lambda self, x, visit=None: (visit and seen.append(x.dtype)) or run(self, x, visit)  # what bounds see
exec(sys.argv[1])
pb.certify(network, x, pb.Lipschitz(resolve=1.0))
print(*sorted({str(dtype) for dtype in seen}))
"""


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [
        pytest.param("pass", "torch.float32", marks=pytest.mark.slow),
        pytest.param("torch.set_float32_matmul_precision('medium')", "torch.float64", marks=pytest.mark.slow),
        pytest.param("torch.backends.mkldnn.conv.fp32_precision = 'bf16'", "torch.float64", marks=pytest.mark.slow),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'tf32'", "torch.float64"),
        pytest.param("torch.backends.fp32_precision = 'tf32'", "torch.float64", marks=pytest.mark.slow),
    ],
)
def test_reduced_precision_is_never_taken_for_float32(setting: str, dtype: str) -> None:
    """In a process of its own, as these settings are global and cannot all be taken back."""
    done = subprocess.run([sys.executable, "-c", PRECISIONS, setting], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [dtype], done.stderr


def test_batch_size_and_order_do_not_matter(generator: torch.Generator) -> None:
    model = _random(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)), generator)
    x = torch.randn(30, 1, 6, 6, generator=generator)
    network = pb.from_torch(model, x)
    whole = pb.certify(network, x, pb.Lipschitz()).radius
    parts = pb.certify(network, x, pb.Lipschitz(), batch_size=7).radius
    reverse = pb.certify(network, x.flip(0), pb.Lipschitz()).radius.flip(0)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(whole, reverse, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["mnist", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_real_lenets_beat_the_product_of_norms(data_root: Path, name: str) -> None:
    """On the given LeNets: above margin / (row difference times norms), no violation against the attack."""
    model = load_lenet(data_root / "lenet" / f"{name}.safetensors")
    data = load(name, data_root, limit=40)
    network = pb.from_torch(model, data.inputs[:2])
    bracket = pb.bracket(network, data.inputs)
    peers = data_root.parent / "peers" / f"lenet_{name}.json"
    if not peers.exists():
        pytest.skip(f"no {peers} with the peers' radii")
    reference = json.loads(peers.read_text())
    positions = [i for i in reference["indices"] if i < len(data)]
    product = torch.tensor(reference["lipschitz_product"][: len(positions)], dtype=torch.float64)
    attack = torch.tensor(reference["attack"][: len(positions)], dtype=torch.float64)
    ours = bracket.lower[positions]
    assert bool((ours < attack).all())
    assert float(ours.mean()) > float(product.mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_full_test_sets_have_no_violation(data_root: Path, name: str) -> None:
    model = load_lenet(data_root / "lenet" / f"{name}.safetensors")
    data = load(name, data_root)
    network = pb.from_torch(model, data.inputs[:2])
    bracket = pb.bracket(network, data.inputs)
    assert len(bracket.lower) == 10_000
    assert bool((bracket.lower <= bracket.upper).all())
