"""What each layer's step costs: the bar charts of `layers.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from pertbound.errors import RunError
from pertbound.records import CERTIFIED, WITNESS, Run
from pertbound.report.grid import Grid
from pertbound.report.rounding import nearest
from pertbound.report.style import COLOURS, INK, legend_above, new_figure, plain, styled
from pertbound.samples import Floats

MOST = 24
"""With more layers than this the largest have bars, and the others share one."""
_DOTS = 40
"""Up to so many samples are dots; more are a line between two quantiles."""
_ENDS = (0.05, 0.95)
_LINE = 0.27
"""Inches of a bar."""
_LOST, _REAL = COLOURS[CERTIFIED][0], COLOURS[WITNESS][0]


@final
@dataclass(frozen=True, eq=False)
class ByLayer:
    """Numbers by sample and layer, (samples, rows); `names` are the rows, from the input to the decision."""

    names: tuple[str, ...]
    values: Floats
    samples: tuple[int, ...]


def losses(run: Run) -> ByLayer | None:
    """The margin of each sample in parts that add up to 1: `real` loss first, then each step's, then what is left.

    None where the run says nothing of it. Raises `RunError` for a broken `layers.json`.
    """
    found = _part(run, "losses")
    if found is None:
        return None
    names = ("the network itself", *_names(found), "not used up")
    real, lost, left = _array(found, "real", 1), _array(found, "lost", 2), _array(found, "left", 1)
    try:
        parts = np.concatenate([real[:, None], lost, left[:, None]], 1) / _array(found, "margin", 1)[:, None]
    except ValueError as error:
        raise RunError(f"layers.json has parts of different lengths: {error}") from error
    return _checked(names, parts, found)


def factors(run: Run) -> ByLayer | None:
    """How many times further each layer's step goes than the layer; the last row is the product of all."""
    found = _part(run, "factors")
    if found is None:
        return None
    own, loose = _array(found, "factor", 2), _array(found, "looseness", 2)
    if own.shape != loose.shape:
        raise RunError(f"layers.json has {own.shape} factors, but {loose.shape} under 'looseness'")
    return _checked((*_names(found), "all together"), np.concatenate([own, loose[:, -1:]], 1), found)


