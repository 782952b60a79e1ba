"""Graphs read from single-operator models, held against onnxruntime on the file as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import pertbound as pb
from pertbound.graph import in_float64
from redteam.onnx_singles import Single
from redteam.tally import Tally

TOLERANCE = 2e-5
"""Of the largest output and 1: some three hundred float32 roundings. Each output here comes of at most 300 terms."""


def compare(one: Single, folder: Path, tally: Tally) -> None:
    """Read the model, and compare the graph in both precisions with onnxruntime on inputs of several sizes."""
    path = folder / "net.onnx"
    data = one.model.SerializeToString()
    path.write_bytes(data)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 its own errors have no common base
        tally["onnx: models that onnxruntime refuses"] += 1
        session = None
    try:
        graph = pb.from_onnx(path)
    except pb.PertboundError as error:
        tally[f"onnx: refused ({type(error).__name__})"] += 1
        if "something else than the model" in str(error):
            tally["onnx: misread, and refused for disagreement"] += 1
            tally.misread.append(f"{one.said}: {str(error)[-300:]}")
        return
    except Exception as error:  # noqa: BLE001 a traceback is a fault
        tally.fault(f"{one.said}: {type(error).__name__}: {str(error)[:200]}")
        return
    if session is None:
        tally.fault(f"{one.said}: read, but onnxruntime refuses it")
        return
    tally["onnx: models compared"] += 1
    fixed = None if isinstance(one.shape[0], str) else int(one.shape[0])
    for x in _inputs(tuple(int(n) for n in one.shape[1:])):
        parts = x.split(fixed or len(x))
        expected = np.concatenate(
            [np.asarray(session.run(None, {"x": p.numpy()})[0]).reshape(len(p), -1) for p in parts]
        )
        softmax = "Softmax" in one.said.split(" of ")[0]
        for got in (graph.run(x), graph.derive(in_float64).run(x.double())):
            tally["onnx: outputs compared"] += got.numel()
            if softmax:
                got = got.softmax(1).log() if "LogSoftmax" in one.said else got.softmax(1)
            difference = np.abs(got.detach().numpy().astype(np.float64) - expected)
            allowed = TOLERANCE * (1 + np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
            if got.shape != expected.shape or not difference.max(initial=0.0) <= allowed:
                tally.fault(f"{one.said}: differs from onnxruntime by {difference.max(initial=0.0):.3g}")
                return


def _inputs(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    plain = torch.randn(3, *shape, generator=generator)
    kinks = torch.randint(-7, 8, (4, *shape), generator=generator) / 2
    return [plain, 8 * plain, kinks]
