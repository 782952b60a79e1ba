"""Constants that are computed while a model is read are those of the exact network, or their rounding is taken off."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import pertbound as pb
from contracts.folding import ALL, CHEAP, batch_norms, check_edge, others, preprocessings
from mutants.folding import batch_norm_rounded, constants_rounded, preprocessing_rounded
from pertbound.layers import Dense, Diagonal
from pertbound.rational import affine_constants, batch_norm_constants, nearest


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_batch_normalisation_is_that_of_the_module_in_exact_arithmetic() -> None:
    assert sum(check_edge(edge) for edge in batch_norms(_generator(), 1)) > 0


def test_declared_preprocessing_is_that_of_the_declared_numbers() -> None:
    assert sum(check_edge(edge) for edge in preprocessings(_generator(), 2)) > 0


def test_other_constants_are_exact_too_and_mutants_of_each_are_caught() -> None:
    for name, edge in others(_generator()):
        assert check_edge(edge, CHEAP[:1]) > 0, name
        broken = replace(edge, network=constants_rounded(edge.network))
        with pytest.raises(AssertionError, match="certifies"):
            check_edge(broken, CHEAP[:1])


@pytest.mark.slow
def test_all_certificates_keep_within_the_exact_boundary() -> None:
    edges = [*batch_norms(_generator()), *preprocessings(_generator()), *(edge for _, edge in others(_generator()))]
    for edge in edges:
        assert check_edge(edge, ALL) > 0


@pytest.mark.parametrize(
    ("mutant", "edges"),
    [(batch_norm_rounded, batch_norms), (preprocessing_rounded, preprocessings)],
    ids=["batch norm rounded", "preprocessing rounded"],
)
def test_mutant_is_caught(mutant: Any, edges: Any) -> None:
    with mutant():
        (edge,) = edges(_generator(), 1)
    with pytest.raises(AssertionError, match="certifies"):
        check_edge(edge, CHEAP[:1])


def test_batch_norm_constants_are_the_nearest_float64(generator: torch.Generator) -> None:
    """However much cancels: against sixty digits."""
    mean, weight, bias = (10 * torch.randn(40, generator=generator) for _ in range(3))
    variance = torch.rand(40, generator=generator)
    eps = 1e-5
    root = [mpmath.sqrt(mpmath.mpf(float(v)) + mpmath.mpf(eps)) for v in variance]
    for i in range(0, 40, 2):  # so that the difference is a small remainder
        bias[i] = float(mpmath.mpf(float(mean[i])) * mpmath.mpf(float(weight[i])) / root[i])
    scale, shift = batch_norm_constants(mean, variance, weight, bias, eps)
    for i in range(40):
        w, m, b = (mpmath.mpf(float(part[i])) for part in (weight, mean, bias))
        assert float(scale[i]) == float(w / root[i])
        assert float(shift[i]) == float(b - m * w / root[i])


def test_statistics_without_a_scale_are_refused() -> None:
    ones = torch.ones(2)
    scale, shift = batch_norm_constants(ones, torch.tensor([-1.0, float("nan")]), None, None, 1e-5)
    assert not scale.isfinite().any()
    assert shift.isnan().all()
    exact, zero = batch_norm_constants(0 * ones, 0 * ones + 4, ones, None, 0.0)
    assert exact.tolist() == [0.5, 0.5]
    assert zero.tolist() == [0.0, 0.0]
    assert nearest(Fraction(10) ** 400) == float("inf")


def test_biases_and_constant_states_are_added_exactly() -> None:
    weight, h = torch.tensor([[1.0, 2.0**-30], [3.0, -1.0]]), torch.tensor([2.0**-10, 1.0])
    found = affine_constants(weight, h, (torch.tensor([1.0, 0.1]), torch.tensor([-1.0, 0.2])))
    second = Fraction(3, 1024) - 1 + Fraction(float(torch.tensor(0.1))) + Fraction(float(torch.tensor(0.2)))
    assert found.tolist() == [2.0**-10 + 2.0**-30, float(second)]


def test_a_parametrised_weight_is_the_one_that_the_module_multiplies_with() -> None:
    """It is computed in the module's dtype by the module's own operators, at every pass: this number is certified."""
    first, last = parametrizations.weight_norm(nn.Linear(4, 3)), parametrizations.spectral_norm(nn.Linear(3, 2))
    network = pb.from_torch(nn.Sequential(first, last).eval(), torch.zeros(2, 4))
    for node, linear in zip(network.nodes, (first, last), strict=True):
        assert isinstance(node.layer, Dense)
        assert torch.equal(node.layer.weight, linear.eval().weight)


def test_stored_scales_are_kept_as_they_are() -> None:
    norm = nn.LayerNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.1, 0.7, 1.3]))
    network = pb.from_torch(nn.Sequential(norm, nn.Linear(3, 2)).eval(), torch.zeros(2, 3))
    (scaled,) = [node.layer for node in network.nodes if isinstance(node.layer, Diagonal)]
    assert np.array_equal(scaled.scale.numpy(), norm.weight.detach().numpy())
