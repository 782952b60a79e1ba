"""Statistics of each method of a run, and the check that no lower bound exceeds a witness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from pertbound.errors import RunError, contradicts
from pertbound.records import WITNESS, Run
from pertbound.samples import Floats, Method, aligned, brackets, methods


@final
@dataclass(frozen=True)
class Summary:
    """One method's answers in numbers.

    `samples = found + none_found + infinite`: `found` answers are finite and alone enter the statistics, `zero`
    of them are 0, `none_found` were null or NaN. The statistics are NaN where nothing was found. `std` is the
    population's, and `seconds` are per sample.
    """

    method: str
    guarantee: str
    samples: int
    found: int
    none_found: int
    infinite: int
    zero: int
    mean: float
    median: float
    std: float
    min: float
    max: float
    seconds: float


@final
@dataclass(frozen=True)
class Check:
    """How often a method's lower bounds were held against witnesses, and how often they lay above."""

    method: str
    guarantee: str
    compared: int
    exceeded: int


def summary(run: Run) -> list[Summary]:
    """The statistics of every method: certificates first, then estimates, then attacks."""
    return [_summarise(method) for method in methods(run)]


def normalised(of: Summary, dimension: int, pixel_scale: float) -> Summary:
    """The statistics as in the paper's Tables 1 and 2: in the data's own pixel units, divided by the dimension.

    `dimension` is the number of entries of an input. Raises `RunError` where either is not positive.
    """
    if not (dimension > 0 and 0 < pixel_scale < np.inf):
        raise RunError(f"cannot normalise by the dimension {dimension} and the pixel scale {pixel_scale}")
    by = pixel_scale / dimension
    return replace(of, mean=of.mean * by, median=of.median * by, std=of.std * by, min=of.min * by, max=of.max * by)


def checks(run: Run) -> list[Check]:
    """For each certificate and estimate: on how many samples is its value larger than the nearest witness?

    Larger by more than float64 rounding, as `errors.contradicts` says.
    """
    best = brackets(run)
    results: list[Check] = []
    for method in methods(run):
        if method.guarantee != WITNESS:
            lower = aligned(best.sample, method, smallest=False)
            comparable = ~np.isnan(lower) & np.isfinite(best.upper)
            value, distance = lower[comparable], best.upper[comparable]
            exceeded = int(contradicts(value, distance).sum())
            results.append(Check(method.name, method.guarantee, len(value), exceeded))
    return results


def violations(run: Run) -> dict[str, int]:
    """For each certificate and estimate, the number of samples where it exceeds the nearest witness.

    For a certificate anything but 0 is a bug. For an estimate it shows that the formula is not a bound. Where
    nothing could be compared the number is 0 too; `checks` tells the two apart.
    """
    counts: dict[str, int] = {}
    for check in checks(run):
        counts[check.method] = counts.get(check.method, 0) + check.exceeded
    return counts


def _summarise(method: Method) -> Summary:
    finite = method.size[np.isfinite(method.size)]
    mean, median, std = _statistics(finite)
    some = len(finite) > 0
    seconds = method.seconds[~np.isnan(method.seconds)]
    return Summary(
        method=method.name,
        guarantee=method.guarantee,
        samples=len(method.size),
        found=len(finite),
        none_found=int(np.isnan(method.size).sum()),
        infinite=int(np.isinf(method.size).sum()),
        zero=int((finite == 0).sum()),
        mean=mean,
        median=median,
        std=std,
        min=float(finite.min()) if some else np.nan,
        max=float(finite.max()) if some else np.nan,
        seconds=float(seconds.mean()) if len(seconds) else np.nan,
    )


def _statistics(values: Floats) -> tuple[float, float, float]:
    """Mean, median and population standard deviation, without overflow in the sums of huge values."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    top = float(np.abs(values).max())
    unit = 1.0 if top < 1e150 else top
    scaled = values / unit
    return float(scaled.mean() * unit), float(np.median(scaled) * unit), float(scaled.std() * unit)
