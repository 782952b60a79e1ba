"""Where classifiers come from: each file turns one format into a `Graph`."""

from pertbound.frontends.onnx import from_onnx
from pertbound.frontends.torch import from_pt2, from_torch

__all__ = ["from_onnx", "from_pt2", "from_torch"]
