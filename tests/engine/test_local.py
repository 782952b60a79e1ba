"""Driving a run in this process: what fails is told, and the rest is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oracles.shards import Maker, plain, traces
from pertbound import store
from pertbound.engine import Local, drive
from pertbound.errors import InputError

ABOUT: dict[str, Any] = {"shards": {"count": 6}}


def run(folder: Path, make: Maker, **options: Any) -> Any:
    with store.writing(folder / "run", ABOUT, **options) as writer:
        return drive(Local(), make, writer)


def test_shards_are_computed_once_by_one_load(tmp_path: Path) -> None:
    told: list[int] = []
    with store.writing(tmp_path / "run", ABOUT) as writer:
        assert drive(Local(), Maker(str(tmp_path)), writer, told.append) == []
    assert told == list(range(6))
    assert traces(tmp_path, "load") == 1
    assert traces(tmp_path, "try") == 6
    run(tmp_path, Maker(str(tmp_path)), resume=True)
    assert traces(tmp_path, "load") == 1, "nothing was missing"
    rows = store.read(tmp_path / "run").rows
    assert rows.column("sample").to_pylist() == [s for i in range(6) for s in plain(i).rows["sample"].to_pylist()]


def test_a_shard_that_keeps_failing_is_told_while_the_others_finish(tmp_path: Path) -> None:
    failed = run(tmp_path, Maker(str(tmp_path), raises=(2,), refuses=(4,)))
    assert [(one.index, one.tries, type(one.error)) for one in failed] == [(2, 2, ValueError), (4, 1, InputError)]
    assert traces(tmp_path, "try-2") == 2
    assert traces(tmp_path, "try-4") == 1, "what pertbound refuses once it refuses again"
    found = store.read(tmp_path / "run")
    assert found.about["complete"] is False
    assert set(found.rows.column("sample").to_pylist()) == {*range(6), *range(9, 12), *range(15, 18)}
    assert run(tmp_path, Maker(str(tmp_path)), resume=True) == []
    assert store.read(tmp_path / "run").about["complete"] is True


def test_what_fails_everywhere_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard 0 makes no sense"):
        run(tmp_path, Maker(str(tmp_path), refuses=tuple(range(6))))
    assert not (tmp_path / "run").exists()
    assert traces(tmp_path, "try") == 3
    with pytest.raises(ValueError, match="shard 0 cannot"):
        run(tmp_path, Maker(str(tmp_path), raises=tuple(range(6))))


def test_an_interruption_is_none_of_the_failures(tmp_path: Path) -> None:
    def interrupted(index: int) -> Any:
        if index == 3:
            raise KeyboardInterrupt
        return plain(index)

    with pytest.raises(KeyboardInterrupt), store.writing(tmp_path / "run", ABOUT) as writer:
        drive(Local(), lambda: interrupted, writer)
    assert len(store.read(tmp_path / "run").rows) == 9
