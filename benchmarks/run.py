"""`make bench`: what certificates cost and reach, as ratios measured in this one run.

Prints a table and writes benchmarks/results.json and docs/figures/cost_against_parameters.png. Nothing here is a test:
a benchmark says how it is, tests say how it must be.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from architectures import architectures
from cost_against_parameters import cost_against_parameters
from engines import engines
from theorem_a5 import mean_with_entrywise_first_layer
from timing import ratio
from vnncomp import vnncomp

import pertbound as pb
from attacks import against_peers as attacks_against_peers
from certificates import against_peers, closed_brackets
from pertbound.data import DataSet, load
from pertbound.models import load_model, vgg16
from pertbound.push import Push

HERE = Path(__file__).parent
CHECKPOINTS = HERE.parent / "checkpoints"
BATCH = 500
LONG = ("architectures", "vnncomp")
"""Studies that are run only when they are asked for."""


def lenet_on_mnist(data: DataSet) -> dict[str, Any]:
    """Lipschitz against a plain forward pass, its one-time norms in forward passes, its radius against the paper's."""
    model, shape = load_model(CHECKPOINTS / "lenet_mnist.safetensors", "lenet")
    network = pb.from_torch(model, torch.zeros(2, *shape))
    forward = _forward(model, data)
    forward()
    start = time.perf_counter()
    network.derive(Push)
    norms = time.perf_counter() - start
    cost = ratio(lambda: pb.certify(network, data.inputs[:], pb.Lipschitz(), batch_size=BATCH), forward)
    lower = float(pb.certify(network, data.inputs[:], pb.Lipschitz()).radius.mean())
    softened = float(pb.certify(network, data.inputs[:], pb.Published()).radius.mean())
    flat = float(pb.certify(network, data.inputs[:], pb.Published(relu=pb.CurvatureFree())).radius.mean())
    entrywise = mean_with_entrywise_first_layer(network, data.inputs[:])
    return {
        "samples": len(data),
        "lipschitz / forward pass (target 1.2)": str(cost),
        "operator norms, in forward passes of the test set (target 60)": round(norms / cost.reference_seconds, 1),
        "mean lipschitz radius": round(lower, 5),
        "mean lipschitz / mean published, softplus sharpness 10 (target 100)": round(lower / softened, 1),
        "the same, M from the first layer's largest entries (target 100)": round(lower / entrywise, 1),
        "mean lipschitz / mean published, curvature-free (target 100)": round(lower / flat, 1),
    }


def vgg16_norms() -> dict[str, Any]:
    """All operator norms of VGG-16 at 224 x 224, random weights, in seconds and in forward passes of one image."""
    model = vgg16(torch.Generator().manual_seed(0)).eval()
    x = torch.zeros(1, 3, 224, 224)
    network = pb.from_torch(model, x)
    with torch.no_grad():
        model(x)
        start = time.perf_counter()
        for _ in range(5):
            model(x)
        forward = (time.perf_counter() - start) / 5
    start = time.perf_counter()
    network.derive(Push)
    seconds = time.perf_counter() - start
    return {
        "operator norms, seconds (target 120)": round(seconds, 1),
        "operator norms / forward pass of one image": round(seconds / forward),
    }


def _forward(model: torch.nn.Module, data: DataSet) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            for batch in data.inputs[:].split(BATCH):
                model(batch)

    return forward


def main() -> None:
    """Run what was asked for, print it, keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--limit", type=int, default=None, help="fewer MNIST images, for a quick look")
    names = ("lenet", "vgg16", "cost", "peers", "attacks", "closed", "engines", *LONG)
    parser.add_argument("--only", choices=names, default=None)
    parser.add_argument("--peers-dir", type=Path, default=None, help="otherwise `peers` beside the data")
    options = parser.parse_args()
    data_dir: Path = options.data_dir or Path("data")
    peers_dir: Path = options.peers_dir or data_dir.parent / "peers"
    studies: dict[str, Callable[[], dict[str, Any]]] = {
        "lenet": lambda: lenet_on_mnist(load("mnist", options.data_dir, limit=options.limit)),
        "cost": lambda: cost_against_parameters(HERE.parent / "docs" / "figures"),
        "vgg16": vgg16_norms,
        "peers": lambda: against_peers(data_dir, peers_dir),
        "attacks": lambda: attacks_against_peers(data_dir, peers_dir),
        "engines": lambda: engines(data_dir),
        "architectures": lambda: architectures(data_dir, HERE / "results" / "architectures.json"),
        "closed": lambda: closed_brackets(data_dir),
        "vnncomp": lambda: vnncomp(data_dir, HERE / "results" / "vnncomp.json"),
    }
    path = HERE / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, study in studies.items():
        if options.only == name or (
            options.only is None and name not in ("vnncomp", "architectures")
        ):  # which take long
            results[name] = study()
            print(name)
            for key, value in results[name].items():
                print(f"  {key}: {value}")
            results["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
            path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
