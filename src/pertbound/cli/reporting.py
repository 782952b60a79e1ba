"""`report`: pictures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pertbound.cli.show import console
from pertbound.report import write_report


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, as other commands write them with --out.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for index.html; the first run's otherwise.")] = None,
) -> None:
    """Write one self-contained HTML page about one or several runs.

    Example: pertbound report runs/demo --out runs/demo-report
    """
    console().print(f"Report: {write_report(runs, out or runs[0])}", markup=False, highlight=False, soft_wrap=True)
