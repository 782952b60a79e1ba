"""The files of a reproduced paper: its tables beside ours, and its figures for a run."""

from __future__ import annotations

from pathlib import Path

from pertbound.records import Run
from pertbound.report.files import write_figures, write_text
from pertbound.report.grid import to_markdown, to_text
from pertbound.report.paper import check_grid, paper_grid, summary_grid


def write_paper_tables_and_figures(run: Run, folder: Path) -> str:
    """Write `tables.md` and the figures as PNG into the run folder; returns the tables as plain text."""
    grids = [grid for grid in (paper_grid([run], 1), paper_grid([run], 2), summary_grid(run), check_grid(run)) if grid]
    markdown = "\n\n".join(to_markdown(grid) for grid in grids) + "\n"
    write_text(folder / "tables.md", markdown)
    write_figures(run, folder, ("png",))
    return "\n\n".join(to_text(grid) for grid in grids)
