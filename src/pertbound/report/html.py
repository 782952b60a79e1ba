"""Runs as one self-contained HTML page: no network, no files beside it, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pertbound.disk import write_whole
from pertbound.errors import RunError
from pertbound.records import Run
from pertbound.report.about import title
from pertbound.report.rounding import nearest
from pertbound.report.view import view
from pertbound.store import read


def write_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Write the runs as one page and return its path: `out` itself if it ends in `.html`, else `out/index.html`.

    Raises `RunError` for a folder that is not a run, for no folders, and where the page cannot be written.
    """
    if not run_folders:
        raise RunError("a report needs at least one run folder")
    runs = [read(folder) for folder in run_folders]
    names = _names(run_folders, runs)
    views = [view(run, name, f"run{i}") for i, (name, run) in enumerate(zip(names, runs, strict=True), 1)]
    environment = Environment(
        loader=PackageLoader("pertbound.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nearest"] = nearest
    environment.filters["exact"] = _exact
    page = environment.get_template("template.html.j2").render(views=views)
    target = out if out.suffix == ".html" else out / "index.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda path: path.write_text(page, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"cannot write the report {target}: {error}") from error
    return target


def _names(folders: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """The runs' titles, with the folder's name where several are the same."""
    names = [title(run, folder.resolve().name) for folder, run in zip(folders, runs, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.resolve().name})"
        for name, folder in zip(names, folders, strict=True)
    ]


def _exact(value: float) -> str:
    """A number for sorting and download; empty where there is none."""
    return "" if math.isnan(value) else repr(value)
