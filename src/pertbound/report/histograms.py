"""The paper's Figures 2 to 4: distances to witnesses, lower bounds, and the ratio of the two."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pertbound.records import ESTIMATE, WITNESS, Run
from pertbound.report.about import normalised_unit, noun
from pertbound.report.style import (
    INK,
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
from pertbound.samples import Floats, Method, aligned, brackets, methods

_BINS = 36


@styled
def witness_histogram(run: Run) -> Figure:
    """Figure 2: the norms of the perturbations that each attack found, normalised as in the paper's tables."""
    return _distances(run, [m for m in methods(run) if m.guarantee == WITNESS], "No attack in this run.")


@styled
def bound_histogram(run: Run) -> Figure:
    """Figure 3: the lower bounds of each certificate and, dashed, each estimate, normalised as in the tables."""
    return _distances(run, [m for m in methods(run) if m.guarantee != WITNESS], "No lower bounds in this run.")


@styled
def ratio_histogram(run: Run) -> Figure:
    """Figure 4: per sample, log10 of the distance to the nearest witness over each lower bound."""
    every, best = methods(run), brackets(run)
    bounds = [m for m in every if m.guarantee != WITNESS]
    logs: list[Floats] = []
    notes: list[str] = []
    for method in bounds:
        lower = aligned(best.sample, method, smallest=False)
        usable = np.isfinite(lower) & np.isfinite(best.upper) & (lower > 0) & (best.upper > 0)
        logs.append(np.log10(best.upper[usable]) - np.log10(lower[usable]))
        notes.append(_left_out(len(best) - int(usable.sum()), "not shown"))
    everything = np.concatenate([*logs, np.zeros(0)])
    if len(everything) == 0:
        return empty_figure("No sample has both a positive lower bound and a witness.")
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    air = 0.03 * (high - low) + 0.05
    edges = np.linspace(low - air, high + air, _BINS + 1)
    figure = new_figure(0.9 + 1.5 * len(bounds))
    panels: list[Axes] = figure.subplots(len(bounds), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, method, values, note in zip(panels, bounds, logs, notes, strict=True):
        _panel(axes, method, every, values, edges, note)
        axes.axvline(0, linewidth=1.2, linestyle=(0, (1, 1.5)), color=INK)
        axes.set_ylabel(noun(run))
    panels[-1].set_xlim(edges[0], edges[-1])
    panels[-1].set_xlabel("log10 (witness / bound): 0 is a tight bound, left of it lies a violation")
    return figure


def _distances(run: Run, mine: list[Method], nothing: str) -> Figure:
    """One panel per method over a common axis."""
    if not mine:
        return empty_figure(nothing)
    unit = normalised_unit(run)
    with np.errstate(over="ignore"):
        scaled = [m.size * unit.factor for m in mine]
    shown = drawable(np.concatenate(scaled))
    if len(shown) == 0:
        return empty_figure("No positive finite distances to draw.")
    decades = spans_decades(shown)
    if decades:
        limits = log_limits(shown)
        edges = np.geomspace(*limits, _BINS + 1)
    else:
        limits = (0.0, float(shown.max()) * 1.04)
        edges = np.linspace(*limits, _BINS + 1)
    figure = new_figure(0.9 + 1.5 * len(mine))
    panels: list[Axes] = figure.subplots(len(mine), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, method, values in zip(panels, mine, scaled, strict=True):
        kept = values[(values >= limits[0]) & (values <= limits[1])]
        zero = int((values == 0).sum()) if decades else 0
        infinite, missing = int(np.isinf(values).sum()), int(np.isnan(values).sum())
        notes = [
            _left_out(zero, "at 0"),
            _left_out(infinite, "infinite"),
            _left_out(missing, "without one"),
            _left_out(len(values) - len(kept) - zero - infinite - missing, "off the axis"),
        ]
        _panel(axes, method, mine, kept, edges, *notes)
        if decades:
            log_axis(axes, "x", limits)
        else:
            axes.set_xlim(*limits)
        axes.set_ylabel(noun(run))
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel(unit.name)
    return figure


def _panel(axes: Axes, method: Method, among: list[Method], values: Floats, edges: Floats, *notes: str) -> None:
    """One histogram: filled and solid, or pale and dashed for an estimate; `notes` say what it leaves out."""
    ink = colour(method, among)
    estimate = method.guarantee == ESTIMATE
    outline: Any = {"linestyle": (0, (4, 2))} if estimate else {}
    axes.hist(
        values, bins=edges.tolist(), histtype="stepfilled", facecolor=(ink, 0.12 if estimate else 0.45),
        edgecolor=ink, linewidth=1.4, label=", ".join([label(method), *(note for note in notes if note)]), **outline,
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(True, axis="y")
    legend_above(axes)


def _left_out(count: int, why: str) -> str:
    return f"{count} {why}" if count else ""
