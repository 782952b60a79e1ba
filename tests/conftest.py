"""Shared fixtures: where the real data sets are, and a generator that every test seeds alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import clocks
from redteam.tally import summary

torch.set_num_threads(1)  # workers share the cores; more threads than cores only wait for each other


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds `mnist/`, `cifar10/`, ...: PERTBOUND_DATA, else ../shared/data; skips without one."""
    candidates = [Path(__file__).parents[2] / "shared" / "data"]
    if named := os.environ.get("PERTBOUND_DATA"):
        candidates.insert(0, Path(named))
    for folder in candidates:
        if (folder / "mnist").is_dir():
            return folder
    pytest.skip(f"no data sets: PERTBOUND_DATA is unset and none of {[str(c) for c in candidates]} holds mnist/")


@pytest.fixture(autouse=True)
def processor_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets of time in the library are processor seconds, so that they buy as much on a busy machine."""
    clocks.install(monkeypatch, clocks.Processor())


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(20171204)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the red team counted, of all processes together."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = summary(report for report in reports if getattr(report, "when", "") == "teardown")
    if lines:
        terminalreporter.section("red team")
        for line in lines:
            terminalreporter.write_line(line)
