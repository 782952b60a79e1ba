"""The model itself, as onnxruntime computes it: what graphs are held against, and what witnesses are run on again."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pertbound.errors import ConversionError, ModelFileError
from pertbound.frontends.onnx_file import OnnxFile, shown


@final
class OnnxRuntime:
    """Inputs (batch, *shape) to the model's outputs, flattened to (batch, entries), by onnxruntime on the CPU.

    Where the file fixes the batch size, a batch is run in pieces of that size. `softmax` says whether the model ends in
    one, which graphs drop: then its outputs are probabilities, and the graph's are logits.
    """

    def __init__(self, file: OnnxFile, batch: int | None, *, softmax: bool) -> None:
        """`batch` is the size that the model computes at once, None for any."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelFileError(
                "ONNX files need the package onnxruntime, beside onnx: pip install 'pertbound[onnx]'"
            ) from error
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                file.runtime, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:
            raise ConversionError(f"onnxruntime refuses the model: {shown(str(error))}") from error
        self._input, self._output, self._dtype, self._batch = file.input, file.output, file.dtype, batch
        self.softmax = softmax

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs, in the dtype and on the device of x."""
        size = len(x) if self._batch is None else self._batch
        plain = x.detach().to("cpu", self._dtype)
        parts = [self._run(part, size) for part in plain.split(size)] if len(x) else [plain.flatten(1)]
        return torch.cat(parts).to(x)

    def _run(self, x: Tensor, size: int) -> Tensor:
        whole = torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x
        try:
            (found,) = self._session.run([self._output], {self._input: np.ascontiguousarray(whole.numpy())})
        except Exception as error:
            raise ConversionError(f"onnxruntime cannot run the model: {shown(str(error))}") from error
        result = torch.from_numpy(np.array(found))
        if result.numel() == 0 or result.numel() % size:
            raise ConversionError(f"the model returns shape {tuple(result.shape)} for a batch of {size}")
        return result.reshape(size, -1)[: len(x)]
