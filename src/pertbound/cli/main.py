"""The entry point: the commands, and one place where errors become a message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from typing import Annotated

import typer

from pertbound.cli.asking import attack, bracket, certify
from pertbound.cli.command import Command
from pertbound.cli.comparing import compare
from pertbound.cli.keeping import check, query
from pertbound.cli.reporting import report
from pertbound.cli.screen import console
from pertbound.cli.studies import demo, reproduce
from pertbound.cli.verifying import verify
from pertbound.errors import ContradictionError, PertboundError
from pertbound_entry import ExitCode, interrupts

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
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, of click or of typer's copy of it
_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space. A run that was begun goes on with --resume.",
    errno.ENOMEM: "There is not enough memory: ask for fewer samples at once (--batch-size), or for a smaller problem.",
}
_BUG = "This is a bug in pertbound: run again with --debug, and report what is printed."


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error; may also stand after the command.")
    ] = False,
) -> None:
    """What all commands share."""  # `run` has taken --debug out before


def run() -> None:
    """Run the command line; every exit code is one of `ExitCode`."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold bytes that are no text
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    given, debug = _without_debug(sys.argv[1:])
    try:
        code = _invoked(given)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # pyright: ignore[reportUnnecessaryComparison]
                stream.flush()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it gets a code of its own
        code = _code_of(error)
        with contextlib.suppress(Exception):
            _tell(error, code, debug)
    if code == ExitCode.BROKEN_PIPE:
        with contextlib.suppress(Exception):  # what is left in the buffers goes nowhere, and says nothing about it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code != ExitCode.DONE:
        sys.exit(code)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, wherever it stands before a `--`, and whether it was among them."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _invoked(arguments: list[str]) -> int:
    """Run the command as typer would, but for its own idea of exit codes (1 for a broken pipe)."""
    group = typer.main.get_command(app)
    try:
        with group.make_context("pertbound", arguments) as context:
            group.invoke(context)
    except typer.Exit as stop:
        return ExitCode(stop.exit_code)
    except _UsageError as error:
        error.show()  # pyright: ignore[reportAttributeAccessIssue]
        return ExitCode.REFUSED
    return ExitCode.DONE


def _code_of(error: BaseException) -> ExitCode:
    """The exit code of an error."""
    if isinstance(error, PertboundError):
        return ExitCode.FAILED if isinstance(error, ContradictionError) else ExitCode.REFUSED
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, ImportError | SystemExit) and interrupts(error)):
        return ExitCode.INTERRUPTED
    pipe = error.__context__ if isinstance(error, SystemExit) else error  # rich raises SystemExit(1) for it
    return ExitCode.BROKEN_PIPE if isinstance(pipe, BrokenPipeError) else ExitCode.CRASHED


def _tell(error: BaseException, code: ExitCode, debug: bool) -> None:
    """What happened, on standard error, in two lines at most; with `debug` the traceback before it."""
    screen = console(stderr=True)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, PertboundError):
        screen.print("error:", style="red", end=" ")
        screen.print(f"{type(error).__name__}: {error}", soft_wrap=True)
    elif code == ExitCode.INTERRUPTED:
        screen.print("interrupted before anything was measured")
    elif code == ExitCode.CRASHED:
        what = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}")
        screen.print("error:", style="red", end=" ")
        screen.print(f"unexpected {' '.join(what.split())[:300]}", soft_wrap=True)
        screen.print(_remedy(error), soft_wrap=True)


def _remedy(error: BaseException) -> str:
    """What to do about an unexpected error."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return _REMEDIES[errno.ENOMEM]
    return _REMEDIES.get(error.errno or 0, _BUG) if isinstance(error, OSError) else _BUG
