"""The entry point: the commands, and one place where errors become a message and an exit code."""

from __future__ import annotations

import sys

import typer

from pertbound.cli.asking import attack, bracket, certify
from pertbound.cli.command import Command
from pertbound.cli.comparing import compare
from pertbound.cli.keeping import check, query
from pertbound.cli.reporting import report
from pertbound.cli.screen import console
from pertbound.cli.studies import demo, reproduce
from pertbound.cli.verifying import verify
from pertbound.errors import PertboundError

app = typer.Typer(
    name="pertbound",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="How small can an adversarial perturbation of a classifier's input be? From below with a guarantee "
    "(certify), from above with a witness (attack), both at once (bracket). Start with: pertbound demo",
)
for command in (demo, certify, attack, bracket, reproduce, report, compare, verify, query, check):
    app.command(cls=Command)(command)


def run() -> None:
    """Run the command line. Exit codes: 0 done, 2 bad input or use, 130 interrupted; 1, 3 and 4 as a command says."""
    try:
        app()
    except PertboundError as error:
        screen = console(stderr=True)
        screen.print("error:", style="red", end=" ")
        screen.print(f"{type(error).__name__}: {error}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console(stderr=True).print("interrupted before anything was measured")
        sys.exit(130)
