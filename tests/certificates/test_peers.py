"""On the networks that other tools were measured on: no certificate is above the nearest adversarial example known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pertbound.certificates import (
    Auto,
    BranchAndBound,
    Certificate,
    Interval,
    LinearRelaxation,
    Lipschitz,
    QuadraticRelaxation,
    certify,
)
from pertbound.sets import Ball

SAMPLES = 6
SMALL = ("mnist_mlp",)
"""Where tightened boxes, one pass for each neuron, are done in seconds."""
CERTIFICATES: dict[str, Certificate] = {
    "lipschitz": Lipschitz(),
    "interval": Interval(),
    "linear, plain": LinearRelaxation(tighten=False, passes=5),
    "quadratic": QuadraticRelaxation(steps=40),
    "branch and bound": BranchAndBound(seconds=3.0, root_steps=40, tighten=False),
    "auto": Auto(seconds=2.0),
}
FOR_SMALL: dict[str, Certificate] = {
    "linear": LinearRelaxation(passes=5),
    "quadratic, tight": QuadraticRelaxation(steps=40, tighten=True),
}


def _peers() -> ModuleType:
    """benchmarks/peers.py, which is no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    spec = importlib.util.spec_from_file_location("benchmark_peers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("boxed", [False, True], ids=["free", "box"])
@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_convsmall", "cifar10_cnn_a", "lenet_mnist", "lenet_cifar10"])
def test_nothing_is_certified_beyond_an_attack(data_root: Path, name: str, boxed: bool) -> None:
    """An example inside the box is one without the box as well: there the smaller of the two figures counts."""
    folder = data_root.parent / "peers"
    if not (folder / f"{name}.json").exists():
        pytest.skip(f"no {name}.json in {folder}")
    peer = _peers().peer(name, data_root, folder)
    x, inside = peer.x[:SAMPLES], peer.of("attack_box")[:SAMPLES]
    attack = inside if boxed else torch.fmin(peer.of("attack")[:SAMPLES], inside)
    assert bool(torch.isfinite(attack).all())
    ball = Ball(box=(0.0, 1.0) if boxed else None)
    x = x.clamp(0.0, 1.0) if boxed else x
    chosen = CERTIFICATES | (FOR_SMALL if name in SMALL else {})
    radii: dict[str, torch.Tensor] = {}
    for method, certificate in chosen.items():
        radius = certify(peer.network, x, certificate, within=ball).radius
        radii[method] = radius
        assert bool(torch.isfinite(radius).all())
        # the figures are rounded to six digits
        assert bool((radius <= attack + 1e-6).all()), f"{method}: {radius.tolist()}, attacks at {attack.tolist()}"
        hinted = certify(peer.network, x, certificate, within=ball, upper=attack + 1e-6).radius
        assert bool((hinted <= attack + 1e-6).all()), f"{method}, hinted: {hinted.tolist()}, at {attack.tolist()}"
    assert bool((radii["auto"] >= radii["lipschitz"] * 0.999).all())
    assert float((radii["quadratic"] / radii["lipschitz"]).median()) > 1.0, "of no use on what it was made for"
