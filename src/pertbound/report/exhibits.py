"""The gallery as the page shows it: images as data, sharp at any size."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import final

from matplotlib import image

from pertbound.records import Run
from pertbound.report.gallery import Exhibit, Pixels, walls


@final
@dataclass(frozen=True)
class Shown:
    """An exhibit of the page: its images as (name, what it shows, data URI)."""

    sample: int
    turn: str
    lower: str
    upper: str
    images: tuple[tuple[str, str, str], ...]


@final
@dataclass(frozen=True)
class ShownWall:
    """Some of them under a title."""

    title: str
    exhibits: tuple[Shown, ...]


def shown(run: Run) -> list[ShownWall]:
    """What hangs on `gallery.walls`."""
    return [ShownWall(wall.title, tuple(_shown(one) for one in wall.exhibits)) for wall in walls(run)]


def _shown(one: Exhibit) -> Shown:
    names = ("original", f"perturbation × {one.gain}", "misclassified")
    what = (f"sample {one.sample}", f"the perturbation of sample {one.sample}", f"sample {one.sample}, perturbed")
    images = tuple((name, alt, _data(pixels)) for name, alt, pixels in zip(names, what, one.images, strict=True))
    return Shown(one.sample, one.turn, one.lower, one.upper, images)


def _data(pixels: Pixels) -> str:
    stream = io.BytesIO()
    image.imsave(stream, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
