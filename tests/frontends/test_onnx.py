"""ONNX operators against the `onnx` package's own evaluator: a model is refused by name, or its graph computes it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import pertbound as pb
from oracles.onnx_models import convnet, mlp, model, node, outputs, rearranged, weights, written
from pertbound.frontends.onnx_file import OPSETS
from pertbound.frontends.onnx_operators import OPERATORS

OPSET = [7, 9, 10, 11, 12, 13, 14, 17, 18, 20, 22]
Nodes = list[onnx.NodeProto]
Case = tuple[Nodes, tuple[Any, ...], dict[str, Any]]


def _axes(opset: int, since: int, name: str, values: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A list that became an input with an operator set: the input's name, attributes, stored arrays."""
    if opset >= since:
        return f" {name}", {}, {name: np.array(values)}
    return "", {name: values}, {}


def _pooled(kind: str, **attributes: Any) -> Callable[[int], Case]:
    return lambda opset: ([node("Relu", "x", "r"), node(kind, "r", "y", **attributes)], (1, 2, 7, 6), {})


def _unary(kind: str, **attributes: Any) -> Callable[[int], Case]:
    return lambda opset: ([node(kind, "x", "y", **attributes)], ("N", 5), {})


def _binary(kind: str, inputs: str = "x c", shape: tuple[int, ...] = (2, 1)) -> Callable[[int], Case]:
    return lambda opset: ([node(kind, inputs, "y")], ("N", 2, 3), {"c": weights(*shape) + 2})


def _conv(*shape: int, spatial: tuple[int, ...] = (7, 6), **attributes: Any) -> Callable[[int], Case]:
    channels = shape[1] * attributes.get("group", 1)
    arrays = {"w": weights(*shape), "b": weights(shape[0])}
    return lambda opset: ([node("Conv", "x w b", "y", **attributes)], (1, channels, *spatial), arrays)


def _gemm(c: tuple[int, ...] = (3,), **attributes: Any) -> Callable[[int], Case]:
    w = weights(3, 4) if attributes.get("transB") else weights(4, 3)
    return lambda opset: ([node("Gemm", "x w c", "y", **attributes)], ("N", 4), {"w": w, "c": weights(*c)})


def _shaped(kind: str, wanted: list[int], shape: tuple[Any, ...], **attributes: Any) -> Callable[[int], Case]:
    return lambda opset: ([node(kind, "x s", "y", **attributes)], shape, {"s": np.array(wanted)})


def _listed(kind: str, since: int, name: str, values: list[int], shape: tuple[Any, ...], **more: Any) -> Any:
    def case(opset: int) -> Case:
        inputs, attributes, arrays = _axes(opset, since, name, values)
        return [node(kind, f"x{inputs}", "y", **attributes, **more)], shape, arrays

    return case


def _slice(opset: int) -> Case:
    values = {"starts": [1, -3], "ends": [3, 2**31], "axes": [1, -1]}
    if opset < 10:
        return [node("Slice", "x", "y", **values)], ("N", 4, 5), {}
    arrays = {name: np.array(v) for name, v in values.items()} | {"steps": np.array([1, 2])}
    return [node("Slice", "x starts ends axes steps", "y")], ("N", 4, 5), arrays


def _split(opset: int) -> Case:
    inputs, attributes, arrays = _axes(opset, 13, "split", [1, 3])
    return (
        [node("Split", f"x{inputs}", "a b", axis=1, **attributes), node("Concat", "b a", "y", axis=1)],
        ("N", 4),
        arrays,
    )


def _pad(opset: int) -> Case:
    inputs, attributes, arrays = _axes(opset, 11, "pads", [0, 0, 1, 0, 0, 0, 2, 3])
    return [node("Pad", f"x{inputs}", "y", mode="constant", **attributes)], (1, 2, 3, 4), arrays


def _clip(low: float | None, high: float | None) -> Callable[[int], Case]:
    def case(opset: int) -> Case:
        if opset < 11:
            ends = {name: end for name, end in (("min", low), ("max", high)) if end is not None}
            return [node("Clip", "x", "y", **ends)], ("N", 4), {}
        names = " ".join("." if end is None else name for name, end in (("low", low), ("high", high)))
        arrays = {n: np.array(end, np.float32) for n, end in (("low", low), ("high", high)) if end is not None}
        return [node("Clip", f"x {names}", "y")], ("N", 4), arrays

    return case


