"""Each broken library is rejected by its check; as it is, it passes all of them."""

from __future__ import annotations

import pytest

from mutants.certificates import CHECKS, MUTANTS

LONG = ("branch and bound", "domains")
"""Checks that take seconds, once for themselves and once for each of their mutants."""


@pytest.mark.parametrize("check", [pytest.param(c, marks=pytest.mark.slow) if c in LONG else c for c in CHECKS])
def test_the_original_passes(check: str) -> None:
    CHECKS[check]()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if c in LONG else n for n, (_, c) in MUTANTS.items()]
)
def test_mutant_is_caught(name: str) -> None:
    mutant, check = MUTANTS[name]
    with mutant(), pytest.raises(AssertionError):
        CHECKS[check]()


def test_every_check_catches_something() -> None:
    assert {check for _, check in MUTANTS.values()} == set(CHECKS)
