"""Each library that heeds the caller's modes is rejected; as it is, it passes."""

from __future__ import annotations

import pytest

from mutants.environment import CHECKS, MUTANTS


@pytest.mark.parametrize("check", CHECKS)
def test_the_original_passes(check: str) -> None:
    CHECKS[check]()


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant, check = MUTANTS[name]
    with mutant(), pytest.raises(AssertionError):
        CHECKS[check]()
