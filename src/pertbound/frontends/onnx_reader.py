"""From an ONNX file's nodes to a graph's: constants are folded, everything else goes through the ATen handlers.

Each ONNX operator becomes one or a few calls as PyTorch would trace them (`onnx_operators.py`), so that what a layer
needs is decided in one place for all frontends. Values carry a sample's shape; the batch is the first dimension
throughout, whatever size the file gives it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pertbound.errors import ConversionError, PertboundError, UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.conversion import BATCH, Converter, Probabilities, Value
from pertbound.frontends.onnx_constants import FOLDED, Op
from pertbound.frontends.onnx_file import OnnxFile, attributes_of, place_of, shown
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Call, Program

NAMED_BATCH = 1009
"""What stands for a batch size that the file only names: a number that no other size is a multiple of by chance."""
MOST_WORK = 2**36
"""Multiplications that one sample may take, so that a small file cannot keep a machine busy; VGG-16 takes 2^34."""
PER_ENTRY, PER_MOVE, PER_NODE = 2**6, 2**9, 2**17
"""What each entry costs that an operator reads, or that one moves, and each operator, in the same unit: as long."""
MOST_SECONDS = 300.0
"""For the conversion altogether."""

Handler = Callable[["Reader", Op], Any]
"""Turns one operator into what its first output stands for, or a tuple for all of them."""
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


@final
class Reader:
    """The state of one conversion: what each name in the file stands for."""

    def __init__(self, file: OnnxFile, operators: Mapping[str, Handler]) -> None:
        shape = file.input_shape
        if len(shape) < 2:
            raise ConversionError(
                f"its input has shape {shape}; a batch dimension and at least one more are needed. Export the model "
                "with an example of shape (1, ...)"
            )
        sample = tuple(n for n in shape[1:] if n is not None)
        if len(sample) < len(shape) - 1:
            raise ConversionError(
                f"its input has shape {shape}; only the batch may be without a size. Export fixed sizes"
            )
        if math.prod(sample) > conversion.LARGEST_SAMPLE:
            raise ConversionError(
                f"its input has shape {shape}, more than {conversion.LARGEST_SAMPLE} numbers a sample"
            )
        self.batch = shape[0]
        """The size that the model computes at once; None for any."""
        dtype = torch.zeros(0, dtype=file.dtype)  # the handlers take their dtype from the stored tensors
        program = Program("x", (NAMED_BATCH if shape[0] is None else shape[0], *sample), {"dtype": dtype}, (), "x")
        self.converter = Converter(program, HANDLERS)
        self.file, self._operators = file, operators
        self._work, self._calls, self._end = 0.0, 0, time.monotonic() + MOST_SECONDS
        self.made: dict[str, tuple[str, tuple[Any, ...]]] = {}
        """By the node that gives a value: the operator that it came of, and its inputs."""
        self._values: dict[str, Any] = {**file.tensors, file.input: self.converter.values["x"]}

    @property
    def traced_batch(self) -> int:
        """The number that stands for the batch size in shapes."""
        return self.converter.traced_batch

    def result(self) -> Value | Probabilities:
        """What the output stands for, flattened to one dimension a sample; reads all nodes."""
        for node in self.file.nodes:
            op = Op(node.op_type, place_of(node), (), {}, tuple(node.output), self.file.opset)
            if node.domain not in ("", "ai.onnx") or (op.kind not in FOLDED and op.kind not in self._operators):
                named = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
                raise _unsupported(f"{op.where}: operator {shown(named)} has no bound here", self._operators)
            inputs = tuple(self._known(op, name) for name in node.input)
            self._read(Op(op.kind, op.where, inputs, attributes_of(node), op.outputs, op.opset))
        result = self._values[self.file.output]
        if isinstance(result, Value) and len(result.shape) > 1:
            end = Op("Flatten", "the output", (), {}, (), self.file.opset)
            return self.reshape(end, result, (math.prod(result.shape),))
        if not isinstance(result, Value | Probabilities):
            raise ConversionError("the model's output does not depend on its input")
        return result

    def _known(self, op: Op, name: str) -> Any:
        if name and self._values.get(name) is None:
            raise UnsupportedLayerError(f"{op.where} reads {shown(name)}, an output that is not computed here")
        return self._values[name] if name else None

    def _read(self, op: Op) -> None:
        if any(isinstance(value, Probabilities) for value in op.inputs) and op.kind not in (
            "Identity",
            "Dropout",
            "Cast",
        ):
            raise UnsupportedLayerError(
                f"{op.where} reads the output of a softmax; a softmax is only supported at the very end, where it is "
                "dropped and the logits are certified"
            )
        constant = all(value is None or isinstance(value, Tensor) for value in op.inputs)
        handler = self._operators.get(op.kind)
        try:
            entries = sum(math.prod(value.shape) for value in op.inputs if isinstance(value, Value | Tensor))
            self.spend(op, PER_NODE + PER_ENTRY * entries)
            if constant and op.kind in FOLDED:
                found: Any = FOLDED[op.kind](op)
            elif handler is not None:
                found = handler(self, op)
            else:
                raise _unsupported(f"{op.where} of values that depend on the input has no bound here", self._operators)
        except PertboundError:
            raise
        except _MALFORMED as error:
            raise ConversionError(f"{op.where} has unreadable arguments: {shown(str(error))}") from error
        results = found if isinstance(found, tuple) else (found,)
        for name, result in zip(op.outputs, results, strict=False):
            self._values[name] = result
            if isinstance(result, Value):
                self.made.setdefault(result.node, (op.kind, op.inputs))

    def spend(self, op: Op, work: float) -> None:
        """Refuse files that are made to take for ever."""
        self._work += work
        if not self._work <= MOST_WORK or time.monotonic() > self._end:
            raise ConversionError(
                f"{op.where}: up to here one sample takes {self._work:.2g} multiplications; at most {MOST_WORK:.2g}, "
                f"and {MOST_SECONDS:g} seconds of conversion, are allowed. Use a smaller model"
            )

    def call(self, op: Op, target: str, /, **arguments: Any) -> Any:
        """What the handler of an ATen operator makes of these arguments, None of them left out."""
        if ".".join(target.split(".")[:2]) not in HANDLERS:
            raise _unsupported(f"{op.where} has no bound here", self._operators)
        self._calls += 1
        call = Call(f"{op.kind.lower()}_{self._calls}", target, arguments, op.where)
        self.converter.read(call)
        return self.converter.values[call.name]

    def has(self, operator: str) -> bool:
        """Whether there is a handler for an ATen operator, given as aten.name."""
        return operator in HANDLERS

    def move(self, op: Op, target: str, value: Value, shape: Sequence[int], /, **arguments: Any) -> Any:
        """The same for one that moves or repeats a value's entries, into samples of that shape (or a smaller one)."""
        entries = max(math.prod(value.shape), math.prod(shape))
        self.require_room(op, entries)
        self.spend(op, PER_MOVE * entries)
        return self.call(op, target, self=value, **arguments)

    def require_room(self, op: Op, entries: int) -> None:
        """Refuse samples that are larger than any may be."""
        if entries > conversion.LARGEST_SAMPLE:
            raise UnsupportedLayerError(f"{op.where} makes more than {conversion.LARGEST_SAMPLE} numbers a sample")

    def sizes(self, value: Value) -> list[int]:
        """A value's shape, with the number that stands for the batch."""
        return [self.traced_batch, *value.shape]

    def reshape(self, op: Op, value: Value, shape: Sequence[int]) -> Value:
        """The same entries as samples of another shape."""
        if tuple(shape) == value.shape:
            return value
        if math.prod(shape) != math.prod(value.shape) or min(shape, default=0) < 1:
            raise UnsupportedLayerError(
                f"{op.where} mixes the batch with the sample: samples of shape {value.shape} to {tuple(shape)[:16]}"
            )
        return self.call(op, "aten.view.default", self=value, size=[BATCH, *shape])

    def without_batch(self, op: Op, value: Value, sizes: Sequence[int]) -> tuple[int, ...]:
        """The shape of a sample, from `sizes` with a batch that stands first, or was 1 when the model was exported."""
        whole = math.prod(value.shape)
        if not sizes or math.prod(sizes[1:]) != whole or sizes[0] not in (1, self.traced_batch):
            raise UnsupportedLayerError(
                f"{op.where} mixes the batch with the sample, or loses it: from (batch, "
                f"{', '.join(map(str, value.shape))}) to {str(list(sizes))[:80]}. Keep the batch as the first dimension"
            )
        if sizes[0] != self.traced_batch:
            self.batch = 1
        return tuple(sizes[1:])

    def value(self, op: Op, position: int) -> Value:
        """An input that must depend on the network's input."""
        found = op.input(position)
        if not isinstance(found, Value):
            raise UnsupportedLayerError(f"{op.where}: input {position} must depend on the network's input")
        return found

    def constant(self, op: Op, position: int) -> Tensor:
        """An input that must be stored."""
        found = op.input(position)
        if not isinstance(found, Tensor):
            raise UnsupportedLayerError(
                f"{op.where}: input {position} must be stored in the file; weights that depend on the input have no "
                "bound here"
            )
        return found


def _unsupported(what: str, operators: Mapping[str, Handler]) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"{what}. Supported are {', '.join(sorted(operators))}. Rewrite the model with these, or cut it so that this "
        "part comes before the perturbed input"
    )
