"""Reads a model saved by `torch.export.save` without executing anything in it.

`torch.export.load` does what the file says: it unpickles flagged weights and constants, sample inputs and
custom objects (a pickle can call anything), hands symbolic expressions to `sympify`, which evaluates Python,
finds operators by walking attributes under names from the file, loads AOTInductor libraries, and `module()`
then executes the text of guards. Model files come from strangers, so pertbound does without it.

This reader opens the archive as a plain zip of stored (uncompressed) entries, parses three JSON texts, and
views raw payloads as tensors after comparing offset, sizes and strides with the payload's length. Names,
operators and expressions stay strings: nothing is imported, evaluated or looked up. Sample inputs, guards and
extra files are never opened. Archives with compiled code are refused: such a file runs the code, not the
graph, and a bound derived from the graph would say nothing about it.

In calls, dtypes, layouts, memory formats and devices are strings as torch prints them ("torch.float32").
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pertbound.errors import ConversionError, ModelFileError, PertboundError, UnsupportedLayerError
from pertbound.frontends.conversion import GETITEM
from pertbound.frontends.program import Call, Program, Ref

_KIND = {"archive_format": "pt2", "archive_version": "0", "byteorder": sys.byteorder}
_SCHEMA, _STRIDED = 8, 7
_MAX_BYTES, _MAX_JSON, _MAX_READ, _MAX_ENTRIES = 8 << 30, 16 << 20, 4 << 20, 10_000
_MAX_INPUT, _MAX_REPEATED = 1 << 28, 1 << 24
_INTEGERS = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 12: torch.bool}
_DTYPES = {**_INTEGERS, 6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_UNIONS = ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor")
_OPERATOR = re.compile(r"torch\.ops\.[A-Za-z_]\w*\.\w+\.\w+|_operator\.(?!getitem$)\w+", re.ASCII)
_IN_PLACE = re.compile(r"\w+\.\w*[^_]_\.\w+")
_RESAVE = "write it again with torch.export.save of torch 2.9 or later (earlier ones pickled weights)"
_WRAP = "wrap the model in a module from one tensor to one tensor before torch.export.export"
_EVAL = "call .eval() on the model before torch.export.export"
_PLAIN = "leave torch.no_grad(), control flow and the like out of the model"
_UNPICKLE = "export dense tensors that are no subclasses, or use pertbound.from_torch in Python"
_DAMAGED = (zipfile.BadZipFile, struct.error, EOFError, OSError, MemoryError, ArithmeticError)
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)


def read_pt2(path: Path) -> Program:
    """The program in the file that `torch.export.save(torch.export.export(model.eval(), ...), path)` wrote.

    `ModelFileError`: absent, damaged, unsafe or of another kind. `ConversionError`: not one tensor to one.
    """
    try:
        _expect(path.is_file(), "is not a file" if path.exists() else "no such file", "check the path")
        size = path.stat().st_size
        _expect(size <= _MAX_BYTES, f"has {size} bytes, at most {_MAX_BYTES} are read")
        with _Guarded(io.FileIO(path)) as file, zipfile.ZipFile(file) as opened:
            return _program(_Archive(opened, _entries(opened.infolist(), size), size))
    except PertboundError as error:
        raise type(error)(f"{path}: {error}") from error
    except (*_DAMAGED, *_MALFORMED) as error:
        got = f"{type(error).__name__}: {_shown(str(error))}"
        raise ModelFileError(f"{path}: damaged, or no torch.export archive ({got}); {_RESAVE}") from error


class _Guarded(io.BufferedReader):
    """A file that refuses huge single reads, so that a forged zip directory cannot fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        _expect((size or 0) <= _MAX_READ, f"its zip directory claims {size} bytes, over {_MAX_READ}")
        return super().read(size)


class _Archive(NamedTuple):
    opened: zipfile.ZipFile
    entries: Mapping[str, zipfile.ZipInfo]
    size: int

    def read(self, name: str, limit: int) -> bytearray:
        """The bytes of one entry; the zip library compares them with their checksum."""
        _expect(name in self.entries, f"has no entry {_shown(name)}")
        _expect(self.entries[name].file_size <= limit, f"entry {_shown(name)} has over {limit} bytes")
        data = bytearray()
        with self.opened.open(self.entries[name]) as stream:
            while part := stream.read(_MAX_READ):
                data += part
        return data

    def json(self, name: str) -> Any:
        """One entry parsed as JSON; absurdly long integers become None."""
        text = self.read(name, _MAX_JSON)
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= 20 else None)


