"""The bracket of every sample, and accuracy as a function of the perturbation's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report.about import distance, noun
from pertbound.report.rounding import share
from pertbound.report.style import (
    BAND,
    COLOURS,
    colour,
    drawable,
    empty_figure,
    label,
    legend_above,
    log_axis,
    log_limits,
    new_figure,
    spans_decades,
    styled,
)
from pertbound.samples import Brackets, Floats, Method, aligned, brackets, methods

_FEW = 40
"""Up to so many samples each has a bar of its own instead of a band through all."""

_MANY = 600
"""From so many samples on, points become pixels in the SVG: the page stays small."""

BELOW, ABOVE = COLOURS[CERTIFIED][0], COLOURS[WITNESS][0]
OPEN = "not decided"


@styled
def bracket_figure(run: Run) -> Figure:
    """Every sample's bracket: certified radius below, nearest witness above, and what is open between them.

    Samples are sorted by the distance to their witness, those without one last and by their certified radius.
    Estimates take no part, except in a run that certifies nothing; they are then drawn hollow.
    """
    best = brackets(run)
    estimates = [m for m in methods(run) if m.guarantee == ESTIMATE]
    stand_in = estimates[0] if estimates and np.isnan(best.lower).all() else None
    lower = best.lower if stand_in is None else aligned(best.sample, stand_in, smallest=False)
    order = np.lexsort((lower, np.where(np.isfinite(best.upper), best.upper, np.inf)))
    lower, upper = lower[order], best.upper[order]
    shown = drawable(np.concatenate([lower, upper]))
    if len(shown) == 0:
        return empty_figure("No positive finite distances to draw.")
    low, high = log_limits(shown)
    figure = new_figure(4.6)
    axes = figure.subplots()
    rank = np.arange(1, len(best) + 1)
    pixels = len(best) > _MANY
    size = float(np.clip(900 / len(best), 4, 22))
    style: dict[str, Any] = {"rasterized": pixels, "linewidths": 0.6}
    if stand_in is None:
        _shade(axes, rank, lower, upper, (low, high), pixels)
        below: dict[str, Any] = {
            "facecolors": BELOW,
            "edgecolors": BELOW,
            "label": "certified radius: nothing smaller changes it",
        }
    else:
        below = {"facecolors": "none", "edgecolors": colour(stand_in, estimates), "label": label(stand_in)}
    seen = np.isin(upper, shown)
    if seen.any():
        text = "nearest witness: changes the class"
        axes.scatter(rank[seen], upper[seen], size, color=ABOVE, marker="o", zorder=3, label=text, **style)
    seen = np.isin(lower, shown)
    if seen.any():
        axes.scatter(rank[seen], lower[seen], size, marker="v", zorder=4, **below, **style)
    missed = np.isinf(upper)
    if missed.any():
        at = np.full(missed.sum(), high)
        mark: dict[str, Any] = {"facecolors": "none", "edgecolors": ABOVE, "clip_on": False}
        axes.scatter(rank[missed], at, min(3 * size, 26), marker="^", label="no witness found", **mark, **style)
    log_axis(axes, "y", (low, high))
    axes.set_xlim(0.5 - 0.01 * len(best), len(best) * 1.01 + 0.5)
    axes.grid(True, axis="y")
    axes.set_ylabel(distance(run))
    axes.set_xlabel("\n".join([f"{noun(run)}, from least to most robust", *_off_the_axis(best, lower, stand_in)]))
    legend_above(axes)
    return figure


@styled
def accuracy_curves(run: Run) -> Figure:
    """The share of samples that no perturbation of size r can, or was seen to, take from their class.

    Certified: the radius is at least r (solid). Attacks: no witness is closer than r (solid). Estimates are
    dashed. The truth lies in the shaded band between the best certificate and the best attack.
    """
    every, best = methods(run), brackets(run)
    values = {id(m): _as_radii(m) for m in every}
    shown = drawable(np.concatenate([best.lower, best.upper, *values.values()]))
    if len(shown) == 0:
        return empty_figure("No positive finite distances to draw.")
    bounds = drawable(np.concatenate([best.lower, best.upper]))
    decades = spans_decades(shown)
    limits = log_limits(shown) if decades else (0.0, float(shown.max()) * 1.04)
    figure = new_figure(3.3 + 0.15 * len(every))
    axes = figure.subplots()
    certified, attacked = not np.isnan(best.lower).any(), not np.isnan(best.upper).any()
    if certified and attacked and len(bounds):
        radii = _corners(bounds, limits)
        below, above = survival(best.lower, radii), survival(best.upper, radii)
        axes.fill_between(radii, below, above, color=BAND, alpha=0.2, linewidth=0, label=OPEN)
    for method in every:
        radii, shares = _steps(values[id(method)], limits)
        dashes = (0, (4, 2)) if method.guarantee == ESTIMATE else "solid"
        axes.plot(
            radii, shares, drawstyle="steps-pre", linestyle=dashes, color=colour(method, every),
            linewidth=2.0, label=label(method) + _reading(method, len(best)),
        )  # fmt: skip
    if decades:
        log_axis(axes, "x", limits)
    else:
        axes.set_xlim(*limits)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(True)
    axes.set_xlabel(f"r: {distance(run)}")
    axes.set_ylabel(f"share of {noun(run)}")
    legend_above(axes)
    return figure


def survival(values: Floats, radii: Floats) -> Floats:
    """The share of values that are at least r, for each r of `radii`."""
    return 1 - np.searchsorted(np.sort(values), radii, side="left") / len(values)


def _corners(bounds: Floats, limits: tuple[float, float]) -> Floats:
    """Radii from each side of every step; a fine raster where there are too many to draw."""
    if len(bounds) <= _MANY:
        return np.unique(np.concatenate([limits, bounds, np.nextafter(bounds, np.inf)]))
    return np.unique(np.quantile(np.concatenate([limits, bounds]), np.linspace(0, 1, _MANY)))


def _steps(values: Floats, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """The corners of `survival` within the limits, to be drawn as steps that reach back to the previous corner."""
    inside = values[(values > limits[0]) & (values < limits[1])]
    radii = np.unique(np.concatenate([limits, inside]))
    if len(radii) > 2 * _MANY:
        radii = np.quantile(radii, np.linspace(0, 1, 2 * _MANY), method="closest_observation")
    return radii, survival(values, radii)


def _as_radii(method: Method) -> Floats:
    """The method's values as `survival` needs them: an attack without a witness survives any radius."""
    nothing = np.inf if method.guarantee == WITNESS else 0.0
    return np.where(np.isnan(method.size), nothing, method.size)


