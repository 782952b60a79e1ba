"""Reads an ONNX file as data: its nodes in order, its stored tensors, its one input and its one output.

Nothing here computes or trusts anything. The `onnx` package parses the protocol buffer and is not asked for anything
else, least of all for external data, which it looks for wherever the file says: here a location must lie in the
model's folder after all links are followed, and what is read from it is bounded. Only nodes that the output depends on
are kept, sorted so that each reads what was computed before; a cycle cannot be sorted. `runtime` is a model of these
nodes and tensors alone, all stored inside, so that no other library has anything left to open or to run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from pertbound.errors import ConversionError, ModelFileError, PertboundError, UnsupportedLayerError
from pertbound.frontends.files import read_bytes

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSETS = range(7, 23)
_MOST_BYTES = 2**31 - 2**20
"""Of a file, and of all tensors together: what a protocol buffer can hold."""
_MOST_NODES, _MOST_DIMS = 50_000, 16
_SPARE = 2**24
"""External tensors may share a file, but not be larger together than their files and this many bytes."""
_DTYPES: dict[int, tuple[str, str, torch.dtype]] = {
    1: ("<f4", "float_data", torch.float32),
    2: ("|u1", "int32_data", torch.uint8),
    3: ("|i1", "int32_data", torch.int8),
    6: ("<i4", "int32_data", torch.int32),
    7: ("<i8", "int64_data", torch.int64),
    9: ("|b1", "int32_data", torch.bool),
    11: ("<f8", "double_data", torch.float64),
}
"""ONNX's number of an element type: its bytes, the field it may stand in, and PyTorch's name."""
_OTHERS = {
    4: "uint16",
    5: "int16",
    8: "string",
    10: "float16",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    16: "bfloat16",
}
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, MemoryError, RuntimeError)
_EXPORT = "export it again with torch.onnx.export, or convert it with onnx.version_converter"


@final
@dataclass(frozen=True, eq=False)
class OnnxFile:
    """What a file says. Shapes are as in the file: with the batch first, None for sizes that are names."""

    nodes: tuple[NodeProto, ...]
    tensors: Mapping[str, Tensor]
    input: str
    input_shape: tuple[int | None, ...]
    dtype: torch.dtype
    output: str
    opset: int
    model: ModelProto

    @cached_property
    def runtime(self) -> bytes:
        """The nodes and tensors as a model of their own, with nothing outside."""
        from onnx import ModelProto

        model, graph = ModelProto(), self.model.graph
        model.ir_version = min(max(self.model.ir_version, 4), 10)  # from 4 on initialisers need not be inputs
        model.opset_import.add(domain="", version=self.opset)
        model.graph.name = "pertbound"
        model.graph.node.extend(self.nodes)
        for number, node in enumerate(model.graph.node):
            node.name = str(number)  # two of one name are refused there
        model.graph.input.extend(i for i in graph.input if i.name == self.input)
        model.graph.output.extend(o for o in graph.output if o.name == self.output)
        for number, name in ((n, i.name) for n, i in enumerate(graph.initializer)):
            if name in self.tensors:
                kept, source = model.graph.initializer.add(), graph.initializer[number]
                kept.name, kept.data_type = name, source.data_type
                kept.dims.extend(source.dims)
                kept.raw_data = self.tensors[name].contiguous().numpy().tobytes()
        return model.SerializeToString()


def read_onnx(path: Path) -> OnnxFile:
    """The contents of an `.onnx` or `.onnx.gz` file.

    `ModelFileError`: absent, damaged, too large, or reaching outside its folder. `ConversionError`: not one tensor to
    one. `UnsupportedLayerError`: another domain's operators, or sparse tensors.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError as error:
        raise ModelFileError(
            f"{path}: ONNX files need the packages onnx and onnxruntime: pip install 'pertbound[onnx]'"
        ) from error
    data = read_bytes(path, _MOST_BYTES, ModelFileError)
    try:
        return _read(ModelProto.FromString(data), _Folder(path))
    except DecodeError as error:
        raise ModelFileError(f"{path}: damaged, or no ONNX file ({error}); copy or export it again") from error
    except PertboundError as error:
        raise type(error)(f"{path}: {error}") from error
    except _DAMAGED as error:
        got = f"{type(error).__name__}: {shown(str(error))}"
        raise ModelFileError(f"{path}: damaged ({got}); copy or export it again") from error


