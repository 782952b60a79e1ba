"""`pertbound bracket --budget`: two rows for each sample, whose ends hold the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pertbound import store
from pertbound.cli.main import app

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "mlp_mnist.safetensors"


def _run(out: Path, *more: str) -> object:
    rng = np.random.default_rng(1)
    data = out.parent / "samples.npz"
    np.savez(data, x=rng.random((3, 1, 28, 28), dtype=np.float32))
    asked = ["bracket", "--model", str(CHECKPOINT), "--architecture", "mlp", "--data", str(data)]
    return CliRunner().invoke(app, [*asked, "--budget", "0.3", "--out", str(out), *more])


def test_two_rows_for_each_sample(tmp_path: Path) -> None:
    done = _run(tmp_path / "run")
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    run = store.read(tmp_path / "run")
    rows = run.rows.to_pylist()
    assert len(rows) == 6
    for sample in range(3):
        lower, upper = (
            next(r for r in rows if r["sample"] == sample and r["guarantee"] == g) for g in ("certified", "witness")
        )
        assert 0 < lower["l2"] <= upper["l2"]
        assert lower["seconds"] > 0
        assert upper["seconds"] > 0
        assert lower["method"]
        assert upper["method"]
    assert len(run.witnesses["sample"]) == 3
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert options["budget"] == 0.3


@pytest.mark.parametrize("budget", ["0", "-1", "inf", "nan"])
def test_budgets_that_are_none(tmp_path: Path, budget: str) -> None:
    done = _run(tmp_path / "run", "--budget", budget)
    assert done.exit_code != 0  # type: ignore[attr-defined]
    assert not (tmp_path / "run").exists()
