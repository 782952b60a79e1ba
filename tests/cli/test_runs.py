"""Runs that are gone on with, asked in SQL, checked, and read by scripts."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertbound as pb
from pertbound import store
from pertbound.data import DataSet
from pertbound.records import Shard


def asked(files: Path, out: Path, **changes: object) -> list[object]:
    options: dict[str, object] = {
        "--model": files / "digits.safetensors", "--architecture": "digits", "--data": "digits", "--limit": 20,
        "--shard-size": 6, "--out": out,
    }  # fmt: skip
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [part for name, value in options.items() if value is not None for part in (name, value)]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions in the order of computing; the third and fourth batch that is attacked fails, whatever it is."""
    inner = pb.DDN.candidates
    calls: list[int] = []

    def candidates(self: Any, problem: Any, reference: Any) -> Any:
        calls.append(len(calls))
        if len(calls) in (3, 4):
            raise RuntimeError("the machine hiccups\nand again")
        return inner(self, problem, reference)

    monkeypatch.setattr(pb.DDN, "candidates", candidates)
    return calls


def test_a_shard_that_fails_is_told_and_resumed(
    cli: Any, files: Path, digits: DataSet, tmp_path: Path, failing: list[int]
) -> None:
    out = tmp_path / "out"
    done = cli("bracket", *asked(files, out))
    assert done.code == 4
    assert "Shard 2 (samples 12 to 17) failed 2 times: RuntimeError: the machine hiccups" in done.out
    assert "Go on with: pertbound bracket" in done.out
    assert "--resume" in done.out
    rows = store.read(out).rows
    places = digits.positions[:20].tolist()
    assert set(rows.column("sample").to_pylist()) == {*places[:12], *places[18:]}
    again = cli("bracket", *asked(files, out), "--resume")
    assert again.code == 0
    assert "Violations of certificates: 0" in again.out
    run = store.read(out)
    assert len(run.rows) == 3 * 20
    assert run.rows.column("sample").to_pylist()[:6] == places[:6]
    assert len(failing) == 6, "four shards, one of them three times"
    assert cli("bracket", *asked(files, out), "--resume").code == 0
    assert len(failing) == 6, "nothing is computed twice"


def test_scripts_read_what_failed(cli: Any, files: Path, tmp_path: Path, failing: list[int]) -> None:
    done = cli("bracket", *asked(files, tmp_path / "out"), "--json")
    assert done.code == 4
    assert done.err == ""
    found = json.loads(done.out)
    assert found["complete"] is False
    assert found["failed"] == [{"shard": 2, "tries": 2, "error": "RuntimeError: the machine hiccups"}]


def test_json_says_what_the_tables_say(cli: Any, files: Path, tmp_path: Path) -> None:
    for command in ("certify", "attack", "bracket"):
        done = cli(command, *asked(files, tmp_path / command), "--json")
        assert done.code == 0, done.err
        assert done.err == ""
        found = json.loads(done.out, parse_constant=pytest.fail)
        assert found["folder"] == str(tmp_path / command)
        assert found["complete"] is True
        assert found["failed"] == []
        assert {m["guarantee"] for m in found["methods"]} <= {"certified", "witness"}
        rows = store.read(tmp_path / command).rows.to_pandas() if _pandas() else None
        for method in found["methods"]:
            assert method["samples"] == 20
            if rows is not None:
                mine = rows[rows["method"] == method["method"]]["l2"].dropna()
                assert method["mean"] == pytest.approx(mine.mean())


