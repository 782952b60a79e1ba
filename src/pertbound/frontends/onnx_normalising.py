"""ONNX operators that normalise; handlers as in `onnx_operators.py`."""

from __future__ import annotations

import math

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import LOCAL_RESPONSE, Value
from pertbound.frontends.onnx_constants import Op
from pertbound.frontends.onnx_reader import Handler, Reader
from pertbound.frontends.onnx_shapes import axis_of


def _batch_norm(reader: Reader, op: Op) -> Value:
    if op.get("training_mode", 0) or any(op.outputs[1:]) or not op.get("spatial", 1):
        raise UnsupportedLayerError(f"{op.where} normalises by the batch itself; export the model in evaluation mode")
    weight, bias, mean, variance = (reader.constant(op, position) for position in range(1, 5))
    return reader.call(
        op,
        "aten.batch_norm.default",
        input=reader.value(op, 0),
        weight=weight,
        bias=bias,
        running_mean=mean,
        running_var=variance,
        training=False,
        momentum=0.1,
        eps=op.number("epsilon", 1e-5),
    )


def _layer_norm(reader: Reader, op: Op) -> Value:
    value = reader.value(op, 0)
    if any(op.outputs[1:]):
        raise UnsupportedLayerError(f"{op.where}: means and deviations are not computed here")
    shape = list(value.shape[axis_of(op, op.get("axis", -1), value) - 1 :])
    weight, bias = reader.constant(op, 1), op.input(2)
    return reader.call(
        op,
        "aten.layer_norm.default",
        input=value,
        normalized_shape=shape,
        weight=weight.expand(shape),
        bias=None if bias is None else reader.constant(op, 2).expand(shape),
        eps=op.number("epsilon", 1e-5),
    )


def _group_norm(reader: Reader, op: Op) -> Value:
    """Scale and bias have one number for each channel; before operator set 21, for each group."""
    value, groups = reader.value(op, 0), int(op.get("num_groups"))
    weight, bias = (reader.constant(op, position).flatten() for position in (1, 2))
    if op.opset < 21:
        weight, bias = (part.repeat_interleave(value.shape[0] // groups) for part in (weight, bias))
    options = {"weight": weight, "bias": bias, "eps": op.number("epsilon", 1e-5)}
    return reader.call(op, "aten.group_norm.default", input=value, num_groups=groups, **options)


def _instance_norm(reader: Reader, op: Op) -> Value:
    options = {"weight": reader.constant(op, 1), "bias": reader.constant(op, 2), "eps": op.number("epsilon", 1e-5)}
    return reader.call(op, "aten.instance_norm.default", input=reader.value(op, 0), use_input_stats=True, **options)


def _local_response(reader: Reader, op: Op) -> Value:
    value, size = reader.value(op, 0), int(op.get("size"))
    if size % 2 == 0 or size > 2 * math.prod(value.shape[:1]) + 1:
        raise UnsupportedLayerError(f"{op.where}: windows of an odd number of channels have a bound here, got {size}")
    numbers = {"alpha": op.number("alpha", 1e-4), "beta": op.number("beta", 0.75), "k": op.number("bias", 1.0)}
    return reader.call(op, LOCAL_RESPONSE, self=value, size=size, shapes=None, **numbers)


NORMALISING: dict[str, Handler] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
}
"""The handlers of these operators, by name."""