def _read(model: ModelProto, folder: _Folder) -> OnnxFile:
    graph = model.graph
    if not _is_text(model):
        raise ModelFileError("has names that are no text; copy or export it again")
    if not graph.node:
        raise ModelFileError(f"holds no nodes (format version {model.ir_version}); copy or export it again")
    opset = _opset(model)
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    if len(initialisers) != len(graph.initializer):
        raise ModelFileError("has two stored tensors of one name; export it again")
    if graph.sparse_initializer:
        raise UnsupportedLayerError("has sparse tensors, which are not read; store them dense")
    inputs = [info for info in graph.input if info.name not in initialisers]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ConversionError(
            f"a classifier has one input and one output; this file has {_listed(inputs)} and {_listed(graph.output)}. "
            "Cut the others off with onnx.utils.extract_model"
        )
    (source,), output = inputs, graph.output[0].name
    nodes = _sorted(_needed(graph, output), {source.name, *initialisers}, output)
    read = {name for node in nodes for name in node.input} | {output}
    tensors = {name: tensor_of(t, folder) for name, t in initialisers.items() if name in read}
    shape, dtype = _type(source)
    return OnnxFile(nodes, tensors, source.name, shape, dtype, output, opset, model)


def _is_text(message: Message) -> bool:
    """Whether all strings can be read as text, which the library does not ask for."""
    for field, value in message.ListFields():
        many: Any = value if hasattr(value, "extend") else [value]
        if field.type == field.TYPE_STRING and not all(isinstance(one, str) for one in many):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(_is_text, many)):
            return False
    return True


def _opset(model: ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ConversionError(
            f"has operator set {versions or 'none'}; {OPSETS.start} to {OPSETS.stop - 1} are read. {_EXPORT}, to one "
            "of them"
        )
    return versions[0]


def _type(info: ValueInfoProto) -> tuple[tuple[int | None, ...], torch.dtype]:
    """Shape and dtype of the input."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ConversionError(f"its input {shown(info.name)} has no shape; {_EXPORT} with a fixed input shape")
    if tensor.elem_type not in (1, 11):
        got = _OTHERS.get(tensor.elem_type, f"element type {tensor.elem_type}")
        raise ConversionError(f"its input {shown(info.name)} is {got}; export the model in float32 or float64")
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    return tuple(sizes), _DTYPES[tensor.elem_type][2]


def _needed(graph: GraphProto, output: str) -> list[NodeProto]:
    """The nodes that the output depends on, in the file's order."""
    if len(graph.node) > _MOST_NODES:
        raise ModelFileError(f"has {len(graph.node)} nodes; at most {_MOST_NODES} are read")
    makers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in node.output:
            if name and makers.setdefault(name, number) != number:
                raise ModelFileError(f"computes {shown(name)} twice; export it again")
    wanted, found = [output], set[int]()
    while wanted:
        number = makers.get(wanted.pop())
        if number is not None and number not in found:
            found.add(number)
            wanted.extend(graph.node[number].input)
    return [graph.node[number] for number in sorted(found)]


def _sorted(nodes: Sequence[NodeProto], known: set[str], output: str) -> tuple[NodeProto, ...]:
    """Each node after those that it reads."""
    made = {name for node in nodes for name in node.output if name}
    twice = made & known
    if twice:
        raise ModelFileError(f"computes {shown(min(twice))}, which is given already; export it again")
    absent = {name for node in nodes for name in node.input if name} - made - known
    if absent or output not in made | known:
        raise ModelFileError(f"reads {shown(min(absent or {output}))}, which nothing computes; export it again")
    waits = {n: {name for name in node.input if name in made} for n, node in enumerate(nodes)}
    readers: dict[str, list[int]] = {}
    for number, names in waits.items():
        for name in names:
            readers.setdefault(name, []).append(number)
    ready = [number for number, names in waits.items() if not names]
    order: list[NodeProto] = []
    while ready:
        node = nodes[ready.pop()]
        order.append(node)
        for name in node.output:
            for number in readers.get(name, ()):
                waits[number].discard(name)
                if not waits[number]:
                    ready.append(number)
    if len(order) < len(nodes):
        stuck = next(nodes[number] for number, names in waits.items() if names)
        raise ModelFileError(f"has a cycle through {place_of(stuck)}; export it again")
    return tuple(order)


@final
class _Folder:
    """Where external data may lie, and how much of it may still be read."""

    def __init__(self, path: Path) -> None:
        self.path = path.parent
        self._files: dict[Path, int] = {}
        self._read = 0

    def read(self, entries: Mapping[str, str], name: str) -> bytes:
        """The bytes that `entries`, a tensor's external data, point to."""
        location = entries.get("location", "")
        inside, path = self.path.resolve(), (self.path / location).resolve()
        outside = f"tensor {shown(name)} has its data at {shown(location)}, "
        windows = "\\" in location or re.match(r"[A-Za-z]:", location) is not None
        if not location or windows or Path(location).is_absolute() or not path.is_relative_to(inside) or path == inside:
            raise ModelFileError(f"{outside}outside the model's folder; copy both into one folder, without links")
        if not path.is_file():
            raise ModelFileError(f"{outside}where no file is; copy it next to the model")
        size = path.stat().st_size
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
        if offset < 0 or length < 0 or offset + length > size:
            raise ModelFileError(f"{outside}bytes {offset} to {offset + length}, but the file has {size}")
        self._files[path] = size
        self._read += length
        if self._read > min(_MOST_BYTES, sum(self._files.values()) + _SPARE):
            raise ModelFileError(
                f"{outside}and all external tensors together are larger than their files; store each once"
            )
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)


