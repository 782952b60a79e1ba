"""Damaged ONNX files: bytes changed at random, and fields of the protocol buffer set to what nobody would write."""

from __future__ import annotations

import random
from typing import Any

import onnx
from google.protobuf.message import Message

INTEGERS = [-1, 0, 1, 2, 3, 7, 13, 255, 65536, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63), -5]
FLOATS = [0.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf"), 0.5]
WORDS = [
    "", "x", "y", "../secret", "/etc/passwd", "a\0b", "sub/../../secret", "no such file", "com.microsoft", "\x1b[31m",
    "Relu", "Loop", "If", "MatMul", "Reshape", "Gather", "Concat", "Expand", "ConstantOfShape", "Shape", "Transpose",
    "Slice", "Pad", "Split", "Squeeze", "Unsqueeze", "Flatten", "Conv", "MaxPool", "AveragePool", "ReduceMean", "Cast",
    "Softmax", "Add", "Mul", "Div", "Range", "Where", "Clip", "Tile", "pads", "kernel_shape", "axis", "perm",
    "w" * 5000,
]  # fmt: skip


def mutated_bytes(data: bytes, dice: random.Random) -> bytes:
    """Bits flipped, bytes replaced, a piece cut out, repeated or moved, or the end cut off."""
    found = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5, 20])):
        kind, at = dice.randrange(5), dice.randrange(len(found) + 1)
        piece = slice(at, at + dice.choice([1, 2, 8, 100]))
        if kind == 0 and at < len(found):
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        elif kind == 2:
            del found[piece]
        elif kind == 3:
            found[at:at] = bytes(found[piece]) * dice.choice([1, 1, 50])
        elif kind == 4 and dice.random() < 0.3:
            del found[at:]
    return bytes(found)


def mutated_fields(source: onnx.ModelProto, dice: random.Random) -> bytes:
    """Some fields anywhere in the model changed, dropped, repeated, swapped, or added."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        messages = [message for message in _all(model) if type(message).DESCRIPTOR.name != "ModelProto"]
        _mutate(dice.choice(messages), dice, names)
    return model.SerializeToString()


def _all(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found.extend(_all(inner))
    return found


def _repeated(field: Any) -> bool:
    return bool(getattr(field, "is_repeated", False)) or getattr(field, "label", 0) == 3


def _mutate(message: Message, dice: random.Random, names: list[str]) -> None:
    fields = list(type(message).DESCRIPTOR.fields)
    present = [field for field, _ in message.ListFields()]
    field = dice.choice(present if present and dice.random() < 0.85 else fields)
    if not _repeated(field):
        if field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name) if dice.random() < 0.3 else getattr(message, field.name).SetInParent()
        elif dice.random() < 0.15:
            message.ClearField(field.name)
        else:
            _set(message, field.name, _value(field, dice, names, getattr(message, field.name)))
        return
    values = getattr(message, field.name)
    at = dice.randrange(len(values)) if len(values) else 0
    choice = dice.randrange(4)
    if choice == 0 and len(values):
        del values[at]
    elif field.type == field.TYPE_MESSAGE:
        if choice == 1 or not len(values):
            values.add()
        elif choice == 2:
            values.add().CopyFrom(values[at])
        elif len(values) > 1:
            values[at].CopyFrom(values[dice.randrange(len(values))])
    else:
        value = _value(field, dice, names, values[at] if len(values) else None)
        try:
            if choice == 1 or not len(values):
                values.extend([value] * dice.choice([1, 1, 3, 40]))
            else:
                values[at] = value
        except (TypeError, ValueError):
            return


def _set(message: Message, name: str, value: Any) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError):  # out of the field's range
        return


def _value(field: Any, dice: random.Random, names: list[str], old: Any) -> Any:
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return dice.choice(FLOATS)
    if field.type == field.TYPE_STRING:
        return dice.choice(names if dice.random() < 0.5 else WORDS)
    if field.type == field.TYPE_BYTES:
        kept = old or b""
        changes = [b"", kept[:-1], kept * 2, bytes(len(kept)), b"\xff" * len(kept), b"SAME_UPPER", b"\xff\xfe"]
        return dice.choice(changes)
    if field.type == field.TYPE_ENUM:
        return dice.choice([value.number for value in field.enum_type.values])
    return dice.choice([*INTEGERS, (old or 0) + 1, (old or 0) - 1, (old or 0) * 2])
