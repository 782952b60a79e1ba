"""Every entrywise operator is bounded as it is defined: thresholds, constants and approximations included."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch

from contracts.formulas import check_forward, check_interval, check_relaxation, graph_for
from mutants.folding import constants_rounded
from oracles.formulas import FORMULAS
from pertbound.layers import Softplus

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("name", FORMULAS)
def test_an_operator_is_bounded_as_it_is_defined(name: str, generator: torch.Generator) -> None:
    graph = graph_for(FORMULAS[name])
    for dtype in DTYPES:
        check_forward(graph, FORMULAS[name], dtype)
        check_interval(graph, FORMULAS[name], dtype, generator)
    check_relaxation(graph, FORMULAS[name], generator, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_an_operator_is_bounded_as_it_is_defined_in_many_boxes(name: str, generator: torch.Generator) -> None:
    graph = graph_for(FORMULAS[name])
    check_relaxation(graph, FORMULAS[name], generator, 200)


def _without_threshold(method: str) -> Any:
    original = getattr(Softplus, method)

    def broken(self: Softplus, *arguments: Any) -> Any:
        return original(Softplus(self.input_shape, self.beta, math.inf), *arguments)

    return patch.object(Softplus, method, broken)


def test_softplus_relaxed_without_its_threshold_is_caught(generator: torch.Generator) -> None:
    formula = FORMULAS["softplus, threshold 2"]
    with _without_threshold("interval"), pytest.raises(AssertionError, match="from"):
        check_interval(graph_for(formula), formula, torch.float64, generator)
    with (
        _without_threshold("_straight"),
        _without_threshold("leap"),
        pytest.raises(AssertionError, match="relaxation"),
    ):
        check_relaxation(graph_for(formula), formula, generator, 60)


def test_a_sixth_that_is_rounded_to_float32_is_caught(generator: torch.Generator) -> None:
    formula = FORMULAS["hardsigmoid"]
    broken = constants_rounded(graph_for(formula))
    with pytest.raises(AssertionError, match="computed"):
        check_forward(broken, formula, torch.float64)
    with pytest.raises(AssertionError, match="from"):
        check_interval(broken, formula, torch.float64, generator)
