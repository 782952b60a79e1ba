"""The least and the most robust images beside the perturbations that change their class."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pertbound.records import Run
from pertbound.report.rounding import down, nearest, up
from pertbound.report.samples import Floats, brackets
from pertbound.report.style import new_figure, plain, styled

_ROWS = ("original", "perturbation,\namplified", "misclassified")
_PALE = 1.4
"""Where the colours of a perturbation would end: beyond the largest change, as their ends are nearly black."""

_LARGEST = 4096
"""Images with a longer side than this are not drawn."""


def gallery_samples(run: Run, most: int = 8) -> list[int]:
    """The samples for a gallery: half of them the least robust, half the most robust ones that have a witness.

    Samples that are misclassified as they stand, at distance 0, are left out: there is no perturbation to see.
    """
    best = brackets(run)
    kept = {int(sample) for sample in run.witnesses.get("sample", ())}
    usable = np.array([s in kept for s in best.sample.tolist()], bool) & np.isfinite(best.upper) & (best.upper > 0)
    ordered = best.sample[usable][np.argsort(best.upper[usable], kind="stable")].tolist()
    return ordered if len(ordered) <= most else ordered[: most // 2] + ordered[-(most - most // 2) :]


@styled
def gallery_figure(run: Run, positions: list[int]) -> Figure | None:
    """A column for each of the samples (as in the column `sample`): original, perturbation, misclassified input.

    None where there is nothing to show: no witnesses kept, or inputs that are not grey (1, h, w) or colour
    (3, h, w) images. Where several witnesses were kept for a sample, the nearest is shown. An optional array
    `new_class` in `witnesses.npz` names the class of each adversarial input.
    """
    best = brackets(run)
    place = {sample: i for i, sample in enumerate(best.sample.tolist())}
    pairs = _pairs(run, [position for position in positions if position in place])
    if not pairs:
        return None
    stored = run.witnesses["original"]
    finite = stored[np.isfinite(stored)]
    low, high = float(finite.min()), float(finite.max())
    height, width = stored.shape[2:]
    columns = len(pairs)
    side = 9.0 / (max(columns, 6) + 0.8)
    figure = new_figure(3 * side * min(height / width, 2) + 1.1, side * (columns + 0.8))
    panels = figure.subplots(3, columns, squeeze=False)
    for column, (sample, original, adversarial, new_class) in enumerate(pairs):
        i = place[sample]
        change = adversarial - original
        top = float(np.abs(change).max())
        gain = (high - low) / 2 / top if top > 0 else 1.0
        _draw(panels[0, column], original, low, high)
        _draw_change(panels[1, column], change, top)
        _draw(panels[2, column], adversarial, low, high)
        leaves = "?" if best.reference[i] is None else str(best.reference[i])
        turn = f"class {leaves}" if new_class is None else f"{leaves} → {new_class}"
        panels[0, column].set_title(f"#{sample}\n{plain(turn)}", fontsize=9)
        panels[1, column].set_xlabel(f"× {nearest(gain, 2)}", fontsize=8.5)
        lower, upper = float(best.lower[i]), _size(change, float(best.upper[i]))
        above = "" if np.isnan(lower) else f"≥ {down(lower)}\n"
        panels[2, column].set_xlabel(f"{above}≤ {up(upper)}", fontsize=8.5)
    for row, name in enumerate(_ROWS):
        panels[row, 0].set_ylabel(name, fontsize=9)
    return figure


def gallery_caption(run: Run) -> str:
    """What a reader must know to read the gallery of `gallery_samples`."""
    kept, found = len(np.unique(run.witnesses["sample"])), int(np.isfinite(brackets(run).upper).sum())
    among = "" if kept >= found else f", among the {kept:,} samples whose witnesses were kept"
    colours = "grey is no change" if run.witnesses["original"].shape[1] == 3 else "red adds, blue takes away"
    return (
        f"Least robust on the left{among}. Below the perturbations: the factor that makes them visible ({colours}). "
        "Below the misclassified images: the bounds on the smallest perturbation, certified radius and witness."
    )


def _pairs(run: Run, positions: list[int]) -> list[tuple[int, Floats, Floats, int | None]]:
    """Sample, original, nearest adversarial input and its class where known, for each position that has them."""
    kept = run.witnesses
    if not {"sample", "original", "adversarial"} <= set(kept):
        return []
    original, adversarial, samples = kept["original"], kept["adversarial"], kept["sample"].tolist()
    if original.shape != adversarial.shape or original.ndim != 4 or len(original) != len(samples):
        return []
    if original.shape[1] not in (1, 3) or not 0 < min(original.shape[2:]) <= max(original.shape[2:]) <= _LARGEST:
        return []
    classes = kept.get("new_class")
    classes = classes if classes is not None and classes.shape == (len(samples),) else None
    pairs: list[tuple[int, Floats, Floats, int | None]] = []
    for position in positions:
        found = [
            (i, np.asarray(original[i], np.float64), np.asarray(adversarial[i], np.float64))
            for i, sample in enumerate(samples)
            if sample == position and np.isfinite(original[i]).all() and np.isfinite(adversarial[i]).all()
        ]
        if found:
            i, x, y = min(found, key=lambda pair: float(np.linalg.norm(pair[2] - pair[1])))
            pairs.append((position, x, y, None if classes is None else int(classes[i])))
    return pairs


def _size(change: Floats, nearest_witness: float) -> float:
    """The L2 norm of what is shown: the row's own value, unless that belongs to a nearer witness not kept."""
    norm = float(np.linalg.norm(change))
    return nearest_witness if abs(norm - nearest_witness) <= 1e-6 * nearest_witness else norm


def _draw(axes: Axes, image: Floats, low: float, high: float) -> None:
    """An image, with values outside the range of the originals cut off."""
    _bare(axes)
    pixels = np.clip((image - low) / ((high - low) or 1.0), 0, 1).transpose(1, 2, 0)
    axes.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)


def _draw_change(axes: Axes, change: Floats, top: float) -> None:
    """A perturbation: red adds and blue takes away; in colour, grey is no change."""
    _bare(axes)
    scaled = change.transpose(1, 2, 0) / (top or 1.0)
    if scaled.shape[2] == 1:
        axes.imshow(scaled[..., 0], cmap="RdBu_r", vmin=-_PALE, vmax=_PALE)
    else:
        axes.imshow(0.5 + scaled / 2)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, alpha=0.35, linewidth=0.6)
