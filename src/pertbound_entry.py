"""Where the program `pertbound` starts: outside of the package, whose import takes seconds (torch).

An interruption or a failure in these seconds gets its exit code here; `pertbound.cli.main` does the rest.
"""

from __future__ import annotations

import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """Every exit code of every command. No crash ends with the code of a verdict (0, 1 or 3)."""

    DONE = 0
    """Done. Of verify: the property holds. Of check: all that was asked for is confirmed."""
    REFUTED = 1
    """Of verify: the property is violated. Of check: something speaks against the run. Of no other command."""
    REFUSED = 2
    """Bad input or use, with a message that says what to do."""
    UNKNOWN = 3
    """Of verify: unknown within the time. Of check: something could not be confirmed. Of no other command."""
    FAILED = 4
    """Shards of a run failed, or a certified radius and a witness contradict each other."""
    CRASHED = 70
    """An unexpected error: a bug, or memory or the disk ran out."""
    INTERRUPTED = 130
    """Ctrl-C, as after SIGINT (128 + 2)."""
    BROKEN_PIPE = 141
    """Whoever read the output stopped, as in `| head -1`; as after SIGPIPE (128 + 13)."""


def interrupts(error: BaseException | None) -> bool:
    """Whether an interruption is behind the error: an extension module may turn it into another one."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def run() -> None:
    """The program."""
    try:
        from pertbound.cli.main import run as command
    except BaseException as error:
        if "--debug" in sys.argv:
            raise
        if interrupts(error):
            sys.stderr.write("interrupted before anything was measured\n")
            sys.exit(ExitCode.INTERRUPTED)
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        sys.stderr.write(f"error: pertbound could not be loaded: {what}\n")
        sys.stderr.write("install it anew, with its dependencies; run again with --debug to see where it failed\n")
        sys.exit(ExitCode.CRASHED)
    command()
