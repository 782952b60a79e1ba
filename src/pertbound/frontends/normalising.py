"""Normalisation; handlers as in `operators.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import (
    Arguments,
    Converter,
    Value,
    constant_of,
    place,
    required_constant,
    value_of,
)
from pertbound.frontends.program import Call
from pertbound.frontends.rearranging import reshaped
from pertbound.layers import Diagonal, Standardize


def batch_norm(c: Converter, call: Call, a: Arguments) -> Value:
    """At inference a scale and a shift for each channel."""
    source = value_of(call, a, "input")
    if a.get("training", False):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} normalises by the batch itself, so one input's class depends on the "
            "others; call model.eval() and keep running statistics"
        )
    layer = Diagonal.from_batch_norm(
        source.shape,
        required_constant(call, a, "running_mean"),
        required_constant(call, a, "running_var"),
        constant_of(call, a, "weight"),
        constant_of(call, a, "bias"),
        float(a["eps"]),
    )
    return c.add(call, layer, source)


def layer_norm(c: Converter, call: Call, a: Arguments) -> Value:
    """Over the last dimensions of the sample; RMS normalisation leaves the mean."""
    source = value_of(call, a, "input")
    last = tuple(int(n) for n in a["normalized_shape"])
    if not last or len(last) > len(source.shape) or source.shape[-len(last) :] != last:
        raise UnsupportedLayerError(f"{call.target}{place(call)} over {last} does not fit samples of {source.shape}")
    centred = call.target.startswith("aten.layer_norm")
    eps = a.get("eps", 1e-5 if centred else None)
    eps = torch.finfo(c.dtype).eps if eps is None else float(eps)
    found = _standardized(c, call, source, math.prod(last), eps, centred=centred)
    return _scaled(c, call, found, constant_of(call, a, "weight"), constant_of(call, a, "bias"))


def group_norm(c: Converter, call: Call, a: Arguments) -> Value:
    """Over groups of channels, all positions."""
    source, groups = value_of(call, a, "input"), int(a["num_groups"])
    return _by_channels(c, call, a, source, groups)


def instance_norm(c: Converter, call: Call, a: Arguments) -> Value:
    """Over each channel's positions, or with running statistics, which is batch normalisation."""
    source = value_of(call, a, "input")
    if not a.get("use_input_stats", True):
        return batch_norm(c, call, {**a, "training": False})
    if len(source.shape) < 2:
        raise UnsupportedLayerError(f"{call.target}{place(call)} of samples of {source.shape} has no positions")
    return _by_channels(c, call, a, source, source.shape[0])


def _by_channels(c: Converter, call: Call, a: Arguments, source: Value, groups: int) -> Value:
    entries = math.prod(source.shape)
    if groups < 1 or source.shape[0] % groups:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {groups} groups of {source.shape[0]} channels")
    found = _standardized(c, call, source, entries // groups, float(a.get("eps", 1e-5)), centred=True)
    per_channel: list[Any] = []
    for name in ("weight", "bias"):
        constant = constant_of(call, a, name)
        per_channel.append(None if constant is None else constant.reshape(-1, *(1 for _ in source.shape[1:])))
    return _scaled(c, call, found, *per_channel)


def _standardized(c: Converter, call: Call, source: Value, count: int, eps: float, *, centred: bool) -> Value:
    """Groups of `count` neighbouring entries."""
    if not 1e-20 < eps < math.inf:
        raise UnsupportedLayerError(
            f"{call.target}{place(call)} with eps = {eps:g}: a group of equal entries has no bound; use a positive eps"
        )
    rows = reshaped(c, call, source, (math.prod(source.shape) // count, count))
    return reshaped(c, call, c.add(call, Standardize(rows.shape, eps, centred), rows), source.shape)


def _scaled(c: Converter, call: Call, value: Value, scale: Tensor | None, shift: Tensor | None) -> Value:
    if scale is None and shift is None:
        return value
    given = scale if scale is not None else shift
    assert given is not None
    scale = torch.ones_like(given) if scale is None else scale
    shift = torch.zeros_like(given) if shift is None else shift
    return c.add(call, Diagonal(value.shape, scale, shift), value)
