"""How far averages over samples can lie from those over the population that the samples were drawn from. Numpy only.

Three tools, each where it is strongest:

- `bootstrap`: for means of whatever is computed from one sample (radii, differences of two models' radii). Every
  resample draws samples, and takes everything that is known of them along: the paired bootstrap.
- `clopper_pearson_lower`, `clopper_pearson_upper`: for one share; exact.
- `dkw`: for a whole curve of shares, at all its points at once; holds for every number of samples and every
  distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pertbound.errors import InputError

Floats = NDArray[np.float64]

_ENTRIES = 1 << 21
"""Entries of a block of resamples: 16 MiB."""

_FLAT = 1e-12
"""In parts of the largest possible value: below this values differ by rounding only."""


def bootstrap(
    values: Floats,
    tails: Floats,
    floor: Floats,
    ceiling: Floats,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """One-sided confidence limits for the mean of each column of `values` (samples, columns): all below, all above.

    Each limit fails with a probability of about `tails` (columns,). All values lie between `floor` and `ceiling`
    (columns,), known beforehand, and so do the limits.

    A limit is the more cautious of two: the percentile of the resampled means, and the bootstrap-t (Efron and
    Tibshirani 1993, chapters 12 and 13; Hall 1988), whose resamples without any spread count as infinitely far. The
    first is too short for few samples of a skewed distribution, the second where few samples differ from the others,
    and each holds where the other fails; what they do together is simulated in the tests. Where so few samples differ
    from the usual value that the bootstrap-t has no limit, this takes its place: the share of the population that
    differs is no larger than the limit of Clopper and Pearson, and at worst all of it is at the floor, or the ceiling.
    """
    count, columns = values.shape
    reach = ceiling - floor
    values, floor, ceiling = values / reach, floor / reach, ceiling / reach
    mean = values.mean(0)
    centred = values - mean
    spread = np.sqrt((centred**2).mean(0))
    flat = spread <= _FLAT
    unit = centred / np.where(flat, 1.0, spread)
    means, scores = np.empty((resamples, columns)), np.empty((resamples, columns))
    both = np.concatenate([unit, unit**2, values], axis=1)
    block = max(1, _ENTRIES // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        moments = _counts(count, size, generator) @ both / count
        m, square, raw = np.split(moments, 3, axis=1)
        variance = square - m**2
        still = variance <= _FLAT * square
        far = np.where(m == 0, 0.0, np.copysign(np.inf, m))
        means[start : start + size] = raw  # not from `unit`: where most values are 0, so must be the mean of zeros
        scores[start : start + size] = np.where(still, far, m / np.sqrt(np.where(still, 1.0, variance)))
    below, above = np.empty(columns), np.empty(columns)
    for i, tail in enumerate(tails.tolist()):
        low_mean, high_mean = _extremes(means[:, i], tail)
        low_score, high_score = _extremes(scores[:, i], tail)
        low, high = mean[i] - spread[i] * high_score, mean[i] - spread[i] * low_score
        if flat[i] or math.isinf(low) or math.isinf(high):
            usual, rare = (mean[i], 0) if flat[i] else _usual(values[:, i])
            share = clopper_pearson_upper(rare, count, tail)
            low = usual - share * (usual - floor[i]) if flat[i] or math.isinf(low) else low
            high = usual + share * (ceiling[i] - usual) if flat[i] or math.isinf(high) else high
        below[i], above[i] = min(mean[i], low_mean, low), max(mean[i], high_mean, high)
    return np.clip(below, floor, ceiling) * reach, np.clip(above, floor, ceiling) * reach


def enough_resamples(tail: float) -> int:
    """So many resamples that about twenty of them lie beyond the limit, or more."""
    return max(4000, math.ceil(20 / tail))


def clopper_pearson_lower(successes: int, trials: int, tail: float) -> float:
    """The exact lower confidence limit for a probability: it fails with a probability of at most `tail`.

    >>> round(clopper_pearson_lower(10, 10, 0.025), 4)
    0.6915
    """
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_least(successes, trials, middle) <= tail else (low, middle)
    return low


def clopper_pearson_upper(successes: int, trials: int, tail: float) -> float:
    """The exact upper confidence limit for a probability.

    >>> round(clopper_pearson_upper(0, 10, 0.025), 4)
    0.3085
    """
    return 1.0 - clopper_pearson_lower(trials - successes, trials, tail)


def dkw(samples: int, confidence: float) -> float:
    """How far two curves of shares, one bounded from below and one from above, can be off anywhere, both together.

    The one-sided inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), once for each side.

    >>> round(dkw(1000, 0.95), 4)
    0.0429
    """
    return math.sqrt(math.log(2 / (1 - confidence)) / (2 * samples))


def _counts(count: int, size: int, generator: np.random.Generator) -> Floats:
    """How often each of `count` samples is drawn in each of `size` resamples."""
    drawn = generator.integers(count, size=(size, count))
    drawn += np.arange(size)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _usual(values: Floats) -> tuple[float, int]:
    """The most frequent value, and how many values differ from it."""
    found, times = np.unique(values, return_counts=True)
    return float(found[times.argmax()]), len(values) - int(times.max())


def _extremes(values: Floats, tail: float) -> tuple[float, float]:
    """The order statistics beyond which a new resample falls with a probability of at most `tail`, on either side."""
    place = math.floor((len(values) + 1) * tail)
    if place < 1:
        raise InputError(f"{len(values)} resamples cannot show a tail of {tail:.2g}: {math.ceil(1 / tail)} are needed")
    ordered = np.partition(values, (place - 1, len(values) - place))
    return float(ordered[place - 1]), float(ordered[len(values) - place])


def _at_least(successes: int, trials: int, probability: float) -> float:
    """The probability of so many successes or more."""
    if probability in (0.0, 1.0):
        return probability
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    k = np.arange(successes, trials + 1)
    choose = logarithms[trials] - logarithms[k] - logarithms[trials - k]
    return float(np.exp(choose + k * math.log(probability) + (trials - k) * math.log1p(-probability)).sum())
