"""`report`, `demo` and `reproduce`: pages, and whole studies in one command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pertbound import store
from pertbound.data import DataSet, load
from pertbound.models import load_model

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
CHECKPOINT = CHECKPOINTS / "lenet_mnist.safetensors"


def asked(files: Path, out: Path) -> list[object]:
    return [
        "--model", files / "digits.safetensors", "--architecture", "digits", "--data", "digits", "--limit", 10,
        "--out", out,
    ]  # fmt: skip


ELSEWHERE = re.compile(
    r"""<(script|img|link|iframe|source)[^>]*\s(src|href)\s*=(?!"data:)|@import|url\(["']?(?!["']?(#|data:))"""
)
"""Scripts, styles, fonts or pictures that a page would load."""


def test_a_report_is_one_page_that_loads_nothing(cli: Any, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli("bracket", *asked(files, out)).code == 0
    done = cli("report", out)
    assert done.code == 0
    assert str(out / "index.html") in done.out
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert not ELSEWHERE.search(page)
    assert "lipschitz" in page
    assert "fgs" in page


def test_figures_and_tables_for_papers(cli: Any, files: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "paper"
    assert cli("bracket", *asked(files, run)).code == 0
    done = cli("report", run, "--out", out, *(part for kind in ("svg", "tex", "csv") for part in ("--format", kind)))
    assert done.code == 0, done.err
    assert f"Wrote: {out / 'tables.tex'}" in done.out
    assert {path.name for path in out.iterdir()} == {"figures", "tables.tex", "samples.csv", "methods.csv"}
    assert {"bracket.svg", "curves.svg", "layer_factors.svg"} <= {path.name for path in (out / "figures").iterdir()}
    refused = cli("report", run, "--out", tmp_path / "page.html", "--format", "png")
    assert refused.code == 2
    assert "needs a folder" in refused.err


def test_several_runs_share_a_page(cli: Any, files: Path, tmp_path: Path) -> None:
    for command in ("certify", "attack"):
        assert cli(command, *asked(files, tmp_path / command)).code == 0
    page = tmp_path / "elsewhere" / "page"
    done = cli("report", tmp_path / "certify", tmp_path / "attack", "--out", page)
    assert done.code == 0
    assert (page / "index.html").is_file()
    assert not (tmp_path / "certify" / "index.html").exists()
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "lipschitz" in text
    assert "fgs" in text


@pytest.mark.slow
def test_the_demo_trains_brackets_and_reports(cli: Any, tmp_path: Path) -> None:
    """Under a minute on two cores."""
    done = cli("demo", "--out", tmp_path / "demo")
    assert done.code == 0
    assert "Violations of certificates: 0" in done.out
    rows = store.read(tmp_path / "demo").rows.to_pydict()
    assert len(rows["sample"]) == 5 * 360
    about = store.read(tmp_path / "demo").about
    assert about["accuracy"] > 0.93
    assert about["options"]["seed"] == 0
    assert (tmp_path / "demo" / "index.html").is_file()
    l2, method = np.array(rows["l2"], dtype=float), np.array(rows["method"])
    lower = np.maximum(l2[method == "lipschitz"], l2[method == "quadratic(40)"])
    upper = np.fmin(l2[method == "fgs"], l2[method == "ddn"])
    assert (lower <= np.where(np.isnan(upper), np.inf, upper)).all()
    assert lower.mean() > 0.6 * upper.mean()


def test_a_quick_demo(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the demo does, of less: a worse network, and a few of the images."""
    from pertbound.experiments import demo
    from pertbound.models import Recipe

    def few(name: str, train: bool = False) -> DataSet:
        return load(name, train=train, limit=None if train else 40)

    monkeypatch.setattr(demo, "DIGITS", Recipe(epochs=1, batch=64, peak_rate=0.05))
    monkeypatch.setattr(demo, "load", few)
    done = cli("demo", "--out", tmp_path / "demo", "--seed", 3)
    assert done.code == 0
    assert "Violations of certificates: 0" in done.out
    assert str(tmp_path / "demo" / "index.html") in done.out
    assert json.loads((tmp_path / "demo" / "run.json").read_text())["options"]["seed"] == 3
    assert cli("demo", "--out", tmp_path / "demo").code == 2


@pytest.mark.slow
def test_reproducing_the_paper_on_a_few_real_images(cli: Any, data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "mnist"
    options = ["--dataset", "mnist", "--data-dir", data_root, "--checkpoint", CHECKPOINT, "--limit", 20, "--out", out]
    done = cli("reproduce", "peck2017", *options)
    assert done.code == 0, done.err
    assert "Violations of certificates: 0" in done.out
    assert "accuracy" in done.out
    assert str(out / "index.html") in done.out
    rows = store.read(out).rows.to_pydict()
    names = ["fgs", "lipschitz", "published(softplus sharpness=10)", "published(curvature-free)"]
    assert sorted(set(rows["method"])) == sorted(names)
    assert rows["sample"] == list(range(20)) * 4
    assert set(zip(rows["method"], rows["guarantee"], strict=True)) >= {
        ("lipschitz", "certified"),
        (names[2], "estimate"),
    }
    about = store.read(out).about
    assert about["data"]["pixel_scale"] == 255.0
    assert about["data"]["input_shape"] == [1, 28, 28]
    assert about["model"]["parameters"] == 431080
    assert about["complete"] is True
    model, _ = load_model(CHECKPOINT, "lenet")
    kept = store.read(out).witnesses
    with torch.no_grad():
        new = model(torch.from_numpy(kept["adversarial"])).argmax(1).tolist()
        reference = dict(zip(rows["sample"], rows["reference"], strict=True))
        assert all(reference[int(s)] != c for s, c in zip(kept["sample"], new, strict=True))
    assert not (out / "lenet.safetensors").exists()


def test_a_checkpoint_of_another_data_set_is_refused(cli: Any, data_root: Path, tmp_path: Path) -> None:
    other = CHECKPOINTS / "lenet_cifar10.safetensors"
    options = ["--dataset", "mnist", "--data-dir", data_root, "--checkpoint", other, "--limit", 2]
    done = cli("reproduce", "peck2017", *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert "(3, 32, 32)" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere.safetensors", "net.pt"])
def test_a_checkpoint_that_cannot_be_read_is_refused(cli: Any, data_root: Path, tmp_path: Path, name: str) -> None:
    if name == "net.pt":
        torch.save(nn.Linear(2, 2), tmp_path / name)
    options = ["--dataset", "mnist", "--data-dir", data_root, "--checkpoint", tmp_path / name, "--limit", 2]
    done = cli("reproduce", "peck2017", *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert "ModelFileError" in done.err
    assert not (tmp_path / "out").exists()
