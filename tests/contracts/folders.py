"""What must hold of a folder that a run is written into, whatever is there: nothing is lost that is not that run's."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from oracles.shards import plain
from pertbound import store
from pertbound.errors import RunError
from pertbound.records import Run

MODES: tuple[dict[str, Any], ...] = ({}, {"resume": True}, {"overwrite": True})


def about(count: int = 3, **options: Any) -> dict[str, Any]:
    return {
        "title": "a run", "model": {"sha256": "m"}, "data": {"sha256": "d"}, "options": options,
        "shards": {"samples": 3 * count, "size": 3, "count": count},
    }  # fmt: skip


def begun(folder: Path, count: int = 3, done: int = 3, **options: Any) -> Run:
    """A run, of which some shards are finished, and its layers."""
    with store.writing(folder, about(count, **options)) as writer:
        for index in range(done):
            writer.put(index, plain(index))
        writer.put_layers({"losses": {}})
    return store.read(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its name; links as what they lead to."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        name: str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for name, path in found.items()
        if (path.is_symlink() or path.is_file()) and path.name != ".lock"
    }


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """What is there now is there afterwards."""
    before = contents(folder)
    yield
    after = contents(folder)
    assert before.items() <= after.items(), sorted(set(before.items()) - set(after.items()))


def tried(folder: Path, **mode: Any) -> None:
    """Write another run; that it is refused is as good."""
    with suppress(RunError), store.writing(folder, about(other=1), **mode) as writer:
        writer.put(0, plain(0))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def users_own(folder: Path) -> None:
    """Files of a user that are called as a run's are, in a folder that holds none."""
    for name in ("layers.json", "witnesses.npz", "rows.parquet", "notes.txt", ".layers.json.part"):
        for kind in (name, f"rows/{name}", "rows/mine.parquet", f"rows/00000-{_digest(b'mine')}.parquet"):
            place = folder / (name + kind.replace("/", "-")) / "run"
            (place / kind).parent.mkdir(parents=True)
            (place / kind).write_bytes(b"mine")
            for mode in MODES:
                with kept(folder):
                    tried(place, **mode)
                assert not (place / "run.json").exists(), (kind, mode)


def users_run_json(folder: Path) -> None:
    """A `run.json` of another program."""
    for text in ('{"runs": [1]}', "[]", "words", '{"shards": {"count": "many"}}'):
        place = folder / _digest(text.encode())
        (place / "rows").mkdir(parents=True)
        (place / "run.json").write_text(text)
        (place / "rows" / "mine.parquet").write_bytes(b"mine")
        (place / "layers.json").write_text("{}")
        for mode in MODES:
            with kept(folder):
                tried(place, **mode)


def lost(folder: Path) -> None:
    """Finished shards whose `run.json` is lost: it is written again for who asks the same, and refused to others."""
    expected = begun(folder / "run")
    text = (folder / "run" / "run.json").read_bytes()
    (folder / "run" / "run.json").unlink()
    for mode in MODES:
        with kept(folder):
            tried(folder / "run", **mode)
        assert not (folder / "run" / "run.json").exists()
    with kept(folder), suppress(RunError), store.writing(folder / "run", about(), overwrite=True):
        pass
    with kept(folder), store.writing(folder / "run", about(), resume=True) as writer:
        assert writer.missing == []
        assert writer.rebuilt
    assert (folder / "run" / "run.json").read_bytes() == text
    assert store.read(folder / "run").rows.equals(expected.rows)


def replaced(folder: Path) -> None:
    """What a user put into the folder of a run outlives the run."""
    run = folder / "run"
    begun(run)
    for name in ("index.html", "rows/mine.parquet", "rows/notes", "witnesses/mine.npz", ".rows.part", "rows/.x.part"):
        (run / name).write_bytes(b"mine")
    mine = {name: data for name, data in contents(run).items() if data == b"mine"}
    with store.writing(run, about(other=1), overwrite=True) as writer:
        writer.put(0, plain(0))
    assert mine.items() <= contents(run).items()
    assert set(writer.left) == set(mine)
    assert len(store.read(run).rows) == 3
    names = set(contents(run)) - set(mine)
    assert len(names) == 3, "run.json, rows and witnesses: all of the first run is gone"


