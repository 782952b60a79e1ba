"""Activations that exporters write out in several operators: x sigmoid(x), and x (1 + erf(x / sqrt 2)) / 2.

The operators in between stand for a `Gaussian`, which becomes the layer when it is whole; whatever else reads it is
refused. Read as products of two values these would be bounded far less tightly, or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import Value
from pertbound.frontends.onnx_constants import Op
from pertbound.frontends.onnx_reader import Reader


@final
@dataclass(frozen=True)
class Gaussian:
    """erf(factor x), and which of these were done to it: 1 added, multiplied by x, halved.

    The factor is the file's own number for sqrt(1/2), which is rounded.
    """

    of: Value
    factor: float
    raised: bool = False
    weighted: bool = False
    halved: bool = False


def erf(reader: Reader, op: Op) -> Gaussian:
    """The error function, as a part of GELU."""
    kind, inputs = reader.made.get(reader.value(op, 0).node, ("", ()))
    found = [value for value in inputs if isinstance(value, Value)]
    numbers = [number for value in inputs if (number := _number(value)) is not None]
    if len(found) == len(numbers) == 1:
        divided = kind == "Div" and inputs[0] is found[0] and abs(numbers[0] / math.sqrt(2) - 1) < 1e-5
        if divided or (kind == "Mul" and abs(numbers[0] * math.sqrt(2) - 1) < 1e-5):
            return Gaussian(found[0], 1 / numbers[0] if divided else numbers[0])
    raise UnsupportedLayerError(f"{op.where}: an error function has a bound only within GELU, as erf(x / sqrt(2))")


def arithmetic(reader: Reader, op: Op) -> Any:
    """The activation that this sum, product or quotient completes, or more of a `Gaussian`; None if it is neither."""
    left, right = op.input(0), op.input(1)
    if op.kind == "Mul" and isinstance(left, Value) and isinstance(right, Value):
        for value, gate in ((left, right), (right, left)):
            if reader.made.get(gate.node) == ("Sigmoid", (value,)) and reader.has("aten.silu"):
                return reader.call(op, "aten.silu.default", self=value)
    if isinstance(right, Gaussian):
        left, right = right, left
    if not isinstance(left, Gaussian):
        return None
    number = _number(right)
    grown = None
    if op.kind == "Add" and number == 1.0 and left == Gaussian(left.of, left.factor):
        grown = replace(left, raised=True)
    elif op.kind == "Mul" and left.raised:
        half = number == 0.5 or (isinstance(right, Value) and _is_half(reader, right, left.of))
        grown = replace(left, halved=True) if half and not left.halved else left
        if right == left.of or (half and number is None):
            grown = None if left.weighted else replace(grown, weighted=True)
        elif not half or left.halved:
            grown = None
    elif op.kind == "Div" and number == 2.0 and left.raised and not left.halved:
        grown = replace(left, halved=True)
    if grown is None:
        raise UnsupportedLayerError(f"{op.where} uses an error function for something else than GELU")
    whole = grown.raised and grown.weighted and grown.halved
    return reader.call(op, "aten.gelu.default", self=grown.of, factor=grown.factor) if whole else grown


def _is_half(reader: Reader, value: Value, of: Value) -> bool:
    kind, inputs = reader.made.get(value.node, ("", ()))
    numbers = [_number(v) for v in inputs]
    return of in inputs and ((kind == "Mul" and 0.5 in numbers) or (kind == "Div" and numbers[-1:] == [2.0]))


def _number(value: Any) -> float | None:
    return float(value.item()) if isinstance(value, Tensor) and value.numel() == 1 else None
