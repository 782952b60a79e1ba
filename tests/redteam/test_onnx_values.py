"""What ONNX operators mean: thousands of models of one operator, against onnxruntime."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from redteam import onnx_singles, onnx_windows
from redteam.onnx_values import compare
from redteam.tally import Tally

FAMILIES = onnx_singles.FAMILIES | onnx_windows.FAMILIES
SHARDS = 3


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("family", FAMILIES)
def test_single_operators(family: str, shard: int, tmp_path: Path, tally: Tally) -> None:
    for one in islice(FAMILIES[family](), shard, None, SHARDS):
        compare(one, tmp_path, tally)
    tally.require_none()
