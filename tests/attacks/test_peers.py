"""On the networks that other tools were measured on: no farther than the nearest examples that they found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pertbound as pb


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
@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_convsmall", "cifar10_cnn_a"])
def test_the_ensemble_is_no_farther_than_the_peers(data_root: Path, name: str, boxed: bool) -> None:
    folder = data_root.parent / "peers"
    if not (folder / f"{name}.json").exists():
        pytest.skip(f"no {name}.json in {folder}")
    peer = _peers().peer(name, data_root, folder)
    theirs = peer.of("attack_box" if boxed else "attack")
    rows = (~theirs.isnan()).nonzero().flatten()
    assert len(rows) >= 20
    found = pb.attack(peer.network, peer.x[rows], pb.Ensemble(), within=pb.Ball(box=(0.0, 1.0) if boxed else None))
    assert bool(found.found.all())
    assert float(found.distance.mean()) <= float(theirs[rows].mean())
    assert float((found.distance / theirs[rows]).max()) < 1.02