def _pandas() -> bool:
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limit": 19}, "samples was 20 and is now 19"),
        ({"shard_size": 7}, "size was 6 and is now 7"),
        ({"model": "other"}, "model sha256"),
        ({"norm": "linf"}, "option norm was 'l2' and is now 'linf'"),
        ({"batch_size": 3}, "option batch_size was"),
        ({"max_epsilon": 0.2}, "option max_epsilon was"),
        ({"overwrite": ""}, "give one of them"),
    ],
)
def test_another_question_is_not_gone_on_with(
    cli: Any, files: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out"
    assert cli("bracket", *asked(files, out, attack="fgs")).code == 0
    if changes.get("model") == "other":
        import torch

        from pertbound.models import digits_network, save_checkpoint

        torch.manual_seed(5)
        save_checkpoint(digits_network(), tmp_path / "other.safetensors", {})
        changes = {"model": tmp_path / "other.safetensors"}
    flags = [f"--{changes.popitem()[0]}"] if "overwrite" in changes else []
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = cli("bracket", *asked(files, out, attack="fgs", **changes), *flags, "--resume")
    assert done.code == 2
    assert said in done.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_rows_are_asked_in_sql(cli: Any, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    out = tmp_path / "out"
    assert cli("bracket", *asked(files, out)).code == 0
    sql = "SELECT method, count(*) AS n, max(l2) AS most FROM rows GROUP BY method ORDER BY method"
    done = cli("query", out, sql)
    assert done.code == 0
    assert all(word in done.out for word in ("method", "most", "lipschitz", "ddn", "20"))
    found = json.loads(cli("query", out, sql, "--format", "json").out)
    assert [(line["method"], line["n"]) for line in found] == [("ddn", 20), ("fgs", 20), ("lipschitz", 20)]
    lines = list(csv.reader(io.StringIO(cli("query", out, sql, "--format", "csv").out)))
    assert lines[0] == ["method", "n", "most"]
    assert float(lines[1][2]) == found[0]["most"]
    refused = cli("query", out, "SELECT nothing FROM rows")
    assert refused.code == 2
    assert "its columns are sample, label" in refused.err
    assert cli("query", tmp_path / "nowhere", sql).code == 2


def test_a_run_is_checked(cli: Any, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("bracket", *asked(files, out, attack="fgs"), "--method", "lipschitz", "--box", 0, 1).code == 0
    done = cli("check", out, "--samples", 4)
    assert done.code == 0, done.out
    assert "Data: digits" in done.out
    assert "the rows of 6 of them again, by fgs, lipschitz" in done.out
    assert "Proved again: 6 of the run's 20 certificates; --all takes every one." in done.out
    assert re.search(r"Confirmed: confirmed 6 of 6 certificates, (\d+) of \1 witnesses\n$", done.out)
    found = json.loads(cli("check", out, "--all", "--json").out)
    assert found["verdict"] == "confirmed"
    assert found["certificates"] == {"confirmed": 20, "checked": 20, "in_run": 20}
    next((out / "rows").glob("00001-*")).unlink()
    short = cli("check", out)
    assert short.code == 3
    assert "the run is not whole: 1 of 4 shards are not there" in short.out
    assert "NOT CONFIRMED: confirmed" in short.out


def _rewritten(out: Path, change: Any) -> None:
    """The run, with the rows and witnesses of its first shard changed, and all hashes made anew."""
    from oracles.forged import Forged

    run, shard = Forged.of(out), Forged.of(out).shards[0]
    rows, witnesses = change(shard.rows, {name: array.copy() for name, array in shard.witnesses.items()})
    run.shards[0] = Shard(rows, witnesses, shard.made)
    shutil.rmtree(out)
    run.carefully(out)


def _column(rows: Any, name: str, change: Any) -> Any:
    import pyarrow as pa

    place = rows.schema.get_field_index(name)
    values = change(rows.column(name).to_pylist(), rows.column("guarantee").to_pylist())
    return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


def _scaled(name: str, kind: str, factor: float) -> Any:
    def change(rows: Any, witnesses: Any) -> Any:
        scaled = lambda sizes, kinds: [s * factor if k == kind else s for s, k in zip(sizes, kinds, strict=True)]  # noqa: E731
        return _column(rows, name, scaled), witnesses

    return change


def _harmless(rows: Any, witnesses: Any) -> Any:
    witnesses["adversarial"][3] = witnesses["original"][3]
    return rows, witnesses


def _outside(rows: Any, witnesses: Any) -> Any:
    witnesses["adversarial"][3, 0, 0, 0] = -1e-4
    return rows, witnesses


LIES = {
    r"lipschitz proves .* now; the row claims": _scaled("l2", "certified", 1.01),
    "lies above the witness": _scaled("l2", "certified", 100.0),
    "does not lie where its row says": _scaled("l2", "witness", 0.99),
    "the witness does not lie": _harmless,
    "leaves the box": _outside,
}


def test_runs_that_lie_are_caught(cli: Any, files: Path, tmp_path: Path) -> None:
    honest = tmp_path / "honest"
    assert cli("bracket", *asked(files, honest, attack="fgs", max_epsilon=1.0), "--box", 0, 1).code == 0
    for number, (said, change) in enumerate(LIES.items()):
        out = tmp_path / str(number)
        shutil.copytree(honest, out)
        _rewritten(out, change)
        done = cli("check", out, "--all")
        assert done.code == 1, said
        assert re.search(said, done.out), said
        assert "CONTRADICTED: confirmed" in done.out


def test_another_model_or_other_data_are_caught(cli: Any, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("certify", *asked(files, out, data=files / "plain.npz")).code == 0
    assert cli("check", out).code == 0
    with np.load(files / "plain.npz") as stored:
        np.savez(tmp_path / "other.npz", x=stored["x"] + np.float32(1e-6))
    done = cli("check", out, "--data", tmp_path / "other.npz")
    assert done.code == 1
    assert "run.json says data.sha256 = " in done.out
    about = json.loads((out / "run.json").read_text())
    del about["sources"]
    (out / "run.json").write_text(json.dumps(about))
    refused = cli("check", out)
    assert refused.code == 2
    assert "does not say which files" in refused.err


def test_a_device_that_is_not_there(cli: Any, files: Path, tmp_path: Path) -> None:
    done = cli("certify", *asked(files, tmp_path / "out"), "--device", "cuda:77")
    assert done.code == 2
    assert "there is no device 'cuda:77' here" in done.err
    assert not (tmp_path / "out").exists()
    done = cli("certify", *asked(files, tmp_path / "out"), "--address", "auto")
    assert "--address is for --engine ray" in done.err


def test_a_machine_that_reads_other_files_fails(files: Path) -> None:
    from pertbound.experiments.job import Job, Sources
    from pertbound.experiments.provenance import weights_sha256
    from pertbound.experiments.question import Question

    sources = Sources(model=str(files / "digits.safetensors"), architecture="digits", data="digits", limit=5)
    job = Job(sources=sources, question=Question(methods=("lipschitz",)))
    work = job()
    hashes = weights_sha256(work.network), work.data.sha256()
    assert len(replace(job, hashes=hashes)()(0).rows) == 5
    with pytest.raises(pb.RunError, match=r"the model at .* is not the run's"):
        replace(job, hashes=("0" * 64, hashes[1]))()
    with pytest.raises(pb.RunError, match=r"the data at digits on .* is not the run's"):
        replace(job, hashes=(hashes[0], "0" * 64))()
