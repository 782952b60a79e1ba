"""What a person sees: progress while it runs, a summary table at the end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pertbound.experiments.measure import OnProgress
from pertbound.records import Run
from pertbound.report import summary, violations
from pertbound.report.about import units

_BADGES = {"certified": "green", "estimate": "yellow", "witness": "cyan"}


def console() -> Console:
    """Where results are printed: as wide as the terminal, or wide enough for every table when there is none."""
    standard = Console()
    return standard if standard.is_terminal else Console(width=150)


@contextmanager
def progress(to: Console) -> Generator[OnProgress, None, None]:
    """A bar for each stage, with the time left; nothing when the output is not a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=to, disable=not to.is_terminal, transient=True) as bars:
        tasks: dict[int, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if total not in tasks:
                tasks[total] = bars.add_task(stage, total=total)
            bars.update(tasks[total], description=stage, completed=done)

        yield tell


def print_summary(to: Console, run: Run) -> None:
    """One line for each method, the number of violations, and what the figures mean."""
    norm = str(run.about.get("norm", "L2"))
    table = Table(title=Text(str(run.about.get("title", "Run"))), title_justify="left")
    for column in ("method", "kind"):
        table.add_column(column, no_wrap=True)
    for column in ("samples", "none found", f"mean {norm}", "median", "min", "max", "s / sample"):
        table.add_column(column, justify="right")
    for line in summary(run):
        colour = _BADGES.get(line.guarantee, "white")
        numbers = (line.mean, line.median, line.min, line.max, line.seconds)
        table.add_row(
            line.method,
            f"[{colour}]{line.guarantee}[/{colour}]",
            str(line.samples),
            str(line.none_found) if line.guarantee == "witness" else "",
            *(_number(value) for value in numbers),
        )
    to.print(table)
    said = f"Distances are {norm}, in units of {units(run)}."
    to.print(said, markup=False, highlight=False, soft_wrap=True)
    if run.about.get("accuracy") is not None:
        to.print(f"Accuracy on these samples: {run.about['accuracy']:.2%}.")
    for method, count in violations(run).items():
        if count:
            to.print(f"[red]{method}: {count} samples have a bound above the distance to a witness.[/red]")
    proven = {line.method for line in summary(run) if line.guarantee == "certified"}
    if proven and any(line.guarantee == "witness" for line in summary(run)):
        bad = sum(count for method, count in violations(run).items() if method in proven)
        to.print(f"Violations of certificates: {bad}.")
    if not run.about.get("complete", True):
        to.print("[yellow]Interrupted: these are the samples measured before that.[/yellow]")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