def _batch_norm(opset: int) -> Case:
    arrays = {"s": weights(3), "b": weights(3, seed=1), "m": weights(3, seed=2), "v": weights(3, seed=3) ** 2}
    return [node("BatchNormalization", "x s b m v", "y", epsilon=1e-3)], ("N", 3, 2, 2), arrays


def _gelu(opset: int) -> Case:
    """x (1 + erf(x / sqrt 2)) / 2, one operator after the other."""
    nodes = [
        node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Mul", "x a", "m"),
        node("Mul", "m half", "y"),
    ]  # fmt: skip
    return nodes, ("N", 4), {n: np.array(v, np.float32) for n, v in (("root", 2**0.5), ("one", 1), ("half", 0.5))}


def _half_gelu(opset: int) -> Case:
    nodes = [
        node("Mul", "x half", "h"), node("Mul", "x root", "d"), node("Erf", "d", "e"), node("Add", "one e", "a"),
        node("Mul", "h a", "y"),
    ]  # fmt: skip
    return nodes, ("N", 4), {n: np.array(v, np.float32) for n, v in (("root", 0.5**0.5), ("one", 1), ("half", 0.5))}


def _residual(opset: int) -> Case:
    return [node("Relu", "x", "r"), node("Sub", "r x", "d"), node("Sum", "d r x", "y")], ("N", 4), {}


def _constants(opset: int) -> Case:
    """Constants from arithmetic: 2 x 3 of ones, twice, as a weight."""
    tensor = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])
    nodes = [
        node("Constant", "", "s", value=helper.make_tensor("s", TensorProto.INT64, [2], [4, 3])),
        node("ConstantOfShape", "s", "w", value=tensor),
        node("Mul", "w w", "w2"),
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Slice", "f", "g", starts=[1], ends=[2]) if opset < 10 else node("Identity", "f", "g"),
        node("MatMul", "x w2", "h"),
        node("Identity", "h", "y"),
    ]
    return nodes, ("N", 4), {}


def _dynamic_shape(opset: int) -> Case:
    """What exporters write for x.view(x.size(0), 2, -1): the sizes are computed, here with Where and Equal as well."""
    unsqueeze, attributes, arrays = _axes(opset, 13, "axes", [0])
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", f"n{unsqueeze}", "n1", **attributes),
        node("Concat", "n1 two rest", "wanted", axis=0),
        node("Equal", "wanted rest", "open"),
        node("Where", "open minus wanted", "final"),
        node("Reshape", "x final", "z"),
        node("Expand", "z wide", "y"),
    ]
    one, two = np.array([-7]), np.array([2])
    arrays |= {"zero": np.array(0), "two": two, "rest": one, "minus": np.array([-1]), "wide": np.array([1, 1, 1])}
    return nodes, ("N", 4, 3), arrays


