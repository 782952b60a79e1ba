"""What a person sees: progress while it runs, a summary table at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pertbound.engine import Failed
from pertbound.engine.base import said
from pertbound.experiments.work import OnProgress
from pertbound.records import Run
from pertbound.report import summary, violations
from pertbound.report.about import units

_BADGES = {"certified": "green", "estimate": "yellow", "witness": "cyan"}


def console(*, quiet: bool = False) -> Console:
    """Where results are printed: as wide as the terminal, or wide enough for every table when there is none."""
    standard = Console(quiet=quiet)
    return standard if standard.is_terminal else Console(width=150, quiet=quiet)


def visible(text: str) -> str:
    """A text from a file, a name or a query for a terminal: whatever could steer it is spelt out, as in \\x1b."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def progress() -> Generator[OnProgress, None, None]:
    """On standard error, a bar for each stage with throughput and the time left; nothing when that is no terminal."""
    to = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Throughput(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=to, disable=not to.is_terminal, transient=True, speed_estimate_period=600) as bars:
        tasks: dict[int, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if total not in tasks:  # what was done before is no sign of how fast it goes
                tasks[total] = bars.add_task(stage, total=total, completed=done)
            bars.update(tasks[total], description=stage, completed=done)

        yield tell


@final
class _Throughput(ProgressColumn):
    """How many a second, or how many seconds one takes."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:,.1f} s each")


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
        to.print("[yellow]Not finished (interrupted, or shards failed): the samples measured so far.[/yellow]")


def print_json(folder: Path, run: Run, failed: Sequence[Failed] = ()) -> None:
    """The same for scripts, on standard output: numbers, or null where there is none."""
    lines = [{name: _plain(value) for name, value in asdict(line).items()} for line in summary(run)]
    found = {
        "folder": str(folder),
        "title": run.about.get("title"),
        "complete": run.about.get("complete", True),
        "norm": run.about.get("norm", "L2"),
        "pixel_scale": run.about.get("data", {}).get("pixel_scale", 1.0),
        "accuracy": run.about.get("accuracy"),
        "methods": lines,
        "violations": violations(run),
        "failed": [{"shard": one.index, "tries": one.tries, "error": said(one.error)} for one in failed],
    }
    typer.echo(json.dumps(found, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
