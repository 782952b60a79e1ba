"""Each broken ball is rejected by its contract; `tests/test_sets.py` runs the original through every one."""

from __future__ import annotations

import pytest
import torch

from contracts.sets import CONTRACTS
from mutants.sets import MUTANTS
from pertbound.sets import Ball


@pytest.mark.parametrize(("broken", "contract"), MUTANTS, ids=[f"{kind.__name__}, {name}" for kind, name in MUTANTS])
def test_mutant_is_caught(broken: type[Ball], contract: str) -> None:
    with pytest.raises(AssertionError):
        CONTRACTS[contract](broken, torch.Generator().manual_seed(20171204))


def test_every_contract_catches_something() -> None:
    assert {name for _, name in MUTANTS} == set(CONTRACTS)
