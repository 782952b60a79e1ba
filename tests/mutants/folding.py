"""Readers that round what they compute to float32, and forget it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from pertbound import preprocessing
from pertbound.graph import Graph
from pertbound.layers import Diagonal, Layer, normalize


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).to(torch.float64)


@contextmanager
def batch_norm_rounded() -> Generator[None]:
    """Scale and shift of batch normalisation in float32."""
    exact = normalize.batch_norm_constants

    def rounded(
        mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        scale, shift = exact(mean, variance, weight, bias, eps)
        return _float32(scale), _float32(shift)

    with patch.object(normalize, "batch_norm_constants", rounded):
        yield


@contextmanager
def preprocessing_rounded() -> Generator[None]:
    """Factor and shift of declared preprocessing in float32."""
    exact = preprocessing._nearest
    with patch.object(preprocessing, "_nearest", lambda *arguments: _float32(exact(*arguments))):
        yield


def constants_rounded(graph: Graph) -> Graph:
    """Every constant of a scale and a shift in float32."""

    def rounded(layer: Layer) -> Layer:
        if not isinstance(layer, Diagonal):
            return layer
        return replace(layer, scale=_float32(layer.scale), shift=_float32(layer.shift))

    nodes = [replace(node, layer=rounded(node.layer)) for node in graph.nodes]
    return Graph(nodes, graph.input_shape, dtype=graph.dtype)
