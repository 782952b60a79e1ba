"""Each broken library is rejected by its check; as it is, it passes all of them."""

from __future__ import annotations

import pytest

from mutants.attacks import CHECKS, MUTANTS


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
