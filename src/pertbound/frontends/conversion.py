"""The state of one conversion from a traced program to a graph, and what its names can stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import ConversionError, UnsupportedLayerError
from pertbound.frontends.program import Call, Program, Ref
from pertbound.graph import INPUT, Node
from pertbound.layers import Layer, Shape


@dataclass(frozen=True)
class Value:
    """A value that depends on the input: the node that gives it, a sample's shape, and whether it is >= 0."""

    node: str
    shape: Shape
    nonnegative: bool = False


@dataclass(frozen=True)
class Probabilities:
    """The final softmax's output: `of` are the logits, which is what gets certified."""

    of: Value
    logarithm: bool


class _Batch:
    """The batch size, which no layer may depend on."""


BATCH = _Batch()
LARGEST_SAMPLE = 2**28
"""Values with more entries per sample are refused, so that a hostile file cannot ask for all memory."""


_SHARING = {
    f"aten.{name}"
    for name in (
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("detach", "contiguous", "dropout", "feature_dropout"),
    )
}
"""Operators whose result may share memory with their argument."""


class Converter:
    """The state of one conversion: what each name of the program stands for, and the nodes so far."""

    def __init__(self, program: Program, handlers: Mapping[str, Handler]) -> None:
        shape = tuple(program.input_shape)
        if len(shape) < 2:
            raise ConversionError(f"the example needs a batch dimension and at least one more, got {shape}")
        self.traced_batch = shape[0]
        self.values: dict[str, Any] = dict(program.tensors)
        self.values[program.input] = Value(INPUT, shape[1:])
        self.nodes: list[Node] = []
        self._handlers = handlers
        self._same: dict[str, set[str]] = {}
        self.shared: set[str] = {program.input, *program.tensors}
        """Names whose memory other names may share: an operator in place on them would change those too."""

    def read(self, call: Call) -> None:
        """Turn one call into what its result stands for."""
        namespace, operator = (*call.target.split("."), "")[:2]
        plain = operator.rstrip("_") if not operator.startswith("_") else operator
        arguments = {name: self._resolve(value) for name, value in call.arguments.items()}
        handler = self._handlers.get(f"{namespace}.{plain}")
        if handler is None or "out" in call.arguments or "rounding_mode" in call.arguments:
            raise UnsupportedLayerError(
                f"operator {call.target}{place(call)} has no bound here. Supported are "
                f"{', '.join(sorted(name.removeprefix('aten.') for name in self._handlers))}. Rewrite the model with "
                "these, or cut it so that this part comes before the perturbed input"
            )
        if any(isinstance(value, Probabilities) for value in _flat(arguments.values())):
            raise UnsupportedLayerError(
                f"{call.target}{place(call)} reads the output of a softmax; a softmax is only supported at the "
                "very end, where it is dropped and the logits are certified"
            )
        in_place = operator != plain
        target = call.arguments.get("self")
        changed = target.name if in_place and isinstance(target, Ref) else ""
        one = self._same.get(changed, {changed})  # the names of one and the same tensor
        if in_place and (not changed or not one.isdisjoint(self.shared)):
            raise UnsupportedLayerError(
                f"{call.target}{place(call)} changes a tensor that other names share (a view, or dropout's input); "
                "use the operator that does not work in place"
            )
        try:
            result = handler(self, call, arguments)
        except UnsupportedLayerError as error:
            if place(call) in str(error):
                raise
            raise UnsupportedLayerError(f"{call.target}{place(call)}: {error}") from error
        except (LookupError, TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
            raise ConversionError(f"{call.target}{place(call)} has unreadable arguments: {error!r}") from error
        self.values[call.name] = result
        if f"{namespace}.{plain}" in _SHARING:
            self.shared.update((call.name, *(v.name for v in call.arguments.values() if isinstance(v, Ref))))
        if in_place:
            one.add(call.name)
            for name in one:  # whoever reads any of them from here on reads the result
                self.values[name], self._same[name] = result, one

    def add(self, call: Call, layer: Layer, *inputs: Value, nonnegative: bool = False) -> Value:
        """A node for the layer; its output's shape is found by running it on zeros."""
        name = call.name if all(node.name != call.name for node in self.nodes) else f"{call.name}_{len(self.nodes)}"
        if max(math.prod(value.shape) for value in inputs) > LARGEST_SAMPLE:
            raise ConversionError(f"{call.target}{place(call)} reads more than {LARGEST_SAMPLE} numbers a sample")
        with torch.no_grad():
            dtype = next((v.dtype for v in vars(layer).values() if isinstance(v, Tensor)), torch.float32)
            device = next((v.device for v in vars(layer).values() if isinstance(v, Tensor)), None)
            try:
                output = layer.forward(*(torch.zeros(1, *v.shape, dtype=dtype, device=device) for v in inputs))
            except RuntimeError as error:
                shapes = [v.shape for v in inputs]
                raise ConversionError(f"{call.target}{place(call)} cannot run on {shapes}: {error}") from error
        self.nodes.append(Node(name, layer, tuple(v.node for v in inputs), call.where))
        return Value(name, tuple(output.shape[1:]), nonnegative)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, Ref):
            if value.name not in self.values:
                raise ConversionError(f"the program reads {value.name!r} before it exists")
            return self.values[value.name]
        if isinstance(value, list | tuple):
            return [self._resolve(item) for item in value]
        return value


Arguments = dict[str, Any]
Handler = Callable[["Converter", Call, Arguments], Any]
"""Turns one call, its arguments resolved, into what its result stands for."""


def place(call: Call) -> str:
    """Where a call stands in the model, for error messages."""
    return f" at {call.where}" if call.where else f" (value {call.name!r})"


def _flat(values: Any) -> list[Any]:
    return [item for v in values for item in (_flat(v) if isinstance(v, list) else [v])]


def value_of(call: Call, arguments: Arguments, name: str) -> Value:
    """An argument that must depend on the input."""
    value = arguments.get(name)
    if not isinstance(value, Value):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {name} must depend on the input")
    return value


def constant_of(call: Call, arguments: Arguments, name: str) -> Tensor | None:
    """An argument that must be a stored tensor, or absent."""
    value = arguments.get(name)
    if value is not None and not isinstance(value, Tensor):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: {name} must be a stored tensor; weights that depend on the input have "
            "no bound here"
        )
    return value


def required_constant(call: Call, arguments: Arguments, name: str) -> Tensor:
    """An argument that must be a stored tensor."""
    value = constant_of(call, arguments, name)
    if value is None:
        raise UnsupportedLayerError(f"{call.target}{place(call)}: {name} is missing")
    return value