def _reading(method: Method, samples: int) -> str:
    words = {CERTIFIED: " certifies r", WITNESS: " finds nothing within r"}.get(method.guarantee, "")
    return words if len(method.size) == samples else f"{words} ({len(method.size)} of {samples})"


def _shade(
    axes: Axes, rank: np.ndarray, lower: Floats, upper: Floats, limits: tuple[float, float], pixels: bool
) -> None:
    """Shade what is open between certificate and witness; to the edge where a bound is 0 or there is no witness."""
    known = ~np.isnan(lower) & ~np.isnan(upper)
    if not known.any():
        return
    floor, ceiling = np.clip(lower, *limits), np.clip(upper, *limits)
    if len(rank) <= _FEW:
        axes.vlines(rank[known], floor[known], ceiling[known], color=BAND, alpha=0.25, linewidth=6, label=OPEN)
    else:
        axes.fill_between(
            rank, floor, ceiling, where=known, color=BAND, alpha=0.2, linewidth=0, rasterized=pixels, label=OPEN
        )  # fmt: skip


def _off_the_axis(best: Brackets, lower: Floats, stand_in: Method | None) -> list[str]:
    """A line about what a logarithmic axis leaves out, if anything."""
    what = "certified radii" if stand_in is None else "estimates"
    parts: list[str] = []
    for name, values in ((what, lower), ("witness distances", best.upper)):
        finite = values[np.isfinite(values)]
        zero = int((finite == 0).sum())
        off = len(finite) - zero - len(drawable(finite))
        parts += [f"{name} of 0: {zero} ({share(zero, len(best))})"] if zero else []
        parts += [f"{name} off the axis: {off}"] if off else []
    infinite = int(np.isinf(lower).sum())
    parts += [f"infinite {what}: {infinite}"] if infinite else []
    return ["not shown: " + ", ".join(parts)] if parts else []
