"""`report`: pictures and tables of runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pertbound.cli.screen import console
from pertbound.cli.show import print_contradictions
from pertbound.errors import InputError
from pertbound.report.files import write_files
from pertbound.store import read
from pertbound_entry import ExitCode


class Format(str, Enum):
    """What a report can be."""

    html = "html"
    png = "png"
    pdf = "pdf"
    svg = "svg"
    tex = "tex"
    md = "md"
    csv = "csv"


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, as other commands write them with --out.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; the run's own otherwise (of several: the first).")
    ] = None,
    format: Annotated[
        list[Format],
        typer.Option(
            "--format",
            help="html: one self-contained page about all runs. png, pdf, svg: the figures, in figures/. tex, md: the "
            "tables. csv: the bracket of every sample, and the statistics of every method. May be given several times.",
        ),
    ] = [Format.html],  # noqa: B006 - typer copies it
) -> None:
    """Write one self-contained HTML page about one or several runs; or their figures and tables, for papers.

    Example: pertbound report runs/demo --out runs/demo-report --format html --format pdf --format tex
    """
    folder = out or runs[0]
    formats = [one.value for one in format]
    if folder.suffix == ".html" and formats != ["html"]:
        raise InputError(f"--out {folder} names a page; --format {', '.join(formats)} needs a folder")
    screen = console()
    for path in write_files(runs, folder, formats):
        word = "Report" if path.suffix == ".html" else "Wrote"
        screen.print(f"{word}: {path}", soft_wrap=True)
    if any([print_contradictions(screen, read(run), f" in {run}") for run in runs]):  # all are said
        raise typer.Exit(ExitCode.FAILED)
