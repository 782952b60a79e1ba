"""Each broken layer is rejected by its contract, and its original passes the same one on the same tensors."""

from __future__ import annotations

import pytest
import torch

from mutants.families import family_mutants
from mutants.intervals import interval_mutants
from mutants.layers import Mutant, mutants

MUTANTS = mutants() | interval_mutants() | family_mutants()


def _run(mutant: Mutant, broken: bool) -> None:
    generator = torch.Generator().manual_seed(20171204)
    layer = mutant.broken if broken else mutant.sound
    if mutant.shapes:
        mutant.contract(layer, generator, mutant.shapes)  # type: ignore[call-arg]
    else:
        mutant.contract(layer, generator)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_mutant_is_caught(mutant: Mutant) -> None:
    with pytest.raises(AssertionError, match=type(mutant.broken).__name__):
        _run(mutant, broken=True)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_original_passes(mutant: Mutant) -> None:
    _run(mutant, broken=False)
