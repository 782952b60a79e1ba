"""The state of one conversion from a traced program to a graph, and what its names can stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import ConversionError, UnsupportedLayerError
from pertbound.frontends.folding import fold, writes_into
from pertbound.frontends.program import Call, Program, Ref
from pertbound.frontends.ranges import Range, range_of
from pertbound.graph import INPUT, Node
from pertbound.layers import Layer, Shape


@dataclass(frozen=True)
class Value:
    """A value that depends on the input: the node that gives it, and a sample's shape."""

    node: str
    shape: Shape


@dataclass(frozen=True)
class Probabilities:
    """The final softmax's output: `of` are the logits, which is what gets certified."""

    of: Value
    logarithm: bool


@dataclass(frozen=True)
class BatchConstant:
    """A constant with one row for each sample, all of them the same: `tensor` has 1 where the batch would be."""

    tensor: Tensor


@dataclass(frozen=True)
class Stacked:
    """Values along a first dimension, before the batch: the last states of recurrent layers."""

    parts: tuple[Any, ...]


class _Batch:
    """The batch size, which no layer may depend on."""


class _Places:
    """Where the largest entries, or sorted ones, came from: nothing is known of it."""


PLACES = _Places()
BATCH = _Batch()
LOCAL_RESPONSE = "pertbound.local_response"
"""Local response normalisation, which PyTorch has no operator for (see `local_response.py`)."""
GETITEM = "pertbound.getitem"
"""The operator that takes one of several results, with the arguments `self` and `index`."""
LARGEST_SAMPLE = 2**28
"""Values with more entries per sample are refused, so that a hostile file cannot ask for all memory."""


