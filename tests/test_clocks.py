"""No test compares wall clocks, and the library's budgets are processor seconds in all of them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import clocks
from pertbound import branching
from pertbound.verification import verdict

PATIENT = {"browser.py", "test_store.py", "oracles/milp.py", "oracles/shards.py"}
"""These wait for another process, or give a solver a limit; nothing fails because of how long it took."""


def test_no_test_reads_a_wall_clock() -> None:
    here = Path(__file__).parent
    reads = re.compile(r"(?<!\w)time\.(monotonic|perf_counter|time)(_ns)?\(|timeit\.|datetime\.now\(")
    found = {str(path.relative_to(here)) for path in here.rglob("*.py") if reads.search(path.read_text())}
    assert found <= PATIENT


def test_the_library_reads_processor_time_in_tests() -> None:
    assert isinstance(vars(branching)["time"], clocks.Processor)
    assert isinstance(vars(verdict)["time"], clocks.Processor)


def test_a_ticking_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clocks.ticking(monkeypatch, 0.5)
    assert vars(branching)["time"] is clock
    assert [clock.monotonic(), clock.perf_counter()] == [0.5, 1.0]
    assert (clock.seconds, clock.readings) == (1.0, 2)
    assert clock.sleep is time.sleep


def test_too_much_work_fails() -> None:
    with clocks.processor_seconds(10.0):
        pass
    with pytest.raises(AssertionError, match="processor seconds"), clocks.processor_seconds(-1.0):
        pass
