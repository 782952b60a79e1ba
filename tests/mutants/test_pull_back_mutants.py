"""Each broken relaxation is rejected by its contract, and its original passes the same one on the same tensors."""

from __future__ import annotations

import pytest
import torch

from contracts.last_step import check_last_step
from contracts.relaxation import check_relaxation
from mutants.families import relaxed_mutants
from mutants.layers import Mutant
from mutants.pull_back import layer_mutants
from mutants.relaxation import LAST_STEPS, GraphMutant, graph_mutants
from oracles.exact import WIDER
from pertbound.relaxation import Ground
from pertbound.sets import Ball

LAYERS, GRAPHS = layer_mutants() | relaxed_mutants(), graph_mutants()
SEEDS = (0, 1, 2)
"""A fault may show with one and not with another; the original must pass with all."""
pytestmark = pytest.mark.skipif(not WIDER, reason="long double is no wider than double here")


def _run(mutant: Mutant, broken: bool) -> None:
    for seed in SEEDS:
        layer, generator = mutant.broken if broken else mutant.sound, torch.Generator().manual_seed(seed)
        if mutant.shapes:
            mutant.contract(layer, generator, mutant.shapes)  # type: ignore[call-arg]
        else:
            mutant.contract(layer, generator)


@pytest.mark.parametrize("mutant", LAYERS.values(), ids=LAYERS.keys())
def test_mutant_is_caught(mutant: Mutant) -> None:
    with pytest.raises(AssertionError, match=type(mutant.broken).__name__):
        _run(mutant, broken=True)


@pytest.mark.parametrize("mutant", LAYERS.values(), ids=LAYERS.keys())
def test_original_passes(mutant: Mutant) -> None:
    _run(mutant, broken=False)


def _check_graph(mutant: GraphMutant) -> None:
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        check_relaxation(mutant.graph, mutant.ball, generator, pull=mutant.pull, make=mutant.make)


@pytest.mark.parametrize("mutant", GRAPHS.values(), ids=GRAPHS.keys())
def test_graph_mutant_is_caught(mutant: GraphMutant) -> None:
    with pytest.raises(AssertionError, match=r"too much|leaves its"):
        _check_graph(mutant)


@pytest.mark.parametrize("mutant", GRAPHS.values(), ids=GRAPHS.keys())
def test_original_graph_passes(mutant: GraphMutant) -> None:
    check_relaxation(mutant.graph, mutant.ball, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("broken", "ball"), LAST_STEPS.values(), ids=LAST_STEPS.keys())
def test_broken_last_step_is_caught(broken: type[Ground], ball: Ball) -> None:
    """tests/test_relaxation.py runs the original through the same."""
    with pytest.raises(AssertionError, match="too much"):
        check_last_step(broken, ball, torch.Generator().manual_seed(0))
