"""Facts that frontends declare, for random odd parameters of every operator."""

from __future__ import annotations

import pytest
import torch

from contracts.aten_cases import Draw, computing, prefixes, program, run
from contracts.aten_shape_cases import arranging
from contracts.dice import Dice
from contracts.facts import Read, check_facts, inputs
from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.aten import converted
from pertbound.frontends.conversion import Converter
from pertbound.frontends.local_response import with_local_responses
from pertbound.frontends.lp_pool import with_lp_pools
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Program

ATEN = computing() | arranging()

NEVER = {"aten.t"}
"""Operators that always mix the batch with the sample, which their handler says."""


def test_every_aten_operator_has_a_case() -> None:
    assert sorted(ATEN) == sorted(HANDLERS)


def read(source: Program, dtype: torch.dtype) -> Read:
    converter = Converter(source, HANDLERS, dtype)
    for call in with_local_responses(with_lp_pools(source.calls)):
        converter.read(call)
    parts = converted(converter, converter.values[source.output])
    return Read(parts.nodes, converter.ranges, parts.finish)


def check_aten(name: str, draw: Draw, number: int, *, layers: int | None = None) -> bool:
    """Whether what was drawn is supported; then all that is declared of it holds, and it computes what PyTorch does."""
    dtype = torch.float64 if number % 3 else torch.float32
    dice = Dice(name, number, dtype)
    drawn = draw(dice)
    source = program(drawn, prefixes(dice, nonnegative=drawn.nonnegative), 2)
    try:
        found = read(source, dtype)
    except UnsupportedLayerError:
        return False
    x = inputs(drawn.shape, dice.generator, drawn.numbers)
    expected = run(source, x, {name: v.double() if v.is_floating_point() else v for name, v in drawn.tensors.items()})
    got, _ = found.run(x)
    finite = expected.isfinite()
    size = torch.where(finite, expected, 0.0).abs().flatten(1).amax(1).reshape(-1, *(1 for _ in expected.shape[1:]))
    allowed = (1e-9 if dtype == torch.float64 else 1e-5) * (1 + size)
    assert got.shape == expected.shape
    assert ((got - expected).abs() <= allowed)[finite].all(), f"computes something else: {drawn.steps}"
    check_facts(found, x, dice.generator, layers=layers)
    return True


@pytest.mark.parametrize("name", sorted({*ATEN} - NEVER))
def test_aten_once(name: str) -> None:
    found = (check_aten(name, ATEN[name], number, layers=1) for number in range(10))
    assert any(found), "nothing that was drawn is supported"
