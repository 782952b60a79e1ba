"""Time in tests: nothing here compares wall clocks, which say how busy the machine is.

In every test, budgets of the library (`seconds=`, `budget=`) are processor seconds of this process
(`conftest.processor_clock`). A test of when something stops takes a `Ticking` clock, which counts how often it is read:
the same number on every machine. A test that something ends soon at all takes `processor_seconds` with a wide margin.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Processor:
    """Stands for the module `time` in the library: its clocks show the processor seconds of this process."""

    def monotonic(self) -> float:
        """Seconds."""
        return time.process_time()

    def perf_counter(self) -> float:
        """Seconds."""
        return self.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Ticking(Processor):
    """A clock that goes on by `tick` seconds whenever it is read, and otherwise stands still."""

    def __init__(self, tick: float) -> None:
        self.tick, self.readings = tick, 0

    @property
    def seconds(self) -> float:
        """How far it has gone."""
        return self.tick * self.readings

    def monotonic(self) -> float:
        """Seconds."""
        self.readings += 1
        return self.seconds


def install(monkeypatch: pytest.MonkeyPatch, clock: Processor) -> None:
    """Let all modules of the library that read a clock read this one."""
    for name, module in list(sys.modules.items()):
        if name.startswith("pertbound.") and (vars(module).get("time") is time or _is_clock(module)):
            monkeypatch.setattr(module, "time", clock)


def _is_clock(module: Any) -> bool:
    return isinstance(vars(module).get("time"), Processor)


def ticking(monkeypatch: pytest.MonkeyPatch, tick: float) -> Ticking:
    """A clock that counts its readings, installed."""
    clock = Ticking(tick)
    install(monkeypatch, clock)
    return clock


def now() -> float:
    """What the library's clock shows in tests, for ends that are handed to it."""
    return time.process_time()


@contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
    """What is done inside takes less processor time, all threads of this process together."""
    begun = time.process_time()
    yield
    spent = time.process_time() - begun
    assert spent < limit, f"{spent:.1f} processor seconds, at most {limit:g} are allowed"
