"""Everything runs where its samples are; on a graphics processor with the same answers, within rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pertbound as pb
from pertbound import store
from pertbound.cli.main import app
from pertbound.data import DataSet
from pertbound.experiments.work import Work

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics processor")
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CERTIFICATES = [
    pb.Lipschitz(),
    pb.Interval(),
    pb.LinearRelaxation(),
    pb.LinearRelaxation(tighten=False),
    pb.QuadraticRelaxation(steps=20),
    pb.BranchAndBound(seconds=0.2),
    pb.Auto(seconds=0.2),
]
ATTACKS = [pb.DDN(), pb.FMN(), pb.PGD(), pb.DeepFool(), pb.FastGradientSign(max_epsilon=1.0), pb.Ensemble()]


def convnet() -> tuple[pb.Graph, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(24, 8), nn.LeakyReLU(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    x = torch.rand(6, 1, 8, 8)
    return pb.from_torch(model, x), x


def test_a_graph_moves_with_its_original() -> None:
    """On the processor itself, where moving is doing nothing."""
    network, x = convnet()
    assert network.to("cpu") is network
    with pytest.raises(pb.InputError, match="there is no device"):
        network.to("cuda:99")
    assert network(x).shape == (6, 3)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors that are made without saying where are nowhere: mixed with others, or read, they are an error."""
    for name in ("randn", "rand", "randint"):  # from a generator, which is on the processor
        inner = getattr(torch, name)

        def made(*sizes: Any, inner: Any = inner, **options: Any) -> torch.Tensor:
            return inner(*sizes, **({"device": "cpu"} if options.get("generator") is not None else {}) | options)

        monkeypatch.setattr(torch, name, made)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("p", [2.0, pytest.param(math.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize("asked", [*CERTIFICATES, *ATTACKS], ids=lambda asked: asked.name)
def test_all_tensors_are_made_where_the_samples_are(
    asked: pb.Certificate | pb.Attack, p: float, request: pytest.FixtureRequest
) -> None:
    network, x = convnet()
    x = x[:2].clone()
    request.getfixturevalue("elsewhere")
    within = pb.Ball(p=p, box=(0.0, 1.0))
    if isinstance(asked, pb.Certificate):
        assert pb.certify(network, x, asked, within=within).radius.device.type == "cpu"
    else:
        assert pb.attack(network, x, asked, within=within).adversarial.device.type == "cpu"


@pytest.mark.parametrize("closing", [None, (0.3, 0.99)])
def test_so_are_those_of_runs(closing: tuple[float, float] | None, request: pytest.FixtureRequest) -> None:
    network, x = convnet()
    data = DataSet("images", x, None, 1.0, torch.arange(6), (), "here")
    methods = () if closing else (pb.DDN(), pb.Lipschitz(), pb.QuadraticRelaxation(steps=5))
    work = Work(network=network, data=data, methods=methods, closing=closing)
    request.getfixturevalue("elsewhere")
    assert len(work(0).rows) == 6 * (len(methods) or 2)


@needs_gpu
@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("certificate", CERTIFICATES, ids=lambda c: c.name)
def test_certificates_agree(certificate: pb.Certificate, p: float) -> None:
    network, x = convnet()
    within = pb.Ball(p=p, box=(0.0, 1.0))
    here = pb.certify(network, x, certificate, within=within).radius
    there = pb.certify(network.to("cuda"), x.cuda(), certificate, within=within).radius.cpu()
    timed = isinstance(certificate, pb.Auto | pb.BranchAndBound)
    assert there.numpy() == pytest.approx(here.numpy(), rel=0.5 if timed else 0.05)
    nearest = pb.attack(network, x, pb.Ensemble(), within=within).distance
    assert bool((there <= nearest).all())


@needs_gpu
@pytest.mark.parametrize("tf32", [True, False])
def test_reduced_precision_is_never_believed(tf32: bool) -> None:
    """With TF32 allowed everywhere, certificates are what they are without."""
    network, x = convnet()
    network, x = network.to("cuda"), x.cuda()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    found: list[torch.Tensor] = []
    try:
        for allowed in (tf32, False):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
            found.append(pb.certify(network, x, pb.Lipschitz()).radius)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert torch.allclose(found[0], found[1], rtol=1e-6)


@needs_gpu
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_attacks_find_witnesses_that_the_original_confirms(attack: pb.Attack) -> None:
    network, x = convnet()
    moved = network.to("cuda")
    found = pb.attack(moved, x.cuda(), attack)
    rows = found.found.cpu()
    again = network(found.adversarial.cpu()[rows]).argmax(1)
    assert bool((again != found.reference.cpu()[rows]).all())


@needs_gpu
def test_commands_run_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((20, 1, 28, 28), np.float32))
    asked = ["bracket", "--model", str(CHECKPOINTS / "mlp_mnist.safetensors"), "--architecture", "mlp"]
    asked += ["--data", str(tmp_path / "x.npz"), "--method", "lipschitz", "--method", "quadratic", "--steps", "10"]
    for device in ("cpu", "cuda"):
        done = CliRunner().invoke(app, [*asked, "--device", device, "--out", str(tmp_path / device)])
        assert done.exit_code == 0, done.output
    one, other = (store.read(tmp_path / device).rows.to_pydict() for device in ("cpu", "cuda"))
    assert one["predicted"] == other["predicted"]
    sizes = [np.array(rows["l2"], float)[np.array(rows["guarantee"]) == "certified"] for rows in (one, other)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert CliRunner().invoke(app, ["check", str(tmp_path / "cuda"), "--device", "cuda"]).exit_code == 0
