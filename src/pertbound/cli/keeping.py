"""`query` and `check`: what a run's rows say, and whether they can be trusted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pertbound import store
from pertbound.cli.answers import as_csv_lines, as_json_lines, as_table
from pertbound.cli.options import AsJson
from pertbound.cli.screen import Screen, console, emit
from pertbound.cli.show import progress
from pertbound.cli.sql import asked
from pertbound.experiments.check import Plan
from pertbound.experiments.check import check as check_run
from pertbound.experiments.checking.findings import Trust, Verdict
from pertbound_entry import ExitCode

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


class Form(str, Enum):
    """How a query's answer can be printed."""

    table = "table"
    csv = "csv"
    json = "json"


def query(
    run: Folder,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A query over the table rows, in DuckDB's SQL.")],
    form: Annotated[Form, typer.Option("--format", help="How the answer is printed.")] = Form.table,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, max=1e6, help="Seconds for the query.")] = 60.0,
) -> None:
    """Ask a run's rows in SQL; the table is called rows. Needs duckdb: pip install 'pertbound[query]'.

    The query is one SELECT. It reads the rows and nothing else: no files, no network, no extensions.

    Example: pertbound query runs/demo "SELECT method, avg(l2), min(l2) FROM rows GROUP BY method ORDER BY 2"
    """
    with asked(store.read(run).rows, sql, timeout) as (names, lines):
        if form is Form.json:
            for part in as_json_lines(names, lines):
                typer.echo(part)
        elif form is Form.csv:
            for part in as_csv_lines([names], lines):
                emit(part + "\n")
        else:
            table, said = as_table(names, lines)
            console().print(table)
            if said:
                console().say(said)


def check(
    run: Folder,
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Samples whose rows are computed again, in whole batches.")
    ] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Compute every row again.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which samples.")] = 0,
    model: Annotated[Path | None, typer.Option("--model", help="The model, where it has moved.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="The data, where they have moved.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the data sets, likewise.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")] = "cpu",
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch the run's data set where it is not there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Can this run be believed? Its claims are computed again: all witnesses, and the certificates of some samples.

    Exit codes: 0 all that was checked is confirmed, 3 something could not be confirmed, 1 something is contradicted,
    2 bad input or use. docs/checking.md says what protects which field.

    Example: pertbound check runs/bracket --samples 50
    """
    moved = {
        "model": None if model is None else str(model.absolute()),
        "data": data,
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
    }
    screen = console(quiet=as_json)
    with progress() as tell:
        found = check_run(
            run,
            samples=None if everything else samples,
            seed=seed,
            device=device,
            allow_download=allow_download,
            on_plan=lambda plan: _say(screen, *_planned(plan)),
            on_progress=tell,
            **moved,
        )
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"verdict": found.verdict.value}, indent=2))
    else:
        _say(screen, *_found(found))
    if found.verdict is not Verdict.CONFIRMED:
        raise typer.Exit(ExitCode.UNKNOWN if found.verdict is Verdict.UNCONFIRMED else ExitCode.REFUTED)


def _planned(plan: Plan) -> list[str]:
    """What the check is going to do, and about how long it takes."""
    took = f"{plan.seconds:.3g} s" if math.isfinite(plan.seconds) else "an unknown time"
    return [
        f"Model: {plan.model}. Data: {plan.data}.",
        f"To do: predictions and witnesses of {plan.samples} samples; the rows of {plan.again} of them again, by "
        f"{', '.join(plan.methods)}. The run took {took} for these rows.",
    ]


def _found(found: Trust) -> list[str]:
    """What the check found, line by line; the counts come last."""
    lines = [f"Remark: {text}." for text in found.remarks]
    lines += [f"Not confirmed: {text}." for text in found.doubts]
    lines += [f"CONTRADICTED: {text}." for text in found.contradictions]
    for count, texts in ((found.doubted, found.doubts), (found.contradicted, found.contradictions)):
        if count > len(texts):
            lines.append(f"{count - len(texts)} more of these.")
    proved, seen, others, samples = found.certificates, found.witnesses, found.others, found.samples
    if proved.checked < proved.in_run:
        lines.append(
            f"Proved again: {proved.checked} of the run's {proved.in_run} certificates; --all takes every one."
        )
    lines.append(f"Predictions: confirmed {samples.confirmed} of {samples.checked}.")
    rest = "Other rows (attacks without a kept witness, estimates)"
    lines.append(f"{rest}: confirmed {others.confirmed} of {others.checked}.")
    said = {Verdict.CONFIRMED: "Confirmed", Verdict.UNCONFIRMED: "NOT CONFIRMED", Verdict.CONTRADICTED: "CONTRADICTED"}
    lines.append(
        f"{said[found.verdict]}: confirmed {proved.confirmed} of {proved.checked} certificates, "
        f"{seen.confirmed} of {seen.checked} witnesses"
    )
    return lines


def _say(screen: Screen, *lines: str) -> None:
    for line in lines:
        screen.say(line)
