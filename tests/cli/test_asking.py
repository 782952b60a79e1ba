"""`certify`, `attack` and `bracket` on a small trained network: rows, witnesses and what is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound import records, store
from pertbound.data import DataSet

LIMIT = 20
KEYS = {
    "title", "command", "created", "model", "data", "options", "versions", "guarantee", "norm", "shards", "sources",
    "machine",
}  # fmt: skip
DERIVED = {"accuracy", "complete", "seconds"}
BOUND = {"asked", "bound", "run"}
"""What layers.json says besides: of how many samples, and to which run it belongs."""


def asked(files: Path, out: Path, **changes: object) -> list[object]:
    options: dict[str, object] = {
        "--model": files / "digits.safetensors", "--architecture": "digits", "--data": "digits", "--limit": LIMIT,
        "--out": out,
    }  # fmt: skip
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [part for name, value in options.items() if value is not None for part in (name, value)]


def read(out: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns of the rows, whose schema is checked, and the run's description."""
    about = json.loads((out / "run.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert set(about) == KEYS
    run = store.read(out)
    assert run.rows.schema.equals(records.SCHEMA, check_metadata=True)
    assert pq.read_table(out / "rows").num_rows == len(run.rows), "any reader of Parquet sees the same rows"
    assert set(run.about) == KEYS | DERIVED
    return {name: np.array(run.rows.column(name).to_pylist()) for name in run.rows.column_names}, dict(run.about)


def test_certify_writes_one_certified_row_for_each_sample(
    cli: Any, files: Path, digits: DataSet, model: nn.Module, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "er"
    done = cli("certify", *asked(files, out))
    assert done.code == 0
    assert done.err == ""
    assert "lipschitz" in done.out
    assert str(out) in done.out
    rows, about = read(out)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "rows", "run.json"]
    assert rows["sample"].tolist() == digits.positions[:LIMIT].tolist()
    assert digits.labels is not None
    assert rows["label"].tolist() == digits.labels[:LIMIT].tolist()
    assert set(rows["method"]) == {"lipschitz"}
    assert set(rows["guarantee"]) == {"certified"}
    assert set(rows["linf"]) == {None}
    assert (rows["seconds"] > 0).all()
    assert all(note.startswith("L2 over all of R^d") for note in rows["note"])
    x = digits.inputs[:LIMIT]
    expected = pb.certify(pb.from_torch(model, x[:1]), x, pb.Lipschitz())
    assert rows["l2"] == pytest.approx(expected.radius.numpy(), rel=1e-5)
    assert rows["reference"].tolist() == rows["predicted"].tolist() == expected.predicted.tolist()
    assert about["complete"] is True
    assert about["model"]["name"] == "digits.safetensors"
    assert about["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert about["data"]["samples"] == LIMIT
    assert about["data"]["input_shape"] == [1, 8, 8]
    assert about["data"]["pixel_scale"] == 16.0
    assert about["options"] == {
        "methods": ["lipschitz"], "norm": "l2", "box": None, "seconds": 1.0, "steps": 60, "labels": False,
        "batch_size": 500,
    }  # fmt: skip
    assert about["norm"] == "L2"
    assert about["command"].startswith("pertbound certify --model")
    right = (rows["predicted"] == rows["label"]).mean()
    assert about["accuracy"] == pytest.approx(right)
    assert f"{right:.2%}" in done.out
    assert set(about["seconds"]) == {"lipschitz", "operator norms"}


def test_several_bounds_are_rows_of_their_own(cli: Any, files: Path, tmp_path: Path) -> None:
    names = ["published", "lipschitz", "published-curvature-free", "published"]
    flags = [part for name in names for part in ("--method", name)]
    assert cli("certify", *asked(files, tmp_path / "out", sharpness=20), *flags).code == 0
    rows, _ = read(tmp_path / "out")
    counts = {method: int((rows["method"] == method).sum()) for method in rows["method"]}
    assert counts == {
        "published(softplus sharpness=20)": LIMIT,
        "lipschitz": LIMIT,
        "published(curvature-free)": LIMIT,
    }
    certified = rows["guarantee"] == "certified"
    assert set(rows["method"][certified]) == {"lipschitz"}
    assert set(rows["guarantee"][~certified]) == {"estimate"}


def test_attack_keeps_every_witness_and_each_is_misclassified(
    cli: Any, files: Path, digits: DataSet, model: nn.Module, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli("attack", *asked(files, out, max_epsilon=0.5, attack="fgs"), "--box", 0, 1).code == 0
    rows, about = read(out)
    found = rows["guarantee"] == "witness"
    assert set(rows["guarantee"]) <= {"witness", "none"}
    assert 5 < found.sum() <= LIMIT
    assert all(value is None for value in rows["l2"][~found])
    assert all(value is None for value in rows["linf"][~found])
    assert set(rows["method"]) == {"fgs"}
    assert about["options"] == {
        "attacks": ["fgs"], "norm": "l2", "box": [0.0, 1.0], "max_epsilon": 0.5, "labels": False,
        "batch_size": 500,
    }  # fmt: skip
    kept = store.read(out).witnesses
    sample, original, adversarial = kept["sample"], kept["original"], kept["adversarial"]
    assert sample.tolist() == rows["sample"][found].tolist()
    place = {int(position): i for i, position in enumerate(digits.positions)}
    chosen = [place[int(position)] for position in sample]
    assert np.array_equal(original, digits.inputs[chosen].numpy())
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    with torch.no_grad():
        new = model(torch.from_numpy(adversarial)).argmax(1).numpy()
    assert (new != rows["reference"][found]).all()
    moved = (adversarial.astype(np.float64) - original).reshape(len(sample), -1)
    assert np.linalg.norm(moved, axis=1) == pytest.approx(rows["l2"][found].astype(float), rel=1e-9)
    assert np.abs(moved).max(1) == pytest.approx(rows["linf"][found].astype(float), rel=1e-9)


def test_an_attack_that_finds_nothing_says_so(cli: Any, files: Path, tmp_path: Path) -> None:
    done = cli("attack", *asked(files, tmp_path / "out", max_epsilon=1e-9, attack="fgs"))
    assert done.code == 0
    rows, _ = read(tmp_path / "out")
    assert set(rows["guarantee"]) == {"none"}
    assert set(rows["l2"]) == {None}
    assert not (tmp_path / "out" / "witnesses").exists()
    assert "fgs" in done.out


@pytest.mark.parametrize("labels", [True, False])
def test_bracket_holds_each_sample_from_both_sides(cli: Any, files: Path, tmp_path: Path, labels: bool) -> None:
    out = tmp_path / "out"
    done = cli("bracket", *asked(files, out, max_epsilon=1.0, limit=60), *(["--labels"] if labels else []))
    assert done.code == 0
    assert "Violations of certificates: 0" in done.out
    rows, about = read(out)
    lower, upper = rows["method"] == "lipschitz", rows["method"] == "fgs"
    assert lower.sum() == upper.sum() == 60
    assert rows["sample"][lower].tolist() == rows["sample"][upper].tolist()
    found = np.array([value is not None for value in rows["l2"][upper]])
    assert (rows["l2"][lower][found].astype(float) <= rows["l2"][upper][found].astype(float)).all()
    wrong = rows["predicted"] != rows["label"]
    assert wrong.sum() > 0, "the network is not meant to be perfect"
    assert about["options"]["labels"] is labels
    assert rows["reference"].tolist() == rows["label" if labels else "predicted"].tolist()
    if labels:
        assert (rows["l2"][wrong].astype(float) == 0).all()
        assert set(rows["guarantee"][wrong & upper]) == {"witness"}
    else:
        assert (rows["l2"][wrong & lower].astype(float) > 0).all()
    assert (rows["l2"][lower & ~wrong].astype(float) > 0).all()


@pytest.mark.parametrize("name", ["labelled", "plain"])
def test_a_users_own_arrays(cli: Any, files: Path, tmp_path: Path, name: str) -> None:
    data = files / f"{name}.npz"
    assert cli("bracket", *asked(files, tmp_path / "out", data=data, limit=None)).code == 0
    rows, about = read(tmp_path / "out")
    assert rows["sample"][rows["method"] == "fgs"].tolist() == list(range(25))
    assert about["data"]["name"] == name
    assert about["data"]["pixel_scale"] == 1.0
    if name == "plain":
        assert set(rows["label"]) == {None}
        assert about["accuracy"] is None
    else:
        assert None not in set(rows["label"])
        assert 0 <= about["accuracy"] <= 1


@pytest.mark.parametrize("name", ["digits", "double"])
def test_an_exported_program_gives_the_same_rows(cli: Any, files: Path, tmp_path: Path, name: str) -> None:
    assert cli("bracket", *asked(files, tmp_path / "a", max_epsilon=1.0)).code == 0
    exported = asked(files, tmp_path / "b", model=files / f"{name}.pt2", architecture=None, max_epsilon=1.0)
    assert cli("bracket", *exported).code == 0
    one, about = read(tmp_path / "a")
    other, about_other = read(tmp_path / "b")
    assert one["sample"].tolist() == other["sample"].tolist()
    assert one["predicted"].tolist() == other["predicted"].tolist()
    lower = one["method"] == "lipschitz"
    radius, again = one["l2"][lower].astype(float), other["l2"][lower].astype(float)
    assert (again >= radius * (1 - 1e-5)).all()  # the worst rounding in float32 is taken off the radius
    assert again == pytest.approx(radius, rel=1e-5 if name == "digits" else 0.2)
    assert about["model"]["parameters"] == about_other["model"]["parameters"]
    assert about["data"]["samples"] == about_other["data"]["samples"]


def test_equal_questions_have_equal_answers(cli: Any, files: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert cli("bracket", *asked(files, tmp_path / name)).code == 0
    one, about = read(tmp_path / "a")
    other, about_other = read(tmp_path / "b")
    for column in set(one) - {"seconds"}:
        assert one[column].tolist() == other[column].tolist(), column
    assert about["model"] == about_other["model"]
    assert about["data"] == about_other["data"]


def test_batches_do_not_change_the_rows(cli: Any, files: Path, tmp_path: Path) -> None:
    assert cli("certify", *asked(files, tmp_path / "a")).code == 0
    assert cli("certify", *asked(files, tmp_path / "b", batch_size=7)).code == 0
    one, _ = read(tmp_path / "a")
    other, _ = read(tmp_path / "b")
    assert one["sample"].tolist() == other["sample"].tolist()
    assert one["l2"] == pytest.approx(other["l2"], rel=1e-5)


def test_a_limit_beyond_the_data_takes_all_of_it(cli: Any, files: Path, tmp_path: Path) -> None:
    assert cli("certify", *asked(files, tmp_path / "out", data=files / "plain.npz", limit=10**6)).code == 0
    rows, _ = read(tmp_path / "out")
    assert len(rows["sample"]) == 25


@pytest.mark.parametrize("name", ["a[red]b", "a[/red]b", "a b", "ü", "[/]", "100%"])
def test_folders_of_any_name(cli: Any, files: Path, tmp_path: Path, name: str) -> None:
    """Square brackets mean something to the library that prints; in a path they mean nothing."""
    out = tmp_path / name
    done = cli("certify", *asked(files, out, limit=2))
    assert done.code == 0
    assert (out / "rows").exists()
    assert str(out) in done.out
    done = cli("report", out)
    assert done.code == 0
    assert str(out / "index.html") in done.out


@pytest.mark.parametrize("name", ["a[red]b", "[bold]"])
def test_models_and_data_of_any_name(cli: Any, files: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(files / "digits.safetensors", tmp_path / f"{name}.safetensors")
    shutil.copy(files / "plain.npz", tmp_path / f"{name}.npz")
    given = asked(
        files, tmp_path / "out", model=tmp_path / f"{name}.safetensors", data=tmp_path / f"{name}.npz", limit=2
    )
    done = cli("certify", *given)
    assert done.code == 0
    assert f"{name}.safetensors on {name}" in done.out
    assert cli("report", tmp_path / "out").code == 0


def test_an_interruption_keeps_whole_batches(
    cli: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = pb.FastGradientSign.candidates
    calls: list[int] = []

    def interrupted(self: Any, problem: Any, reference: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(self, problem, reference)

    monkeypatch.setattr(pb.FastGradientSign, "candidates", interrupted)
    done = cli("bracket", *asked(files, tmp_path / "out", batch_size=8))
    assert done.code == 130
    assert "nterrupted" in done.out + done.err
    assert "Traceback" not in done.err
    rows, about = read(tmp_path / "out")
    assert len(rows["sample"]) == 3 * 16  # two attacks and a certificate
    assert about["complete"] is False
    assert "--resume" in done.out
    assert cli("report", tmp_path / "out").code == 0
    monkeypatch.undo()
    assert cli("bracket", *asked(files, tmp_path / "out", batch_size=8), "--resume").code == 0
    rows, about = read(tmp_path / "out")
    assert len(rows["sample"]) == 3 * LIMIT
    assert about["complete"] is True


def test_an_interruption_before_the_first_batch_writes_nothing(
    cli: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pb.FastGradientSign, "candidates", interrupted)
    done = cli("attack", *asked(files, tmp_path / "out", attack="fgs"))
    assert done.code == 130
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("norm", "column", "words"),
    [("l2", "l2", "L2 over inputs within [0, 1]"), ("linf", "linf", "Linf over"), ("l1", "l1", "L1 over")],
)
def test_norm_and_box_reach_the_certificates(
    cli: Any, files: Path, digits: DataSet, model: nn.Module, tmp_path: Path, norm: str, column: str, words: str
) -> None:
    flags = ["--norm", norm, "--box", 0, 1, "--steps", 5, "--method", "quadratic", "--method", "interval"]
    done = cli("certify", *asked(files, tmp_path / "out", limit=4), *flags)
    assert done.code == 0, done.err
    rows, about = read(tmp_path / "out")
    assert set(rows["method"]) == {"quadratic(5)", "interval"}
    others = {"l1", "l2", "linf"} - {column}
    assert all(value is None for other in others for value in rows[other])
    assert all(words in note for note in rows["note"])
    assert f"mean {about['norm']}" in done.out
    x = digits.inputs[:4]
    within = pb.Ball(p={"l1": 1.0, "l2": 2.0, "linf": float("inf")}[norm], box=(0.0, 1.0))
    expected = pb.certify(pb.from_torch(model, x[:1]), x, pb.QuadraticRelaxation(steps=5), within=within)
    mine = rows["method"] == "quadratic(5)"
    assert rows[column][mine].astype(float) == pytest.approx(expected.radius.numpy(), rel=1e-3)
    reported = cli("report", tmp_path / "out")
    assert reported.code == 0, reported.err


@pytest.mark.parametrize(
    ("command", "flags", "parts"),
    [
        ("bracket", [], {*BOUND, "factors"}),
        ("bracket", ["--method", "quadratic", "--steps", 5], {*BOUND, "factors", "losses"}),
        ("bracket", ["--method", "quadratic", "--steps", 5, "--layer-loss", 0], set()),
        ("bracket", ["--budget", 0.1], {*BOUND, "factors"}),
        ("certify", [], set()),
        ("certify", ["--layer-loss", 2], {*BOUND, "losses"}),
        ("attack", [], set()),
    ],
)
def test_what_each_layer_costs(
    cli: Any, files: Path, tmp_path: Path, command: str, flags: Any, parts: set[str]
) -> None:
    out = tmp_path / "out"
    done = cli(command, *asked(files, out, limit=8), *flags)
    assert done.code == 0, done.err
    layers = json.loads((out / "layers.json").read_text()) if parts else {}
    assert (out / "layers.json").exists() == bool(parts)
    assert set(layers) == parts
    if "losses" in parts:
        assert len(layers["losses"]["sample"]) == (2 if 2 in flags else 5)
        assert ("quadratic(5)" if 5 in flags else "quadratic(60)") == layers["losses"]["method"]


def test_auto_says_who_gave_each_radius(cli: Any, files: Path, tmp_path: Path) -> None:
    flags = ["--method", "auto", "--seconds", 0.05, "--box", 0, 1]
    assert cli("bracket", *asked(files, tmp_path / "out", limit=4), *flags).code == 0
    rows, _ = read(tmp_path / "out")
    certified = rows["guarantee"] == "certified"
    assert set(rows["method"][certified]) == {"auto(0.05 s)"}
    assert all(note.split(":")[0] in ("lipschitz", "quadratic", "branch and bound") for note in rows["note"][certified])
    upper = {s: d for s, d, m in zip(rows["sample"], rows["l2"], rows["method"], strict=True) if m.startswith("ddn")}
    assert all(d <= upper[s] for s, d in zip(rows["sample"][certified], rows["l2"][certified], strict=True))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "auto", "--seconds", 0], "--seconds must be positive"),
        (["--box", 1, 0], "low <= high"),
        (["--box", 0, 0.5], "outside"),
        (["--norm", "linf", "--method", "published"], "L2 over all of R"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    cli: Any, files: Path, tmp_path: Path, flags: list[object], said: str
) -> None:
    done = cli("certify", *asked(files, tmp_path / "out", limit=4), *flags)
    assert done.code != 0
    assert said in done.err
    assert not (tmp_path / "out").exists()
