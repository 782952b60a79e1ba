"""A query over a run's rows, in DuckDB: it reads the rows and nothing else, within limits of time and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pertbound.cli.screen import plain
from pertbound.errors import InputError

MEMORY = 2**30
"""Bytes that a query may need beside the rows."""
LONGEST = 100_000
"""Characters of a query, at most."""
_LOCKED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": f"{MEMORY // 2**20}MiB",
    "threads": "2",
}
"""No files, no network, no extensions, none of this program's own variables as tables, and nothing on the disk."""


@contextmanager
def asked(rows: pa.Table, sql: str, seconds: float) -> Generator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """The names of the answer's columns, and its lines as they are computed, for at most so many seconds.

    The query is one SELECT over the table `rows`, which is all there is. Raises `InputError` for another query, for one
    that fails, and for one that needs more time or memory; also while the lines are read.
    """
    try:
        import duckdb
    except ImportError as error:
        raise InputError("query needs the package duckdb: pip install 'pertbound[query]'") from error
    _require_text(sql)
    connection = duckdb.connect(":memory:", config=dict(_LOCKED))
    end = time.monotonic() + seconds
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    try:
        with _little_memory():
            with _refusals(rows, seconds):
                connection.register("given", rows)
                connection.execute("CREATE TABLE rows AS SELECT * FROM given")
                connection.unregister("given")
                connection.execute("SET lock_configuration = true")
                statements = connection.extract_statements(sql)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    kinds = ", ".join(one.type.name for one in statements[:9]) or "nothing"
                    raise InputError(f"a query is one SELECT statement, and this is {kinds}\n{_columns(rows)}")
                timer.start()
                answer = connection.execute(statements[0])
                names = [column[0] for column in answer.description or ()]
            yield names, _lines(answer, rows, seconds, end)  # what is done with these may fail in its own way
    finally:
        timer.cancel()
        connection.close()


@contextmanager
def _refusals(rows: pa.Table, seconds: float) -> Generator[None]:
    """Say of DuckDB's errors what they mean for the query."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException as error:
        raise InputError(_late(seconds)) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise InputError(f"the query needs more than {MEMORY / 2**30:g} GiB of memory; ask for less at once") from error
    except (duckdb.Error, RuntimeError, ValueError, OverflowError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{plain(first[:1000])}\n{_columns(rows)}") from error


def _late(seconds: float) -> str:
    return f"the query took more than {seconds:g} seconds; ask for less, or give more with --timeout"


def _columns(rows: pa.Table) -> str:
    return f"The table is called rows; its columns are {', '.join(rows.column_names)}"


def _lines(answer: Any, rows: pa.Table, seconds: float, end: float) -> Iterator[tuple[Any, ...]]:
    while True:
        with _refusals(rows, seconds):
            lines = answer.fetchmany(1000)
        if not lines:
            return
        yield from lines
        if time.monotonic() > end:
            raise InputError(_late(seconds))


def _require_text(sql: str) -> None:
    if len(sql) > LONGEST:
        raise InputError(f"the query has {len(sql):,} characters; at most {LONGEST:,} are read")
    if "\0" in sql:
        raise InputError("the query holds a NUL character")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the query is not text in UTF-8, at character {error.start}") from error


@contextmanager
def _little_memory() -> Generator[None]:
    """Where the system can limit the memory of this process, `MEMORY` above what it has, twice over.

    DuckDB's own limit does not count everything: one cell of `repeat('x', 4e9)` is beside it.
    """
    try:
        import resource

        have = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    least = min(limit for limit in (have + 2 * MEMORY, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (least, hard))
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
