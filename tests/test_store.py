"""The run folder: shards appear whole or not at all, whatever happens to the one who writes them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clocks import processor_seconds
from pertbound import shard_files, store
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, WITNESS, Run, Shard, measured, table

COUNT = 6


def about(count: int = COUNT, **options: Any) -> dict[str, Any]:
    return {
        "title": "a run",
        "model": {"sha256": "m"},
        "data": {"sha256": "d", "samples": 4 * count},
        "options": {"methods": ["lipschitz"], "box": (0.0, 1.0)} | options,
        "shards": {"samples": 4 * count, "size": 4, "count": count},
    }


def shard(index: int, *, witnesses: bool = True) -> Shard:
    """Four samples with a certificate and a witness each."""
    samples = np.repeat(np.arange(4 * index, 4 * index + 4), 2)
    rows = table(
        {
            "sample": samples,
            "label": samples % 3,
            "predicted": samples % 2,
            "method": ["lipschitz", "ddn"] * 4,
            "guarantee": [CERTIFIED, WITNESS] * 4,
            "l2": samples / 7 + np.tile([0.0, 1.0], 4),
            "seconds": np.full(8, 0.25),
        }
    )
    original = np.random.default_rng(index).random((4, 2, 3), np.float32)
    arrays = {"sample": samples[::2], "original": original, "adversarial": original + 1, "new_class": samples[::2] % 5}
    return Shard(rows, arrays if witnesses else {}, {"device": "cpu", "once": 0.5 if index == 0 else 0.0})


def whole(folder: Path, count: int = COUNT) -> Run:
    with store.writing(folder, about(count)) as writer:
        for index in range(count):
            writer.put(index, shard(index))
    return store.read(folder)


def test_what_was_written_is_read_in_the_order_of_samples(tmp_path: Path) -> None:
    with store.writing(tmp_path / "run", about()) as writer:
        for index in (3, 0, 5, 1, 4, 2):
            assert index in writer.missing
            writer.put(index, shard(index, witnesses=index != 4))
        assert writer.missing == []
    run = store.read(tmp_path / "run")
    expected = pa.concat_tables([shard(index).rows for index in range(COUNT)])
    assert run.rows.equals(expected)
    assert run.rows.schema.equals(expected.schema, check_metadata=True)
    assert run.witnesses["sample"].tolist() == [s for s in range(24) if not 16 <= s < 20]
    assert np.array_equal(run.witnesses["original"][:4], shard(0).witnesses["original"])
    assert run.about["complete"] is True
    assert run.about["seconds"] == {"lipschitz": 6.0, "ddn": 6.0, "operator norms": 0.5}
    assert run.about["accuracy"] == measured(expected)["accuracy"]
    for reader in (pq.read_table(tmp_path / "run" / "rows"), pq.ParquetDataset(tmp_path / "run" / "rows").read()):
        assert reader.num_rows == 48
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"SELECT count(*), sum(l2) FROM '{tmp_path}/run/rows/*.parquet'").fetchall()
    assert found[0] == (48, pytest.approx(pa.compute.sum(expected.column("l2")).as_py()))


def test_what_is_there_is_read_before_the_end(tmp_path: Path) -> None:
    with store.writing(tmp_path, about()) as writer:
        writer.put(2, shard(2))
        run = store.read(tmp_path)
        assert len(run.rows) == 8
        assert run.about["complete"] is False


def test_only_what_is_missing_is_computed_again(tmp_path: Path) -> None:
    with store.writing(tmp_path, about(), resume=True) as writer:  # which begins where there is nothing
        writer.put(0, shard(0))
        writer.put(3, shard(3))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("0*")}
    with store.writing(tmp_path, about(), resume=True) as writer:
        assert writer.missing == [1, 2, 4, 5]
        assert writer.damaged == []
        with pytest.raises(RunError, match="shard 3 of 6 is there already"):
            writer.put(3, shard(3))
        for index in writer.missing:
            writer.put(index, shard(index))
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("0*")}.items()
    assert store.read(tmp_path).rows.equals(whole(tmp_path / "other").rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"sha256": "other"}}, "model sha256 was 'm' and is now 'other'"),
        ({"data": {"sha256": "d", "samples": 25}}, "samples was 24 and is now 25"),
        ({"options": {"methods": ["quadratic"], "box": [0, 1]}}, "option methods was"),
        ({"options": {"methods": ["lipschitz"], "box": [0, 1], "steps": 3}}, "option steps was None and is now 3"),
        ({"shards": {"samples": 24, "size": 8, "count": 3}}, "count was 6 and is now 3; .*size was 4 and is now 8"),
    ],
)
def test_another_question_is_not_gone_on_with(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with store.writing(tmp_path, about()) as writer:
        writer.put(0, shard(0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=said), store.writing(tmp_path, about() | change, resume=True):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(RunError, match="--resume"), store.writing(tmp_path, about()):
        pass
    with store.writing(tmp_path, about() | change, overwrite=True) as writer:
        assert writer.missing[0] == 0


def test_equal_questions_are_the_same_whoever_wrote_them_down(tmp_path: Path) -> None:
    whole(tmp_path)
    same = json.loads(json.dumps(about())) | {"title": "another title", "created": "later", "versions": {"torch": "9"}}
    with store.writing(tmp_path, same, resume=True) as writer:
        assert writer.missing == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("hurt", [_cut, _flip, _empty, Path.unlink])
@pytest.mark.parametrize("kind", ["rows", "witnesses"])
def test_damaged_shards_are_found_and_computed_again(tmp_path: Path, kind: str, hurt: Any) -> None:
    expected = whole(tmp_path)
    hurt(next((tmp_path / kind).glob("00002-*")))
    if kind == "rows" and hurt is not Path.unlink:
        with pytest.raises(RunError, match=r"00002-.* is damaged.*--resume"):
            store.read(tmp_path)
    with store.writing(tmp_path, about(), resume=True) as writer:
        assert writer.missing == [2]
        assert writer.damaged == ([] if (kind, hurt) == ("rows", Path.unlink) else [2])
        writer.put(2, shard(2))
    again = store.read(tmp_path)
    assert again.rows.equals(expected.rows)
    assert np.array_equal(again.witnesses["adversarial"], expected.witnesses["adversarial"])


def test_a_broken_store_that_believes_its_files_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, shard_files):
        monkeypatch.setattr(module, "checked", Path.read_bytes)
    with pytest.raises((AssertionError, BaseException)):
        test_damaged_shards_are_found_and_computed_again(tmp_path, "rows", _flip)


def test_what_was_not_finished_is_removed(tmp_path: Path) -> None:
    whole(tmp_path)
    next((tmp_path / "rows").glob("00004-*")).unlink()
    mark = shard_files.run_id(about())[:16]
    (tmp_path / "rows" / f".00004-0123456789abcdef.parquet.{mark}.part").write_bytes(b"half")
    (tmp_path / "witnesses" / f".00004-0123456789abcdef.npz.{mark}.part").write_bytes(b"half")
    assert len(store.read(tmp_path).rows) == 40
    with store.writing(tmp_path, about(), resume=True) as writer:
        assert writer.missing == [4]
        assert not list(tmp_path.rglob("*.part"))
        assert not list((tmp_path / "witnesses").glob("00004*")), "witnesses of a shard without rows"


def test_a_shard_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    whole(tmp_path)
    path = next((tmp_path / "rows").glob("00001-*"))
    (path.parent / f"00001-{'0' * 16}.parquet").write_bytes(path.read_bytes())
    with pytest.raises(RunError, match="holds shard 1 twice"):
        store.read(tmp_path)


def test_nothing_is_left_of_a_run_that_never_began(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with pytest.raises(KeyboardInterrupt), store.writing(out, about()):
        raise KeyboardInterrupt
    assert not out.exists()
    out.mkdir()
    with pytest.raises(RuntimeError), store.writing(out, about()):
        raise RuntimeError
    assert [path.name for path in out.iterdir()] == [".lock"]
    (out / "net.safetensors").write_text("mine")
    with pytest.raises(RuntimeError), store.writing(out, about(), beside=("net.safetensors",)):
        raise RuntimeError
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == ["net.safetensors"]


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        store.read(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="earlier version"):
        store.read(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(RunError, match="does not describe"):
        store.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"), store.writing(tmp_path / "file", about()):
        pass
    with pytest.raises(RunError, match="cannot write"), store.writing(tmp_path / "file" / "run", about()):
        pass


# what can happen to the one who writes

SETUP = f"""
import os, sys, time, signal, random
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_store
from pertbound import store
folder = Path(sys.argv[1])
"""


def child(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SETUP + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, **options,
    )  # fmt: skip


KILLED = """
count, kills = int(sys.argv[2]), 0
dice = random.Random(int(sys.argv[3]))
shards = [test_store.shard(index) for index in range(count)]
start = time.perf_counter()
with store.writing(folder.with_name(folder.name + "-scale"), test_store.about(1)) as writer:
    writer.put(0, shards[0])
