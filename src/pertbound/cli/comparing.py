"""`compare`: which of several models is more robust."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from pertbound.cli.screen import Screen, cell, console, header
from pertbound.compare import compare as compare_runs
from pertbound.comparison import Comparison
from pertbound.disk import write_whole
from pertbound.errors import RunError
from pertbound.report.comparison import comparison_figure
from pertbound.report.comparison_words import accuracy_grid, model_grid, pair_grid, sentences
from pertbound.report.grid import Grid, to_text
from pertbound.report.save import save
from pertbound.store import holds_run

_TOLD = "more robust"


class Format(str, Enum):
    """What figures can be written as."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; those of one model (same weights) are put together.")
    ],
    radius: Annotated[
        list[float] | None,
        typer.Option("--radius", help="Compare the robust accuracy at this radius too. May be given several times."),
    ] = None,
    cap: Annotated[
        float | None,
        typer.Option("--cap", help="Radius up to which a sample counts in means; the largest finite bound otherwise."),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--predictions",
            help="A misclassified sample has radius 0, or counts as any other. [default: labels where all have one]",
        ),
    ] = None,
    same_data: Annotated[
        bool, typer.Option("--same-data", help="Samples of one position are the same, though the data's hashes differ.")
    ] = False,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="What to call each run's model, in order; the folders otherwise.")
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="That all verdicts together hold.")] = 0.95,
    resamples: Annotated[
        int | None, typer.Option("--resamples", min=1, help="Bootstrap resamples; as many as needed otherwise.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for comparison.json and the figure; not written otherwise.")
    ] = None,
    figure: Annotated[
        list[Format], typer.Option("--format", help="The figure's format in --out. May be given several times.")
    ] = [Format.png],  # noqa: B006 - typer copies it
) -> None:
    """Which model is more robust? From the brackets of several runs, or else what it would cost to tell.

    Two models are told apart by mean radius (and by robust accuracy at each --radius) where neither the open space in
    their brackets nor the choice of samples can account for the difference. Samples are paired: only those that all
    models were measured on count. Exit code 0 whatever the verdict (it is in the JSON), 2 for runs that cannot be
    compared, 4 for a certified radius above a witness.

    Example: pertbound compare runs/mlp runs/lenet --radius 0.5 --out runs/comparison
    """
    found = compare_runs(
        runs,
        names=name or None,
        radii=radius or (),
        cap=cap,
        against_labels=labels,
        same_data=same_data,
        confidence=confidence,
        resamples=resamples,
        generator=np.random.default_rng(seed),
    )
    text = json.dumps(found.as_dict(), indent=2, allow_nan=False)
    written = [] if out is None else _write(out, found, text, [f.value for f in figure])
    if as_json:
        typer.echo(text)
        return
    screen = console()
    for grid in (model_grid(found), accuracy_grid(found), pair_grid(found)):
        if grid is not None:
            _show(screen, grid)
    for line in (*sentences(found), *(f"Written: {path}" for path in written)):
        screen.print(line, soft_wrap=not screen.is_terminal)


def _write(out: Path, found: Comparison, text: str, formats: list[str]) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; --out needs a folder")
    if holds_run(out):
        raise RunError(f"{out} holds a run; name another folder for the comparison")
    figures = save(comparison_figure(found), out, "comparison", list(dict.fromkeys(formats)))
    target = out / "comparison.json"
    try:
        write_whole(target, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot write {target}: {error}") from error
    return [target, *figures]


def _show(screen: Screen, grid: Grid) -> None:
    """A table with colours on a terminal, plain text elsewhere."""
    if not screen.is_terminal:
        screen.print(to_text(grid), soft_wrap=True)
        return
    table = Table(title=cell(grid.caption), title_justify="left")
    for i, column in enumerate(header(grid.header)):
        table.add_column(column, justify="left" if i < grid.text_columns else "right")
    for row in grid.rows:
        table.add_row(*(cell(text, _style(text)) for text in row))
    screen.print(table)


def _style(cell: str) -> str:
    if cell.startswith("cannot tell"):
        return "yellow"
    return "green" if cell.endswith(_TOLD) else ""
