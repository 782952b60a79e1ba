"""Certificates beside other tools, on the same networks and samples, and brackets that are closed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from peers import LENET, SDP_CROWN, Peer, peer
from torch import Tensor

import pertbound as pb
from pertbound.balance import balanced
from pertbound.data import load
from pertbound.models import load_model
from pertbound.push import Push

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SHORT, QUICK = pb.QuadraticRelaxation(steps=30), pb.QuadraticRelaxation(steps=60)
TIGHT = pb.QuadraticRelaxation(steps=100, tighten=500)
LONG = pb.Auto(seconds=2.0)
TARGETS = {"mnist_mlp": 1.10, "mnist_convsmall": 1.25, "cifar10_cnn_a": 1.45}


def against_peers(data_dir: Path, peers_dir: Path) -> dict[str, Any]:
    """Mean radii and times against SDP-CROWN and CROWN, ratios to attacks, and violations over everything."""
    torch.empty(2**23)  # a large block once, so that the allocator keeps what is freed
    results: dict[str, Any] = {}
    violations = 0
    for name in SDP_CROWN:
        found = peer(name, data_dir, peers_dir)
        once(found)
        few = found.of("sdp_crown")[:10]
        rows = (~few.isnan()).nonzero().flatten()
        quick, seconds = _timed(found, QUICK, found.x[rows])
        walls = [v["wall_s"] for v in found.found["sdp_crown"].values() if "wall_s" in v]
        many = found.x[:20]
        nearest = _nearest(found, many)
        long, long_seconds = _timed(found, LONG, many, nearest)
        peers_attack = found.of("attack")[:20]
        cheap, _ = _timed(found, pb.Auto(forward_passes=100), many)
        violations += _violations(found, [(rows, quick), (torch.arange(len(many)), long)])
        results[name] = {
            f"{QUICK.name} / SDP-CROWN, mean radius (target 1.15)": round(float(quick.mean() / few[rows].mean()), 3),
            "its time / SDP-CROWN's wall time (target 0.01)": round(seconds / (sum(walls) / len(walls)), 5),
            f"peers' attack / {LONG.name}, mean (target {TARGETS[name]})": round(
                float((peers_attack / long).mean()), 3
            ),
            f"ddn / {LONG.name}, mean": round(float((nearest / long).mean()), 3),
            f"{LONG.name}, seconds per sample": round(long_seconds, 2),
            "mean at 100 forward passes": round(float(cheap.mean()), 4),
            "mean Lipschitz product of the peers": round(float(found.of("lipschitz_product")[:20].mean()), 4),
            "mean CROWN": round(float(found.of("crown")[:20].mean()), 4),
        }
        _print(name, results[name])
    for name, count in zip(LENET, (20, 10), strict=True):
        found = peer(name, data_dir, peers_dir)
        once(found)
        x = found.x[:count]
        crown = float(found.of("crown")[:count].mean())
        wall = float(found.found["crown_wall_s_per_sample"])
        entry: dict[str, Any] = {}
        asked = (SHORT, pb.Ball()), (QUICK, pb.Ball()), (TIGHT, pb.Ball()), (QUICK, pb.Ball(box=(0.0, 1.0)))
        for certificate, within in asked:
            radius, seconds = _timed(found, certificate, x, within=within)
            where = f"{certificate.name}{'' if within.box is None else ', in the input box'}"
            entry[f"{where} / CROWN, mean radius (target 3)"] = round(float(radius.mean()) / crown, 2)
            entry[f"{where}: time / CROWN's wall time (target 0.1)"] = round(seconds / wall, 3)
            violations += _violations(
                found, [(torch.arange(count), radius)], "attack" if within.box is None else "attack_box"
            )
        results[name] = entry
        _print(name, entry)
    results["violations of certificates"] = violations
    print(f"violations of certificates: {violations}")
    return results


def closed_brackets(data_dir: Path, samples: int = 100, seconds: float = 15.0) -> dict[str, Any]:
    """The network 784-50-50-10: how many of the first samples' brackets branch and bound closes to one percent."""
    model, shape = load_model(CHECKPOINTS / "mlp_mnist.safetensors", "mlp")
    network = pb.from_torch(model, torch.zeros(2, *shape))
    x = load("mnist", data_dir, limit=samples).inputs[:]
    upper = pb.attack(network, x, pb.DDN(restarts=4, targets=4)).distance
    start = time.perf_counter()
    parts = [
        pb.certify(network, part, pb.BranchAndBound(seconds=seconds), upper=known).radius
        for part, known in zip(x.split(20), upper.split(20), strict=True)
    ]
    lower = torch.cat(parts)
    share = lower / upper
    result = {
        "samples": samples,
        "brackets closed to 1 % (target 0.9)": round(float((share >= 0.99).double().mean()), 3),
        "mean lower / upper": round(float(share.mean()), 4),
        "smallest lower / upper": round(float(share.min()), 4),
        "seconds per sample (target 60)": round((time.perf_counter() - start) / samples, 2),
        "violations of certificates": int((share > 1).sum()),
    }
    _print("mlp 784-50-50-10", result)
    return result


def once(found: Peer) -> None:
    """What is computed once for a network, and not counted: operator norms, and scales between layers."""
    found.network.derive(Push)
    found.network.derive(balanced).derive(Push)


def _timed(
    found: Peer, certificate: pb.Certificate, x: Tensor, upper: Tensor | None = None, within: pb.Ball | None = None
) -> tuple[Tensor, float]:
    """Radii, and wall seconds per sample."""
    start = time.perf_counter()
    radius = pb.certify(found.network, x, certificate, upper=upper, within=within or pb.Ball()).radius
    return radius, (time.perf_counter() - start) / len(x)


def _nearest(found: Peer, x: Tensor) -> Tensor:
    return pb.attack(found.network, x, pb.DDN()).distance


def _violations(found: Peer, answers: list[tuple[Tensor, Tensor]], key: str = "attack") -> int:
    """Radii above the peers' or our own smallest perturbations."""
    count = 0
    for rows, radius in answers:
        count += int((radius > found.of(key)[rows]).sum())
        within = pb.Ball(box=None if key == "attack" else (0.0, 1.0))
        count += int((radius > pb.attack(found.network, found.x[rows], pb.DDN(), within=within).distance).sum())
    return count


def _print(name: str, entry: dict[str, Any]) -> None:
    print(name, flush=True)
    for key, value in entry.items():
        print(f"  {key}: {value}", flush=True)
