"""Each check that leaves something out believes a forged run; as it is, it confirms the honest one only."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from mutants.checks import CHECKS, MUTANTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("check", CHECKS)
def test_the_original_passes(check: str) -> None:
    CHECKS[check]()


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant, check = MUTANTS[name]
    with mutant(), pytest.raises(AssertionError):
        CHECKS[check]()


def test_every_check_catches_something() -> None:
    assert {check for _, check in MUTANTS.values()} == set(CHECKS)
