"""What runs cost beside what they compute: engines, shards, rows, memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pertbound import store
from pertbound.engine import Engine, Local, Make, Ray, drive
from pertbound.experiments.job import Job, Sources
from pertbound.experiments.question import Question
from pertbound.records import CERTIFIED, WITNESS, Shard, table
from pertbound.report import summary

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "lenet_mnist.safetensors"
ROWS = 1_000_000
"""Rows of the run that is read back."""


def engines(data_dir: Path) -> dict[str, Any]:
    """All figures; those with Ray only where it is installed."""
    found: dict[str, Any] = {}
    lenet = Job(
        sources=Sources(model=str(CHECKPOINT), architecture="lenet", data="mnist", data_dir=str(data_dir.absolute())),
        question=Question(methods=("lipschitz",)),
        threads=1,
    )
    chosen: dict[str, Engine] = {"local": Local()}
    try:
        import ray

        ray.init(num_cpus=2, log_to_driver=False)
        chosen["ray"] = Ray()
    except ImportError:
        pass
    work = lenet()
    work(0)  # operator norms, once: a worker keeps them as well
    for name, engine in chosen.items():
        loaded: Make = lenet if name == "ray" else lambda: work
        for what, make, count, size in (("LeNet on MNIST", loaded, 20, 500), ("nothing to compute", Empty(), 200, 1)):
            _timed(engine, make, 2)  # workers start, and load
            seconds = _timed(engine, make, count)
            found[f"{name}, {what}"] = f"{count * size / seconds:.0f} samples/s, {1e3 * seconds / count:.1f} ms a shard"
    if "ray" in chosen:
        from ray import shutdown

        shutdown()
    found |= _million()
    small, large = (_memory(count) for count in (2_000, 40_000))
    found["memory of a run, MB"] = f"{small:.0f} for 2,000 samples, {large:.0f} for 40,000"
    return found


@dataclass(frozen=True)
class Empty:
    """Shards without any work."""

    def __call__(self) -> Callable[[int], Shard]:
        """As a worker does, once."""
        return _empty


def _empty(index: int) -> Shard:
    return Shard(table({"sample": [index], "method": ["none"], "guarantee": [CERTIFIED], "l2": [0.0]}))


def _timed(engine: Engine, make: Make, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with store.writing(Path(folder) / "run", {"shards": {"count": count}}) as writer:
            failed = drive(engine, make, writer)
        assert not failed, failed
        return time.perf_counter() - start


def _million() -> dict[str, Any]:
    """Rows written, and read back and summarised."""
    size = 1000
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with store.writing(Path(folder), {"shards": {"count": ROWS // size}}, overwrite=True) as writer:
            for index in range(ROWS // size):
                writer.put(index, _pairs(index, size // 2))
        written = time.perf_counter() - start
        start = time.perf_counter()
        run = store.read(Path(folder))
        lines = summary(run)
        seconds = time.perf_counter() - start
        assert len(run.rows) == ROWS
        assert len(lines) == 2
    return {
        "rows written, synced, per second": f"{ROWS / written:.0f}",
        "a million rows read and summarised, seconds (target 5)": f"{seconds:.2f}",
    }


def _pairs(index: int, samples: int) -> Shard:
    """A certificate and a witness of each sample."""
    sample = np.repeat(np.arange(samples * index, samples * (index + 1)), 2)
    return Shard(
        table(
            {
                "sample": sample,
                "label": sample % 10,
                "reference": sample % 10,
                "predicted": sample % 10,
                "method": ["lipschitz", "ddn"] * samples,
                "guarantee": [CERTIFIED, WITNESS] * samples,
                "l2": sample % 97 + np.tile([0.25, 1.5], samples),
                "seconds": np.full(2 * samples, 1e-3),
                "note": ["L2 over all of R^d, for the network in exact arithmetic", None] * samples,
            }
        )
    )


def _memory(count: int) -> float:
    """The most that a process has had in memory that certified so many samples of a mapped file, MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 1, 28, 28))
        for start in range(0, count, 1000):
            values[start : start + 1000] = np.random.default_rng(start).integers(0, 256, (1000, 1, 28, 28), np.uint8)
        del values
        code = (  # not getrusage, which counts what the parent had before exec
            "import sys; from pertbound.cli.main import app; app(standalone_mode=False); "
            "print(*(x for x in open('/proc/self/status') if 'VmHWM' in x), file=sys.stderr)"
        )
        asked = ["certify", "--model", str(CHECKPOINT), "--architecture", "lenet", "--data", str(path)]
        asked += ["--scale", "255", "--batch-size", "100", "--shard-size", "100", "--threads", "1"]
        done = subprocess.run(
            [sys.executable, "-c", code, *asked, "--out", str(Path(folder) / "run")],
            check=True,
            capture_output=True,
            text=True,
        )
    return int(done.stderr.split()[-2]) / 1024
