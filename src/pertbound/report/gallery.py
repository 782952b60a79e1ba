"""The least and the most robust images beside the perturbations that change their class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pertbound.records import Run, Witnesses
from pertbound.report.about import norm
from pertbound.report.rounding import down, nearest, up
from pertbound.report.style import WIDTH, new_figure, plain, styled
from pertbound.samples import Brackets, Floats, brackets

Pixels = NDArray[np.uint8]
"""(height, width, 3)."""

ROWS = ("original", "perturbation,\nscaled", "misclassified")
EACH = 4
"""Images in each half of the gallery."""
_PALE = 1.4
"""Where the colours of a perturbation would end: beyond the largest change, as their ends are nearly black."""
_MANY = 100
"""Samples at each end whose witnesses are read where many were kept."""
_LARGEST = 4096
"""Images with a longer side than this are not drawn."""


@final
@dataclass(frozen=True, eq=False)
class Exhibit:
    """One sample of the gallery: what it is, what is known of it, and its three images."""

    sample: int
    turn: str
    """The class it leaves, and the one it gets where that is known: 3 → 8."""
    gain: str
    """By how much the perturbation is scaled."""
    lower: str
    """The certified radius, rounded down; empty where nothing was certified."""
    upper: str
    """The size of the perturbation shown, rounded up."""
    images: tuple[Pixels, Pixels, Pixels]
    coloured: bool


@final
@dataclass(frozen=True, eq=False)
class Wall:
    """Some exhibits under a title."""

    title: str
    exhibits: tuple[Exhibit, ...]


def walls(run: Run, each: int = EACH) -> list[Wall]:
    """The samples with the nearest witnesses, and those whose witnesses are farthest; one wall where all fit on it.

    Samples that are misclassified as they stand, at distance 0, are left out: there is no perturbation to see. Empty
    where there is nothing to show: no witnesses kept, or inputs that are not grey (1, h, w) or colour (3, h, w) images.
    Where several witnesses were kept for a sample, the nearest is shown.
    """
    best = brackets(run)
    kept = _candidates(run, best)
    pairs = _pairs(run, kept)
    usable = np.array([s in pairs for s in best.sample.tolist()], bool) & np.isfinite(best.upper) & (best.upper > 0)
    ordered = np.flatnonzero(usable)[np.argsort(best.upper[usable], kind="stable")].tolist()
    if not ordered:
        return []
    stored, classes = kept["original"], kept.get("new_class")
    classes = classes if classes is not None and classes.shape == (len(stored),) else None
    finite = stored[np.isfinite(stored)]
    low, high = float(finite.min()), float(finite.max())

    def exhibit(i: int) -> Exhibit:
        at = pairs[int(best.sample[i])]
        change = _change(kept, at)
        top = float(np.abs(change).max())
        leaves = "?" if best.reference[i] is None else str(best.reference[i])
        lower = float(best.lower[i])
        return Exhibit(
            sample=int(best.sample[i]),
            turn=f"class {leaves}" if classes is None else f"{leaves} → {classes[at]}",
            gain=nearest((high - low) / 2 / top if top > 0 else 1.0, 2),
            lower="" if np.isnan(lower) else down(lower),
            upper=up(_size(run, change, float(best.upper[i]))),
            images=(_pixels(stored[at], low, high), _changes(change, top), _pixels(stored[at] + change, low, high)),
            coloured=len(stored[at]) == 3,
        )

    if len(ordered) <= 2 * each:
        return [Wall("from least to most robust", tuple(exhibit(i) for i in ordered))]
    return [
        Wall("least robust", tuple(exhibit(i) for i in ordered[:each])),
        Wall("most robust", tuple(exhibit(i) for i in ordered[-each:])),
    ]


@styled
def gallery_figure(run: Run, each: int = EACH) -> Figure | None:
    """A column for each exhibit of `walls`: original, perturbation, misclassified input. None where it is empty."""
    found = walls(run, each)
    if not found:
        return None
    every = [one for wall in found for one in wall.exhibits]
    gap = len(found[0].exhibits) if len(found) > 1 else None
    places = [i + (gap is not None and i >= gap) for i in range(len(every))]
    columns = places[-1] + 1
    height, width = every[0].images[0].shape[:2]
    side = WIDTH / (max(len(every), 6) + 1.1)
    figure = new_figure(3 * side * min(height / width, 2) + 1.5, side * (len(every) + 1.1))
    widths = [0.25 if i == gap else 1.0 for i in range(columns)]
    panels = figure.subplots(3, columns, squeeze=False, width_ratios=widths)
    for column, one in zip(places, every, strict=True):
        for row, image in enumerate(one.images):
            _bare(panels[row, column])
            panels[row, column].imshow(image)
        panels[0, column].set_title(f"#{one.sample}\n{plain(one.turn)}", fontsize=9)
        panels[1, column].set_xlabel(f"× {one.gain}", fontsize=8.5)
        above = f"≥ {one.lower}\n" if one.lower else ""
        panels[2, column].set_xlabel(f"{above}≤ {one.upper}", fontsize=8.5)
    for row, name in enumerate(ROWS):
        panels[row, 0].set_ylabel(name, fontsize=9)
        if gap is not None:
            panels[row, gap].set_axis_off()
    for wall, first in zip(found, (0, columns - len(found[-1].exhibits)), strict=False):
        at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        panels[0, first].annotate(wall.title, (0, 1), (0, 30), fontsize=10.5, ha="left", **at)
    return figure


def gallery_caption(run: Run) -> str:
    """What a reader must know to read the gallery."""
    kept, found = len(np.unique(run.witnesses["sample"])), int(np.isfinite(brackets(run).upper).sum())
    among = "" if kept >= found else f" Among the {kept:,} samples whose witnesses were kept."
    colour = walls(run, 1)[0].exhibits[0].coloured
    colours = "grey is no change" if colour else "red adds, blue takes away"
    certified = not np.isnan(brackets(run).lower).all()
    size = "lies between the certified radius (≥) and the witness (≤)" if certified else "is at most the witness's (≤)"
    return (
        f"Each sample as it is; the nearest perturbation found, scaled to be seen ({colours}); and the sum of the two, "
        f"unscaled, which the model takes for another class.{among} The size of the smallest such one {size}."
    )


def _candidates(run: Run, best: Brackets) -> Mapping[str, NDArray[Any]]:
    """The kept witnesses; of many, those of the `_MANY` samples at each end, so that the others are not read."""
    if not {"sample", "original", "adversarial"} <= set(run.witnesses):
        return {}
    samples = np.asarray(run.witnesses["sample"])
    if len(samples) <= 4 * _MANY:
        return {name: run.witnesses[name] for name in run.witnesses}
    of = np.minimum(np.searchsorted(best.sample, samples), len(best.sample) - 1)
    size = np.where(best.sample[of] == samples, best.upper[of], np.nan)
    places = np.flatnonzero(np.isfinite(size) & (size > 0))
    places = places[np.argsort(size[places], kind="stable")]
    stored = run.witnesses if isinstance(run.witnesses, Witnesses) else Witnesses([run.witnesses])
    return stored.take([*places[:_MANY].tolist(), *places[_MANY:][-_MANY:].tolist()])


def _pairs(run: Run, kept: Mapping[str, NDArray[Any]]) -> dict[int, int]:
    """For each sample with usable images, where in the stored arrays its nearest witness is."""
    if not {"sample", "original", "adversarial"} <= set(kept):
        return {}
    original, adversarial, samples = kept["original"], kept["adversarial"], kept["sample"]
    if original.shape != adversarial.shape or original.ndim != 4 or len(original) != len(samples):
        return {}
    if original.shape[1] not in (1, 3) or not 0 < min(original.shape[2:]) <= max(original.shape[2:]) <= _LARGEST:
        return {}
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.array([_norm(run, _change(kept, i)) for i in range(len(samples))])
    order = np.argsort(-sizes, kind="stable").tolist()  # the nearest last, so that it stays
    return {int(samples[i]): i for i in order if np.isfinite(sizes[i])}


def _change(kept: Mapping[str, NDArray[Any]], i: int) -> Floats:
    return np.asarray(kept["adversarial"][i], np.float64) - kept["original"][i]


def _norm(run: Run, change: Floats) -> float:
    """The size of a perturbation in the run's norm."""
    return float(np.linalg.norm(change.ravel(), ord={"L1": 1, "L∞": np.inf}.get(norm(run), 2)))


def _size(run: Run, change: Floats, nearest_witness: float) -> float:
    """The size of what is shown: the row's own value, unless that belongs to a nearer witness not kept."""
    size = _norm(run, change)
    return nearest_witness if abs(size - nearest_witness) <= 1e-6 * nearest_witness else size


def _pixels(image: Floats, low: float, high: float) -> Pixels:
    """An image, with values outside the range of the originals cut off."""
    scaled = np.clip((image - low) / ((high - low) or 1.0), 0, 1).transpose(1, 2, 0)
    return _bytes(np.broadcast_to(scaled, (*scaled.shape[:2], 3)))


def _changes(change: Floats, top: float) -> Pixels:
    """A perturbation: red adds and blue takes away; in colour, grey is no change."""
    scaled = change.transpose(1, 2, 0) / (top or 1.0)
    if scaled.shape[2] == 1:
        return _bytes(mpl.colormaps["RdBu_r"]((scaled[..., 0] / _PALE + 1) / 2)[..., :3])
    return _bytes(0.5 + scaled / 2)


def _bytes(shares: Floats) -> Pixels:
    return np.round(255 * np.clip(shares, 0, 1)).astype(np.uint8)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, alpha=0.35, linewidth=0.6)
