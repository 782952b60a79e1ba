"""Limits against scipy's, and against the share of simulated populations that they miss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, t

from pertbound.comparison.intervals import (
    bootstrap,
    clopper_pearson_lower,
    clopper_pearson_upper,
    dkw,
    enough_resamples,
)
from pertbound.errors import InputError

TAIL = 0.025


@pytest.mark.parametrize("tail", [0.1, 0.025, 1e-4])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 50), (49, 50), (9999, 10000)])
def test_clopper_pearson_is_the_quantile_of_a_beta_distribution(successes: int, trials: int, tail: float) -> None:
    lower = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    upper = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    assert clopper_pearson_lower(successes, trials, tail) == pytest.approx(lower, abs=1e-11)
    assert clopper_pearson_upper(successes, trials, tail) == pytest.approx(upper, abs=1e-11)


def test_the_band_holds_both_curves_everywhere_in_all_but_few_simulations() -> None:
    generator = np.random.default_rng(0)
    count, reps = 30, 2000
    lower = np.sort(generator.random((reps, count)), axis=1)
    upper = np.sort(lower + generator.random((reps, count)), axis=1)
    steps = np.arange(count) / count
    band = dkw(count, 0.95)
    # 1 - F of the population below each model's, at the samples: uniform, and the sum of two uniforms
    certified = (1 - steps) - (1 - lower)  # the curve at r = lower counts those >= r
    triangle = np.where(upper <= 1, 1 - upper**2 / 2, (2 - upper) ** 2 / 2)
    attacked = triangle - (1 - steps - 1 / count)  # just above r
    missed = (certified.max(1) > band) | (attacked.max(1) > band)
    assert 0.005 < missed.mean() < 0.05
    assert (certified.max(1) > band / 2).mean() > 0.2, "half the band is not enough"


def missed(values: np.ndarray, truth: float, edge: float) -> tuple[float, float]:
    """How often the lower and the upper limit of each column's mean miss the truth."""
    columns = values.shape[1]
    tails, ends = np.full(columns, TAIL), np.full(columns, edge)
    below, above = bootstrap(values, tails, -ends, ends, 999, np.random.default_rng(1))
    return float((below > truth + 1e-12).mean()), float((above < truth - 1e-12).mean())


@pytest.mark.parametrize("count", [5, 30, 120])
def test_normal_means_are_missed_as_often_as_announced(count: int) -> None:
    values = np.random.default_rng(count).normal(size=(count, 600))
    assert max(missed(values, 0.0, 10.0)) < 0.042  # 0.025 and three standard errors, and a little


@pytest.mark.parametrize(("count", "most"), [(5, 0.11), (20, 0.065), (100, 0.045)])
def test_skewed_means_are_missed_little_more_often(count: int, most: float) -> None:
    values = np.random.default_rng(count).lognormal(0, 0.8, size=(count, 600))
    assert max(missed(values, math.exp(0.32), 60.0)) < most


@pytest.mark.parametrize(("count", "differ"), [(3, 0.3), (10, 0.2), (30, 0.05), (30, 0.5), (100, 0.01)])
def test_two_equal_accuracies_are_told_apart_little_more_often(count: int, differ: float) -> None:
    drawn = np.random.default_rng(count).random((count, 600))
    values = np.where(drawn < differ, 1.0, np.where(drawn < 2 * differ, -1.0, 0.0))
    assert max(missed(values, 0.0, 1.0)) < 0.05


def test_the_percentile_alone_and_the_bootstrap_t_alone_would_miss_more() -> None:
    """Broken copies: each of the two limits fails where the other holds."""
    generator = np.random.default_rng(3)
    few = generator.lognormal(0, 0.8, size=(10, 400))
    rare = generator.random((50, 400))
    rare = np.where(rare < 0.02, 1.0, np.where(rare < 0.04, -1.0, 0.0))

    def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = values[generator.integers(len(values), size=(999, len(values)))]
        means, spreads = drawn.mean(1), drawn.std(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.nan_to_num((means - values.mean(0)) / spreads, nan=0.0)
        t_above = values.mean(0) - np.quantile(scores, TAIL, axis=0, method="lower") * values.std(0)
        return np.quantile(means, 1 - TAIL, axis=0, method="higher"), t_above

    percentile, _ = halves(few)
    _, scored = halves(rare)
    assert (percentile < math.exp(0.32)).mean() > 0.1
    assert (scored < 0).mean() > 0.06
    assert missed(few, math.exp(0.32), 60.0)[1] < 0.1
    assert missed(rare, 0.0, 1.0)[1] < 0.04


def test_many_normal_values_get_the_limits_of_students_t() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    below, above = bootstrap(values, *(np.array([x]) for x in (TAIL, -99.0, 99.0)), 20000, np.random.default_rng(1))
    half = t.ppf(1 - TAIL, 399) * values.std(ddof=1) / 20
    assert below[0] == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert above[0] == pytest.approx(values.mean() + half, abs=0.06 * half)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_values_without_spread_allow_for_what_was_missed(count: int) -> None:
    values = np.full((count, 2), 0.4)
    below, above = bootstrap(
        values, np.array([TAIL, 0.2]), np.array([0.0, -1.0]), np.array([1.0, 0.5]), 500, np.random.default_rng(0)
    )
    share = 1 - np.array([TAIL, 0.2]) ** (1 / count)
    np.testing.assert_allclose(below, 0.4 - share * np.array([0.4, 1.4]))
    np.testing.assert_allclose(above, 0.4 + share * np.array([0.6, 0.1]))


def test_a_few_that_differ_get_the_exact_limit_and_not_the_ends_of_the_world() -> None:
    values = np.zeros((50, 1))
    values[:2] = 1.0
    below, above = bootstrap(values, *(np.array([x]) for x in (TAIL, -1.0, 1.0)), 4000, np.random.default_rng(0))
    assert above[0] == pytest.approx(clopper_pearson_upper(2, 50, TAIL))
    assert below[0] <= 0


def test_too_few_resamples_for_the_tail_are_refused() -> None:
    with pytest.raises(InputError, match="100 are needed"):
        bootstrap(np.eye(4), np.full(4, 0.01), np.zeros(4), np.ones(4), 50, np.random.default_rng(0))
    assert enough_resamples(0.025) == 4000
    assert enough_resamples(0.001) == 20000
