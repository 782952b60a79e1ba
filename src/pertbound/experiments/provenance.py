"""What a run says about itself: model, data, options, versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from pertbound.experiments.work import Work
from pertbound.graph import Graph
from pertbound.layers import Layer
from pertbound.preprocessing import declared
from pertbound.problem import Guarantee


def about_run(
    title: str,
    work: Work,
    model_name: str,
    options: Mapping[str, Any],
    command: str,
    sources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of `run.json`: all that is known before anything is computed.

    `sources` says where the model and the data were read from, for who checks the run later (`experiments/job.py`).
    """
    network, data, within = work.network, work.data, work.within
    about: dict[str, Any] = {
        "title": title,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {
            "name": model_name,
            "sha256": weights_sha256(network),
            "parameters": parameters(network),
            "preprocessing": declared(network),
        },
        "data": {
            "name": data.name,
            "sha256": data.sha256(),
            "samples": len(data),
            "input_shape": list(data.inputs.shape[1:]),
            "pixel_scale": data.pixel_scale,
            "units": data.units,
            "notes": list(data.notes),
            "source": data.source,
        },
        "options": dict(options) | {"batch_size": work.batch_size},
        "versions": {
            "pertbound": metadata.version("pertbound"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "guarantee": str(Guarantee(within.norm_name, within.domain)),
        "norm": within.norm_name,
        "shards": work.shards,
    }
    return about if sources is None else about | {"sources": dict(sources)}


def weights_sha256(network: Graph) -> str:
    """A hash of the graph's structure and weights: equal for equal classifiers read the same way."""
    digest = hashlib.sha256()
    for node in network.nodes:
        digest.update(f"{type(node.layer).__name__}{node.inputs}{node.name}".encode())
        for name, value in _fields(node.layer):
            if isinstance(value, Tensor):
                digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
            elif name in _PLAIN_FIELDS:
                digest.update(f"{name}{value}".encode())
    return digest.hexdigest()


_PLAIN_FIELDS = {
    "stride",
    "padding",
    "dilation",
    "groups",
    "window",
    "slope",
    "beta",
    "threshold",
    "p",
    "shape",
    "dim",
    "input_shape",
    "ceil_mode",
    "count_include_pad",
    "divisor",
    "low",
    "high",
    "alpha",
    "scale",
    "width",
    "eps",
    "factor",
    "centred",
    "size",
    "k",
    "bounds",
    "output_padding",
}


def _fields(layer: Layer) -> list[tuple[str, Any]]:
    """Names and values of what a layer was made of, sorted; what it has computed and kept is not among them."""
    return sorted(
        ((f.name, getattr(layer, f.name)) for f in fields(layer)),  # pyright: ignore[reportArgumentType]
        key=lambda item: item[0],
    )


def parameters(network: Graph) -> int:
    """The number of stored weights."""
    stored = (value for node in network.nodes for _, value in _fields(node.layer) if isinstance(value, Tensor))
    return sum(value.numel() for value in stored if value.is_floating_point())
