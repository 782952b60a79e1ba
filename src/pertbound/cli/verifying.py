"""`verify`: one network, one property, one answer."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated

import typer

from pertbound.cli.options import AsJson
from pertbound.cli.screen import Screen, console
from pertbound.disk import write_whole
from pertbound.errors import InputError, PropertyTimeoutError, RunError
from pertbound.experiments.sources import read_network
from pertbound.frontends.vnnlib import read_vnnlib
from pertbound.verification import Answer, Verdict
from pertbound.verification import verify as ask
from pertbound_entry import ExitCode

CODES = {Answer.HOLDS: ExitCode.DONE, Answer.VIOLATED: ExitCode.REFUTED, Answer.UNKNOWN: ExitCode.UNKNOWN}
"""The exit code of each answer."""


def verify(
    network: Annotated[Path, typer.Argument(help="The classifier: an .onnx, .onnx.gz or .pt2 file.")],
    claim: Annotated[Path, typer.Argument(metavar="PROPERTY", help="A .vnnlib or .vnnlib.gz file, VNN-LIB 1.0.")],
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds, reading included; a step that has begun is finished.")
    ] = 60.0,
    witness: Annotated[
        Path | None, typer.Option("--witness", help="File for the counterexample; otherwise it is printed.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the search.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Does a property hold? Prints holds, violated with a counterexample in the competitions' format, or unknown.

    Exit codes: 0 holds, 1 violated, 3 unknown within the time (in which both files are read too), 2 bad input or use,
    70 an unexpected error.

    Example: pertbound verify network.onnx property.vnnlib --timeout 60 --witness counterexample.txt
    """
    screen = console(quiet=as_json)
    found = _answered(network, claim, timeout, seed)
    screen.print(_said(found), soft_wrap=True)
    if as_json:
        told = {"answer": found.answer.value, "by": found.by, "seconds": found.seconds}
        typer.echo(json.dumps(told | {"counterexample": found.counterexample and str(found.counterexample)}, indent=2))
    if found.counterexample is not None and (witness is not None or not as_json):
        _give(found, witness, screen)
    raise typer.Exit(CODES[found.answer])


def _answered(network: Path, claim: Path, timeout: float, seed: int) -> Verdict:
    """The answer within the time, of which reading both files takes its part."""
    if not 0 < timeout < math.inf:
        raise InputError(f"the time limit must be positive and finite, got {timeout} seconds")
    begun = time.monotonic()

    def left() -> float:
        return timeout - (time.monotonic() - begun)

    graph = read_network(network, None)
    try:
        asked = read_vnnlib(claim, seconds=max(0.0, left()))
    except PropertyTimeoutError:
        by = f"the property was not read to its end within the {timeout:g} seconds"
        return Verdict(Answer.UNKNOWN, None, by, timeout - left())
    if left() <= 0:
        return Verdict(Answer.UNKNOWN, None, f"reading took the {timeout:g} seconds", timeout - left())
    return ask(graph, asked, seconds=left(), seed=seed)


def _said(found: Verdict) -> str:
    return f"{found.answer.value} ({found.by}; {found.seconds:.1f} s)"


def _give(found: Verdict, witness: Path | None, screen: Screen) -> None:
    text = f"{found.counterexample}\n"
    if witness is None:
        typer.echo(text, nl=False)
        return
    try:
        write_whole(witness, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot write {witness}: {error}; choose a folder that can be written") from error
    screen.print(f"Counterexample: {witness}", soft_wrap=True)
