"""Runs as one self-contained HTML page: no network, no files beside it, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pertbound.errors import RunError
from pertbound.records import read, write_whole
from pertbound.report.rounding import nearest
from pertbound.report.view import view


def write_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Write the runs as one page and return its path: `out` itself if it ends in `.html`, else `out/index.html`.

    Raises `RunError` for a folder that is not a run, for no folders, and where the page cannot be written.
    """
    if not run_folders:
        raise RunError("a report needs at least one run folder")
    runs = [read(folder) for folder in run_folders]
    for folder, run in zip(run_folders, runs, strict=True):
        if (norm := run.about.get("norm", "L2")) != "L2":
            raise RunError(f"{folder} is about {norm}, and reports show L2 only so far; its rows are in rows.parquet")
    views = [view(run, folder, f"run{i}") for i, (folder, run) in enumerate(zip(run_folders, runs, strict=True), 1)]
    environment = Environment(
        loader=PackageLoader("pertbound.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nearest"] = nearest
    page = environment.get_template("template.html.j2").render(views=views)
    target = out if out.suffix == ".html" else out / "index.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda path: path.write_text(page, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"cannot write the report {target}: {error}") from error
    return target
