"""The paper's claim that bounds cost time linear in the parameters, over a family of widths and depths."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

import pertbound as pb
from pertbound.push import Push

SAMPLES = 500
WIDTHS = (128, 256, 512, 1024, 2048)
DEPTHS = (2, 4, 6)


def _network(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    size = 784
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 10)).eval()


def _per_sample(network: pb.Graph, x: Tensor, method: pb.Certificate | pb.Estimator) -> float:
    """Microseconds for each sample, the smallest of seven runs."""
    best = math.inf
    for _ in range(7):
        start = time.perf_counter()
        if isinstance(method, pb.Certificate):
            pb.certify(network, x, method)
        else:
            pb.certify(network, x, method)
        best = min(best, time.perf_counter() - start)
    return best / len(x) * 1e6


def cost_against_parameters(folder: Path) -> dict[str, Any]:
    """Time the bounds over all widths and depths, fit the growth, draw it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SAMPLES, 784, generator=generator)
    torch.manual_seed(0)
    points: list[dict[str, float]] = []
    for depth in DEPTHS:
        for width in WIDTHS:
            model = _network(width, depth)
            network = pb.from_torch(model, x[:2])
            start = time.perf_counter()
            network.derive(Push)
            norms = time.perf_counter() - start
            points.append(
                {
                    "depth": depth,
                    "width": width,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "norms_seconds": norms,
                    "lipschitz_us": _per_sample(network, x, pb.Lipschitz()),
                    "published_us": _per_sample(network, x, pb.Published()),
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    _draw(points, folder / "cost_against_parameters.png")
    return {
        "lipschitz, exponent of time against parameters (linear: 1)": _exponent(points, "lipschitz_us"),
        "published, exponent of time against parameters (linear: 1)": _exponent(points, "published_us"),
        "points": [{key: round(value, 4) for key, value in point.items()} for point in points],
    }


def _exponent(points: list[dict[str, float]], key: str) -> float:
    """The slope of log time against log parameters (least squares) over networks of at least 10^6 parameters.

    Below that, the fixed cost of a call shows.
    """
    big = [p for p in points if p["parameters"] >= 1e6]
    xs, ys = [math.log(p["parameters"]) for p in big], [math.log(p[key]) for p in big]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - mx) * (b - my) for a, b in zip(xs, ys, strict=True)) / sum((a - mx) ** 2 for a in xs)
    return round(slope, 2)


def _draw(points: list[dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    styles = {"lipschitz_us": ("lipschitz (certified)", "#0072B2", "o"), "published_us": ("published", "#D55E00", "s")}
    for key, (label, colour, marker) in styles.items():
        axes.scatter(
            [p["parameters"] for p in points], [p[key] for p in points], label=label, color=colour, marker=marker, s=28
        )
        last = max(points, key=lambda p: p["parameters"])
        ends = [min(p["parameters"] for p in points), last["parameters"]]
        axes.plot(ends, [last[key] * e / ends[1] for e in ends], color=colour, alpha=0.4, linestyle="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("parameters (784 - width x depth - 10, widths 128 to 2048, depths 2, 4, 6)")
    axes.set_ylabel("microseconds for each sample")
    axes.set_title("Cost of a bound against parameters; dashed: linear growth")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(str(path))
