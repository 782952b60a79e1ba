from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pertbound import store
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report.files import write_files
from pertbound.report.sample_table import as_json, sample_columns


def test_every_format_is_written(typical: Run, tmp_path: Path):
    store.write(tmp_path / "run", typical)
    paths = write_files([tmp_path / "run"], tmp_path / "out", ["html", "svg", "tex", "md", "csv"])
    assert all(path.is_file() for path in paths)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    figures = {"figure2_witnesses", "figure3_bounds", "figure4_log_ratio", "bracket", "curves", "gallery"}
    figures |= {"layer_losses", "layer_factors"}
    assert names == {f"figures/{name}.svg" for name in figures} | {
        "index.html", "tables.tex", "tables.md", "samples.csv", "methods.csv",
    }  # fmt: skip
    tex = (tmp_path / "out" / "tables.tex").read_text(encoding="utf-8")
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == 5
    assert r"\label{tab:layer-losses}" in tex
    assert r"published(softplus) & estimate" in tex
    assert "none found" in tex, "an attack missed some"
    assert "infinite" not in tex, "a column of zeros"
    assert "∞" not in tex


def test_the_csv_has_exact_values_of_every_sample(make_run: Callable[..., Run], tmp_path: Path):
    run = make_run([("c,d", CERTIFIED, [1 / 3, 0.0]), ("a", WITNESS, [2 / 3, None])])
    store.write(tmp_path / "run", run)
    write_files([tmp_path / "run"], tmp_path, ["csv"])
    rows = list(csv.reader(io.StringIO((tmp_path / "samples.csv").read_bytes().decode("utf-8"))))
    assert rows == [
        ["sample", "label", "prediction", "lower", "certified by", "upper", "found by", "ratio"],
        ["0", "0", "0", repr(1 / 3), "c,d", repr(2 / 3), "a", "2.0"],
        ["1", "1", "1", "0.0", "c,d", "inf", "", "inf"],
    ]
    methods = list(csv.DictReader(io.StringIO((tmp_path / "methods.csv").read_bytes().decode("utf-8"))))
    assert [row["method"] for row in methods] == ["c,d", "a"]
    assert float(methods[0]["mean"]) == (1 / 3) / 2


def test_several_runs_have_folders_of_their_own(make_run: Callable[..., Run], tmp_path: Path):
    store.write(tmp_path / "one" / "run", make_run([("c", CERTIFIED, [0.5])]))
    store.write(tmp_path / "two" / "run", make_run([("a", WITNESS, [0.5])]))
    store.write(tmp_path / "three", make_run([("e", ESTIMATE, [0.5])]))
    folders = [tmp_path / "one" / "run", tmp_path / "two" / "run", tmp_path / "three"]
    paths = write_files(folders, tmp_path / "out", ["md", "svg"])
    names = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    assert {"run-1/tables.md", "run-2/tables.md", "three/tables.md", "run-2/figures/figure2_witnesses.svg"} <= names
    assert "run-1/figures/figure2_witnesses.svg" not in names, "no attack in this run"


def test_the_pages_data_cannot_end_the_script_and_is_small(make_run: Callable[..., Run]):
    evil = "</script><!--&"
    run = make_run([(evil, CERTIFIED, [0.5, np.inf]), ("a", WITNESS, [1.0, None])])
    text = as_json(sample_columns(run))
    assert "<" not in text
    columns = {column["name"]: column for column in json.loads(text)}
    assert columns["certified by"] == {"name": "certified by", "words": [evil], "at": [0, 0]}
    assert columns["upper"]["exact"] == "1.0 inf"
    assert columns["sample"] == {"name": "sample", "shown": "0 1"}
    many = make_run([("c", CERTIFIED, np.random.default_rng(0).random(10_000))])
    assert len(as_json(sample_columns(many))) < 700_000


def test_unknown_formats_and_folders_that_cannot_be_written_are_refused(typical: Run, tmp_path: Path):
    store.write(tmp_path / "run", typical)
    with pytest.raises(RunError, match="bmp"):
        write_files([tmp_path / "run"], tmp_path, ["bmp"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_files([tmp_path / "run"], tmp_path / "file", ["tex"])
