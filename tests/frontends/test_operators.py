"""Each ATen operator against itself: a program is refused, or its graph computes what PyTorch computes."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pertbound.errors import ConversionError, InputError, PertboundError, UnsupportedLayerError
from pertbound.frontends import conversion
from pertbound.frontends.aten import convert, graph_of
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Call, Program, Ref
from pertbound.graph import Graph

X = Ref("x")
Step = tuple[str, str, dict[str, Any]]
"""Name, target and arguments of a call."""


def program(steps: list[Step], shape: tuple[int, ...], tensors: dict[str, Tensor] | None = None) -> Program:
    """The steps on an input of `shape` (with its batch), whose last value is the output."""
    calls = tuple(Call(name, target, arguments, f"net ({name})") for name, target, arguments in steps)
    return Program("x", shape, tensors or {}, calls, steps[-1][0])


def run(source: Program, x: Tensor) -> Tensor:
    """What PyTorch itself computes, memory that is shared and all."""
    values: dict[str, Any] = dict(source.tensors) | {source.input: x.clone()}

    def resolve(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        return [resolve(item) for item in value] if isinstance(value, list) else value

    for call in source.calls:
        if call.target == "pertbound.getitem":
            values[call.name] = values[call.arguments["self"].name][call.arguments["index"]]
            continue
        namespace, operator, overload = call.target.split(".")
        function = getattr(getattr(getattr(torch.ops, namespace), operator), overload)
        values[call.name] = function(**{name: resolve(value) for name, value in call.arguments.items()})
    return values[source.output]


def nodes_on(source: Program, x: Tensor) -> Tensor:
    """The output of the converted nodes, whether or not they make a classifier."""
    converted = convert(source)
    values = {"input": x}
    for node in converted.nodes:
        values[node.name] = node.layer.forward(*(values[name] for name in node.inputs))
    return converted.finish(values[converted.nodes[-1].name])


def same_or_refused(source: Program, batches: tuple[int, ...], *, scales: tuple[float, ...] = (1.0, 300.0)) -> bool:
    """Whether the program was converted; fails the test where the graph computes something else."""
    try:
        convert(source)
    except PertboundError:
        return False
    for batch in batches:
        for scale in scales:
            x = torch.randn(batch, *source.input_shape[1:]) * scale
            expected, got = run(source, x), nodes_on(source, x)
            assert got.shape == expected.shape
            assert torch.allclose(got, expected.to(got.dtype), rtol=1e-4, atol=1e-4 * (1 + scale)), source.calls
    return True


# --- one operator at a time, defaults included -----------------------------------------------------------------

SEQUENCE, IMAGE, VOLUME = (2, 2, 6), (2, 2, 6, 5), (2, 2, 4, 4, 4)


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


ACCEPTED: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("aten.relu.default", IMAGE, {"self": X}),
    ("aten.leaky_relu.default", IMAGE, {"self": X}),
    ("aten.leaky_relu.default", IMAGE, {"self": X, "negative_slope": 3}),
    ("aten.leaky_relu.default", IMAGE, {"self": X, "negative_slope": 0.0}),
    ("aten.sigmoid.default", IMAGE, {"self": X}),
    ("aten.tanh.default", IMAGE, {"self": X}),
    ("aten.softplus.default", IMAGE, {"self": X}),
    ("aten.softplus.default", IMAGE, {"self": X, "beta": 5}),
    ("aten.softplus.default", IMAGE, {"self": X, "threshold": 0.5}),
    ("aten.rrelu.default", IMAGE, {"self": X}),
    ("aten.prelu.default", IMAGE, {"self": X, "weight": weight(2)}),
    ("aten.prelu.default", IMAGE, {"self": X, "weight": weight(1)}),
    ("aten.abs.default", IMAGE, {"self": X}),
    ("aten.elu.default", IMAGE, {"self": X}),
    ("aten.elu.default", IMAGE, {"self": X, "alpha": 0.4, "scale": 1.3, "input_scale": 2}),
    ("aten.selu.default", IMAGE, {"self": X}),
    ("aten.celu.default", IMAGE, {"self": X}),
    ("aten.celu.default", IMAGE, {"self": X, "alpha": 0.3}),
    ("aten.gelu.default", IMAGE, {"self": X}),
    ("aten.gelu.default", IMAGE, {"self": X, "approximate": "tanh"}),
    ("aten.silu.default", IMAGE, {"self": X}),
    ("aten.mish.default", IMAGE, {"self": X}),
    ("aten.hardswish.default", IMAGE, {"self": X}),
    ("aten.hardsigmoid.default", IMAGE, {"self": X}),
    ("aten.log_sigmoid.default", IMAGE, {"self": X}),
    ("aten.threshold.default", IMAGE, {"self": X, "threshold": 0.5, "value": 0.5}),
    ("aten.hardtanh.default", IMAGE, {"self": X}),
    ("aten.hardtanh.default", IMAGE, {"self": X, "min_val": 0, "max_val": 6}),
    ("aten.relu6.default", IMAGE, {"self": X}),
    ("aten.clamp.default", IMAGE, {"self": X, "min": -0.3}),
    ("aten.clamp.default", IMAGE, {"self": X, "max": 0.3}),
    ("aten.clamp.default", IMAGE, {"self": X, "min": -0.1, "max": 0.3}),
    ("aten.clamp.Tensor", IMAGE, {"self": X, "min": weight(6, 5) - 3, "max": weight(5) + 3}),
    ("aten.clamp_min.default", IMAGE, {"self": X, "min": 0}),
    ("aten.clamp_max.default", IMAGE, {"self": X, "max": -1.0}),
    ("aten.glu.default", IMAGE, {"self": X, "dim": 1}),
    ("aten.square.default", SEQUENCE, {"self": X}),
    ("aten.pow.Tensor_Scalar", SEQUENCE, {"self": X, "exponent": 2}),
    ("aten.mul.Tensor", SEQUENCE, {"self": X, "other": X}),
    ("aten.dropout.default", IMAGE, {"input": X, "p": 0.5, "train": False}),
    ("aten.alpha_dropout.default", IMAGE, {"input": X, "p": 0.5, "train": False}),
    ("aten.feature_alpha_dropout.default", IMAGE, {"input": X, "p": 0.5, "train": False}),
    ("aten.alias.default", IMAGE, {"self": X}),
    ("aten.to.dtype", IMAGE, {"self": X, "dtype": torch.float32}),
    ("aten.permute.default", IMAGE, {"self": X, "dims": [0, 3, 1, 2]}),
    ("aten.transpose.int", IMAGE, {"self": X, "dim0": 1, "dim1": -1}),
    ("aten.swapaxes.default", IMAGE, {"self": X, "axis0": 1, "axis1": 2}),
    ("aten.swapdims.default", IMAGE, {"self": X, "dim0": 3, "dim1": 2}),
    ("aten.mT.default", IMAGE, {"self": X}),
    ("aten.adjoint.default", IMAGE, {"self": X}),
    ("aten.movedim.int", IMAGE, {"self": X, "source": 1, "destination": 3}),
    ("aten.moveaxis.int", IMAGE, {"self": X, "source": 3, "destination": 1}),
    ("aten.flip.default", IMAGE, {"self": X, "dims": [1, -1]}),
    ("aten.fliplr.default", IMAGE, {"self": X}),
    ("aten.rot90.default", IMAGE, {"self": X, "k": 3, "dims": [2, 3]}),
    ("aten.roll.default", IMAGE, {"self": X, "shifts": [2, 1], "dims": [2, 3]}),
    ("aten.slice.Tensor", IMAGE, {"self": X, "dim": 2, "start": 1, "end": 9223372036854775807, "step": 2}),
    ("aten.slice.Tensor", IMAGE, {"self": X, "dim": 0, "start": 0, "end": 9223372036854775807}),
    ("aten.select.int", IMAGE, {"self": X, "dim": -1, "index": -2}),
    ("aten.narrow.default", IMAGE, {"self": X, "dim": 2, "start": 1, "length": 3}),
    ("aten.index_select.default", IMAGE, {"self": X, "dim": 3, "index": torch.tensor([4, 0, 0])}),
    ("aten.index.Tensor", IMAGE, {"self": X, "indices": [None, None, torch.tensor([1, 1, 3])]}),
    ("aten.repeat.default", SEQUENCE, {"self": X, "repeats": [1, 2, 3]}),
    ("aten.tile.default", SEQUENCE, {"self": X, "dims": [1, 2, 2]}),
    ("aten.repeat_interleave.self_int", SEQUENCE, {"self": X, "repeats": 2, "dim": 2}),
    ("aten.expand.default", (2, 1, 6), {"self": X, "size": [2, 3, -1]}),
    ("aten.broadcast_to.default", (2, 1, 6), {"self": X, "size": [2, 3, 6]}),
    ("aten.expand_as.default", SEQUENCE, {"self": X, "other": X}),
    ("aten.pixel_shuffle.default", (2, 4, 2, 3), {"self": X, "upscale_factor": 2}),
    ("aten.pixel_unshuffle.default", (2, 1, 4, 6), {"self": X, "downscale_factor": 2}),
    ("aten.channel_shuffle.default", (2, 4, 2, 3), {"self": X, "groups": 2}),
    (
        "aten.im2col.default",
        IMAGE,
        {"self": X, "kernel_size": [2, 3], "dilation": [1, 1], "padding": [1, 0], "stride": [2, 1]},
    ),
    ("aten.unfold.default", SEQUENCE, {"self": X, "dimension": 2, "size": 3, "step": 2}),
    ("aten.tril.default", IMAGE, {"self": X, "diagonal": 1}),
    ("aten.triu.default", IMAGE, {"self": X}),
    ("aten.diagonal.default", IMAGE, {"self": X, "dim1": 2, "dim2": 3}),
    ("aten.upsample_nearest1d.default", SEQUENCE, {"self": X, "output_size": [9]}),
    ("aten.upsample_nearest2d.default", IMAGE, {"self": X, "output_size": [12, 5]}),
    ("aten.upsample_nearest3d.default", VOLUME, {"self": X, "output_size": [4, 8, 4]}),
    ("aten.pad.default", IMAGE, {"self": X, "pad": [1, 0, 2, 1]}),
    ("aten.pad.default", IMAGE, {"self": X, "pad": [1, 2], "mode": "constant", "value": -0.7}),
    ("aten.pad.default", IMAGE, {"self": X, "pad": [-1, 2, 0, 1]}),
    ("aten.pad.default", IMAGE, {"self": X, "pad": [1, 2, 2, 1], "mode": "reflect"}),
    ("aten.pad.default", SEQUENCE, {"self": X, "pad": [1, 2], "mode": "replicate"}),
    ("aten.pad.default", IMAGE, {"self": X, "pad": [1, 2, 0, 1], "mode": "circular"}),
    ("aten.constant_pad_nd.default", SEQUENCE, {"self": X, "pad": [0, 0, 1, 1], "value": 2}),
    ("aten.stack.default", SEQUENCE, {"tensors": [X, X], "dim": 2}),
    ("aten.mean.dim", IMAGE, {"self": X, "dim": [2, 3]}),
    ("aten.mean.dim", IMAGE, {"self": X, "dim": [-1], "keepdim": True}),
    ("aten.sum.dim_IntList", IMAGE, {"self": X, "dim": [1, 3]}),
    ("aten.amax.default", IMAGE, {"self": X, "dim": [2, 3]}),
    ("aten.amin.default", IMAGE, {"self": X, "dim": [1], "keepdim": True}),
    ("aten.maximum.default", SEQUENCE, {"self": X, "other": weight(2, 1)}),
    ("aten.minimum.default", SEQUENCE, {"self": weight(6), "other": X}),
    ("aten.max.other", SEQUENCE, {"self": X, "other": X}),
    ("aten.min.other", SEQUENCE, {"self": X, "other": weight(6)}),
    ("aten.conv_transpose1d.default", SEQUENCE, {"input": X, "weight": weight(2, 3, 3), "stride": [2]}),
    (
        "aten.conv_transpose2d.input",
        IMAGE,
        {"input": X, "weight": weight(2, 2, 2, 3), "bias": weight(4), "stride": [1, 2], "padding": [1, 0],
         "output_padding": [0, 1], "groups": 2, "dilation": [2, 1]},
    ),
    ("aten.conv_transpose3d.input", VOLUME, {"input": X, "weight": weight(2, 2, 2, 1, 2)}),
    (
        "aten.convolution.default",
        IMAGE,
        {"input": X, "weight": weight(2, 3, 3, 3), "bias": None, "stride": [2], "padding": [1, 0], "dilation": [1],
         "transposed": True, "output_padding": [1], "groups": 1},
    ),
    ("aten.conv1d.padding", SEQUENCE, {"input": X, "weight": weight(3, 2, 4), "padding": "same", "dilation": [2]}),
    ("aten.adaptive_avg_pool2d.default", IMAGE, {"self": X, "output_size": [4, 3]}),
    ("aten.adaptive_avg_pool1d.default", SEQUENCE, {"self": X, "output_size": [8]}),
    ("aten.layer_norm.default", IMAGE, {"input": X, "normalized_shape": [6, 5], "weight": weight(6, 5)}),
    ("aten.layer_norm.default", SEQUENCE, {"input": X, "normalized_shape": [6], "weight": None, "bias": weight(6)}),
    ("aten.rms_norm.default", SEQUENCE, {"input": X, "normalized_shape": [6], "weight": weight(6), "eps": 0.1}),
    ("aten.group_norm.default", VOLUME, {"input": X, "num_groups": 1, "weight": weight(2), "bias": weight(2)}),
    (
        "aten.instance_norm.default",
        IMAGE,
        {"input": X, "weight": weight(2), "bias": None, "running_mean": None, "running_var": None,
         "use_input_stats": True, "momentum": 0.1, "eps": 0.01, "cudnn_enabled": False},
    ),
    (
        "aten.instance_norm.default",
        IMAGE,
        {"input": X, "weight": None, "bias": None, "running_mean": weight(2), "running_var": weight(2).abs(),
         "use_input_stats": False, "momentum": 0.1, "eps": 0.01, "cudnn_enabled": False},
    ),
    (
        "aten.gru_cell.default",
        (2, 6),
        {"input": X, "hx": torch.zeros(2, 3), "w_ih": weight(9, 6), "w_hh": weight(9, 3), "b_ih": weight(9),
         "b_hh": weight(9)},
    ),
    (
        "aten.rnn_tanh_cell.default",
        (2, 6),
        {"input": X, "hx": torch.ones(2, 3), "w_ih": weight(3, 6), "w_hh": weight(3, 3)},
    ),
    (
        "aten.rnn_relu_cell.default",
        (2, 6),
        {"input": X, "hx": X, "w_ih": weight(6, 6), "w_hh": weight(6, 6), "b_ih": weight(6), "b_hh": weight(6)},
    ),
    ("aten.feature_dropout.default", IMAGE, {"input": X, "p": 0.5, "train": False}),
    ("aten.flatten.using_ints", IMAGE, {"self": X, "start_dim": 1}),
    ("aten.flatten.using_ints", IMAGE, {"self": X, "start_dim": -2, "end_dim": 3}),
    ("aten.view.default", IMAGE, {"self": X, "size": [-1, 60]}),
    ("aten.view.default", IMAGE, {"self": X, "size": [2, 3, -1]}),
    ("aten.reshape.default", IMAGE, {"self": X, "shape": [2, 1, 60]}),
    ("aten.unflatten.int", SEQUENCE, {"self": X, "dim": -1, "sizes": [2, -1]}),
    ("aten.unflatten.int", SEQUENCE, {"self": X, "dim": 1, "sizes": [2, 1]}),
    ("aten.unsqueeze.default", SEQUENCE, {"self": X, "dim": -3}),
    ("aten.unsqueeze.default", SEQUENCE, {"self": X, "dim": 3}),
    ("aten.squeeze.default", (2, 1, 6), {"self": X}),
    ("aten.squeeze.dim", (2, 1, 6), {"self": X, "dim": 1}),
    ("aten.squeeze.dim", (2, 1, 6), {"self": X, "dim": 2}),
    ("aten.squeeze.dims", (2, 1, 6, 1), {"self": X, "dim": [1, -1]}),
    ("aten.max_pool1d.default", SEQUENCE, {"self": X, "kernel_size": [2]}),
    ("aten.max_pool2d.default", IMAGE, {"self": X, "kernel_size": [3]}),
    ("aten.max_pool2d.default", IMAGE, {"self": X, "kernel_size": [3, 2], "stride": [1, 2], "padding": [1]}),
    ("aten.max_pool2d.default", IMAGE, {"self": X, "kernel_size": [2, 2], "stride": [], "dilation": [2, 1]}),
    ("aten.max_pool3d.default", VOLUME, {"self": X, "kernel_size": [3], "ceil_mode": True}),
    ("aten.avg_pool1d.default", SEQUENCE, {"self": X, "kernel_size": [4], "stride": [3], "padding": [2]}),
    ("aten.avg_pool2d.default", IMAGE, {"self": X, "kernel_size": [3], "padding": [1]}),
    ("aten.avg_pool2d.default", IMAGE, {"self": X, "kernel_size": [4, 2], "count_include_pad": False, "padding": [1]}),
    ("aten.avg_pool2d.default", IMAGE, {"self": X, "kernel_size": [2], "divisor_override": 7, "ceil_mode": True}),
    ("aten.avg_pool3d.default", VOLUME, {"self": X, "kernel_size": [3], "stride": [1]}),
    ("aten.adaptive_avg_pool1d.default", SEQUENCE, {"self": X, "output_size": [2]}),
    ("aten.adaptive_avg_pool2d.default", IMAGE, {"self": X, "output_size": [2, 1]}),
    ("aten.adaptive_avg_pool3d.default", VOLUME, {"self": X, "output_size": [1, 2, 4]}),
    ("aten.conv1d.default", SEQUENCE, {"input": X, "weight": weight(3, 2, 2)}),
    ("aten.conv1d.padding", SEQUENCE, {"input": X, "weight": weight(3, 2, 3), "padding": "same"}),
    ("aten.conv2d.default", IMAGE, {"input": X, "weight": weight(4, 1, 2, 3), "bias": weight(4), "groups": 2}),
    ("aten.conv2d.default", IMAGE, {"input": X, "weight": weight(3, 2, 2, 2), "stride": [2, 1], "dilation": [1, 2]}),
    ("aten.conv2d.padding", IMAGE, {"input": X, "weight": weight(3, 2, 2, 2), "padding": "valid"}),
    ("aten.conv3d.default", VOLUME, {"input": X, "weight": weight(3, 2, 2, 1, 3), "padding": [1]}),
    (
        "aten.convolution.default",
        IMAGE,
        {"input": X, "weight": weight(3, 2, 3, 3), "bias": None, "stride": [1], "padding": [1, 0], "dilation": [1],
         "transposed": False, "output_padding": [0], "groups": 1},
    ),
    ("aten.linear.default", SEQUENCE, {"input": X, "weight": weight(3, 6)}),
    ("aten.linear.default", SEQUENCE, {"input": X, "weight": weight(3, 6), "bias": weight(3)}),
    ("aten.matmul.default", SEQUENCE, {"self": X, "other": weight(6, 3)}),
    ("aten.mm.default", (2, 6), {"self": X, "mat2": weight(6, 3)}),
    ("aten.addmm.default", (2, 6), {"self": weight(3), "mat1": X, "mat2": weight(6, 3)}),
    ("aten.addmm.default", (2, 6), {"self": weight(1), "mat1": X, "mat2": weight(6, 3), "beta": 1, "alpha": 1}),
    ("aten.addmm.default", (2, 6), {"self": weight(1, 3), "mat1": X, "mat2": weight(6, 3)}),
    (
        "aten.batch_norm.default",
        IMAGE,
        {"input": X, "weight": None, "bias": weight(2), "running_mean": weight(2), "running_var": weight(2).abs(),
         "training": False, "momentum": 0.1, "eps": 0.01, "cudnn_enabled": True},
    ),
    ("aten.add.Tensor", SEQUENCE, {"self": X, "other": X}),
    ("aten.add.Tensor", SEQUENCE, {"self": X, "other": X, "alpha": -2}),
    ("aten.add.Tensor", SEQUENCE, {"self": X, "other": 3, "alpha": 2}),
    ("aten.add.Tensor", SEQUENCE, {"self": weight(2, 1), "other": X, "alpha": 0.5}),
    ("aten.add.Scalar", SEQUENCE, {"self": X, "other": 1.5, "alpha": 2}),
    ("aten.sub.Tensor", SEQUENCE, {"self": X, "other": weight(6), "alpha": 3}),
    ("aten.sub.Tensor", SEQUENCE, {"self": weight(1, 2, 6), "other": X, "alpha": 3}),
    ("aten.sub.Scalar", SEQUENCE, {"self": X, "other": 2, "alpha": 4}),
    ("aten.rsub.Scalar", SEQUENCE, {"self": X, "other": 2, "alpha": 4}),
    ("aten.rsub.Tensor", SEQUENCE, {"self": X, "other": weight(6), "alpha": 4}),
    ("aten.rsub.Tensor", SEQUENCE, {"self": weight(6), "other": X, "alpha": 4}),
    ("aten.rsub.Tensor", SEQUENCE, {"self": X, "other": X, "alpha": 4}),
    ("aten.mul.Tensor", SEQUENCE, {"self": X, "other": weight(2, 6)}),
    ("aten.mul.Tensor", SEQUENCE, {"self": weight(1), "other": X}),
    ("aten.mul.Scalar", SEQUENCE, {"self": X, "other": -0.0}),
    ("aten.div.Tensor", SEQUENCE, {"self": X, "other": weight(6) + 9}),
    ("aten.div.Tensor", SEQUENCE, {"self": X, "other": torch.tensor([2, 3, 4, 5, 6, 7])}),
    ("aten.div.Scalar", SEQUENCE, {"self": X, "other": -3}),
    ("aten.neg.default", SEQUENCE, {"self": X}),
    ("aten.cat.default", SEQUENCE, {"tensors": [X, X], "dim": -1}),
    ("aten.cat.default", SEQUENCE, {"tensors": [X], "dim": 1}),
    ("aten.clone.default", SEQUENCE, {"self": X, "memory_format": torch.preserve_format}),
    ("aten.detach.default", SEQUENCE, {"self": X}),
    ("aten.contiguous.default", SEQUENCE, {"self": X}),
    ("aten.softmax.int", (2, 6), {"self": X, "dim": -1}),
    ("aten._softmax.default", (2, 6), {"self": X, "dim": 1, "half_to_float": False}),
    ("aten.log_softmax.int", (2, 6), {"self": X, "dim": 1}),
    ("aten._log_softmax.default", (2, 6), {"self": X, "dim": -1, "half_to_float": False}),
]  # fmt: skip


def stored(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments with tensors replaced by names, and those tensors."""
    tensors = {f"p_{name}": value for name, value in arguments.items() if isinstance(value, Tensor)}
    named = {name: Ref(f"p_{name}") if f"p_{name}" in tensors else value for name, value in arguments.items()}
    for name, value in arguments.items():
        if isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
            held = {f"p_{name}_{i}": item for i, item in enumerate(value) if isinstance(item, Tensor)}
            named[name] = [Ref(f"p_{name}_{i}") if isinstance(item, Tensor) else item for i, item in enumerate(value)]
            tensors |= held
    return named, tensors


