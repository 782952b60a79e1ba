"""Where classifiers come from: each file turns one format into a `Graph`. ONNX will be `onnx.py`."""

from pertbound.frontends.torch import from_pt2, from_torch

__all__ = ["from_pt2", "from_torch"]
