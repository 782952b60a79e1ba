"""Each broken store is rejected by its contract; `tests/test_run_folder.py` runs the original through every one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.folders import CONTRACTS
from mutants.folders import MUTANTS
from pertbound.errors import RunError


@pytest.mark.parametrize(
    ("module", "name", "broken", "contract"), MUTANTS, ids=[f"{one[2].__name__}, {one[3]}" for one in MUTANTS]
)
def test_mutant_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Callable[..., Any], contract: str
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises((AssertionError, RunError)):
        CONTRACTS[contract](tmp_path)
