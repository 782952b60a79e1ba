from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pertbound.records import CERTIFIED, WITNESS, Run
from pertbound.report import gallery_figure
from pertbound.report.exhibits import shown
from pertbound.report.gallery import gallery_caption, walls
from pertbound.report.rounding import up


def words(figure: Figure | None) -> str:
    assert figure is not None
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.fixture
def five(make_run: Callable[..., Run], channels: int) -> Run:
    """Five samples, one of them misclassified as it stands; every witness is a quarter brighter."""
    original = np.random.default_rng(0).random((5, channels, 6, 4)).astype(np.float32)
    return make_run(
        [("c", CERTIFIED, [0.1, 0.2, 0.3, 0.4, 0.0]), ("a", WITNESS, [5.0, 4.0, 3.0, 1.0, 0.0])],
        sample=np.arange(5),
        original=original,
        adversarial=original + np.float32(0.25),
        new_class=np.array([9, 8, 7, 6, 5]),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_least_and_the_most_robust_in_grey_and_in_colour(five: Run, channels: int):
    (wall,) = walls(five)
    assert [one.sample for one in wall.exhibits] == [3, 2, 1, 0]
    least, most = walls(five, each=1)
    assert (least.title, most.title) == ("least robust", "most robust")
    one = least.exhibits[0]
    assert (one.sample, one.turn, one.gain, one.lower) == (3, "3 → 6", "2.0", "0.400")
    assert one.upper == up(0.25 * math.sqrt(24 * channels)), "the size of what is shown"
    assert most.exhibits[0].sample == 0
    figure = gallery_figure(five, each=1)
    said = words(figure)
    assert len([axes for axes in figure.axes if axes.axison]) == 6
    for part in ("least robust", "most robust", "#3\n3 → 6", f"≥ 0.400\n≤ {one.upper}", "× 2.0"):
        assert part in said
    assert ("grey is no change" if channels == 3 else "red adds") in gallery_caption(five)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pages_images_are_the_originals_pixels(five: Run):
    (wall,) = shown(five)
    (name, alt, data), change, _ = wall.exhibits[0].images
    assert (name, alt, change[0]) == ("original", "sample 3", "perturbation × 2.0")
    with Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,")))) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    original = five.witnesses["original"]
    low, high = original.min(), original.max()
    expected = np.broadcast_to((original[3] - low) / (high - low), (3, 6, 4)).transpose(1, 2, 0)
    assert np.abs(pixels / 255 - expected).max() < 0.51 / 255


def test_the_nearest_of_several_witnesses_is_shown(make_run: Callable[..., Run]):
    original = np.tile(np.linspace(0, 1, 4).reshape(1, 1, 2, 2), (2, 1, 1, 1))
    run = make_run(
        [("a", WITNESS, [0.1])],
        sample=np.array([0, 0]),
        original=original,
        adversarial=original + np.array([0.5, 0.05]).reshape(2, 1, 1, 1),
    )
    assert "× 10" in words(gallery_figure(run))


@pytest.mark.parametrize(("norm", "size"), [("L1", 1.0), ("L2", 0.5), ("Linf", 0.25)])
def test_sizes_are_in_the_runs_norm(make_run: Callable[..., Run], norm: str, size: float):
    original = np.linspace(0, 1, 4).reshape(1, 1, 2, 2)
    run = make_run(
        [("a", WITNESS, [size / 2])],
        {"norm": norm},
        column=norm.lower(),
        sample=np.array([0]),
        original=original,
        adversarial=original + 0.25,
    )
    assert walls(run)[0].exhibits[0].upper == up(size), "of what is shown, not of the nearer one that was not kept"


@pytest.mark.parametrize("shape", [(2, 4), (2, 2, 4, 4), (2, 4, 4), (2, 1, 1, 1, 1), (2, 1, 0, 4)])
def test_what_is_no_image_has_no_gallery(make_run: Callable[..., Run], shape: tuple[int, ...]):
    run = make_run(
        [("a", WITNESS, [1.0, 2.0])], sample=np.arange(2), original=np.zeros(shape), adversarial=np.ones(shape)
    )
    assert gallery_figure(run) is None


def test_no_witnesses_and_broken_ones_have_no_gallery(make_run: Callable[..., Run]):
    assert walls(make_run([("a", WITNESS, [1.0])])) == []
    broken = np.full((1, 1, 2, 2), np.nan)
    run = make_run([("a", WITNESS, [1.0])], sample=np.zeros(1, int), original=broken, adversarial=broken)
    assert gallery_figure(run) is None