_SHARING = {
    f"aten.{name}"
    for name in (
        *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("detach", "alias", "contiguous", "to", "dropout", "feature_dropout", "alpha_dropout"),
        *("feature_alpha_dropout", "slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split"),
        *("unbind", "permute", "transpose", "swapaxes", "swapdims", "t", "mT", "adjoint", "movedim", "moveaxis"),
        *("expand", "expand_as", "unfold", "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        *("broadcast_to", "pad", "constant_pad_nd", "atleast_2d", "atleast_3d"),
    )
} | {GETITEM}
"""Operators whose result may share memory with their argument."""


@dataclass
class _Tensor:
    """One tensor under several names, as operators in place leave it: who reads any of them reads the latest."""

    latest: str
    shared: bool


class Converter:
    """The state of one conversion: what each name of the program stands for, and the nodes so far."""

    def __init__(self, program: Program, handlers: Mapping[str, Handler], dtype: torch.dtype | None = None) -> None:
        """`dtype` is what the program computes in; by default that of its stored tensors."""
        shape = tuple(program.input_shape)
        if len(shape) < 2:
            raise ConversionError(f"the example needs a batch dimension and at least one more, got {shape}")
        self.traced_batch = shape[0]
        self.values: dict[str, Any] = dict(program.tensors)
        self.values[program.input] = Value(INPUT, shape[1:])
        self.nodes: list[Node] = []
        self.ranges: dict[str, Range] = {INPUT: Range()}
        """For each node what is known of its entries for any input."""
        floats = (t.dtype for t in program.tensors.values() if t.is_floating_point())
        self.dtype = dtype or next(floats, torch.float32)
        self.views: dict[str, tuple[Value, Tensor | None]] = {}
        """For nodes that only select entries: of which value, and which (`Select.index`; None: all in their order)."""
        self.selected: dict[tuple[str, Shape, bytes], Value] = {}
        """What was selected: the node it came from, its shape, and its index."""
        self.parts: dict[str, tuple[int, tuple[Value, ...]]] = {}
        """For nodes that put values side by side: along which dimension of a sample, and which values."""
        self.sorted: dict[tuple[str, str], Value] = {}
        """For pairs of nodes: the smaller and the larger entries of both, side by side (see `reducing.py`)."""
        self._handlers = handlers
        self._same: dict[str, _Tensor] = {}
        self._names: set[str] = set()
        self.shared: set[str] = {program.input, *program.tensors}
        """Names whose memory other names may share: an operator in place on them would change those too."""

    def read(self, call: Call) -> None:
        """Turn one call into what its result stands for."""
        namespace, operator = (*call.target.split("."), "")[:2]
        plain = operator.rstrip("_") if not operator.startswith("_") else operator
        arguments = {name: self._resolve(value) for name, value in call.arguments.items()}
        operator_name = f"{namespace}.{plain}"
        in_place = operator != plain
        writes = writes_into(call.target, call.arguments)
        if not in_place and not writes and not depends(arguments):
            folded = fold(call.target, operator_name, arguments)
            if folded is not None:
                self.values[call.name] = folded
                self._share(call, operator_name)
                return
        handler = self._handlers.get(operator_name)
        if handler is None or writes or "rounding_mode" in call.arguments:
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
        target = call.arguments.get("self")
        changed = target.name if in_place and isinstance(target, Ref) else ""
        one = self._same.setdefault(changed, _Tensor(changed, changed in self.shared)) if changed else None
        if in_place and (one is None or one.shared):
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
        self._share(call, operator_name)
        if one is not None:
            one.latest, one.shared = call.name, one.shared or call.name in self.shared
            self._same[call.name] = one

    def result(self, name: str) -> Any:
        """What a name stands for by now; None where it stands for nothing."""
        one = self._same.get(name)
        return self.values.get(name if one is None else one.latest)

    def _share(self, call: Call, operator: str) -> None:
        if operator in _SHARING:
            for name in (call.name, *(v.name for v in call.arguments.values() if isinstance(v, Ref))):
                self.shared.add(name)
                if name in self._same:
                    self._same[name].shared = True

    def add(self, call: Call, layer: Layer, *inputs: Value) -> Value:
        """A node for the layer; its output's shape is found by running it on zeros, its range by `range_of`."""
        name = f"{call.name}_{len(self.nodes)}" if call.name in self._names else call.name
        if max(math.prod(value.shape) for value in inputs) > LARGEST_SAMPLE:
            raise ConversionError(f"{call.target}{place(call)} reads more than {LARGEST_SAMPLE} numbers a sample")
        with torch.no_grad():
            own = [v for v in vars(layer).values() if isinstance(v, Tensor)]
            dtype = next((v.dtype for v in own if v.is_floating_point()), torch.float32)
            device = next((v.device for v in own), None)
            try:
                output = layer.forward(*(torch.zeros(1, *v.shape, dtype=dtype, device=device) for v in inputs))
            except RuntimeError as error:
                shapes = [v.shape for v in inputs]
                raise ConversionError(f"{call.target}{place(call)} cannot run on {shapes}: {error}") from error
        self._names.add(name)
        self.nodes.append(Node(name, layer, tuple(v.node for v in inputs), call.where))
        self.ranges[name] = range_of(layer, [v.shape for v in inputs], [self.ranges[v.node] for v in inputs])
        return Value(name, tuple(output.shape[1:]))

    def narrow(self, value: Value, low: float, high: float) -> Value:
        """The value, of which a proof for several layers together says that it lies in [low, high]."""
        self.ranges[value.node] = self.ranges[value.node].within(low, high)
        return value

    def range(self, value: Value) -> Range:
        """What is known of a value's entries for any input."""
        return self.ranges[value.node]

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, Ref):
            if value.name not in self.values:
                raise ConversionError(f"the program reads {value.name!r} before it exists")
            return self.result(value.name)
        if isinstance(value, list | tuple):
            return [self._resolve(item) for item in value]
        return value


Arguments = dict[str, Any]
Handler = Callable[["Converter", Call, Arguments], Any]
"""Turns one call, its arguments resolved, into what its result stands for."""


def place(call: Call) -> str:
    """Where a call stands in the model, for error messages."""
    return f" at {call.where}" if call.where else f" (value {call.name!r})"


def depends(arguments: Arguments) -> bool:
    """Whether any argument depends on the input, or on the batch size."""
    return any(
        isinstance(v, Value | Probabilities | BatchConstant | Stacked | _Batch | _Places)
        for v in _flat(arguments.values())
    )


def _flat(values: Any) -> list[Any]:
    return [item for v in values for item in (_flat(v) if isinstance(v, list | tuple) else [v])]


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
