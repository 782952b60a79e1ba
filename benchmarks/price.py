"""What each rung of the ladder costs and reaches: mean radius against seconds per sample, beside other tools.

`--full` runs one rung over a whole test set, keeping what is done after every hundred samples, so that it can be
stopped and started again. Without it every rung is run on the first samples of the peers' files, and the figure drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from peers import Peer, peer

import pertbound as pb
from certificates import once
from pertbound.data import load

HERE = Path(__file__).parent
FIGURE = HERE.parent / "docs" / "figures" / "price.png"
KEPT = HERE / "results"
BATCH = 100
"""Samples between two writes of a whole run."""
RUNGS: dict[str, pb.Certificate] = {
    "lipschitz": pb.Lipschitz(),
    "linear, plain boxes": pb.LinearRelaxation(tighten=False),
    "quadratic, 10 steps": pb.QuadraticRelaxation(steps=10),
    "quadratic, 20 steps": pb.QuadraticRelaxation(steps=20),
    "quadratic, 40 steps": pb.QuadraticRelaxation(steps=40),
    "quadratic, 80 steps": pb.QuadraticRelaxation(steps=80),
    "auto, 1 s": pb.Auto(seconds=1.0),
}
FULL: dict[str, pb.Certificate] = {
    "mnist_convsmall": pb.QuadraticRelaxation(steps=40),
    "lenet_mnist": pb.QuadraticRelaxation(steps=60),
}


def rungs(found: Peer, count: int) -> dict[str, dict[str, float]]:
    """Seconds per sample and mean radius of every rung on the first samples."""
    x = found.x[:count]
    once(found)
    result: dict[str, dict[str, float]] = {}
    for name, certificate in RUNGS.items():
        start = time.perf_counter()
        radius = pb.certify(found.network, x, certificate).radius
        seconds = (time.perf_counter() - start) / count
        result[name] = {"seconds": round(seconds, 5), "mean": round(float(radius.mean()), 4)}
        print(f"  {name}: {seconds:.4f} s per sample, mean radius {float(radius.mean()):.4f}", flush=True)
    for key, seconds in (("crown", found.found.get("crown_wall_s_per_sample")), ("sdp_crown", None)):
        values = found.of(key)[:count]
        if bool((~values.isnan()).any()):
            walls = [v["wall_s"] for v in found.found.get(key, {}).values() if isinstance(v, dict) and "wall_s" in v]
            wall = seconds or (sum(walls) / len(walls) if walls else CROWN_SECONDS.get(found.name))
            if wall is not None:
                result[key] = {"seconds": wall, "mean": round(float(values.nanmean()), 4)}
    return result


CROWN_SECONDS = {"mnist_mlp": 0.16, "mnist_convsmall": 1.0, "cifar10_cnn_a": 3.5}
"""Wall time of auto_LiRPA's CROWN with bisection, for each sample, as the peers' README gives it."""


def full(name: str, data_dir: Path, peers_dir: Path, workers: int) -> dict[str, Any]:
    """One rung over the whole test set, by so many processes of one thread; rows so far are in `results`."""
    path = KEPT / f"full_{name}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept and kept["method"] != FULL[name].name:
        raise SystemExit(f"{path} is of {kept['method']}; this would go on with {FULL[name].name}: move it away first")
    radii: list[float] = kept.get("radii", [])
    seconds: float = kept.get("seconds", 0.0)
    if radii:
        kept.pop("radii")
        print(f"{name}, so far: {kept}", flush=True)
    starts = range(len(radii), len(load("mnist", data_dir)), BATCH)
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (name, data_dir, peers_dir)) as pool:
        for found, took in pool.map(_batch, starts):
            radii += found
            seconds += took
            mean = sum(radii) / len(radii)
            kept = {"method": FULL[name].name, "done": len(radii), "seconds": round(seconds, 1), "mean": round(mean, 5)}
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".part")
            temporary.write_text(json.dumps(kept | {"radii": radii}), encoding="utf-8")
            temporary.replace(path)
            print(f"{name}: {kept}", flush=True)
    return kept


_HERE: dict[str, Any] = {}
"""What a worker keeps between batches."""


def _prepare(name: str, data_dir: Path, peers_dir: Path) -> None:
    torch.set_num_threads(1)
    found = peer(name, data_dir, peers_dir)
    once(found)
    _HERE.update(network=found.network, inputs=load("mnist", data_dir).inputs, certificate=FULL[name])


def _batch(start: int) -> tuple[list[float], float]:
    """The radii of one batch, and how long they took."""
    x = _HERE["inputs"][start : start + BATCH]
    begun = time.perf_counter()
    radius = pb.certify(_HERE["network"], x, _HERE["certificate"]).radius
    return [round(r, 6) for r in radius.tolist()], time.perf_counter() - begun


def draw(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Mean radius against seconds per sample, one panel for each network."""
    figure, panels = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.6), layout="constrained")
    for panel, (name, points) in zip(panels, results.items(), strict=True):
        own = [(p["seconds"], p["mean"]) for key, p in points.items() if key in RUNGS]
        front = [p for p in sorted(own) if all(q[1] < p[1] for q in own if q[0] < p[0])]
        panel.plot(*zip(*front, strict=True), color="#0072b2", marker="o", markersize=4, label="this library")
        rest = [p for p in own if p not in front]
        if rest:
            panel.plot(*zip(*rest, strict=True), "o", color="#0072b2", markerfacecolor="white", markersize=4)
        for key, marker, colour, label in (
            ("crown", "s", "#d55e00", "CROWN"),
            ("sdp_crown", "^", "#009e73", "SDP-CROWN"),
        ):
            if key in points:
                panel.plot(points[key]["seconds"], points[key]["mean"], marker, color=colour, label=label)
        panel.set_xscale("log")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("seconds per sample")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean certified L2 radius")
    panels[0].legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--peers-dir", type=Path, default=None, help="otherwise `peers` beside the data")
    parser.add_argument("--full", choices=tuple(FULL), default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--workers", type=int, default=2, help="with --full: processes of one thread each")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    peers_dir = options.peers_dir or options.data_dir.parent / "peers"
    if options.full is not None:
        full(options.full, options.data_dir, peers_dir, options.workers)
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, count in (("mnist_mlp", 10), ("mnist_convsmall", 6), ("cifar10_cnn_a", 6), ("lenet_mnist", 10)):
        print(name)
        results[name] = rungs(peer(name, options.data_dir, peers_dir), count)
    KEPT.mkdir(exist_ok=True)
    (KEPT / "price.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results)


if __name__ == "__main__":
    main()
