"""`query` and `check`: what a run's rows say, and whether they can be trusted."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pertbound import store
from pertbound.cli.options import AsJson
from pertbound.cli.screen import cell, console, emit, header
from pertbound.cli.show import progress
from pertbound.errors import InputError
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
) -> None:
    """Ask a run's rows in SQL; the table is called rows. Needs duckdb: pip install 'pertbound[query]'.

    Example: pertbound query runs/demo "SELECT method, avg(l2), min(l2) FROM rows GROUP BY method ORDER BY 2"
    """
    rows = store.read(run).rows
    names, lines = _asked(rows, sql)
    if form is Form.json:
        typer.echo(json.dumps([dict(zip(names, line, strict=True)) for line in lines], indent=2, default=str))
    elif form is Form.csv:
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([names, *lines])
        emit(stream.getvalue())
    else:
        table = Table(*header(names))
        for line in lines:
            table.add_row(*(cell("" if value is None else _short(value)) for value in line))
        console().print(table)


def _asked(rows: Any, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    try:
        import duckdb
    except ImportError as error:
        raise InputError("query needs the package duckdb: pip install 'pertbound[query]'") from error
    connection = duckdb.connect()
    try:
        connection.register("rows", rows)
        answer = connection.execute(sql)
        return [column[0] for column in answer.description or ()], answer.fetchall()
    except duckdb.Error as error:
        raise InputError(
            f"{error}\nThe table is called rows; its columns are {', '.join(rows.column_names)}"
        ) from error
    finally:
        connection.close()


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