def tensor_of(source: TensorProto, folder: _Folder | None = None) -> Tensor:
    """A stored tensor. External data are read from `folder`, or refused without one."""
    name, shape = source.name, tuple(source.dims)
    if source.data_type not in _DTYPES:
        got = _OTHERS.get(source.data_type, f"of element type {source.data_type}")
        raise ConversionError(f"tensor {shown(name)} is {got}; export the model in float32 or float64")
    if source.HasField("segment"):
        raise ModelFileError(f"tensor {shown(name)} is stored in segments, which are not read; export it again")
    form, field, dtype = _DTYPES[source.data_type]
    count = math.prod(shape) if len(shape) <= _MOST_DIMS else -1
    if min((count, *shape)) < 0 or count * 8 > 2 * _MOST_BYTES:
        raise ModelFileError(f"tensor {shown(name)} claims the shape {shown(shape)}; export it again")
    if source.data_location == 1:
        if folder is None:
            raise ModelFileError(f"tensor {shown(name)} has external data inside a node; store it as an initialiser")
        data: Any = folder.read({e.key: e.value for e in source.external_data}, name)
    else:
        data = source.raw_data if source.HasField("raw_data") else getattr(source, field)
    if isinstance(data, bytes):
        width = np.dtype(form).itemsize
        held = len(data) // width if len(data) % width == 0 else -1
        array = np.frombuffer(data, dtype=form) if held == count else np.zeros(0, dtype=form)
    else:
        held = len(data)
        array = np.array(data if held == count else [], dtype=np.int64 if "int" in field else form).astype(form)
    if held != count:
        raise ModelFileError(f"tensor {shown(name)} of shape {shown(shape)} does not hold {count} entries")
    return torch.from_numpy(array.copy()).to(dtype).reshape(shape)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes: numbers, text, tensors, or lists of numbers or text.

    Raises `UnsupportedLayerError` for anything else, such as the bodies of loops.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
        kind = kinds.get(attribute.type)
        if kind is None or attribute.ref_attr_name:
            raise UnsupportedLayerError(
                f"{place_of(node)} has an attribute {shown(attribute.name)} of a kind that is not read (a body of "
                "nodes, or sparse); export the model without control flow"
            )
        value: Any = getattr(attribute, kind)
        if kind == "t":
            value = tensor_of(value)
        elif kind == "s":
            value = value.decode(errors="replace")
        elif kind == "strings":
            value = [text.decode(errors="replace") for text in value]
        elif kind in ("floats", "ints"):
            value = list(value)
        found[attribute.name] = value
    return found


def place_of(node: NodeProto) -> str:
    """A node in words: its operator, and its name or what it computes."""
    name = node.name or (node.output[0] if node.output else "?")
    return f"node {shown(name)} ({_plain(node.op_type)})"


def shown(value: Any) -> str:
    """A value from the file for an error message: short, and nothing that a terminal would obey."""
    return _plain(repr(value))


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text[:100])


def _listed(infos: Sequence[ValueInfoProto] | Iterator[ValueInfoProto]) -> str:
    names = [info.name for info in infos]
    return f"{len(names)} ({', '.join(map(shown, names[:5]))})"
