"""The named architectures at their real input sizes: what `Lipschitz` costs beside a forward pass, its one-time norms,
and the memory of it all.

Each runs in a process of its own, whose peak memory is told apart thereby. Random weights (seed 0) and random images,
unless there is a checkpoint, which gets test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timing import ratio
from torch import Tensor, nn

import pertbound as pb
from pertbound.data import load
from pertbound.models import alexnet, googlenet, load_model, nin, resnet18, resnet50, vgg16
from pertbound.push import Push

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
NORM_THREADS = 2
ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a network, the shape of one input, and images of that shape."""

    model: nn.Module
    inputs: Tensor


def _random(make: Callable[[torch.Generator], nn.Sequential], size: int, batch: int) -> Subject:
    generator = torch.Generator().manual_seed(0)
    model = make(generator).eval()
    return Subject(model=model, inputs=torch.rand(batch, 3, size, size, generator=generator))


def _trained(architecture: str, dataset: str, batch: int, data_dir: Path) -> Subject:
    model, _ = load_model(CHECKPOINTS / f"{architecture}_{dataset}.safetensors", architecture)
    return Subject(model=model, inputs=load(dataset, data_dir, limit=batch).inputs[:])


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "lenet, trained on MNIST": lambda data: _trained("lenet", "mnist", 500, data),
    "nin, trained on CIFAR-10": lambda data: _trained("nin", "cifar10", 64, data),
    "nin": lambda _: _random(nin, 32, 64),
    "alexnet": lambda _: _random(alexnet, 227, 16),
    "googlenet": lambda _: _random(googlenet, 224, 8),
    "resnet18": lambda _: _random(resnet18, 224, 8),
    "resnet50": lambda _: _random(resnet50, 224, 8),
    "vgg16": lambda _: _random(vgg16, 224, 8),
}


def measure(subject: Subject, rounds: int = ROUNDS) -> dict[str, Any]:
    """All figures of one network; times are taken in turn, so that their ratios stand on a busy machine, too."""
    model, x = subject.model, subject.inputs
    torch.set_num_threads(NORM_THREADS)
    network = pb.from_torch(model, x[:1])
    start = time.perf_counter()
    network.derive(Push)
    norms = time.perf_counter() - start
    torch.set_num_threads(1)

    def forward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: model(x))

    certified = pb.certify(network, x, pb.Lipschitz())
    whole = ratio(lambda: pb.certify(network, x, pb.Lipschitz()), forward(model, x), rounds)
    single = ratio(lambda: pb.certify(network, x, pb.Lipschitz(resolve=float("inf"))), forward(model, x), rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    double = ratio(forward(copy.deepcopy(model).double(), x.double()), forward(model, x), rounds)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": "x".join(map(str, x.shape[1:])),
        "batch": len(x),
        "norms, seconds": round(norms, 1),
        "peak memory, GB": round(peak / 1e9, 2),
        "lipschitz / forward pass": str(whole),
        "in float32 alone / forward pass": str(single),
        "float64 forward pass / forward pass": str(double),
        "forward pass, seconds": round(whole.reference_seconds, 3),
        "median radius": float(certified.radius.median()),
        "radii of 0": int((certified.radius == 0).sum()),
    }


def architectures(data_dir: Path, path: Path, names: tuple[str, ...] = tuple(SUBJECTS)) -> dict[str, Any]:
    """Measure each in a process of its own and keep all in `path`, also as it goes."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = "nin, trained on CIFAR-10" if not (CHECKPOINTS / "nin_cifar10.safetensors").exists() else ""
    for name in (name for name in names if name != missing):
        command = [sys.executable, __file__, name, "--data-dir", str(data_dir)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(NORM_THREADS), "MKL_NUM_THREADS": str(NORM_THREADS)}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return {name: found[name] for name in names if name in found}


def main() -> None:
    """One network, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=tuple(SUBJECTS))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    print(json.dumps(measure(SUBJECTS[options.name](options.data_dir))))


if __name__ == "__main__":
    main()
