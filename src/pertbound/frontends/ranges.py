"""What is known of a node's values whatever the input is: one rule for all layers.

Nothing else declares such a fact. A range is what a layer's interval bound says of the ranges of its inputs, so that
it is wrong only where `Layer.interval` is. Where several layers stand for one function (a sort of two entries, a
square), the converter narrows the range of the last one to that of the function (`Converter.narrow`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.layers import Activation, Conv, ConvTranspose, Dense, Layer, Linear, Shape
from pertbound.sets import Box

MOST = 2**24
"""Of layers with more entries a sample nothing is computed, and their range is the whole line."""


@final
@dataclass(frozen=True)
class Range:
    """Each entry, in exact arithmetic and for any input of the network, is at least `low` and at most `high`."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)

    @property
    def nonnegative(self) -> bool:
        """Whether no entry is below zero."""
        return self.low >= 0.0

    def within(self, low: float, high: float) -> Range:
        """The part of the range in [low, high]."""
        return Range(max(self.low, low), min(self.high, high))


def range_of(layer: Layer, shapes: Sequence[Shape], ranges: Sequence[Range]) -> Range:
    """The range of the layer's output, for inputs of these sample shapes and ranges.

    Sound, because `Layer.interval` holds the exact output for all inputs within its boxes, here of equal ends for all
    entries. Rounding takes the ends apart a little; where `keeps_sign` says that an output cannot be negative, 0 is an
    end. Weights with unbounded inputs would cost a forward pass for nothing: their range is the whole line.
    """
    whole = [found == Range() for found in ranges]
    weighted = isinstance(layer, Dense | Conv | ConvTranspose) and any(math.isinf(found.size) for found in ranges)
    idle = weighted or (isinstance(layer, Linear) and all(whole)) or max(map(math.prod, shapes)) > MOST
    found = Range() if idle else _by_interval(layer, shapes, ranges)
    return found.within(0.0, math.inf) if all(r.nonnegative for r in ranges) and layer.keeps_sign else found


def _by_interval(layer: Layer, shapes: Sequence[Shape], ranges: Sequence[Range]) -> Range:
    tensors = [value for value in vars(layer).values() if isinstance(value, Tensor)]
    if isinstance(layer, Activation) and not tensors:
        shapes = [(1,)]  # one function for all entries
    device = tensors[0].device if tensors else None
    boxes = [
        Box(*(torch.full((1, *shape), end, dtype=torch.float64, device=device) for end in (found.low, found.high)))
        for shape, found in zip(shapes, ranges, strict=True)
    ]
    with torch.no_grad():
        box = layer.interval(*boxes)
    low, high = float(box.lower.amin()), float(box.upper.amax())
    return Range(-math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high)
