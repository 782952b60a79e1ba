"""What a run is written into: nothing is lost that is not that run's, and every refusal says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.folders import CONTRACTS, about, begun, contents
from oracles.shards import plain
from pertbound import store
from pertbound.errors import RunError


@pytest.mark.parametrize("contract", CONTRACTS)
def test_nothing_is_lost_that_is_not_the_runs(tmp_path: Path, contract: str) -> None:
    CONTRACTS[contract](tmp_path)


def test_refusals_say_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text("{}")
    with pytest.raises(RunError) as caught, store.writing(tmp_path, about()):
        pass
    what, remedy = str(caught.value).splitlines()
    assert what == f"{tmp_path} is not empty and holds no run, but layers.json"
    assert remedy == "Name a new or empty folder with --out"
    assert [path.name for path in tmp_path.iterdir()] == ["layers.json"], "not even a lock"
    run = tmp_path / "run"
    begun(run)
    (run / "run.json").unlink()
    with pytest.raises(RunError, match=r"lost its run.json; the run's own command with --resume rebuilds it"):
        store.read(run)
    with pytest.raises(RunError, match="--resume with the run's own command"), store.writing(run, about()):
        pass
    with pytest.raises(RunError, match="option other was None"), store.writing(run, about(other=1), resume=True):
        pass
    (run / "run.json").write_text('{"tit')
    with pytest.raises(RunError, match=r"move run.json away, and the run's own command with --resume rebuilds it"):
        store.read(run)


def test_a_run_that_fails_at_once_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    for name in ("new", "empty", "a folder with a checkpoint"):
        folder = tmp_path / name
        if name != "new":
            folder.mkdir()
        if "checkpoint" in name:
            (folder / "net.safetensors").write_bytes(b"mine")
        before = contents(tmp_path)
        with pytest.raises(KeyboardInterrupt), store.writing(folder, about(), beside=("net.safetensors",)):
            raise KeyboardInterrupt
        assert contents(tmp_path) == before


def test_layers_go_to_the_run_that_they_are_of(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with store.writing(tmp_path / "run", about(other=1), overwrite=True) as writer:
        writer.put(0, plain(0))
    with pytest.raises(RunError, match="holds another run"):
        store.write_layers(tmp_path / "run", {"losses": {}}, run.about)
    assert store.read(tmp_path / "run").layers == {}
    (tmp_path / "run" / "layers.json").write_text('{"losses": {}}')
    with pytest.raises(RunError, match=r"layers.json is not of the run"):
        store.read(tmp_path / "run")


def test_paths_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    begun(tmp_path / "run", name="\udcff\ud800 and \U0001f600")
    assert store.read_about(tmp_path / "run")["options"] == {"name": "\\udcff\\ud800 and \U0001f600"}
    with (
        pytest.raises(RunError, match="cannot be kept as JSON"),
        store.writing(tmp_path / "nan", about(x=float("nan"))),
    ):
        pass
