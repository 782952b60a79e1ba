"""What each layer's step costs on some samples of a run, as `layers.json` holds it (see `records.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pertbound.certificates import Auto, BranchAndBound, LinearRelaxation, QuadraticRelaxation
from pertbound.data import DataSet
from pertbound.experiments.work import L2, Method, OnProgress
from pertbound.graph import Graph
from pertbound.layer_loss import layer_factors, layer_losses
from pertbound.records import Run, Witnesses
from pertbound.samples import brackets
from pertbound.sets import Ball

LOSSES = 5
"""Samples whose margin is divided among the layers, unless asked otherwise: each costs a quadratic certificate."""
FACTORS = 200
"""Samples whose pushed radii are compared with movements, at most: each costs two forward passes in float64."""
ENTRIES = 2**28
"""Fewer of them, but `LOSSES`, where all their nodes together have more entries than this."""


def certificate_for(methods: Sequence[Method]) -> QuadraticRelaxation:
    """The quadratic certificate among the methods, or one with its own options."""
    return next((method for method in methods if isinstance(method, QuadraticRelaxation)), QuadraticRelaxation())


def losses_by_default(methods: Sequence[Method]) -> int:
    """`LOSSES` where one of the methods is as dear for every sample; else 0."""
    dear = (Auto, BranchAndBound, LinearRelaxation, QuadraticRelaxation)
    return LOSSES if any(isinstance(method, dear) for method in methods) else 0


def by_layer(
    network: Graph,
    data: DataSet,
    run: Run,
    *,
    losses: int,
    certificate: QuadraticRelaxation = QuadraticRelaxation(),  # noqa: B008 - frozen
    against_labels: bool = False,
    within: Ball = L2,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """`layer_losses` of `losses` samples and `layer_factors` of more, spread evenly over those that were measured.

    Samples with a kept witness are preferred; without any there are no factors. Empty where there is nothing to say.
    """
    best = brackets(run)
    positions = best.sample.tolist()
    place = {position: i for i, position in enumerate(data.positions.tolist())}
    kept, apart = _kept(run), dict(zip(positions, (best.upper > 0).tolist(), strict=True))
    seen = [position for position in positions if position in kept and apart[position]]
    known = seen or positions
    result: dict[str, Any] = {}
    many = max(LOSSES, min(FACTORS, ENTRIES // _entries(network)))
    if chosen := _spread(seen, many):
        found = _witnesses(run, [kept[p] for p in chosen])
        x = _inputs(data, [place[position] for position in chosen], network)
        factors = layer_factors(network, x, torch.stack([found[p] for p in chosen]).to(x.dtype), within=within)
        result["factors"] = {
            "nodes": list(factors.nodes),
            "layers": list(factors.layers),
            "sample": chosen,
            "looseness": _rows(factors.looseness),
            "factor": _rows(factors.factor),
        }
    if chosen := _spread(known, losses):
        found = _witnesses(run, [kept[p] for p in chosen if p in kept])
        if on_progress is not None:
            on_progress("loss by layer", len(data), len(data))
        rows = [place[position] for position in chosen]
        x, labels = _inputs(data, rows, network), None
        if against_labels and data.labels is not None:
            labels = data.labels[rows]
        hints = torch.stack([found[p] for p in chosen]).to(x.dtype) if all(p in found for p in chosen) else None
        lost = layer_losses(network, x, labels, certificate=certificate, within=within, adversarial=hints)
        kept = ((lost.radius > 0) & torch.isfinite(lost.radius)).nonzero().flatten()
        if len(kept):
            result["losses"] = {
                "method": lost.method,
                "nodes": list(lost.nodes),
                "layers": list(lost.layers),
                "sample": [chosen[i] for i in kept.tolist()],
                "radius": lost.radius[kept].tolist(),
                "margin": lost.margin[kept].tolist(),
                "real": lost.real[kept].tolist(),
                "lost": _rows(lost.lost[kept]),
                "left": lost.left[kept].tolist(),
            }
    return result


def _kept(run: Run) -> dict[int, int]:
    """Where among the kept witnesses each sample's is."""
    samples = run.witnesses["sample"].tolist() if len(run.witnesses) else []
    return {sample: i for i, sample in enumerate(samples)}


def _witnesses(run: Run, places: list[int]) -> dict[int, Tensor]:
    """The kept witnesses at those places, by sample."""
    stored = run.witnesses if isinstance(run.witnesses, Witnesses) else Witnesses([run.witnesses])
    kept = stored.take(places)
    return dict(zip(kept["sample"].tolist(), torch.as_tensor(kept["adversarial"]), strict=True)) if kept else {}


def _spread(positions: list[int], count: int) -> list[int]:
    """At most so many of them, evenly spaced, from the first to the last."""
    if len(positions) <= count:
        return positions if count > 0 else []
    return [positions[round(i * (len(positions) - 1) / max(count - 1, 1))] for i in range(count)]


def _entries(network: Graph) -> int:
    """The entries of all nodes of one sample."""
    sizes: list[int] = []

    def see(_node: object, _inputs: object, value: Tensor) -> None:
        sizes.append(value.numel())

    with torch.no_grad():
        network.run(torch.zeros(1, *network.input_shape, dtype=network.dtype, device=network.device), see)
    return sum(sizes)


def _inputs(data: DataSet, rows: list[int], network: Graph) -> Tensor:
    return data.inputs[torch.tensor(rows)].to(device=network.device, dtype=network.dtype)


def _rows(values: Tensor) -> list[list[float | None]]:
    """Numbers as JSON knows them; None where there is none."""
    return [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]
