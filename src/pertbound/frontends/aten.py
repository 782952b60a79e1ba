"""From a traced program to a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pertbound.errors import ConversionError
from pertbound.frontends.conversion import Converter, Probabilities, Value
from pertbound.frontends.local_response import with_local_responses
from pertbound.frontends.lp_pool import with_lp_pools
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Program
from pertbound.graph import Graph, Node


@dataclass(frozen=True)
class Converted:
    """The graph's parts, and what turns its logits into the program's own output."""

    nodes: tuple[Node, ...]
    finish: Callable[[Tensor], Tensor]


def convert(program: Program, dtype: torch.dtype | None = None) -> Converted:
    """The nodes of a program's graph; `dtype` is what it computes in, by default that of its stored tensors.

    Raises `UnsupportedLayerError` for operators without a bound, `ConversionError` for anything else that is not
    a classifier of one input tensor.
    """
    converter = Converter(program, HANDLERS, dtype)
    for call in with_local_responses(with_lp_pools(program.calls)):
        converter.read(call)
    return converted(converter, converter.result(program.output))


def converted(converter: Converter, result: object) -> Converted:
    """The nodes behind `result`, which is what the program returns."""
    finish: Callable[[Tensor], Tensor] = _identity
    if isinstance(result, Probabilities):
        finish = _log_softmax if result.logarithm else _softmax
        result = result.of
    if not isinstance(result, Value) or not converter.nodes:
        raise ConversionError("the model's output does not depend on its input through any layer")
    return Converted(_reaching(converter.nodes, result.node), finish)


def graph_of(
    program: Program, dtype: torch.dtype, original: Callable[[Tensor], Tensor] | None
) -> tuple[Graph, Callable[[Tensor], Tensor]]:
    """The program's graph, and what turns its logits into the program's own output."""
    parts = convert(program, dtype)
    graph = Graph(parts.nodes, program.input_shape[1:], dtype=dtype, original=original)
    return graph, parts.finish


def _identity(logits: Tensor) -> Tensor:
    return logits


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(1)


def _reaching(nodes: Sequence[Node], output: str) -> tuple[Node, ...]:
    """The nodes that the output depends on, in their order."""
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = tuple(node for node in nodes if node.name in needed)
    if not kept or kept[-1].name != output:
        raise ConversionError("the model returns its input unchanged")
    return kept
