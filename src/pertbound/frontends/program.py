"""A traced program: the neutral form between a file or module and a graph.

`torch.py` makes one from an `nn.Module`, `pt2.py` from the JSON inside an exported file (without running
anything in it), and `aten.py` turns either into a `Graph`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Ref:
    """The value of that name: the program's input, the result of an earlier call, or a stored tensor."""

    name: str


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    `target` is the overload's full name without namespace prefix `torch.ops.`, such as `aten.conv2d.default`.
    `arguments` are by the names in the operator's schema; defaults may be absent. Values are `Ref`, numbers,
    booleans, strings, None, or lists of these.
    """

    name: str
    target: str
    arguments: Mapping[str, Any]
    where: str = field(default="")
    """Where it stands in the model, for people: module path or source line."""


@dataclass(frozen=True)
class Program:
    """Calls in the order in which they run, on one input; the result is the value named `output`.

    `input_shape` is the shape of the traced input *with* its batch dimension; `tensors` are the stored
    parameters, buffers and constants.
    """

    input: str
    input_shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]
    calls: tuple[Call, ...]
    output: str
