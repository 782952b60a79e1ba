"""A graph run beside the model that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import final

import torch
from torch import Tensor

from pertbound.errors import ConversionError
from pertbound.graph import Graph, in_float64

Function = Callable[[Tensor], Tensor]

BATCHES = ((5, 10.0), (7, 100.0), (9, 0.01), (17, 1.0), (33, 10.0))
"""Sizes of further batches, and scales of their inputs: a model may treat large batches or values in another way."""
ENTRIES = 2**22
"""Entries of all nodes together that these may take; batches of up to three are always tried."""
ALLOWED = 1e-4
"""By how much outputs may differ, relative to 1 and the largest output."""


def require_agreement(graph: Graph, finish: Function, model: Function, example: Tensor) -> None:
    """Run both on `example`, on random inputs of other batch sizes up to 33, and of other scales.

    `finish` makes the model's output of the graph's. Raises `ConversionError` where they differ by more than `ALLOWED`,
    or in what is not finite. Batches of a large network are fewer (`ENTRIES`): what is asked about later is tried as
    well, see `require_own_agreement`.
    """
    with torch.no_grad():
        for x in _batches(graph, example):
            _require(graph, (finish,), model, x)


def require_own_agreement(graph: Graph, x: Tensor) -> None:
    """Run both on a batch that is to be certified, once for each size; where the graph has no model, nothing.

    Attacks need no such check: each witness is run through both, and counts only where both are wrong.

    The model's output may be the graph's, or its softmax, or the logarithm of that. Raises `ConversionError` as
    `require_agreement` does. Costs a forward pass of the model, and one of the graph, for each new size.
    """
    tried = graph.derive(_Tried)
    if graph.original is None or len(x) in tried.sizes:
        return
    with torch.no_grad():
        _require(graph, (_same, _softmax, _log_softmax), graph.original, x.detach())
    tried.sizes.add(len(x))


@final
class _Tried:
    """The sizes of batches for which a graph was held against its model. For `Graph.derive`."""

    def __init__(self, graph: Graph) -> None:
        del graph
        self.sizes: set[int] = set()


def _batches(graph: Graph, example: Tensor) -> Iterator[Tensor]:
    """Those of `require_agreement`; the example is the first."""
    generator = torch.Generator(device="cpu").manual_seed(0)

    def noise(size: int) -> Tensor:
        values = torch.randn(size, *graph.input_shape, generator=generator, dtype=example.dtype, device="cpu")
        return values.to(example.device)

    three = noise(3)
    yield torch.cat([example, example])[:2].contiguous()
    yield from (three, 0.1 * three.abs(), three[:1])
    left = ENTRIES
    sizes = [example[0].numel()]
    graph.run(three[:1], lambda _node, _inputs, value: sizes.append(value.numel()))
    if 2 < len(example) <= left // sum(sizes):
        yield example
        left -= len(example) * sum(sizes)
    for size, scale in BATCHES:
        left -= size * sum(sizes)
        if left < 0:
            break
        yield scale * noise(size)


def _require(graph: Graph, finishes: tuple[Function, ...], model: Function, x: Tensor) -> None:
    """Raises `ConversionError` unless the model's output for x is what one of `finishes` makes of the graph's."""
    try:
        expected = model(x)
    except Exception as error:
        raise ConversionError(f"the model cannot run a batch of {len(x)}: {error}") from error
    got = graph.run(x)
    error, allowed = min((_difference(finish(got), expected) for finish in finishes), key=lambda pair: pair[0])
    if error <= allowed:
        return
    if error < math.inf:  # is it what this network rounds?
        exact = graph.derive(in_float64).run(x.to(torch.float64))
        allowed += 8 * max(_rounded(finish(got), finish(exact)) for finish in finishes)
    if not error <= allowed:
        raise ConversionError(
            f"the graph computes something else than the model for a batch of {len(x)}: outputs of shape "
            f"{tuple(got.shape)} and {tuple(expected.shape)} differ by {error:.3g} (allowed {allowed:.3g}). Is the "
            "model random in evaluation mode, or does its result depend on the batch or on the size of values? "
            "Otherwise this is a bug; please report"
        )


def _difference(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """By how much both differ at most, infinite where shapes or what is finite do; and how much is allowed."""
    finite = torch.isfinite(expected)
    some = bool(finite.any())
    allowed = ALLOWED * (1 + float(expected[finite].abs().amax()) if some else 1.0)
    if got.shape != expected.shape or not bool((torch.isfinite(got) == finite).all()):
        return math.inf, allowed
    return (float((got - expected)[finite].abs().amax()) if some else 0.0), allowed


def _rounded(got: Tensor, exact: Tensor) -> float:
    """How far rounding took any output that both have; an output that overflowed says nothing about the others."""
    both = torch.isfinite(got) & torch.isfinite(exact)
    return float((got - exact)[both].abs().amax()) if bool(both.any()) else 0.0


def _same(logits: Tensor) -> Tensor:
    return logits


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(1)
