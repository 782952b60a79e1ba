"""The files of a reproduced paper: its tables beside ours, and its figures for a run."""

from __future__ import annotations

from pathlib import Path

from pertbound.records import Run, write_whole
from pertbound.report.figures import accuracy_curves, bracket_figure
from pertbound.report.grid import Grid, to_markdown, to_text
from pertbound.report.histograms import bound_histogram, ratio_histogram, witness_histogram
from pertbound.report.paper import paper_grid, summary_grid
from pertbound.report.save import save
from pertbound.report.tables import checks

FIGURES = {
    "figure2_witnesses": witness_histogram,
    "figure3_bounds": bound_histogram,
    "figure4_log_ratio": ratio_histogram,
    "bracket": bracket_figure,
    "curves": accuracy_curves,
}
"""File names, and what draws them; figures 2 to 4 are the paper's."""


def write_paper_tables_and_figures(run: Run, folder: Path) -> str:
    """Write `tables.md` and the figures as PNG into the run folder; returns the tables as plain text."""
    grids = [grid for grid in (paper_grid([run], 1), paper_grid([run], 2), summary_grid(run), _violations(run)) if grid]
    markdown = "\n\n".join(to_markdown(grid) for grid in grids) + "\n"
    write_whole(folder / "tables.md", lambda path: path.write_text(markdown, encoding="utf-8"))
    for name, draw in FIGURES.items():
        save(draw(run), folder, name)
    return "\n\n".join(to_text(grid) for grid in grids)


def _violations(run: Run) -> Grid:
    rows = tuple((c.method, c.guarantee, str(c.exceeded), str(c.compared)) for c in checks(run))
    return Grid(
        "Violations: bounds above the distance to the sample's own witness",
        ("method", "guarantee", "violations", "of"),
        rows,
        text_columns=2,
    )
