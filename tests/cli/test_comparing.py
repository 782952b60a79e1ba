"""`compare`: from run folders to tables, JSON, a figure, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparing import DATA, run
from pertbound import store
from pertbound.records import Run


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two models that can be told apart, and another that cannot."""
    radii = np.random.default_rng(0).uniform(1, 2, 60)
    for name, scale, certified in (("strong", 3.0, 0.9), ("weak", 1.0, 0.9), ("open", 3.0, 0.05)):
        store.write(tmp_path / name, run(scale * certified * radii, scale * radii, name))
    return [tmp_path / name for name in ("strong", "weak", "open")]


def test_it_explains_itself(cli: Any) -> None:
    done = cli("compare", "--help")
    assert done.code == 0
    assert "Example: pertbound compare runs/mlp runs/lenet" in " ".join(done.out.split())
    assert "Exit code 0 whatever the verdict" in " ".join(done.out.split())


def test_a_comparison_is_printed_and_written(cli: Any, folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("compare", *folders, "--radius", 2.5, "--out", out, "--format", "png", "--format", "svg")
    assert done.code == 0
    assert done.err == ""
    assert "strong more robust" in done.out
    assert "cannot tell: the brackets overlap" in done.out
    assert "Ranking by accuracy at 2.5" in done.out
    assert not any(line.endswith(" ") or "│" in line for line in done.out.splitlines()), "plain where no terminal is"
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.png", "comparison.svg"]
    said = json.loads((out / "comparison.json").read_text())
    assert said["pairs"][0]["verdict"] == "first"
    assert [model["name"] for model in said["models"]] == ["strong", "weak", "open"]


def test_json_is_all_that_is_printed_and_the_same_each_time(cli: Any, folders: list[Path]) -> None:
    first, second = (cli("compare", *folders[:2], "--json") for _ in range(2))
    assert first.code == 0
    assert first.out == second.out
    assert json.loads(first.out)["pairs"][0]["verdict"] == "first"
    other = json.loads(cli("compare", *folders[:2], "--json", "--seed", 1).out)
    assert (
        other["pairs"][0]["difference"]["lower_limit"] != json.loads(first.out)["pairs"][0]["difference"]["lower_limit"]
    )


def test_options_reach_the_comparison(cli: Any, folders: list[Path]) -> None:
    options = ("--cap", 1.5, "--predictions", "--confidence", 0.9, "--resamples", 500, "--name", "x", "--name", "y")
    said = json.loads(cli("compare", *folders[:2], "--json", *options).out)
    assert (said["cap"], said["cap_given"], said["against"]) == (1.5, True, "predictions")
    assert (said["confidence"], said["resamples"]) == (0.9, 500)
    assert [model["name"] for model in said["models"]] == ["x", "y"]


def test_a_terminal_gets_tables(cli: Any, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    done = cli("compare", *folders[:2])
    assert "│" in done.out
    assert "strong more robust" in done.out


def refused(cli: Any, *arguments: object) -> str:
    done = cli("compare", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    return " ".join(done.err.split())


def test_what_cannot_be_compared_is_refused(cli: Any, folders: list[Path], tmp_path: Path) -> None:
    strong = folders[0]
    assert "two runs" in refused(cli, strong)
    assert "more than once" in refused(cli, strong, strong)
    assert "not a run folder" in refused(cli, strong, tmp_path / "nowhere")
    for name, changes in (("norm", {"norm": "L1"}), ("data", {"data": DATA | {"sha256": "x", "name": "mnist"}})):
        other = run([1.0], [2.0], "b", **changes)
        store.write(tmp_path / name, Run(other.rows, other.about))
        assert f"the {name}" in refused(cli, strong, tmp_path / name).replace("different data", "the data")
    assert "--same-data" in refused(cli, strong, tmp_path / "data")
    assert cli("compare", strong, tmp_path / "data", "--same-data").code == 0
    assert "radii must be" in refused(cli, *folders, "--radius", "-1")
    assert "cap must be" in refused(cli, *folders, "--cap", 0)
    assert "holds a run" in refused(cli, *folders, "--out", strong)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(cli, *folders, "--out", tmp_path / "file")
    assert not (tmp_path / "comparison.json").exists()