CASES: dict[str, Callable[[int], Case]] = {
    "gemm": _gemm(),
    "gemm transposed": _gemm(transB=1),
    "gemm scaled": _gemm((1, 3), transB=1, alpha=0.5, beta=2.0),
    "gemm one bias": _gemm((1,)),
    "matmul": lambda opset: ([node("MatMul", "x w", "y")], ("N", 2, 4), {"w": weights(4, 3)}),
    "matmul of a row": lambda opset: ([node("MatMul", "x w", "y")], ("N", 2, 4), {"w": weights(4)}),
    "matmul of columns": lambda opset: ([node("MatMul", "w x", "y")], (1, 4, 1), {"w": weights(3, 4)}),
    "matmul from the left": lambda opset: ([node("MatMul", "w x", "y")], (1, 4, 2), {"w": weights(3, 4)}),
    **{f"{kind} constant": _binary(kind) for kind in ("Add", "Sub", "Mul", "Div")},
    **{f"constant {kind}": _binary(kind, "c x", (3,)) for kind in ("Add", "Sub", "Mul")},
    "residual": _residual,
    "conv": _conv(4, 2, 3, 3, pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv uneven": _conv(4, 2, 3, 3, pads=[0, 1, 2, 3], strides=[2, 1]),
    "conv uneven, dilated": _conv(4, 2, 2, 3, pads=[0, 1, 3, 2], dilations=[2, 2]),
    "conv in groups": _conv(4, 1, 3, 2, group=2),
    "conv same upper": _conv(2, 1, 2, 4, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": _conv(2, 1, 3, 4, auto_pad="SAME_LOWER", strides=[1, 2]),
    "conv valid": _conv(2, 1, 3, 3, auto_pad="VALID"),
    "conv of one dimension": _conv(2, 3, 3, spatial=(9,), pads=[1, 2]),
    "conv of three dimensions": _conv(2, 1, 2, 2, 2, spatial=(3, 4, 3)),
    "max pool": _pooled("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    "max pool uneven": _pooled("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 2]),
    "average pool": _pooled("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool, padding counts": _pooled("AveragePool", kernel_shape=[3, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    "average pool uneven": _pooled("AveragePool", kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1),
    "global average": _pooled("GlobalAveragePool"),
    "global maximum": _pooled("GlobalMaxPool"),
    "lp pool": _pooled("LpPool", kernel_shape=[2, 2], strides=[2, 2], p=2),
    "batch norm": _batch_norm,
    **{kind: _unary(kind) for kind in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Neg")},
    "identity": lambda opset: ([node("Relu", "x", "r"), node("Identity", "r", "y")], ("N", 4), {}),
    "leaky": _unary("LeakyRelu", alpha=0.3),
    "hard sigmoid": _unary("HardSigmoid", alpha=0.3),
    "prelu": lambda opset: ([node("PRelu", "x s", "y")], ("N", 5), {"s": np.array([0.2], np.float32)}),
    "clip": _clip(-0.5, 0.7),
    "clip below": _clip(0.1, None),
    "clip above": _clip(None, 0.2),
    "relu6": _clip(0.0, 6.0),
    "relu by maximum": lambda opset: ([node("Max", "x c", "y")], ("N", 4), {"c": np.zeros(1, np.float32)}),
    "minimum": lambda opset: ([node("Min", "c x", "y")], ("N", 4), {"c": np.full(1, 0.3, np.float32)}),
    "dropout": lambda opset: ([node("Relu", "x", "r"), node("Dropout", "r", "y m")], ("N", 4), {}),
    "flatten": lambda opset: ([node("Flatten", "x", "y")], ("N", 2, 3), {}),
    "flatten of a batch of 1": lambda opset: ([node("Flatten", "x", "y", axis=0)], (1, 2, 3), {}),
    "flatten at 2": lambda opset: ([node("Flatten", "x", "y", axis=2)], ("N", 1, 2, 3), {}),
    "reshape": _shaped("Reshape", [-1, 3, 2], ("N", 2, 3)),
    "reshape with 0": _shaped("Reshape", [0, -1], ("N", 2, 3)),
    "reshape to a batch of 1": _shaped("Reshape", [1, -1], ("N", 2, 3)),
    "computed shape": _dynamic_shape,
    "constants": _constants,
    "squeeze": _listed("Squeeze", 13, "axes", [1, -1], ("N", 1, 4, 1)),
    "squeeze all": lambda opset: ([node("Squeeze", "x", "y")], ("N", 1, 4, 1), {}),
    "unsqueeze": _listed("Unsqueeze", 13, "axes", [1, -1], ("N", 4, 2)),
    "transpose of a one": lambda opset: ([node("Transpose", "x", "y", perm=[0, 3, 1, 2])], ("N", 3, 4, 1), {}),
    "transpose": lambda opset: ([node("Transpose", "x", "y", perm=[0, 3, 1, 2])], ("N", 3, 4, 2), {}),
    "concat": lambda opset: ([node("Relu", "x", "r"), node("Concat", "r x r", "y", axis=-1)], ("N", 2, 2), {}),
    "slice": _slice,
    "split": _split,
    "gather one": lambda opset: ([node("Gather", "x i", "y", axis=1)], ("N", 4, 3), {"i": np.array(-2)}),
    "gather some": lambda opset: ([node("Gather", "x i", "y", axis=2)], ("N", 4, 3), {"i": np.array([2, 0, 2])}),
    "pad": _pad,
    "pad by reflection": lambda opset: (
        [node("Pad", "x p", "y", mode="reflect")], (1, 2, 4, 5), {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}
    ),
    "pad by a number": lambda opset: (
        [node("Pad", "x p v", "y")], (1, 3), {"p": np.array([0, 1, 0, 0]), "v": np.array(0.5, np.float32)}
    ),
    "tile": lambda opset: ([node("Tile", "x t", "y")], ("N", 2, 3), {"t": np.array([1, 2, 1])}),
    "expand": lambda opset: ([node("Expand", "x t", "y")], ("N", 1, 3), {"t": np.array([2, 1])}),
    "upsample": lambda opset: (
        [node("Upsample", "x t", "y", mode="nearest")], (1, 2, 2, 3), {"t": np.array([1, 1, 2, 3], np.float32)}
    ),
    "resize": lambda opset: (
        [node("Resize", "x . t", "y", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        (1, 2, 2, 3), {"t": np.array([1, 1, 2, 2], np.float32)},
    ),
    "depth to space": lambda opset: ([node("DepthToSpace", "x", "y", blocksize=2)], (1, 8, 2, 3), {}),
    "depth to space by columns": lambda opset: (
        [node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")], (1, 8, 2, 3), {}
    ),
    "space to depth": lambda opset: ([node("SpaceToDepth", "x", "y", blocksize=2)], (1, 2, 4, 6), {}),
    "maximum of values": lambda opset: (
        [node("Neg", "x", "n"), node("Max", "x n c", "y")], ("N", 4), {"c": np.full(4, 0.3, np.float32)}
    ),
    "mean of values": lambda opset: ([node("Neg", "x", "n"), node("Mean", "x n x", "y")], ("N", 4), {}),
    "concat of constants": lambda opset: ([node("Concat", "c x c", "y", axis=1)], (1, 3), {"c": weights(1, 2)}),
    "conv transpose": lambda opset: (
        [node("ConvTranspose", "x w b", "y", strides=[2, 2], pads=[1, 0, 1, 0], output_padding=[1, 0])],
        (1, 3, 3, 4), {"w": weights(3, 2, 3, 2), "b": weights(2)},
    ),
    **{kind: _unary(kind) for kind in ("Abs", "Elu", "Celu", "Selu", "HardSwish", "Mish", "Gelu")},
    "gelu by tanh": _unary("Gelu", approximate="tanh"),
    "gelu written out": _gelu,
    "gelu from its half": _half_gelu,
    "silu": lambda opset: ([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")], ("N", 5), {}),
    "square": lambda opset: ([node("Pow", "x c", "y")], ("N", 4), {"c": np.array(2.0, np.float32)}),
    "layer norm": lambda opset: (
        [node("LayerNormalization", "x s b", "y", axis=2)], ("N", 2, 3, 4), {"s": weights(3, 4), "b": weights(3, 4)}
    ),
    "group norm": lambda opset: (
        [node("GroupNormalization", "x s b", "y", num_groups=2)], (1, 4, 3), {"s": weights(4), "b": weights(4, seed=1)}
    ),
    "instance norm": lambda opset: (
        [node("InstanceNormalization", "x s b", "y")], (1, 2, 3, 4), {"s": weights(2), "b": weights(2, seed=1)}
    ),
    "prelu of channels": lambda opset: ([node("PRelu", "x s", "y")], ("N", 2, 3), {"s": weights(2, 1) ** 2}),
    "mean": _listed("ReduceMean", 18, "axes", [2, 3], (1, 4, 3, 2), keepdims=0),
    "mean of rows": _listed("ReduceMean", 18, "axes", [1], (1, 4, 3, 2), keepdims=1),
    "largest of rows": _listed("ReduceMax", 18, "axes", [1, 3], (1, 4, 3, 2), keepdims=1),
    "smallest of rows": _listed("ReduceMin", 18, "axes", [2], (1, 4, 3), keepdims=0),
    "sum": _listed("ReduceSum", 13, "axes", [-1], ("N", 4, 3), keepdims=1),
    "softmax": lambda opset: ([node("Relu", "x", "r"), node("Softmax", "r", "y", axis=1)], ("N", 4), {}),
    "log softmax": lambda opset: ([node("Neg", "x", "r"), node("LogSoftmax", "r", "y", axis=-1)], ("N", 4), {}),
}  # fmt: skip


SINCE = {
    **{"batch norm": 14, "constants": 9, "computed shape": 11, "relu by maximum": 8, "minimum": 8, "expand": 8},
    **{"pad by reflection": 11, "pad by a number": 11, "resize": 13, "upsample": 9},
    **{"Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20, "gelu by tanh": 20, "layer norm": 17, "group norm": 21},
    **{
        "depth to space by columns": 11,
        "maximum of values": 8,
        "mean of values": 8,
        "gelu written out": 9,
        "gelu from its half": 9,
    },
}
UNTIL = {"upsample": 9}
"""Operator sets before which the evaluator, or an operator in the model, does not exist."""


def computed_alike(source: onnx.ModelProto, path: Path) -> pb.Graph:
    """The graph of the file, held against the reference evaluator by hand (from_onnx has asked onnxruntime)."""
    graph = pb.from_onnx(path)
    x = torch.randn(3, *graph.input_shape, generator=torch.Generator().manual_seed(1), dtype=graph.dtype)
    expected, got = outputs(source, x), graph.run(x)
    last = source.graph.node[-1].op_type
    got = got.softmax(1) if last == "Softmax" else got.log_softmax(1) if last == "LogSoftmax" else got
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-4)
    assert graph.original is not None
    assert torch.allclose(graph.original(x), expected, atol=1e-5, rtol=1e-4)
    return graph


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_what_onnx_says(name: str, tmp_path: Path) -> None:
    before = b""
    for opset in OPSET:
        nodes, shape, arrays = CASES[name](opset)
        if not SINCE.get(name, 0) <= opset <= UNTIL.get(name, 22):
            continue
        source = model(nodes, shape, arrays, opset=opset)
        schemas = [onnx.defs.get_schema(n.op_type, opset).since_version for n in nodes]
        key = repr(([n.SerializeToString() for n in nodes], schemas)).encode()
        if key != before:  # the operators mean something else than in the set before
            computed_alike(source, written(source, tmp_path))
        before = key


def test_whole_networks(tmp_path: Path) -> None:
    for opset in (9, 14, 22):
        path = written(source := convnet(opset), tmp_path)
        graph = computed_alike(source, path) if opset >= SINCE["batch norm"] else pb.from_onnx(path)
        assert graph.nodes[0].where == "node 'the sub' (Sub)"
        assert graph.classes == 3
    computed_alike(source := rearranged(), written(source, tmp_path))
    for batch in (1, "N", 5):
        source = mlp(batch)
        graph = pb.from_onnx(written(source, tmp_path))
        x = torch.randn(7, 2, 2)
        assert graph.original is not None
        assert torch.allclose(graph.original(x), graph(x), atol=1e-5)
        if batch != 5:
            computed_alike(source, tmp_path / "net.onnx")


def test_local_response_normalisation(tmp_path: Path) -> None:
    """The evaluator leaves the last channel of each window out; onnxruntime and the specification do not."""
    path = written(model([node("LRN", "x", "y", size=3, alpha=0.1, bias=1.5)], (1, 5, 2, 2)), tmp_path)
    x = torch.randn(1, 5, 2, 2)
    expected = torch.nn.functional.local_response_norm(x, 3, 0.1, 0.75, 1.5)
    assert torch.allclose(pb.from_onnx(path)(x), expected.flatten(1), atol=1e-6)


def test_padding_may_cut(tmp_path: Path) -> None:
    """The evaluator does not read negative pads; onnxruntime, which every graph is held against, does."""
    source = model([node("Pad", "x p", "y")], (1, 5), {"p": np.array([0, -1, 0, 2])})
    x = torch.randn(1, 5)
    assert torch.equal(pb.from_onnx(written(source, tmp_path))(x)[0], torch.cat([x[0, 1:], torch.zeros(2)]))


def test_gzipped_float64_and_external_files(tmp_path: Path) -> None:
    source = mlp()
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(source.SerializeToString()))
    x = torch.randn(2, 2, 2)
    expected = pb.from_onnx(tmp_path / "net.onnx.gz")(x)
    onnx.save(source, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
    assert (tmp_path / "apart.data").stat().st_size > 4 * 30
    assert torch.equal(pb.from_onnx(tmp_path / "apart.onnx")(x), expected)
    arrays = {"w": weights(3, 4).astype(np.float64), "c": weights(3).astype(np.float64)}
    double = model([node("Gemm", "x w c", "y", transB=1)], ("N", 4), arrays, dtype=TensorProto.DOUBLE)
    graph = computed_alike(double, written(double, tmp_path))
    assert graph.dtype == torch.float64


def test_certificates_and_attacks_work_on_them(tmp_path: Path) -> None:
    graph = pb.from_onnx(written(convnet(), tmp_path))
    x = torch.randn(3, 1, 6, 6)
    bracket = pb.bracket(graph, x, certificates=[pb.Lipschitz(), pb.LinearRelaxation()], attacks=[pb.DDN()])
    assert bool((bracket.lower <= bracket.upper).all())


def test_the_vnncomp_networks_load_and_certify(data_root: Path) -> None:
    paths = sorted((data_root / "networks").glob("**/*.onnx"))
    assert len(paths) == 7
    for path in paths:
        graph = pb.from_onnx(path)
        assert graph.classes == 10
        if "256x2" in path.name:  # the others take longer; benchmarks/vnncomp.py asks all
            x = torch.rand(2, *graph.input_shape, generator=torch.Generator().manual_seed(0))
            assert bool((pb.certify(graph, x, pb.Lipschitz()).radius > 0).all())


REFUSED: dict[str, tuple[Nodes, tuple[Any, ...], dict[str, Any], str]] = {
    "operator": ([node("Tan", "x", "y")], ("N", 4), {}, r"node 'the tan' \(Tan\).*'Tan'.*Supported are "),
    "softmax inside": ([node("Softmax", "x", "s"), node("Relu", "s", "y")], ("N", 4), {}, "very end"),
    "error function": ([node("Erf", "x", "y")], ("N", 4), {}, "only within GELU"),
    "two values": ([node("Relu", "x", "r"), node("MatMul", "x r", "y")], (1, 4, 4), {}, "stored matrix"),
    "value as weight": ([node("Gemm", "w x", "y")], (1, 4), {"w": weights(2, 1)}, "input 0 must depend"),
    "training": ([node("BatchNormalization", "x s s s s", "y a b", training_mode=1)], ("N", 2), {"s": weights(2)},
                 "evaluation mode"),
    "batch moved": ([node("Transpose", "x", "y", perm=[1, 0])], (1, 4), {}, "moves the batch"),
    "batch mixed": ([node("Reshape", "x s", "y")], ("N", 4), {"s": np.array([-1, 2])}, "first dimension"),
    "batch lost": ([node("Reshape", "x s", "y")], (1, 4), {"s": np.array([4])}, "first dimension"),
    "batch split": ([node("Gather", "x i", "y")], (1, 4), {"i": np.array(0)}, "along the batch"),
    "max pool where": ([node("MaxPool", "x", "a y", kernel_shape=[2])], (1, 2, 4), {}, "maxima are not computed"),
    "loop": ([helper.make_node("Relu", ["x"], ["y"], body=helper.make_graph([], "g", [], []))], ("N", 4), {},
             "control flow"),
    "unknown batch and more": ([node("Relu", "x", "y")], ("N", "M"), {}, "only the batch"),
    "no batch": ([node("Relu", "x", "y")], (4,), {}, "batch dimension"),
    "one class": ([node("Gemm", "x w", "y")], ("N", 4), {"w": weights(4, 1)}, "at least 2 classes"),
    "nothing of the input": ([node("Identity", "w", "y")], ("N", 4), {"w": weights(1, 4)}, "does not depend"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_bound_is_refused_by_name(name: str, tmp_path: Path) -> None:
    nodes, shape, arrays, message = REFUSED[name]
    with pytest.raises(pb.ConversionError, match=message) as caught:
        pb.from_onnx(written(model(nodes, shape, arrays), tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("opset", [6, 23])
def test_other_operator_sets_are_refused(opset: int, tmp_path: Path) -> None:
    assert list(OPSETS) == list(range(7, 23))
    with pytest.raises(pb.ConversionError, match=re.escape(f"operator set [{opset}]; 7 to 22")):
        pb.from_onnx(written(model([node("Relu", "x", "y")], ("N", 4), opset=opset), tmp_path))


def test_a_graph_that_computes_something_else_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken copy of a handler: half of a bias is forgotten."""
    right = OPERATORS["Gemm"]

    def wrong(reader: Any, op: Any) -> Any:
        inputs = (*op.inputs[:2], 0.5 * op.inputs[2])
        return right(reader, type(op)(op.kind, op.where, inputs, op.attributes, op.outputs, op.opset))

    monkeypatch.setitem(OPERATORS, "Gemm", wrong)
    with pytest.raises(pb.ConversionError, match="computes something else"):
        pb.from_onnx(written(mlp(), tmp_path))


def test_the_packages_are_named_where_they_are_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(mlp(), tmp_path)
    for package in ("onnxruntime", "onnx"):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, package, None)
            with pytest.raises(pb.ModelFileError, match=re.escape("pip install 'pertbound[onnx]'")):
                pb.from_onnx(path)
