"""Small ONNX models, written out, and the `onnx` package's own evaluator to hold graphs against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

Arrays = dict[str, Any]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, and "." is an input left out."""
    names = ["" if name == "." else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"the {kind.lower()}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    arrays: Arrays | None = None,
    *,
    opset: int = 17,
    dtype: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from input x, of that shape, to output y, with `arrays` stored."""
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (arrays or {}).items()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(source: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    """The model's file."""
    path = folder / name
    path.write_bytes(source.SerializeToString())
    return path


def outputs(source: onnx.ModelProto, x: Tensor) -> Tensor:
    """What the reference evaluator says, flattened, one sample at a time."""
    evaluator = ReferenceEvaluator(source)
    found = [np.asarray(evaluator.run(None, {"x": sample[None].numpy()})[0]).reshape(1, -1) for sample in x]
    return torch.from_numpy(np.concatenate(found))


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlp(batch: int | str = 1) -> onnx.ModelProto:
    """Two dense layers on 4 inputs, 3 classes."""
    arrays = {"w": weights(5, 4), "b": weights(5), "v": weights(3, 5), "c": weights(3)}
    nodes = [
        node("Flatten", "x", "f"),
        node("Gemm", "f w b", "g", transB=1),
        node("Relu", "g", "r"),
        node("Gemm", "r v c", "y", transB=1),
    ]
    return model(nodes, (batch, 2, 2), arrays)


def convnet(opset: int = 13) -> onnx.ModelProto:
    """Most of what classifiers of images are made of, on (1, 6, 6), with its shape arithmetic; 3 classes."""
    axes = {"axes": [0]} if opset < 13 else {}
    arrays = {
        "mean": weights(1, 1, 1), "k": weights(2, 1, 3, 3), "kb": weights(2), "s": weights(2) ** 2, "t": weights(2),
        "m": weights(2), "v": weights(2) ** 2, "k2": weights(2, 2, 1, 1), "w": weights(8, 3), "c": weights(3),
        "zero": np.array(0), "minus": np.array([-1]), "axes0": np.array([0]),
    }  # fmt: skip
    nodes = [
        node("Sub", "x mean", "x0"),
        node("Conv", "x0 k kb", "a", pads=[1, 1, 1, 1], strides=[1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", "a s t m v", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r k2", "d", auto_pad="SAME_UPPER"),
        node("Add", "d r", "e"),
        node("MaxPool", "e", "p", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
        node("AveragePool", "p", "q", kernel_shape=[2, 2], strides=[1, 1]),
        node("Shape", "q", "shape"),
        node("Gather", "shape zero", "first"),
        node("Unsqueeze", "first" if axes else "first axes0", "first1", **axes),
        node("Concat", "first1 minus", "wanted", axis=0),
        node("Reshape", "q wanted", "flat"),
        node("MatMul", "flat w", "z"),
        node("Add", "z c", "logits"),
        node("Softmax", "logits", "y", axis=1),
    ]
    return model(nodes, ("N", 1, 6, 6), arrays, opset=opset)


def rearranged(opset: int = 18) -> onnx.ModelProto:
    """Operators that move entries, and pooling that is not even, on (1, 4, 5); 20 classes."""
    arrays = {
        "pads": np.array([0, 0, 0, 1, 0, 0, 1, 2]), "starts": np.array([1]), "ends": np.array([2**31]),
        "axes": np.array([3]), "parts": np.array([2, 4]), "some": np.array([2, 0, 1]), "tiles": np.array([1, 1, 2, 1]),
        "low": np.array(-0.5, np.float32), "high": np.array(2.0, np.float32), "rows": np.array([2]),
        "shape": np.array([0, 2, -1]), "k": weights(2, 1, 2, 2), "t": weights(2, 1, 2, 2),
    }  # fmt: skip
    nodes = [
        node("Pad", "x pads", "p", mode="constant"),
        node("Slice", "p starts ends axes", "s"),
        node("Clip", "s low high", "c"),
        node("Conv", "c k", "v", pads=[0, 1, 1, 0]),
        node("Relu", "v", "r"),
        node("MaxPool", "r", "m", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("ConvTranspose", "m t", "u", strides=[2, 2]),
        node("Transpose", "u", "w", perm=[0, 2, 3, 1]),
        node("Split", "w parts", "a b", axis=1),
        node("Concat", "b a", "j", axis=1),
        node("Gather", "j some", "g", axis=2),
        node("Tile", "g tiles", "i"),
        node("ReduceMean", "i rows", "n", keepdims=0),
        node("Reshape", "n shape", "q"),
        node("Flatten", "q", "y"),
    ]
    return model(nodes, (1, 1, 4, 5), arrays, opset=opset)
