"""How figures look: one palette that colour-blind readers can tell apart, one ink, axes without clutter.

Figures are drawn with `Figure` objects and never touch matplotlib's global state; what only its settings can say
is set in a context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from matplotlib import style as mpl_style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from pertbound.records import CERTIFIED, ESTIMATE, WITNESS
from pertbound.samples import Floats, Method

P = ParamSpec("P")
R = TypeVar("R")

INK = "#1b1f24"
"""Text, axes and grid. The page replaces it by the reader's own text colour, so it is used for nothing else."""

BAND = "#808891"
"""The shade between certificate and witness: a grey that shows on light and on dark."""

WIDTH = 9.0
"""Inches; at 100 dots per inch the 900 pixels of a page."""

COLOURS = {
    CERTIFIED: ("#0072b2", "#009e73", "#56b4e9"),
    ESTIMATE: ("#cc79a7", "#999933", "#8a8a8a"),
    WITNESS: ("#d55e00", "#e69f00", "#a65628"),
}
"""Shades for the methods of each kind: Okabe and Ito's colours, and three more for runs with many methods."""

SETTINGS = {
    "font.size": 10.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "pdf.fonttype": 42,  # fonts that publishers accept
    "svg.fonttype": "none",
    "svg.hashsalt": "pertbound",
    "path.simplify": True,
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under `SETTINGS`, and leave matplotlib as it was."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl_style.context(["default", SETTINGS]):
            return draw(*args, **kwargs)

    return inside


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure that no window manager knows of."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def empty_figure(message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = new_figure(1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", alpha=0.8)
    return figure


def colour(method: Method, among: list[Method]) -> str:
    """The method's colour: its kind's palette, by its place among the methods of that kind."""
    shades = COLOURS[method.guarantee]
    same = [other.name for other in among if other.guarantee == method.guarantee]
    return shades[same.index(method.name) % len(shades)]


def label(method: Method) -> str:
    """The method's name in a legend, with the warning that an estimate needs."""
    warning = " (estimate, not a guarantee)" if method.guarantee == ESTIMATE else ""
    return plain(method.name) + warning


def plain(text: str, longest: int = 48) -> str:
    """Text that matplotlib prints as it stands: no formulas, no hidden legend entries, on one line."""
    shown = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return f" {shown}" if shown.startswith("_") else shown


def drawable(values: Floats) -> Floats:
    """What a logarithmic axis can show: finite, positive, and away from the ends of float64."""
    return values[(values > 1e-300) & (values < 1e300)]


def spans_decades(values: Floats) -> bool:
    """Do the drawable values need a logarithmic axis?"""
    shown = drawable(values)
    return len(shown) > 0 and bool(shown.max() > 20 * shown.min())


def log_limits(values: Floats) -> tuple[float, float]:
    """Limits of a logarithmic axis with some air around the drawable values, at least half a decade wide."""
    shown = drawable(values)
    if len(shown) == 0:
        return 0.1, 10.0
    low, high = math.log10(shown.min()), math.log10(shown.max())
    air = max(0.04 * (high - low), 0.25 - (high - low) / 2, 0.02)
    return 10.0 ** (low - air), 10.0 ** (high + air)


def log_axis(axes: Axes, which: str, limits: tuple[float, float]) -> None:
    """Make the x or y axis logarithmic between the limits, with readable numbers at its ticks."""
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)
    decades = math.log10(limits[1]) - math.log10(limits[0])
    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=9 if decades > 8 else 14))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: re.sub(r"e([+-])0*", r"e\1", f"{value:g}").replace("e+", "e"))
    )
    axis.set_minor_locator(LogLocator(subs=np.arange(2, 10).tolist()) if decades < 6 else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes) -> None:
    """The legend in rows above the axes, where it hides nothing, in as many columns as fit their width."""
    handles, labels = axes.get_legend_handles_labels()
    widths = [44 + 5.6 * len(text) for text in labels]  # points, at the font size of `SETTINGS`
    columns = max((n for n in (1, 2) if _columns_width(widths, n) < 72 * WIDTH - 80), default=1)
    shown = axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2
    )  # fmt: skip
    for handle in shown.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([28.0])


def _columns_width(widths: list[float], columns: int) -> float:
    """The width of a legend that fills one column after the other."""
    rows = math.ceil(len(widths) / columns)
    return sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) if widths else 0.0