@pytest.mark.parametrize(
    ("target", "shape", "arguments"),
    ACCEPTED,
    ids=[f"{i}-{target.removeprefix('aten.')}" for i, (target, _, _) in enumerate(ACCEPTED)],
)
def test_an_operator_computes_what_pytorch_computes(
    target: str, shape: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    """A neutral operator comes first, since the input alone is no layer's output."""
    named, tensors = stored(arguments)
    assert same_or_refused(
        program([("h", "aten.mul.Tensor", {"self": X, "other": 1.0}), ("y", target, reread(named))], shape, tensors),
        (2,),
    )


def reread(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with h in place of x."""
    h = Ref("h")
    return {
        name: h if value == X else [h if item == X else item for item in value] if isinstance(value, list) else value
        for name, value in arguments.items()
    }


def test_every_handler_is_covered_above() -> None:
    tried = {".".join(target.split(".")[:2]) for target, _, _ in ACCEPTED}
    several = {name for name, *_ in SEVERAL}
    elsewhere = {"pertbound.lp_pool", "aten.sym_size", "aten._assert_tensor_metadata", "aten.lift_fresh_copy"}
    elsewhere |= {"pertbound.getitem", "pertbound.local_response", "aten.t", "aten.flipud"}  # the last two: refused
    elsewhere |= {"aten.zeros", "aten.ones", "aten.full"}  # of the batch: `test_modules.py`
    assert set(HANDLERS) - elsewhere == tried | several


SEVERAL: list[tuple[str, str, tuple[int, ...], dict[str, Any], int]] = [
    ("aten.chunk", "default", SEQUENCE, {"self": X, "chunks": 3, "dim": 2}, 3),
    ("aten.split", "Tensor", SEQUENCE, {"self": X, "split_size": 4, "dim": -1}, 2),
    ("aten.split_with_sizes", "default", SEQUENCE, {"self": X, "split_sizes": [1, 5], "dim": 2}, 2),
    ("aten.tensor_split", "sections", SEQUENCE, {"self": X, "sections": 4, "dim": 2}, 4),
    ("aten.unbind", "int", SEQUENCE, {"self": X, "dim": 1}, 2),
    ("aten.max", "dim", SEQUENCE, {"self": X, "dim": 2}, 1),
    ("aten.min", "dim", SEQUENCE, {"self": X, "dim": 1, "keepdim": True}, 1),
    ("aten.sort", "default", SEQUENCE, {"self": X}, 1),
    ("aten.sort", "default", SEQUENCE, {"self": X, "dim": 1, "descending": True}, 1),
    ("aten.sort", "default", (2, 3, 2, 2), {"self": X, "dim": 1}, 1),
    ("aten.adaptive_max_pool1d", "default", SEQUENCE, {"self": X, "output_size": [3]}, 1),
    ("aten.adaptive_max_pool2d", "default", IMAGE, {"self": X, "output_size": [2, 1]}, 1),
    ("aten.adaptive_max_pool3d", "default", VOLUME, {"self": X, "output_size": [2, 4, 1]}, 1),
    (
        "aten.lstm_cell",
        "default",
        (2, 6),
        {"input": X, "hx": [torch.zeros(2, 3), torch.ones(2, 3)], "w_ih": weight(12, 6), "w_hh": weight(12, 3)},
        2,
    ),
    *(
        (
            f"aten.{name}",
            "input",
            SEQUENCE,
            {"input": X, "hx": hx, "params": [weight(gates * 2, 6), weight(gates * 2, 2)], "has_biases": False,
             "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False, "batch_first": True},
            1,
        )
        for name, gates, hx in (
            ("lstm", 4, [torch.zeros(1, 2, 2)] * 2),
            ("gru", 3, torch.ones(1, 2, 2)),
            ("rnn_tanh", 1, torch.zeros(1, 2, 2)),
            ("rnn_relu", 1, torch.zeros(1, 2, 2)),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overload", "shape", "arguments", "count"), SEVERAL)
def test_each_of_several_results_is_what_pytorch_computes(
    name: str, overload: str, shape: tuple[int, ...], arguments: dict[str, Any], count: int
) -> None:
    named, tensors = stored(arguments)
    for index in range(count):
        first: Step = ("h", "aten.mul.Tensor", {"self": X, "other": 1.0})
        whole: Step = ("t", f"{name}.{overload}", reread(named))
        one: Step = ("y", "pertbound.getitem", {"self": Ref("t"), "index": index})
        assert same_or_refused(program([first, whole, one], shape, tensors), (2,))


LINEAR: Step = ("h", "aten.linear.default", {"input": X, "weight": Ref("w"), "bias": Ref("b")})
WEIGHTS = {"w": weight(6, 6), "b": weight(6) + 50, "c": weight(6), "v": weight(6, 3)}
H = Ref("h")


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("aten.div.Tensor_mode", {"self": H, "other": Ref("c"), "rounding_mode": "floor"}),
        ("aten.div.Tensor_mode", {"self": H, "other": 0.3, "rounding_mode": "trunc"}),
        ("aten.div.Scalar_mode", {"self": H, "other": 0.3, "rounding_mode": "floor"}),
        ("aten.div.Tensor_mode", {"self": H, "other": Ref("c"), "rounding_mode": None}),
        ("aten.div.Tensor", {"self": H, "other": 0}),
        ("aten.div.Scalar", {"self": H, "other": 0.0}),
        ("aten.div.Tensor", {"self": H, "other": True}),
        ("aten.div.Tensor", {"self": 1.0, "other": H}),
        ("aten.mul.Tensor", {"self": H, "other": H}),
        ("aten.div.Tensor", {"self": H, "other": H}),
        ("aten.add.Tensor", {"self": H, "other": Ref("c"), "alpha": 0}),
        ("aten.dropout.default", {"input": H, "p": 0.5, "train": True}),
        ("aten.flatten.using_ints", {"self": H}),
        ("aten.flatten.using_ints", {"self": H, "start_dim": 0, "end_dim": 1}),
        ("aten.squeeze.dim", {"self": H, "dim": 0}),
        ("aten.unsqueeze.default", {"self": H, "dim": 0}),
        ("aten.view.default", {"self": H, "size": [-1]}),
        ("aten.view.default", {"self": H, "size": [12]}),
        ("aten.view.default", {"self": H, "size": [-1, 3]}),
        ("aten.view.default", {"self": H, "size": [6, 2]}),
        ("aten.view.dtype", {"self": H, "dtype": torch.int32}),
        ("aten.view.dtype", {"self": H, "dtype": torch.float32}),
        ("aten.cat.default", {"tensors": [H, H]}),
        ("aten.cat.default", {"tensors": [H, H], "dim": -2}),
        ("aten.cat.default", {"tensors": []}),
        ("aten.softmax.int", {"self": H, "dim": 0}),
        ("aten.softmax.int", {"self": H, "dim": 1, "dtype": torch.float64}),
        ("aten.softplus.default", {"self": H, "beta": 0}),
        ("aten.softplus.default", {"self": H, "threshold": -1000.0}),
        ("aten.leaky_relu.default", {"self": H, "negative_slope": math.nan}),
        ("aten.addmm.default", {"self": Ref("c"), "mat1": H, "mat2": Ref("w"), "alpha": 2}),
        ("aten.addmm.default", {"self": Ref("c"), "mat1": H, "mat2": Ref("w"), "beta": 0}),
        ("aten.addmm.default", {"self": H, "mat1": Ref("w"), "mat2": Ref("w")}),
        ("aten.mm.default", {"self": Ref("w"), "mat2": H}),
        ("aten.matmul.default", {"self": H, "other": Ref("c")}),
        ("aten.linear.default", {"input": H, "weight": Ref("c")}),
        ("aten.linear.default", {"input": H, "weight": H}),
        ("aten.linear.default", {"input": Ref("w"), "weight": H}),
        ("aten.sym_size.int", {"self": H, "dim": 1}),
    ],
)
def test_a_doubtful_use_is_computed_exactly_or_refused(target: str, arguments: dict[str, Any]) -> None:
    source = program([LINEAR, ("y", target, arguments)], (2, 6), WEIGHTS)
    try:
        run(source, torch.randn(2, 6))
    except (RuntimeError, IndexError, TypeError, ValueError):
        with pytest.raises(PertboundError):
            convert(source)
        return
    same_or_refused(source, (2,))


@pytest.mark.parametrize("target", ["aten.div.Tensor_mode", "aten.div.Scalar_mode"])
@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_rounding_has_no_bound(target: str, mode: str) -> None:
    arguments = {"self": H, "other": 2, "rounding_mode": mode}
    with pytest.raises(UnsupportedLayerError, match=r"div\."):
        convert(program([LINEAR, ("y", target, arguments)], (2, 6), WEIGHTS))


# --- what an error says -------------------------------------------------------------------------------------------


def test_an_unknown_operator_is_named_with_its_place_and_the_known_ones() -> None:
    source = program([LINEAR, ("y", "aten.erf.default", {"self": H})], (2, 6), WEIGHTS)
    with pytest.raises(UnsupportedLayerError, match=r"aten\.erf\.default at net \(y\).*Supported are .*relu"):
        convert(source)


@pytest.mark.parametrize("target", ["", ".", "aten", "aten.", "prims.relu.default", "aten.RELU.default", "..aten"])
def test_odd_targets_are_unsupported(target: str) -> None:
    with pytest.raises(UnsupportedLayerError):
        convert(program([LINEAR, ("y", target, {"self": H})], (2, 6), WEIGHTS))


def test_a_call_without_a_place_is_named_by_its_value() -> None:
    calls = (Call("erf_7", "aten.erf.default", {"self": X}),)
    with pytest.raises(UnsupportedLayerError, match="'erf_7'"):
        convert(Program("x", (2, 6), {}, calls, "erf_7"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["w", "b"])
def test_weights_that_are_not_finite_are_refused_with_the_place(bad: float, name: str) -> None:
    tensors = WEIGHTS | {name: torch.full_like(WEIGHTS[name], bad)}
    with pytest.raises(UnsupportedLayerError, match=r"net \(h\)"):
        convert(program([LINEAR], (2, 6), tensors))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("y", "aten.relu.default", {"self": Ref("nobody")})], "nobody"),
        ([LINEAR, ("y", "aten.relu.default", {})], "relu"),
        ([LINEAR, ("y", "aten.relu.default", {"self": 3.0})], "self"),
        ([LINEAR, ("y", "aten.relu.default", {"self": Ref("w")})], "input"),
        ([LINEAR, ("y", "aten.linear.default", {"input": H, "weight": 2.0})], "weight"),
        ([LINEAR, ("y", "aten.linear.default", {"input": H})], "weight"),
        ([LINEAR, ("y", "aten.add.Tensor", {"self": Ref("w"), "other": Ref("w")})], "depend on its input"),
        ([LINEAR, ("y", "aten.add.Tensor", {"self": Ref("w"), "other": "w"})], "other should be Tensor"),
        ([LINEAR, ("y", "aten.add.Tensor", {"self": H})], "add"),
        ([LINEAR, ("y", "aten.cat.default", {})], "cat"),
        ([LINEAR, ("y", "aten.linear.default", {"input": H, "weight": Ref("v")})], "linear"),
    ],
)
def test_broken_programs_are_refused_with_a_reason(steps: list[Step], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(program(steps, (2, 6), WEIGHTS))


def test_outputs_that_are_no_logits_are_refused() -> None:
    for output in ("x", "w", "nobody", "s"):
        source = program([LINEAR, ("s", "aten.sym_size.int", {"self": X, "dim": 0})], (2, 6), WEIGHTS)
        broken = Program(source.input, source.input_shape, source.tensors, source.calls, output)
        with pytest.raises(ConversionError):
            graph_of(broken, torch.float32, None)


def test_an_input_without_sample_dimensions_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"\(2,\)"):
        convert(program([("y", "aten.relu.default", {"self": X})], (2,)))


# --- the batch ---------------------------------------------------------------------------------------------------


def size(dim: int) -> Step:
    return ("n", "aten.sym_size.int", {"self": X, "dim": dim})


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((2, 6), [size(0), ("y", "aten.view.default", {"self": X, "size": [Ref("n"), 2, 3]})]),
        ((2, 6), [size(-2), ("y", "aten.view.default", {"self": X, "size": [Ref("n"), -1]})]),
        ((2, 6), [size(1), ("y", "aten.view.default", {"self": X, "size": [-1, Ref("n")]})]),
        ((2, 2), [size(0), ("y", "aten.view.default", {"self": X, "size": [-1, Ref("n")]})]),
        ((2, 2, 3), [size(0), ("y", "aten.view.default", {"self": X, "size": [-1, Ref("n"), 3]})]),
        ((2, 4), [size(0), ("y", "aten.unflatten.int", {"self": X, "dim": 1, "sizes": [Ref("n"), -1]})]),
        ((2, 4), [size(0), ("y", "aten.add.Tensor", {"self": X, "other": Ref("n")})]),
        ((2, 4), [size(0), ("y", "aten.leaky_relu.default", {"self": X, "negative_slope": Ref("n")})]),
        ((2, 4, 4), [size(0), ("y", "aten.max_pool1d.default", {"self": X, "kernel_size": [Ref("n")]})]),
        ((2, 4, 4), [size(0), ("y", "aten.cat.default", {"tensors": [X, X], "dim": Ref("n")})]),
    ],
)
def test_a_dynamic_batch_size_is_used_for_the_batch_alone(shape: tuple[int, ...], steps: list[Step]) -> None:
    steps = [("x2", "aten.mul.Tensor", {"self": X, "other": 1.0}), *steps]
    try:
        run(program(steps, shape), torch.randn(4, *shape[1:]))
        run(program(steps, shape), torch.randn(1, *shape[1:]))
    except (RuntimeError, IndexError):  # no program for every batch size, so no classifier
        with pytest.raises(PertboundError):
            convert(program(steps, shape))
        return
    same_or_refused(program(steps, shape), (1, 2, 4))


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3, 6), [("y", "aten.view.default", {"self": X, "size": [3, 2, 3]})]),
        ((3, 9), [("y", "aten.view.default", {"self": X, "size": [3, 3, 3]})]),
        ((3, 12), [("y", "aten.unflatten.int", {"self": X, "dim": 1, "sizes": [3, 4]})]),
        ((3, 12), [("y", "aten.unflatten.int", {"self": X, "dim": 1, "sizes": [3, -1]})]),
        ((1, 12), [("y", "aten.unflatten.int", {"self": X, "dim": 1, "sizes": [1, -1]})]),
        ((1, 1, 12), [("y", "aten.view.default", {"self": X, "size": [1, 12]})]),
        ((1, 2, 3), [("y", "aten.view.default", {"self": X, "size": [-1]})]),
        ((1, 2, 3), [("y", "aten.view.default", {"self": X, "size": [6]})]),
        ((1, 2, 3), [("y", "aten.squeeze.default", {"self": X})]),
        ((1, 2, 3), [("y", "aten.squeeze.dim", {"self": X, "dim": 0})]),
        ((1, 2, 3), [("y", "aten.squeeze.dims", {"self": X, "dim": [0]})]),
        ((3, 1, 4), [("y", "aten.squeeze.default", {"self": X})]),
        ((4, 4), [("y", "aten.view.default", {"self": X, "size": [2, 8]})]),
        ((4, 4), [("y", "aten.view.default", {"self": X, "size": [8, 2]})]),
        (
            (1, 4, 6),
            [
                ("s", "aten.squeeze.dim", {"self": X, "dim": 0}),
                ("t", "aten.cat.default", {"tensors": [Ref("s"), Ref("s")], "dim": 1}),
                ("y", "aten.view.default", {"self": Ref("t"), "size": [1, 48]}),
            ],
        ),
        (
            (1, 4, 4),
            [
                ("s", "aten.squeeze.default", {"self": X}),
                ("t", "aten.batch_norm.default",
                 {"input": Ref("s"), "weight": None, "bias": None, "running_mean": Ref("m"), "running_var": Ref("q"),
                  "training": False, "momentum": 0.1, "eps": 0.0, "cudnn_enabled": True}),
                ("y", "aten.view.default", {"self": Ref("t"), "size": [1, 16]}),
            ],
        ),
        (
            (3, 12),
            [
                ("s", "aten.unflatten.int", {"self": X, "dim": 1, "sizes": [3, -1]}),
                ("t", "aten.max_pool1d.default", {"self": Ref("s"), "kernel_size": [2]}),
                ("y", "aten.flatten.using_ints", {"self": Ref("t"), "start_dim": 1}),
            ],
        ),
    ],
)  # fmt: skip
def test_programs_traced_with_a_fixed_batch_keep_samples_apart(shape: tuple[int, ...], steps: list[Step]) -> None:
    steps = [("x2", "aten.mul.Tensor", {"self": X, "other": 1.0}), *steps]
    tensors = {"m": torch.arange(4.0), "q": torch.arange(1.0, 5.0)}
    same_or_refused(program(steps, shape, tensors), shape[:1])


# --- operators in place --------------------------------------------------------------------------------------------

OUT: Step = ("y", "aten.mul.Tensor", {"self": H, "other": 1.0})
SCALE: Step = ("g", "aten.mul.Tensor", {"self": H, "other": 2.0})


@pytest.mark.parametrize(
    "steps",
    [
        [("r", "aten.relu_.default", {"self": H}), OUT],
        [("r", "aten.relu_.default", {"self": H}), ("y", "aten.add.Tensor", {"self": Ref("r"), "other": H})],
        [("r", "aten.relu_.default", {"self": H}), ("q", "aten.mul_.Tensor", {"self": Ref("r"), "other": 2}), OUT],
        [
            ("r", "aten.add_.Tensor", {"self": H, "other": 1}),
            ("q", "aten.relu_.default", {"self": H}),
            ("y", "aten.mul.Tensor", {"self": Ref("r"), "other": 1.0}),
        ],
        [
            ("r", "aten.add_.Tensor", {"self": H, "other": 1}),
            ("v", "aten.view.default", {"self": Ref("r"), "size": [-1, 2, 3]}),
            ("q", "aten.relu_.default", {"self": H}),
            ("y", "aten.flatten.using_ints", {"self": Ref("v"), "start_dim": 1}),
        ],
        [SCALE, ("r", "aten.add_.Tensor", {"other": Ref("g"), "self": H}), OUT],
        [SCALE, ("r", "aten.add_.Tensor", {"other": H, "self": Ref("g")}), OUT],
        [SCALE, ("r", "aten.sub_.Tensor", {"other": Ref("g"), "alpha": 2, "self": H}), OUT],
        [SCALE, ("r", "aten.relu.out", {"self": H, "out": Ref("g")}), ("y", "aten.neg.default", {"self": Ref("g")})],
        [("r", "aten.relu.out", {"self": H, "out": H}), OUT],
        [SCALE, ("r", "aten.add.out", {"self": H, "other": Ref("g"), "out": H}), OUT],
        [SCALE, ("r", "aten.mul.out", {"self": Ref("g"), "other": Ref("c"), "out": H}), OUT],
        [SCALE, ("r", "aten.neg.out", {"self": Ref("g"), "out": H}), OUT],
        [SCALE, ("r", "aten.tanh.out", {"self": Ref("g"), "out": H}), OUT],
        [SCALE, ("r", "aten.leaky_relu.out", {"self": Ref("g"), "out": H}), OUT],
        [SCALE, ("r", "aten.mm.out", {"self": Ref("g"), "mat2": Ref("w"), "out": H}), OUT],
        [SCALE, ("r", "aten.linear.out", {"input": Ref("g"), "weight": Ref("w"), "out": H}), OUT],
        [SCALE, ("r", "aten.cat.out", {"tensors": [Ref("g")], "dim": 1, "out": H}), OUT],
        [SCALE, ("r", "aten.clone.out", {"self": Ref("g"), "out": H}), OUT],
        [("v", "aten.unsqueeze.default", {"self": H, "dim": 1}), ("r", "aten.neg_.default", {"self": H}),
         ("y", "aten.flatten.using_ints", {"self": Ref("v"), "start_dim": 1})],
        [("v", "aten.unsqueeze_.default", {"self": H, "dim": 1}), ("y", "aten.relu.default", {"self": H})],
        [("v", "aten.dropout_.default", {"self": H, "p": 0.5, "train": False}), OUT],
        [("v", "aten.dropout.default", {"input": H, "p": 0.5, "train": False}),
         ("r", "aten.neg_.default", {"self": Ref("v")}), OUT],
        [("v", "aten.detach.default", {"self": H}), ("r", "aten.neg_.default", {"self": H}),
         ("y", "aten.relu.default", {"self": Ref("v")})],
        [("k", "aten.clone.default", {"self": H}), ("r", "aten.neg_.default", {"self": H}),
         ("y", "aten.add.Tensor", {"self": Ref("k"), "other": Ref("c")})],
        [("k", "aten.lift_fresh_copy.default", {"self": Ref("c")}),
         ("r", "aten.add_.Tensor", {"self": H, "other": Ref("k")}), OUT],
        [("r", "aten.relu_.default", {"self": X}), ("y", "aten.add.Tensor", {"self": H, "other": X})],
        [("r", "aten.mul_.Tensor", {"self": Ref("c"), "other": 2}),
         ("y", "aten.add.Tensor", {"self": H, "other": Ref("c")})],
        [("k", "aten.contiguous.default", {"self": H}), ("r", "aten.neg_.default", {"self": Ref("k")}), OUT],
        [("k", "aten.flatten.using_ints", {"self": H, "start_dim": 1}),
         ("r", "aten.neg_.default", {"self": Ref("k")}), OUT],
    ],
)  # fmt: skip
def test_changes_in_place_are_followed_or_refused(steps: list[Step]) -> None:
    tensors = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    source = program([LINEAR, *steps], (2, 6), tensors)
    try:
        convert(source)
    except PertboundError:
        return
    for batch, scale in ((1, 1.0), (3, 1.0), (2, 300.0)):
        x = torch.randn(batch, 6) * scale
        fresh = {name: tensor.clone() for name, tensor in tensors.items()}
        expected = run(Program("x", source.input_shape, fresh, source.calls, source.output), x)
        assert torch.allclose(nodes_on(source, x), expected, rtol=1e-4, atol=1e-2)


# --- whatever a file may say ---------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 6, 7, 1 << 40, 1 << 62, 1 << 70, -(1 << 63), 0.5, -1.5, 1e39, 1e308, math.nan,
    math.inf, "", "same", "valid", "floor", [], [0], [1], [2], [-1], [3, 2], [1, 2, 3], [1 << 40], [1 << 62], [None],
    ["x"], [[1]], H, X, Ref("w"), Ref("c"), Ref("v"), Ref("z"), Ref("i"), Ref("k4"), Ref("k3"), [H], [X, H], [Ref("w")],
    [Ref("n")], Ref("n"), Ref("s"), torch.int32, "torch.float32",
]  # fmt: skip
POOL = {
    **WEIGHTS, "z": torch.zeros(0), "i": torch.arange(6), "k4": weight(2, 1, 2, 2), "k3": weight(2, 1, 3),
}  # fmt: skip


def schema_of(target: str) -> list[Any]:
    operator, overload = target.removeprefix("aten.").split(".")
    return list(getattr(getattr(torch.ops.aten, operator), overload)._schema.arguments)


def writes(target: str) -> list[str]:
    """The arguments that an operator writes into, but for the first."""
    return [a.name for a in schema_of(target)[1:] if a.alias_info is not None and a.alias_info.is_write]


ALL_TARGETS = sorted(
    f"{name}.{overload}"
    for name in HANDLERS
    if name.startswith("aten.")
    for overload in getattr(torch.ops.aten, name.removeprefix("aten.")).overloads()
)
TARGETS = [target for target in ALL_TARGETS if not writes(target)]
SHAPES = [(2, 6), (2, 1, 6), (2, 1, 6, 4), (2, 2, 3)]


@pytest.mark.parametrize("target", sorted(set(ALL_TARGETS) - set(TARGETS)))
def test_operators_that_write_into_another_tensor_are_refused(target: str) -> None:
    """Or else whoever reads that tensor later reads what it held before."""
    usual: dict[str, Any] = {
        "kernel_size": [1], "size": [-1, 6], "shape": [-1, 6], "output_size": [1], "dim": 1, "tensors": [H],
        "weight": Ref("w"), "other": Ref("w"), "mat2": Ref("w"), "train": False, "half_to_float": False, "p": 0.5,
        "out": Ref("g"), "dtype": None, "mat1": H,
    }  # fmt: skip
    arguments = {
        a.name: usual.get(a.name, H) for a in schema_of(target) if a.name in usual or not a.has_default_value()
    }
    arguments |= dict.fromkeys(writes(target), Ref("g"))
    source = program(
        [LINEAR, SCALE, ("r", target, arguments), ("y", "aten.neg.default", {"self": Ref("g")})], (2, 6), POOL
    )
    with pytest.raises(UnsupportedLayerError, match=re.escape(target)):
        convert(source)


@st.composite
def odd_programs(draw: st.DrawFn) -> Program:
    """One operator with arguments that mostly fit its schema, and some that do not."""
    target = draw(st.sampled_from(TARGETS))
    arguments: dict[str, Any] = {}
    for argument in schema_of(target):
        if argument.has_default_value() and draw(st.booleans()):
            continue
        kind = re.sub(r"[\[\]0-9]|Optional", "", str(argument.type))
        sensible: dict[str, list[Any]] = {
            "Tensor": [H, H, H, Ref("w"), Ref("c"), Ref("v"), Ref("k4"), Ref("k3")],
            "Listint": [[1], [2], [2, 1], [-1, 6], [2, -1], [2, 3, 2], []],
            "List[int]": [[1], [2], [2, 1]],
            "int": [0, 1, 2, -1],
            "bool": [False, False, True],
            "float": [0.1, 0.5, 1.0],
            "number": [1, 2, 0.5, -1.0],
            "ListTensor": [[H, H], [H]],
        }
        if "dtype" in argument.name:  # PyTorch crashes on a number that is no dtype
            arguments[argument.name] = draw(st.sampled_from([None, torch.float32, torch.float64]))
            continue
        usual = sensible.get(kind, JUNK)
        arguments[argument.name] = draw(st.sampled_from(usual if draw(st.integers(0, 7)) else JUNK))
    shape = draw(st.sampled_from(SHAPES))
    first: list[Step] = [
        ("h", "aten.mul.Tensor", {"self": X, "other": 1.5}),
        ("n", "aten.sym_size.int", {"self": X, "dim": 0}),
        ("s", "aten.sym_size.int", {"self": X, "dim": 1}),
    ]
    return program([*first, ("y", target, arguments)], shape, POOL)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(odd_programs())
def test_odd_arguments_are_computed_as_pytorch_does_or_refused(source: Program) -> None:
    try:
        convert(source)
    except PertboundError:
        return
    x = torch.randn(2, *source.input_shape[1:])
    tensors = {name: tensor.clone() for name, tensor in POOL.items()}
    try:
        expected = run(Program("x", source.input_shape, tensors, source.calls, source.output), x)
    except (RuntimeError, IndexError, TypeError, ValueError, OverflowError):
        return  # nobody can run that program
    if not isinstance(expected, Tensor):
        return
    got = nodes_on(source, x)
    assert got.shape == expected.shape, source.calls[-1]
    assert torch.allclose(got, expected.to(got.dtype), rtol=1e-4, atol=1e-4, equal_nan=True), source.calls[-1]


def test_a_layer_with_a_huge_output_is_refused_before_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of a file must not ask for all memory: padding makes outputs of any size."""
    monkeypatch.setattr(conversion, "LARGEST_SAMPLE", 10_000)
    sizes: list[int] = []
    convolve = torch.nn.functional.conv1d

    def watched(*arguments: Any, **options: Any) -> Tensor:
        result = convolve(*arguments, **options)
        if not result.is_meta:
            sizes.append(result.numel())
        return result

    monkeypatch.setattr("pertbound.layers.conv._CONVOLVE", {1: watched})
    wide: Step = ("y", "aten.conv1d.default", {"input": X, "weight": Ref("k3"), "padding": [100_000]})
    with pytest.raises(ConversionError):
        graph_of(program([wide], (2, 1, 6), POOL), torch.float32, None)
    assert max(sizes, default=0) <= 10_000


def test_a_graph_of_a_program_is_a_classifier_of_its_dtype() -> None:
    tensors = {name: tensor.double() for name, tensor in WEIGHTS.items()}
    graph, finish = graph_of(program([LINEAR], (2, 6), tensors), torch.float64, None)
    assert isinstance(graph, Graph)
    assert graph.classes == 6
    assert graph.original is None
    logits = graph(torch.zeros(3, 6, dtype=torch.float64))
    assert torch.equal(finish(logits), logits)
    with pytest.raises(InputError):
        graph(torch.zeros(3, 6))
