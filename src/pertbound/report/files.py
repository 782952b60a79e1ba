"""What a report can be besides a page: figures for papers, tables for LaTeX and Markdown, rows as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from matplotlib.figure import Figure

from pertbound.disk import kind, write_whole
from pertbound.errors import RunError
from pertbound.records import WITNESS, Run
from pertbound.report.figures import accuracy_curves, bracket_figure
from pertbound.report.gallery import gallery_figure
from pertbound.report.grid import Grid, to_csv, to_latex, to_markdown
from pertbound.report.histograms import bound_histogram, ratio_histogram, witness_histogram
from pertbound.report.html import write_report
from pertbound.report.layer_figures import factor_figure, factor_grid, loss_figure, loss_grid
from pertbound.report.paper import check_grid, normalised_grid, paper_grid, summary_grid
from pertbound.report.sample_table import as_csv, sample_columns
from pertbound.report.save import FORMATS as DRAWN
from pertbound.report.save import save
from pertbound.report.tables import Summary, summary
from pertbound.samples import methods
from pertbound.store import read

FIGURES: dict[str, Callable[[Run], Figure | None]] = {
    "figure2_witnesses": witness_histogram,
    "figure3_bounds": bound_histogram,
    "figure4_log_ratio": ratio_histogram,
    "bracket": bracket_figure,
    "curves": accuracy_curves,
    "layer_losses": loss_figure,
    "layer_factors": factor_figure,
    "gallery": gallery_figure,
}
"""File names, and what draws them; figures 2 to 4 are the paper's. None where a run has nothing to draw."""

_NEEDS = {"figure2_witnesses": (True, False), "figure3_bounds": (False, True), "figure4_log_ratio": (True, True)}
"""Whether the figure needs attacks, and bounds."""

FORMATS = ("html", *DRAWN, "tex", "md", "csv")
"""What `write_files` can write."""


def write_files(run_folders: Sequence[Path], out: Path, formats: Sequence[str]) -> list[Path]:
    """Write the runs in each of `formats` into the folder `out`; returns what was written.

    html: one page about all of them (`html.write_report`); png, pdf and svg: their figures, in `figures/`; tex and md:
    their tables; csv: the bracket of every sample, and the statistics of every method. With several runs the files of
    each are in a folder of its own. Raises `RunError` for an unknown format, and where `out` cannot be written.
    """
    if unknown := set(formats) - set(FORMATS):
        raise RunError(f"unknown formats {sorted(unknown)}; known are {list(FORMATS)}")
    runs = [read(folder) for folder in run_folders]
    written = [write_report(run_folders, out)] if "html" in formats else []
    drawn = [suffix for suffix in DRAWN if suffix in formats]
    rest = [suffix for suffix in ("tex", "md", "csv") if suffix in formats]
    for run, name in zip(runs, _names(run_folders), strict=True):
        folder = out if len(runs) == 1 else out / name
        for place in (folder / "figures", *([folder] if folder != out else [])):
            if kind(place) == "a symbolic link":  # in a folder that may come from a stranger
                raise RunError(f"cannot write into {place}: it is a symbolic link; name another --out")
        if drawn:
            written += write_figures(run, folder / "figures", drawn)
        for suffix in rest:
            written += _WRITERS[suffix](run, folder)
    return written


def write_figures(run: Run, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure that the run has something for."""
    kinds = {method.guarantee == WITNESS for method in methods(run)}
    written: list[Path] = []
    for name, draw in FIGURES.items():
        attacks, bounds = _NEEDS.get(name, (False, False))
        if (attacks and True not in kinds) or (bounds and False not in kinds):
            continue
        figure = draw(run)
        if figure is not None:
            written += save(figure, folder, name, formats)
    return written


def grids(run: Run) -> dict[str, Grid]:
    """The run's tables by name."""
    found = {
        "table1": paper_grid([run], 1),
        "table2": paper_grid([run], 2),
        "methods": summary_grid(run),
        "normalised": normalised_grid(run),
        "violations": check_grid(run),
        "layer_losses": loss_grid(run),
        "layer_factors": factor_grid(run),
    }
    return {name: grid for name, grid in found.items() if grid is not None and grid.rows}


def _slim(grid: Grid) -> Grid:
    """Without the columns of counts that say nothing: a page of paper is narrow."""
    idle = [
        name in ("none found", "infinite", "zero") and all(row[i] == "0" for row in grid.rows)
        for i, name in enumerate(grid.header)
    ]
    rows = (grid.header, *grid.rows)
    header, *kept = (tuple(cell for cell, out in zip(row, idle, strict=True) if not out) for row in rows)
    return replace(grid, header=header, rows=tuple(kept))


def _tex(run: Run, folder: Path) -> list[Path]:
    tables = [to_latex(_slim(grid), f"tab:{name.replace('_', '-')}") for name, grid in grids(run).items()]
    return [write_text(folder / "tables.tex", "% needs \\usepackage{booktabs}\n\n" + "\n".join(tables))]


def _md(run: Run, folder: Path) -> list[Path]:
    return [write_text(folder / "tables.md", "\n\n".join(to_markdown(grid) for grid in grids(run).values()) + "\n")]


def _csv(run: Run, folder: Path) -> list[Path]:
    names = tuple(field.name for field in fields(Summary))
    values = [tuple(getattr(method, name) for name in names) for method in summary(run)]
    rows = tuple(tuple("" if value != value else str(value) for value in row) for row in values)  # NaN is not itself
    samples = write_text(folder / "samples.csv", as_csv(sample_columns(run)))
    return [samples, write_text(folder / "methods.csv", to_csv(Grid("", names, rows)))]


_WRITERS: dict[str, Callable[[Run, Path], list[Path]]] = {"tex": _tex, "md": _md, "csv": _csv}


def write_text(path: Path, text: str) -> Path:
    """Write a text whole, with its folders; halves of surrogate pairs become question marks. Raises `RunError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda to: to.write_bytes(text.encode("utf-8", errors="replace")))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error
    return path


def _names(folders: Sequence[Path]) -> list[str]:
    """A folder's name for each run, numbered where they would be equal."""
    names = [folder.resolve().name or "run" for folder in folders]
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names, 1)]
