"""What a run says about itself: model, data, options, versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor

from pertbound.experiments.machine import machine, versions
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
        "versions": versions(),
        "machine": machine(),
        "guarantee": str(Guarantee(within.norm_name, within.domain)),
        "norm": within.norm_name,
        "shards": work.shards,
    }
    return about if sources is None else about | {"sources": dict(sources)}


def weights_sha256(network: Graph) -> str:
    """A hash of the graph: all layers with all of their fields, what reads what, and the precision.

    Equal for equal classifiers read the same way; different where any field of any layer differs, so that no two
    different classifiers share one. Raises `TypeError` for a field of a kind that is not known here, which is never
    left out.
    """
    digest = hashlib.sha256()

    def put(*parts: object) -> None:
        for part in parts:
            text = part if isinstance(part, bytes) else repr(part).encode()
            digest.update(len(text).to_bytes(8, "little") + text)  # with lengths nothing can run into its neighbour

    put(tuple(network.input_shape), str(network.dtype), network.rounded)
    for node in network.nodes:
        put(node.name, tuple(node.inputs), type(node.layer).__name__)
        for name, value in _fields(node.layer):
            put(name, *_hashed(value))
    return digest.hexdigest()


def _hashed(value: object) -> tuple[object, ...]:
    """A field's value as what is hashed: its kind and its content."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, tuple):
        return ("tuple", len(value), *(part for each in value for part in _hashed(each)))
    if value is None or type(value) in (bool, int, float, str):
        return type(value).__name__, value
    raise TypeError(f"a layer's field holds {type(value).__name__}, which has no place in a hash: {value!r:.80}")


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
