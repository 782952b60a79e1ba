"""Shards on a real Ray cluster: the same rows, whatever happens to workers and nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles.shards import Maker, plain, traces
from pertbound import store
from pertbound.engine import Ray, drive
from pertbound.errors import InputError, RunError

ray = pytest.importorskip("ray")
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()


def run(folder: Path, make: Maker, engine: Ray, count: int = 8) -> Any:
    with store.writing(folder / "run", {"shards": {"count": count}}, resume=True) as writer:
        return drive(engine, make, writer)


def whole(folder: Path, count: int = 8) -> None:
    """All rows, once, in order."""
    found = store.read(folder / "run")
    assert found.about["complete"] is True
    expected = [s for i in range(count) for s in plain(i).rows.column("sample").to_pylist()]
    assert found.rows.column("sample").to_pylist() == expected
    assert found.witnesses["sample"].tolist() == [s for i in range(count) for s in (3 * i, 3 * i + 1)]


@pytest.mark.slow
def test_failures_and_a_killed_worker_on_one_machine(tmp_path: Path) -> None:
    ray.init(num_cpus=2, log_to_driver=False, logging_level="error")
    failed = run(tmp_path, Maker(str(tmp_path), kills=(3,), raises=(5,), refuses=(6,)), Ray(tries=2))
    assert [(one.index, one.tries, type(one.error)) for one in failed] == [(5, 2, ValueError), (6, 1, InputError)]
    assert traces(tmp_path, "try-3") == 2, "killed in the middle, and computed again"
    assert traces(tmp_path, "try-5") == 2
    assert traces(tmp_path, "try-6") == 1
    assert traces(tmp_path, "load") <= 4, "one for each process, and not one for each shard"
    assert run(tmp_path, Maker(str(tmp_path)), Ray()) == []
    whole(tmp_path)
    with pytest.raises(RunError, match=r"no node of the Ray cluster has 64 processors"):
        run(tmp_path / "other", Maker(str(tmp_path)), Ray(cpus=64))


@pytest.mark.slow
def test_a_node_is_removed_and_another_one_joins(tmp_path: Path) -> None:
    """A cluster of three nodes, each with its own daemon, as on three machines."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        first = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        ended: list[bool] = []

        def change() -> None:
            while traces(tmp_path, "try") < 3:
                time.sleep(0.05)
            cluster.remove_node(first, allow_graceful=False)
            ended.append(True)
            cluster.add_node(num_cpus=2)

        thread = threading.Thread(target=change)
        thread.start()
        failed = run(tmp_path, Maker(str(tmp_path), seconds=0.5), Ray(address=cluster.address, tries=5), 24)
        thread.join()
        assert ended
        assert failed == []
        whole(tmp_path, 24)
        assert traces(tmp_path, "try") > 24, "what the lost node was computing was computed elsewhere"
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_the_rows_are_those_of_the_local_engine(tmp_path: Path) -> None:
    """Through the commands, with a cluster that is started for the run."""
    from typer.testing import CliRunner

    from pertbound.cli.main import app

    asked = ["bracket", "--model", str(TESTS.parent / "checkpoints" / "mlp_mnist.safetensors"), "--architecture", "mlp"]
    import numpy as np

    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((24, 1, 28, 28), np.float32))
    asked += ["--data", str(tmp_path / "x.npz"), "--shard-size", "5", "--threads", "1", "--steps", "5"]
    asked += ["--method", "lipschitz", "--method", "quadratic", "--layer-loss", "0"]
    for engine in ("local", "ray"):
        done = CliRunner().invoke(app, [*asked, "--engine", engine, "--out", str(tmp_path / engine)])
        assert done.exit_code == 0, done.output
    one, other = (store.read(tmp_path / engine) for engine in ("local", "ray"))
    assert one.rows.drop(["seconds"]).equals(other.rows.drop(["seconds"]))
    for name in one.witnesses:
        assert np.array_equal(one.witnesses[name], other.witnesses[name])


def test_no_such_cluster(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot connect to a Ray cluster at 'nowhere:6379'"):
        run(tmp_path, Maker(str(tmp_path)), Ray(address="nowhere:6379"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "", ":6379", "host:", "host:x", "h:99999", "host:0", "h:\u0663"])
def test_addresses_without_a_port_are_refused_at_once(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Ray(address=address)


@pytest.mark.parametrize("address", [None, "auto", "local", "ray://host:10001", "[::1]:6379", "host:6379"])
def test_addresses_that_can_be_meant(address: str | None) -> None:
    assert Ray(address=address).address == address
