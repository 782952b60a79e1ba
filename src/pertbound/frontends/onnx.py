"""Reading classifiers from ONNX files, and holding them against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import torch

from pertbound.environment import known_state
from pertbound.errors import PertboundError
from pertbound.frontends.agreement import require_agreement
from pertbound.frontends.aten import converted
from pertbound.frontends.conversion import Probabilities
from pertbound.frontends.onnx_file import read_onnx
from pertbound.frontends.onnx_operators import OPERATORS
from pertbound.frontends.onnx_reader import Reader
from pertbound.frontends.onnx_runtime import OnnxRuntime
from pertbound.graph import Graph


@known_state()
def from_onnx(path: Path | str) -> Graph:
    """The graph of a classifier in an `.onnx` file (operator sets 7 to 22), or an `.onnx.gz`.

    Weights are initialisers or external data in the file's folder; nothing outside that folder is read. The first
    dimension of the input is the batch, whether the file fixes its size or not; a final softmax is dropped, and an
    output of more dimensions flattened to (batch, classes). The graph is run beside onnxruntime on random inputs and
    must agree. `Graph.original` is onnxruntime: witnesses are run through it.

    Needs the packages onnx and onnxruntime (`pip install 'pertbound[onnx]'`). Raises `ModelFileError` for files that
    are absent, damaged or not safe to read, `UnsupportedLayerError` naming the operator and its node when there is no
    bound for it, and `ConversionError` for anything else that is not a classifier of one input tensor.
    """
    path = Path(path)
    file = read_onnx(path)
    try:
        reader = Reader(file, OPERATORS)
        result = reader.result()
        parts = converted(reader.converter, result)
        original = OnnxRuntime(file, reader.batch, softmax=isinstance(result, Probabilities))
        shape = tuple(n for n in file.input_shape[1:] if n is not None)
        graph = Graph(parts.nodes, shape, dtype=file.dtype, original=original)
        require_agreement(graph, parts.finish, original, torch.zeros(2, *shape, dtype=file.dtype))
    except PertboundError as error:
        said = str(error).encode("unicode_escape").decode()  # names are the file's: a terminal must not obey them
        raise type(error)(f"{path}: {said}") from error
    return graph