window = max(0.03, 2 * (time.perf_counter() - start))  # about what two shards take, on a machine however busy
while True:
    heard, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        with store.writing(folder, test_store.about(count), resume=True) as writer:
            os.write(begun, b"!")
            for index in writer.missing:
                writer.put(index, shards[index])
        os._exit(0)
    if dice.random() < 0.8:
        os.read(heard, 1)  # else while the folder is begun, or what is there looked at
    time.sleep(dice.random() * window)
    os.kill(pid, signal.SIGKILL)
    os.close(heard), os.close(begun)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        break
    kills += 1
    if (folder / "run.json").exists():
        run = store.read(folder)  # never half of anything
        samples = run.rows.column("sample").to_pylist()
        assert len(samples) == 2 * len(set(samples)) and len(samples) % 8 == 0, samples
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("enough", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_and_doubles_nothing(tmp_path: Path, enough: int) -> None:
    """So many of them, while shards are written as fast as can be."""
    kills, rounds = 0, 0
    while kills < enough:
        out = tmp_path / str(rounds)
        done = child(KILLED, out, 60, rounds)
        assert done.returncode == 0, done.stderr
        kills += int(done.stdout)
        run = store.read(out)
        assert run.rows.equals(pa.concat_tables([shard(index).rows for index in range(60)]))
        assert run.witnesses["sample"].tolist() == list(range(240))
        assert not list(out.rglob("*.part"))
        rounds += 1


IN_PLACE = """
def in_place(path, write_to, mark=""):
    spare = Path(sys.argv[4]) / "spare"
    write_to(spare)
    with path.open("wb") as stream:
        for byte in (spare.read_bytes()[:99], spare.read_bytes()[99:]):
            stream.write(byte), stream.flush(), time.sleep(0.005)
store.write_whole = in_place
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_broken_store_that_writes_in_place_is_caught(tmp_path: Path) -> None:
    done = child(IN_PLACE + KILLED, tmp_path / "run", 30, 0, tmp_path)
    assert done.returncode != 0
    assert "RunError" in done.stderr


HOLDING = """
with store.writing(folder, test_store.about()) as writer:
    writer.put(0, test_store.shard(0))
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", SETUP + HOLDING, str(out)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match="another process is writing"), store.writing(out, about(), **options):
            pass
    with pytest.raises(RunError, match="already holds a run"), store.writing(out, about()):
        pass
    assert len(store.read(out).rows) == 8
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with store.writing(out, about(), resume=True) as writer:  # a lock does not outlive its process
        assert writer.missing == [1, 2, 3, 4, 5]


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files fails the same call in the same way; the real thing needs a disk of its own."""
    out = tmp_path / "run"
    with store.writing(out, about()) as writer:
        writer.put(0, shard(0))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    with store.writing(folder, test_store.about(), resume=True) as writer:
        writer.put(1, test_store.shard(1))
except store.RunError as error:
    print(error)
"""
    done = child(code, out)
    assert "make room, and give the same command with --resume" in done.stdout, done.stderr
    assert len(store.read(out).rows) == 8
    assert not list(out.rglob("*.part"))
    with store.writing(out, about(), resume=True) as writer:
        assert writer.missing == [1, 2, 3, 4, 5]


def _all(folder: Path, count: int) -> list[int]:
    """Write what is missing of a run; returns which shards that was."""
    with store.writing(folder, about(count), resume=True) as writer:
        missing = writer.missing
        for index in missing:
            writer.put(index, shard(index))
        return missing


def test_a_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        with pytest.raises(RunError, match=r"No space left.*make room"):
            _all(disk / "run", 50)
        there = len(store.read(disk / "run").rows) // 8
        assert 2 <= there < 50
        assert not list(disk.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        assert _all(disk / "run", 50) == list(range(there, 50))
        assert len(store.read(disk / "run").rows) == 400
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """As a user without rights, whoever runs the tests."""
    whole(tmp_path / "run")
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*"), tmp_path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    code = """
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
for place, options in ((folder / "new", {}), (folder / "run", {"resume": True}), (folder / "run", {"overwrite": True})):
    try:
        with store.writing(place, test_store.about(), **options) as writer:
            writer.put(0, test_store.shard(0))
    except store.RunError as error:
        print(error)
"""
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    try:
        done = child(code, tmp_path)
    finally:
        for path in (tmp_path, tmp_path / "run", *(tmp_path / "run").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.stdout.count("cannot write the run folder") == 3, (done.stdout, done.stderr)
    assert store.read(tmp_path / "run").about["complete"]


@pytest.mark.slow
def test_a_million_rows_are_read_and_summarised_soon(tmp_path: Path) -> None:
    """A thousand shards, about ten seconds of all threads together."""
    from pertbound.report import summary, violations

    size = 500
    with store.writing(tmp_path, about(1000) | {"shards": {"count": 1000}}) as writer:
        for index in range(1000):
            samples = np.repeat(np.arange(size * index, size * (index + 1)), 2)
            columns = {
                "sample": samples, "predicted": samples % 10, "reference": samples % 10, "label": samples % 10,
                "method": ["lipschitz", "ddn"] * size, "guarantee": [CERTIFIED, WITNESS] * size,
                "l2": samples % 97 + np.tile([0.25, 1.5], size), "seconds": np.full(2 * size, 1e-3),
                "note": ["L2 over all of R^d, for the network in exact arithmetic", None] * size,
            }  # fmt: skip
            writer.put(index, Shard(table(columns)))
    with processor_seconds(30.0):
        run = store.read(tmp_path)
        lines = summary(run)
        broken = violations(run)
    assert len(run.rows) == 10**6
    assert [line.samples for line in lines] == [500_000, 500_000]
    assert set(broken.values()) == {0}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
