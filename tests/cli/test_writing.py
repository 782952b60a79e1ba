"""Every option that names a place to write to leaves what is no regular file there alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from contracts.folders import begun, contents
from pertbound.cli import verifying
from pertbound.errors import ModelFileError, RunError
from pertbound.report.files import write_files
from pertbound.report.save import FORMATS, save


class Found:
    """A verdict with a counterexample, as `verify` gives it to who writes it."""

    counterexample = "(sat)"


def test_the_file_of_a_counterexample(tmp_path: Path) -> None:
    for name, make in (("pipe", os.mkfifo), ("folder", Path.mkdir)):
        make(tmp_path / name)
        before = os.lstat(tmp_path / name).st_ino
        with pytest.raises(RunError, match="only a regular file is replaced"):
            verifying._give(Found(), tmp_path / name, None)  # type: ignore[arg-type]
        assert os.lstat(tmp_path / name).st_ino == before
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(RunError, match="a symbolic link"):
        verifying._give(Found(), tmp_path / "link", None)  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("form", ["html", "tex", "md", "csv"])
def test_reports(tmp_path: Path, form: str) -> None:
    """The first of a report's files in the place of a pipe."""
    begun(tmp_path / "run", done=1)
    name = {"html": "index.html", "tex": "tables.tex", "md": "tables.md", "csv": "samples.csv"}[form]
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(RunError, match="a named pipe, and only a regular file is replaced"):
        write_files([tmp_path / "run"], tmp_path / "out", [form])
    assert stat.S_ISFIFO((tmp_path / "out" / name).lstat().st_mode)


@pytest.mark.parametrize("form", FORMATS)
def test_figures(tmp_path: Path, form: str) -> None:
    """A figure in the place of a pipe; and a folder of figures that leads elsewhere."""
    os.mkfifo(tmp_path / f"name.{form}")
    with pytest.raises(RunError, match="a named pipe, and only a regular file is replaced"):
        save(Figure(figsize=(0.1, 0.1)), tmp_path, "name", [form])
    begun(tmp_path / "run", done=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="a symbolic link"):
        write_files([tmp_path / "run"], tmp_path / "run", [form])
    assert contents(tmp_path / "mine") == {}


def test_comparisons_pages_and_checkpoints(cli: Any, tmp_path: Path) -> None:
    import torch

    from pertbound.models import save_checkpoint

    begun(tmp_path / "run", done=1)
    for name in ("page.html", "net.safetensors", "out"):
        os.mkfifo(tmp_path / name)
    done = cli("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert done.code == 2
    assert "a named pipe" in done.err
    for command in (("report", tmp_path / "run"), ("compare", tmp_path / "run", tmp_path / "run"), ("demo",)):
        assert cli(*command, "--out", tmp_path / "out").code == 2
    with pytest.raises(ModelFileError, match="a named pipe"):
        save_checkpoint(torch.nn.Linear(1, 1), tmp_path / "net.safetensors", {})
    assert all(stat.S_ISFIFO((tmp_path / n).lstat().st_mode) for n in ("page.html", "net.safetensors", "out"))


def test_a_run_is_not_begun_beside_what_is_there(cli: Any, files: Path, tmp_path: Path) -> None:
    """Before anything is computed, in two lines, whatever the options."""
    out = tmp_path / "out"
    (out / "rows").mkdir(parents=True)
    (out / "rows" / "00000-0123456789abcdef.json").write_text("mine")
    (out / "layers.json").write_text("mine")
    before = contents(out)
    base = ["--model", files / "digits.safetensors", "--architecture", "digits", "--data", "digits", "--out", out]
    for command in ("certify", "attack", "bracket"):
        for flags in ([], ["--resume"], ["--overwrite"]):
            done = cli(command, *base, "--limit", 2, *flags)
            assert done.code == 2, (command, flags)
            assert "holds no run, but layers.json, rows" in done.err
            assert "new or empty folder" in done.err
    assert cli("demo", "--out", out, "--overwrite").code == 2
    assert cli("reproduce", "peck2017", "--dataset", "mnist", "--out", out).code == 2
    assert contents(out) == before
