"""Shards that are made of their number, by workers that can be told to fail; importable from any process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pertbound.errors import InputError
from pertbound.records import CERTIFIED, Shard, table


def plain(index: int) -> Shard:
    """Three rows, and two witnesses."""
    samples = np.arange(3 * index, 3 * index + 3)
    rows = table({"sample": samples, "method": ["m"] * 3, "guarantee": [CERTIFIED] * 3, "l2": samples / 7})
    arrays = {"sample": samples[:2], "original": np.full((2, 1), float(index)), "adversarial": np.ones((2, 1))}
    return Shard(rows, arrays, {"pid": os.getpid()})


@dataclass(frozen=True)
class Maker:
    """Makes `plain`; `folder` is where the processes leave traces of what they did.

    `kills`, `raises` and `refuses` are shards: killed once in the middle; raising as often as they are tried; refused.
    """

    folder: str
    kills: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    refuses: tuple[int, ...] = ()
    seconds: float = 0.0

    def __call__(self) -> Callable[[int], Shard]:
        """As a worker does, once."""
        (Path(self.folder) / f"load-{os.getpid()}-{time.monotonic_ns()}").touch()
        return self._compute

    def _compute(self, index: int) -> Shard:
        mark = Path(self.folder) / f"try-{index}-{time.monotonic_ns()}"
        before = list(Path(self.folder).glob(f"try-{index}-*"))
        mark.touch()
        time.sleep(self.seconds)
        if index in self.kills and not before:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.raises:
            raise ValueError(f"shard {index} cannot be computed")
        if index in self.refuses:
            raise InputError(f"shard {index} makes no sense")
        return plain(index)


def traces(folder: Path, kind: str) -> int:
    """How many traces of that kind there are: `load`, `try-3`."""
    return len(list(folder.glob(f"{kind}-*")))