def _entries(infos: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by name; they lie uncompressed and side by side in the file, so none can unfold to more."""
    _expect(0 < len(infos) <= _MAX_ENTRIES, f"has {len(infos)} zip entries, expected 1 to {_MAX_ENTRIES}")
    packed = [i.filename for i in infos if (i.compress_type, i.compress_size) != (0, i.file_size)]
    _expect(not packed, f"has compressed entries {_shown(packed)}, as torch.export.save never writes")
    total, root = sum(i.file_size for i in infos), infos[0].filename.partition("/")[0] + "/"
    _expect(total <= size, f"its entries claim {total} bytes in a file of {size}")
    entries = {i.filename.removeprefix(root): i for i in infos if i.filename.startswith(root)}
    _expect(len(entries) == len(infos), "its entries do not lie in one folder under distinct names")
    code = [name for name in entries if name.startswith(("data/aotinductor/", "data/executorch/"))]
    _expect(not code, f"holds compiled code {_shown(code)}", "save the exported program alone, without it")
    return entries


def _program(archive: _Archive) -> Program:
    for entry, expected in _KIND.items():
        got = archive.read(entry, 64).decode()
        _expect(got == expected, f"has {entry} {_shown(got)}, expected {expected!r}")
    models = [entry for entry in archive.entries if entry.startswith("models/")]
    _expect(len(models) == 1, f"holds {len(models)} models {_shown(models)}, expected one", "save each alone")
    exported = archive.json(models[0])
    version, graph = exported["schema_version"], exported["graph_module"]["graph"]
    _expect(version["major"] == _SCHEMA, f"has schema version {_shown(version)}, expected major {_SCHEMA}")
    name, stored, output = _signature(exported["graph_module"]["signature"])
    inputs, outputs = (list(map(_value, _of(list, graph[end]))) for end in ("inputs", "outputs"))
    same = {*inputs} == {Ref(name), *map(Ref, stored)} and outputs == [Ref(output)]
    _expect(same, "its graph has other inputs or outputs than its signature")
    calls = tuple(chain.from_iterable(_calls(node, f"_call_{i}") for i, node in enumerate(_of(list, graph["nodes"]))))
    _check(calls, {name, *stored}, output)
    tensors = _tensors(archive, models[0].removeprefix("models/").removesuffix(".json"), stored)
    return Program(name, _input_shape(graph["tensor_values"][name]), tensors, calls, output)


def _signature(signature: Any) -> tuple[str, dict[str, tuple[str, str]], str]:
    """The user's input, the group and name under which every other input is stored, and the output."""
    users: list[str] = []
    stored: dict[str, tuple[str, str]] = {}
    ins, outs = _of(list, signature["input_specs"]), _of(list, signature["output_specs"])
    for kind, spec in map(_variant, ins):
        if kind == "user_input" and "as_tensor" in spec["arg"]:
            users.append(_value(spec["arg"]).name)
        elif kind in ("parameter", "buffer", "tensor_constant"):
            group = "weights" if spec.get("persistent", kind == "parameter") is True else "constants"
            stored[_of(str, spec["arg"]["name"])] = group, _of(str, spec[f"{kind}_name"])
        else:
            raise ConversionError(f"takes an input that is no tensor ({_shown(spec)}); {_WRAP}")
    _expect(len(users) == 1, f"takes {len(users)} tensors, expected one", _WRAP, ConversionError)
    distinct = len({*users, *stored}) == len(ins) and all(map(str.isidentifier, (*users, *stored)))
    _expect(distinct, "two of its inputs have one name, or one has no proper name")
    mutates = any(_variant(spec)[0].endswith("_mutation") for spec in outs)
    _expect(not mutates, f"changes buffers or inputs when it runs ({_shown(outs)})", _EVAL, ConversionError)
    one = len(outs) == 1 and "as_tensor" in outs[0].get("user_output", {}).get("arg", {})
    _expect(one, f"returns {_shown(outs)}, expected one tensor", _WRAP, ConversionError)
    return users[0], stored, _value(outs[0]["user_output"]["arg"]).name


def _input_shape(meta: Any) -> tuple[int, ...]:
    shape: list[int] = []
    for i, (kind, size) in enumerate(map(_variant, _of(list, meta["sizes"]))):
        fixed = kind == "as_int"
        _expect(fixed or i == 0, f"input dimension {i} is dynamic", "only the batch may be", ConversionError)
        shape.append(_of(int, size if fixed else (size.get("hint") or {"as_int": 2})["as_int"]))
    possible = len(shape) > 0 and min(shape) > 0 and math.prod(shape) <= _MAX_INPUT
    _expect(possible, f"takes an input of shape {_shown(shape)}, expected a batch", _WRAP, ConversionError)
    _expect(_dtype(meta, "its input").is_floating_point, "takes integers, not floats", _WRAP, ConversionError)
    return tuple(shape)


def _calls(node: Any, spare_name: str) -> list[Call]:
    """The call of one node, and, where it has several results, one for each of them."""
    where, target = _where(node["metadata"]), _of(str, node["target"])
    outputs = _of(list, node["outputs"])
    named = _of(str, node.get("name") or spare_name)
    at = f"{_shown(target)} at {where or _shown(named)}"
    plain = _OPERATOR.fullmatch(target) is not None
    _expect(plain, f"{at} is no plain operator", _PLAIN, UnsupportedLayerError)
    listed = len(outputs) == 1 and "as_tensors" in outputs[0]
    arguments = {_of(str, item["name"]): _value(item["arg"], at) for item in _of(list, node["inputs"])}
    _expect(len(arguments) == len(node["inputs"]), f"{at} has two arguments of one name")
    target = target.removeprefix("torch.ops.")
    if len(outputs) <= 1 and not listed:
        name = _of(Ref, _value(outputs[0], at)).name if outputs else named
        return [Call(name, target, arguments, where)]
    results = _value(outputs[0], at) if listed else [_value(output, at) for output in outputs]
    whole = [Call(spare_name, target, arguments, where)]
    each = [(i, _of(Ref, result).name) for i, result in enumerate(results) if result is not None]
    return whole + [Call(name, GETITEM, {"self": Ref(spare_name), "index": i}, where) for i, name in each]


def _check(calls: tuple[Call, ...], given: set[str], output: str) -> None:
    """Every value is computed once, before its use, and no call changes what is stored or given."""
    known = set(given)
    for call in calls:
        at = f"{_shown(call.target)} at {call.where or _shown(call.name)}"
        values = [value if isinstance(value, list) else [value] for value in call.arguments.values()]
        used = [value.name for value in chain(*values) if isinstance(value, Ref)]
        fresh = call.name not in known and call.name.isidentifier()
        _expect(fresh and known.issuperset(used), f"{at} repeats a name, or uses an unknown one")
        training = any(call.arguments.get(key) is True for key in ("training", "train"))
        changes = _IN_PLACE.fullmatch(call.target) is not None and not given.isdisjoint(used[:1])
        got = f"{at} is in training mode, or changes stored values or the input"
        _expect(not training and not changes, got, _EVAL, ConversionError)
        known.add(call.name)
    _expect(output in known, f"its output {_shown(output)} is never computed")


def _where(metadata: Any) -> str:
    """The innermost module, as in "body.conv1 (Conv2d)", else the source line, as in "net.py, line 8"."""
    module = _of(str, metadata.get("nn_module_stack", "")).split(";")[-1].rsplit(",", 2)
    file, _, line = _of(str, metadata.get("stack_trace", "")).replace("\\", "/").rpartition('", line ')
    text = f"{file.rpartition('/')[2]}, line {line.partition(',')[0]}" if file else ""
    if len(module) == 3 and module[1] and not module[1].startswith("_empty_nn_module_stack"):
        text = f"{module[1]} ({module[2].rpartition('.')[2]})"
    return re.sub(r"[^\w .,()@-]", "?", text[:100])


def _tensors(archive: _Archive, model: str, stored: Mapping[str, tuple[str, str]]) -> dict[str, torch.Tensor]:
    """The stored tensors by the names of the graph's inputs; tensors of one payload share its memory."""
    read = {g: archive.json(f"data/{g}/{model}_{g}_config.json") for g in ("weights", "constants")}
    payloads: dict[str, bytearray] = {}
    tensors: dict[str, torch.Tensor] = {}
    spare = archive.size + _MAX_REPEATED
    for name, (group, key) in stored.items():
        meta = read[group]["config"][key]
        _expect(meta["use_pickle"] is False, f"{_shown(key)} is a pickle, which can run code", _UNPICKLE)
        entry = f"data/{group}/{_of(str, meta['path_name'])}"
        if entry not in payloads:
            payloads[entry] = archive.read(entry, archive.size)
        tensors[name] = _strided(payloads[entry], meta["tensor_meta"], _shown(key))
        spare -= math.prod(max(size, 1) for size in tensors[name].shape)
        _expect(spare >= 0, f"{_shown(key)} repeats few stored numbers too often", "store it contiguously")
    return tensors


def _strided(payload: bytearray, meta: Any, name: str) -> torch.Tensor:
    """The payload seen through sizes, strides and offset, of which none may reach beyond it."""
    dtype = _dtype(meta, name)
    layout = [_of(list, meta["sizes"]), _of(list, meta["strides"]), [meta["storage_offset"]]]
    sizes, strides, (offset,) = ([_of(int, number["as_int"]) for number in part] for part in layout)
    count, rest = divmod(len(payload), dtype.itemsize)
    steps = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    end = offset + (steps + 1 if all(sizes) else 0)
    inside = rest == 0 and min(0, offset, *sizes, *strides) == 0 and end <= count
    form = f"shape {_shown(sizes)}, strides {_shown(strides)}, offset {offset} and {dtype}"
    _expect(inside, f"{name} of {form} does not fit its {len(payload)} bytes")
    flat = torch.frombuffer(payload, dtype=dtype) if count else torch.empty(0, dtype=dtype)
    return flat.as_strided(sizes, strides, offset)


def _dtype(meta: Any, name: str) -> torch.dtype:
    number, layout, device = _of(int, meta["dtype"]), meta["layout"], meta["device"]["type"]
    dtype = _DTYPES.get(number, torch.bool)
    got = f"{name} has dtype number {number}, layout {_shown(layout)} and device {_shown(device)}"
    dense = dtype is not torch.bool and layout == _STRIDED and device == "cpu"
    _expect(dense, got, "export the model with dense numbers on the CPU", ConversionError)
    return dtype


def _value(union: Any, at: str = "the signature") -> Any:
    """One serialized argument as `Ref`, number, boolean, string, None, or list of these."""
    kind, value = _variant(union)
    if kind in _KINDS:
        return _KINDS[kind](value)
    single = kind.removesuffix("s")
    _expect(single in _KINDS, f"{at} has a {_shown(kind)}", "leave that layer out", UnsupportedLayerError)
    return list(map(_KINDS[single], _of(list, value)))


def _variant(union: Any) -> tuple[str, Any]:
    """A serialized union is an object with one key, which names the alternative."""
    ((kind, value),) = union.items()
    return kind, value


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"got {_shown(value)} instead of {kind.__name__}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:100]


def _expect(holds: bool, got: str, remedy: str = _RESAVE, error: type[Exception] = ModelFileError) -> None:
    if not holds:
        raise error(f"{got}; {remedy}")


_KINDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_UNIONS, lambda union: _KINDS[_variant(union)[0]](_variant(union)[1])),
    "as_none": lambda value: None,
    "as_tensor": lambda value: Ref(_of(str, value["name"])),
    "as_name": lambda value: Ref(_of(str, value)),
    "as_int": lambda value: _of(int, value),
    "as_float": float,  # JSON has no infinities; torch writes "Infinity", "-Infinity" and "NaN"
    "as_bool": lambda value: _of(bool, value),
    "as_string": lambda value: _of(str, value),
    "as_scalar_type": lambda value: str(_DTYPES.get(_of(int, value), value)),
    "as_layout": lambda value: "torch.strided" if value == _STRIDED else f"layout {_of(int, value)}",
    "as_memory_format": lambda value: f"torch.{_MEMORY_FORMATS[value]}",
    "as_device": lambda value: _of(str, value["type"]),
}
