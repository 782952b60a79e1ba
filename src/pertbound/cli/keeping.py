"""`query` and `check`: what a run's rows say, and whether they can be trusted."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pertbound import store
from pertbound.cli.answers import as_csv_lines, as_json_lines, as_table
from pertbound.cli.options import AsJson
from pertbound.cli.show import console, progress, visible
from pertbound.cli.sql import asked
from pertbound.experiments.check import check as check_run

UNTRUSTED = 1
"""The exit code of a check that found a reason not to trust a run."""
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
                typer.echo(visible(part) if console().is_terminal else part)
        else:
            table, said = as_table(names, lines)
            console().print(table)
            if said:
                console().print(said, markup=False, highlight=False, soft_wrap=True)


def check(
    run: Folder,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Samples whose certificates are proved again.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which samples.")] = 0,
    model: Annotated[Path | None, typer.Option("--model", help="The model, where it has moved.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="The data, where they have moved.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the data sets, likewise.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Can this run be trusted? Every checksum, every kept witness run again, some certificates proved again.

    Exit codes: 0 nothing speaks against it, 1 something does, 2 bad input or use.

    Example: pertbound check runs/bracket --samples 50
    """
    moved = {
        "model": None if model is None else str(model.absolute()),
        "data": data,
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
    }
    with progress() as tell:
        found = check_run(run, samples=samples, seed=seed, device=device, on_progress=tell, **moved)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"trusted": found.trusted}, indent=2))
    else:
        screen = console()
        screen.print(f"Checksums: all shards of {run} hold what was written.", markup=False, soft_wrap=True)
        screen.print(f"Witnesses run again: {found.witnesses} (farther ones, not kept: {found.unkept}).")
        screen.print(f"Certificates proved again: {found.proved}.")
        screen.print(f"Certified radii held against a witness: {found.compared}.")
        for text in found.remarks:
            screen.print(f"Remark: {text}.", markup=False, highlight=False, soft_wrap=True)
        for text in found.problems:
            screen.print(f"PROBLEM: {text}.", markup=False, highlight=False, soft_wrap=True)
        screen.print("This run can be trusted." if found.trusted else "Do not trust this run.")
    if not found.trusted:
        raise typer.Exit(UNTRUSTED)
