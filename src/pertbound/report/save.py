"""Figures as files, and as SVG for the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pertbound.disk import write_whole
from pertbound.errors import RunError
from pertbound.records import CERTIFIED
from pertbound.report.style import COLOURS, INK, styled

_UNDATED = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}
"""What each format would say about when and with what it was made: left out, so that files compare equal."""
FORMATS = tuple(_UNDATED)
"""What figures can be written as."""


@styled
def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write `folder/name.<format>` for each of the formats png, pdf and svg; each file appears whole or not at all.

    Raises `RunError` for another format, and where the folder cannot be written.
    """
    if unknown := set(formats) - set(_UNDATED):
        raise RunError(f"figures cannot be written as {sorted(unknown)}; known are {sorted(_UNDATED)}")
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, suffix in zip(paths, formats, strict=True):
            about = _UNDATED[suffix]
            write_whole(path, lambda to, a=about, s=suffix: figure.savefig(to, format=s, dpi=200, metadata=a))
    except OSError as error:
        raise RunError(f"cannot write figures to {folder}: {error}") from error
    return paths


@styled
def to_svg(figure: Figure, alt: str, prefix: str) -> str:
    """The figure as an `<svg>` element for a page: in the page's text colour, on its background, `alt` as its name.

    `prefix` must differ between the figures of a page: their inner ids begin with it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", dpi=200, transparent=True, metadata=_UNDATED["svg"])
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    opening, body = drawing.split(">", 1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;", "font-family: inherit;", body)
    body = re.sub(r'<g id="(?!mpl)[^"]*">', "<g>", body)
    body = body.replace("xlink:href=", "href=").replace(INK, "currentColor")
    body = body.replace(COLOURS[CERTIFIED][0], f"var(--certified, {COLOURS[CERTIFIED][0]})")
    body = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", body)
    box = re.search(r'viewBox="[^"]*"', opening)
    if box is None:
        raise RunError("matplotlib wrote an SVG without a viewBox; this version of it is not supported")
    return f'<svg {box.group()} role="img" aria-label="{html.escape(alt)}" preserveAspectRatio="xMidYMid">{body}'