def strange_shards(folder: Path) -> None:
    """A shard of another run, and a `layers.json` of nobody, in the folder of a run."""
    begun(folder / "other", steps=9)
    for name in ("rows", "witnesses", "layers"):
        run = folder / name
        begun(run, done=1)
        if name == "layers":
            (run / "layers.json").write_text('{"losses": {"mine": 1}}')
            strange = [run / "layers.json"]
        else:
            strange = [
                Path(shutil.copy(path, run / name))
                for path in (folder / "other" / name).iterdir()
                if "00001-" in path.name
            ]
        assert strange
        before = {path: path.read_bytes() for path in strange}
        for mode in MODES:
            tried(run, **mode)
            with suppress(RunError), store.writing(run, about(), **mode) as writer:
                writer.put_layers({"losses": {}})
            assert {path: path.read_bytes() for path in strange if path.exists()} == before, (name, mode)


def links(folder: Path) -> None:
    """Links in the place of a run's folders and files, and of the folder itself, lead to what is somebody else's."""
    for name in ("run.json", "layers.json", "rows", "witnesses", ".lock", "."):
        place, elsewhere = folder / f"to-{name}" / "run", folder / f"to-{name}" / "elsewhere"
        begun(elsewhere)
        if name == ".":
            place.symlink_to(elsewhere)
        else:
            begun(place)
            target = elsewhere / name
            if name == ".lock":
                target.write_text("mine")
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()
            (place / name).symlink_to(target)
        with kept(elsewhere):
            for mode in MODES:
                tried(place, **mode)
            assert (elsewhere / ".lock").read_text() in ("", "mine")


def own_leftovers(folder: Path) -> None:
    """What a killed writer of this run left behind is removed, and nothing else of such a name."""
    begun(folder / "run", done=1)
    mark = store.run_id(about())[:16]
    mine = [f"rows/.00001-{'0' * 16}.parquet.{mark}.part", f"witnesses/.00001-{'0' * 16}.npz.{mark}.part"]
    theirs = [f"rows/.notes.{mark}.part", f"rows/.00001-{'0' * 16}.parquet.{'1' * 16}.part", f"rows/notes.{mark}.part"]
    for name in (*mine, *theirs):
        (folder / "run" / name).write_bytes(b"half")
    data = store.packed_witnesses({"sample": np.arange(2)}, store.run_id(about()))
    orphan, strange = store.named(2, data, "npz"), f"00002-{_digest(b'x')}.npz"
    (folder / "run" / "witnesses" / orphan).write_bytes(data)
    (folder / "run" / "witnesses" / strange).write_bytes(b"x")
    with store.writing(folder / "run", about(), resume=True):
        pass
    left = contents(folder / "run")
    assert not {*mine, f"witnesses/{orphan}"} & set(left)
    assert {*theirs, f"witnesses/{strange}"} <= set(left)


def killed_while_replacing(folder: Path) -> None:
    """Killed at any moment of `--overwrite`, the folder holds the old run with fewer shards, or the new one."""

    class KilledError(BaseException):
        pass

    real, calls = Path.unlink, 0
    for moment in range(20):
        run = folder / str(moment)
        begun(run)
        before = {name for name in contents(run) if name.startswith("rows/")}
        calls = 0

        def unlink(path: Path, missing_ok: bool = False, moment: int = moment) -> None:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise KilledError
            real(path, missing_ok)

        Path.unlink = unlink  # type: ignore[method-assign]
        try:
            with store.writing(run, about(other=1), overwrite=True) as writer:
                writer.put(0, plain(0))
            ended = True
        except KilledError:
            ended = False
        finally:
            Path.unlink = real  # type: ignore[method-assign]
        found = store.read(run)
        assert found.about["options"] == ({"other": 1} if found.about["options"] else {})
        if not found.about["options"]:
            assert {name for name in contents(run) if name.startswith("rows/")} <= before
        if ended:
            return
    raise AssertionError("twenty files are more than a run has")


CONTRACTS: dict[str, Callable[[Path], None]] = {
    contract.__name__: contract
    for contract in (
        users_own, users_run_json, lost, replaced, strange_shards, links, own_leftovers, killed_while_replacing,
    )
}  # fmt: skip
