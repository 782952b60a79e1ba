"""What ONNX operators mean: thousands of models of one operator, against onnxruntime."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from pertbound.frontends import onnx
from pertbound.frontends import onnx_windows as windows
from redteam import onnx_singles, onnx_windows
from redteam.onnx_values import compare
from redteam.tally import Tally

FAMILIES = onnx_singles.FAMILIES | onnx_windows.FAMILIES
SHARDS = 3
pairs = windows._pairs


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("family", FAMILIES)
def test_single_operators(family: str, shard: int, tmp_path: Path, tally: Tally) -> None:
    for one in islice(FAMILIES[family](), shard, None, SHARDS):
        compare(one, tmp_path, tally)
    tally.require_none()


def test_a_few_operators(tmp_path: Path, tally: Tally) -> None:
    for one in islice(FAMILIES["padding"](), 4):
        compare(one, tmp_path, tally)
    tally.require_none()
    assert tally["onnx: models compared"] > 0


def test_a_misread_operator_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding on the wrong sides, where the graph is not run beside the model."""
    monkeypatch.setattr(windows, "_pairs", lambda before, after: pairs(after, before))
    monkeypatch.setattr(onnx, "require_agreement", lambda *a: None)
    tally = Tally()
    for one in islice(FAMILIES["padding"](), 12):
        compare(one, tmp_path, tally)
    assert tally.faults
