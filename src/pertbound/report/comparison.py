"""A comparison of models as a picture: accuracy curves with their bands, mean radii, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pertbound.comparison import Comparison, Interval, Model, Pair, Verdict
from pertbound.report.comparison_words import percent, question
from pertbound.report.style import (
    BAND,
    INK,
    legend_above,
    log_axis,
    log_limits,
    new_figure,
    plain,
    spans_decades,
    styled,
)
from pertbound.samples import Floats

SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, one for each model; dashes tell those apart that share one."""

_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))

_SHADED = 3
"""Up to so many models the space between their curves is shaded."""

_MOST = 40
"""With more differences than this only those of mean radii are drawn."""

_LINE = 0.26
"""Inches of a line in the lower panels."""


@styled
def comparison_figure(of: Comparison) -> Figure:
    """Above, accuracy against the radius; below, the brackets of the mean radii and of all differences.

    A model's truth lies between its certified and its attack accuracy (shaded for few models), give or take the thin
    lines: the band for chance. Below, the thick bar is what the brackets leave open, the thin one adds chance. A
    difference is coloured where it tells, in the colour of the more robust model.
    """
    pairs = [p for p in of.pairs if p.radius is None] if len(of.pairs) > _MOST else list(of.pairs)
    low = 1.1 + _LINE * (len(of.models) + len(pairs) + 2)
    figure = new_figure(4.3 + low)
    curves, means, differences = figure.subplots(3, 1, height_ratios=[4.3 / _LINE, len(of.models) + 1, len(pairs) + 1])
    _curves(curves, of)
    _means(means, of)
    _differences(differences, of, pairs)
    return figure


def _curves(axes: Axes, of: Comparison) -> None:
    bounds = np.concatenate([np.append(model.lower, model.upper) for model in of.models])
    bounds = np.append(bounds, of.radii)
    bounds = bounds[np.isfinite(bounds) & (bounds > 0)]
    decades = spans_decades(bounds)
    limits = log_limits(bounds) if decades else (0.0, 1.04 * float(bounds.max(initial=1e-9)))
    radii = of.corners()
    radii = np.concatenate([[limits[0]], radii[(radii > limits[0]) & (radii < limits[1])], [limits[1]]])
    for i, model in enumerate(of.models):
        _curve(axes, of, model, i, radii)
    for radius in of.radii:
        if limits[0] <= radius <= limits[1]:
            axes.axvline(radius, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
    if decades:
        log_axis(axes, "x", limits)
    else:
        axes.set_xlim(*limits)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(True)
    axes.set_xlabel(f"r: {of.norm} distance, units of the input")
    what = "robust accuracy" if of.against_labels else "predictions that hold"
    axes.set_ylabel(f"{what}, {len(of.samples):,} samples")
    legend_above(axes)


def _curve(axes: Axes, of: Comparison, model: Model, i: int, radii: Floats) -> None:
    shade, dashes = _look(i)
    low, high = model.certified_accuracy(radii), model.attack_accuracy(radii)
    shaded = len(of.models) <= _SHADED
    if shaded:
        axes.fill_between(radii, low, high, step="pre", color=shade, alpha=0.16, linewidth=0)
    reading = f": certified to attacked (thin lines: {percent(of.confidence)} band)" if shaded else ""
    style: dict[str, Any] = {"drawstyle": "steps-pre", "color": shade, "linestyle": dashes}
    axes.plot(radii, low, linewidth=2.0, label=plain(model.name) + reading, **style)
    axes.plot(radii, high, linewidth=2.0, **style)
    if shaded:
        for edge in (np.maximum(low - of.band, 0), np.minimum(high + of.band, 1)):
            axes.plot(radii, edge, linewidth=0.7, alpha=0.75, **style)


def _means(axes: Axes, of: Comparison) -> None:
    places = {model.name: i for i, model in enumerate(of.models)}
    order = [place.model for place in of.ranking()]
    rows = [(plain(name), of.models[places[name]].mean, _look(places[name])[0]) for name in order]
    _bars(axes, rows)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean {of.norm} radius, each counted up to {of.cap:.3g}")


def _differences(axes: Axes, of: Comparison, pairs: Sequence[Pair]) -> None:
    shades = {model.name: _look(i)[0] for i, model in enumerate(of.models)}
    widest = {radius: _reach([p for p in pairs if p.radius == radius]) for radius in (None, *of.radii)}
    rows: list[tuple[str, Interval, str]] = []
    for pair in pairs:
        winner = {Verdict.FIRST: pair.first, Verdict.SECOND: pair.second}.get(pair.verdict)
        scale = widest[pair.radius]
        d = pair.difference
        scaled = Interval(d.lower / scale, d.upper / scale, d.lower_limit / scale, d.upper_limit / scale)
        name = f"{plain(pair.first, 20)} less {plain(pair.second, 20)}, {question(pair.radius)}"
        rows.append((name, scaled, BAND if winner is None else shades[winner]))
    _bars(axes, rows)
    axes.axvline(0, color=INK, linewidth=1.0)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xticks([0], ["0"])
    axes.set_xlabel(
        "\N{LEFTWARDS ARROW} the second more robust   |   the first more robust \N{RIGHTWARDS ARROW}\n"
        "scaled to the widest of each question; grey: cannot tell"
    )


def _bars(axes: Axes, rows: Sequence[tuple[str, Interval, str]]) -> None:
    """One line for each: a thick bar for what brackets leave open, a thin one with what chance adds."""
    for place, (_, interval, shade) in enumerate(rows):
        axes.plot([interval.lower_limit, interval.upper_limit], [place] * 2, color=shade, linewidth=1.4)
        axes.plot([interval.lower, interval.upper], [place] * 2, color=shade, linewidth=7, solid_capstyle="butt")
        axes.plot([interval.lower, interval.upper], [place] * 2, "|", color=shade, markersize=9, markeredgewidth=1.6)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")


def _reach(pairs: Sequence[Pair]) -> float:
    ends = [abs(end) for pair in pairs for end in (pair.difference.lower_limit, pair.difference.upper_limit)]
    return max(ends) or 1.0


def _look(i: int) -> tuple[str, str | tuple[float, tuple[float, ...]]]:
    return SHADES[i % len(SHADES)], _DASHES[i // len(SHADES) % len(_DASHES)]