@styled
def loss_figure(run: Run) -> Figure | None:
    """Shares of the margin at the certified radius: bars are means, dots samples. None where nothing is known."""
    of = losses(run)
    if of is None:
        return None
    keep = np.abs(of.values).mean(0) >= 5e-4
    keep[0] = True
    names, values = _fewer(of, keep)
    figure = new_figure(1.2 + _LINE * len(names))
    axes = figure.subplots()
    means = values.mean(0)
    place = np.arange(len(names))
    axes.barh(place[:1], means[:1], 0.66, color=_REAL, label="what the network loses itself at the worst input found")
    axes.barh(place[1:], means[1:], 0.66, color=_LOST, label="what the certificate loses in this step")
    ends, words = _spread(axes, values)
    for i, mean in enumerate(means):
        axes.text(max(ends[i], mean) + 0.01 * ends.max(), i, f"{100 * mean:.1f} %", va="center", fontsize=9)
    axes.set_xlim(min(0.0, float(values.min())), 1.13 * float(max(ends.max(), means.max())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.grid(True, axis="x")
    count = "one sample" if len(of.samples) == 1 else f"the mean of {len(of.samples)} samples{words}"
    axes.set_xlabel(f"share of the margin, {count}")
    _rows(axes, names)
    return figure


@styled
def factor_figure(run: Run) -> Figure | None:
    """Factors on a logarithmic axis: bars are geometric means, so that they multiply to the last; dots are samples."""
    of = factors(run)
    if of is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(of.values)
    logs = np.where(np.isfinite(logs), logs, np.nan)
    keep = np.nan_to_num(np.abs(logs)).max(0) >= 1e-6
    keep[-1] = True
    names, logs = _fewer(ByLayer(of.names, logs, of.samples), keep, last=1)
    means = _means(logs)
    figure = new_figure(1.2 + _LINE * len(names))
    axes = figure.subplots()
    place = np.arange(len(names))
    few = logs if len(logs) <= _DOTS else np.nanquantile(logs, _ENDS, axis=0)
    low, high = min(0.0, float(np.nanmin(few, initial=0))), max(0.1, float(np.nanmax(few, initial=0)))
    air = 0.03 * (high - low)
    for rows, alpha, label in ((place[:-1], 1.0, "this layer's step"), (place[-1:], 0.5, "all steps together")):
        axes.barh(rows, means[rows], 0.66, color=_LOST, alpha=alpha, label=label)
    ends, words = _spread(axes, logs)
    for i, mean in enumerate(means):
        axes.text(max(ends[i], mean, 0) + air / 2, i, f"{nearest(float(np.exp(mean)))} ×", va="center", fontsize=9)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlim(low - air, high + 4 * air)
    ticks = [10.0**k * step for k in range(-6, 12) for step in ((1, 2, 5) if high - low < 5 else (1,))]
    axes.xaxis.set_major_locator(FixedLocator([float(np.log(t)) for t in ticks if low - air <= np.log(t) <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda log, _: f"{float(np.exp(log)):.4g} ×"))
    axes.grid(True, axis="x")
    count = "one sample" if len(of.samples) == 1 else f"geometric mean of {len(of.samples)} samples{words}"
    axes.set_xlabel(f"how many times further than the values really move\n{count}")
    _rows(axes, names)
    return figure


def loss_grid(run: Run) -> Grid | None:
    """The mean share of the margin that goes into each step; None where nothing is known."""
    of = losses(run)
    if of is None:
        return None
    rows = tuple((name, f"{100 * share:.2f} %") for name, share in zip(of.names, of.values.mean(0), strict=True))
    count = f"mean of {len(of.samples)} samples" if len(of.samples) > 1 else "one sample"
    return Grid(f"What each step costs the certificate, {count}", ("step", "share of the margin"), rows)


def factor_grid(run: Run) -> Grid | None:
    """The geometric mean of each step's factor; None where nothing is known."""
    of = factors(run)
    if of is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(of.values)
    means = np.exp(_means(np.where(np.isfinite(logs), logs, np.nan)))
    rows = tuple((name, nearest(float(mean))) for name, mean in zip(of.names, means, strict=True))
    count = f"geometric mean of {len(of.samples)} samples" if len(of.samples) > 1 else "one sample"
    return Grid(f"How many times further each step goes than the values move, {count}", ("step", "factor"), rows)


def _means(values: Floats) -> Floats:
    """The mean of each column's numbers, 0 where it has none."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


def _names(found: Mapping[str, Any]) -> tuple[str, ...]:
    nodes, layers = found.get("nodes"), found.get("layers")
    if not isinstance(nodes, list) or not isinstance(layers, list):
        raise RunError("layers.json does not name its layers")
    words = {"Ball": "input: the ball", "Decision": "decision: two logits"}
    pairs = zip(cast("list[Any]", nodes), cast("list[Any]", layers), strict=False)
    return tuple(words.get(str(layer), _name(str(node), str(layer))) for node, layer in pairs)


def _name(node: str, layer: str) -> str:
    same = layer.lower() in node.lower().replace("_", "")
    return plain(node, 30) if same else f"{plain(node, 24)} ({plain(layer, 20)})"


def _part(run: Run, key: str) -> Mapping[str, Any] | None:
    found = run.layers.get(key)
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) and found.get("sample") else None


def _array(found: Mapping[str, Any], key: str, dimensions: int) -> Floats:
    try:
        values = np.array(found[key], dtype=np.float64)  # None becomes NaN
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"layers.json has no numbers under {key!r}") from error
    if values.ndim != dimensions:
        raise RunError(f"layers.json needs numbers in {dimensions} dimensions under {key!r}, got {values.ndim}")
    return values


def _checked(names: tuple[str, ...], values: Floats, found: Mapping[str, Any]) -> ByLayer:
    samples = tuple(int(sample) for sample in found["sample"])
    if values.shape != (len(samples), len(names)):
        raise RunError(f"layers.json has {values.shape} numbers for {len(samples)} samples and {len(names)} rows")
    return ByLayer(names, values, samples)


def _fewer(of: ByLayer, keep: NDArray[np.bool_], last: int = 0) -> tuple[tuple[str, ...], Floats]:
    """The rows to keep; where these are too many the smallest become one, which stands before the `last` ones."""
    rows = np.flatnonzero(keep)
    if len(rows) <= MOST:
        return tuple(of.names[i] for i in rows), of.values[:, rows]
    ends = [rows[0], *rows[len(rows) - last :]] if last else [rows[0]]
    size = np.nan_to_num(np.abs(of.values[:, rows])).mean(0)
    size[np.isin(rows, ends)] = np.inf
    large = np.sort(rows[np.argsort(-size, kind="stable")[: MOST - 1]])
    small = np.setdiff1d(rows, large)
    cut = len(large) - last
    names = tuple(of.names[i] for i in large)
    values = np.insert(of.values[:, large], cut, np.nansum(of.values[:, small], 1), axis=1)
    return (*names[:cut], f"{len(small)} other layers", *names[cut:]), values


def _spread(axes: Axes, values: Floats) -> tuple[Floats, str]:
    """Draw how the samples spread around their mean; how far to the right each row's mark reaches, and what it is."""
    place = np.arange(values.shape[1])
    if len(values) == 1:
        return np.nan_to_num(values[0]), ""
    if len(values) <= _DOTS:
        where = np.broadcast_to(place, values.shape)
        axes.scatter(values, where, 9, color=INK, alpha=0.55, linewidths=0, zorder=3)
        return np.nan_to_num(np.nanmax(np.nan_to_num(values), axis=0)), ", a dot for each"
    low, high = np.nanquantile(np.nan_to_num(values), _ENDS, axis=0)
    axes.hlines(place, low, high, color=INK, alpha=0.75, linewidth=1.4, zorder=3)
    return high, ", the line holds nine in ten"


def _rows(axes: Axes, names: tuple[str, ...]) -> None:
    """Names beside the bars, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    legend_above(axes)
