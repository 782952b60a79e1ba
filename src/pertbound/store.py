"""The run folder: what was asked, and shards of rows that appear whole or not at all.

- `run.json`: what was asked (model, data, options, versions); written once, before anything is computed;
- `rows/00012-<hash>.parquet`: the rows of samples 12 size to 13 size, in the columns of `records.SCHEMA`;
- `witnesses/00012-<hash>.npz`: `records.Witnesses` of the same samples, where there are any;
- `layers.json` (optional): what each layer's step costs on some samples, as `experiments/layers.py` writes it;
  `chain.py` says how these files are bound to each other;
- `.lock`: held by the one process that writes.

A shard is written under another name, synced, and renamed. Its name holds the beginning of the SHA-256 of its bytes,
and the rows name their witnesses' file, which is written first: a file of rows under its own name is a whole shard, and
a damaged one is recognised. Nothing is kept in two places, so that nothing can disagree: which shards there are says
what is done.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from pertbound import chain
from pertbound.errors import RunError
from pertbound.records import SCHEMA, Run, Shard, Witnesses, measured

ABOUT, LAYERS, ROWS, WITNESSES = "run.json", "layers.json", "rows", "witnesses"
_NAME = re.compile(r"(\d{5,})-([0-9a-f]{16})\.(?:parquet|npz)")
_KEY = b"pertbound"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in that folder."""
    return (folder / ABOUT).exists() or (folder / "rows.parquet").exists()


def read(folder: Path) -> Run:
    """Read a run folder, finished or not; witnesses are read when they are asked for.

    `about` is `run.json` with what follows from the rows: `complete`, `accuracy`, `seconds`. Raises `RunError` when the
    folder is not a run, or a shard is damaged.
    """
    about = read_about(folder)
    found, tables, parts, made = shards(folder), [], [], []
    for _, path in sorted(found.items()):
        rows, about_shard = _rows(path)
        tables.append(rows)
        made.append(about_shard)
        if name := about_shard.get("witnesses"):
            parts.append(_Stored(folder / WITNESSES / str(name)))
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    count = int(about.get("shards", {}).get("count", len(found)))
    derived = measured(rows)
    if once := sum(float(one.get("once", 0.0)) for one in made):
        derived["seconds"]["operator norms"] = once
    if derived["accuracy"] is None and "accuracy" in about:
        del derived["accuracy"]
    about |= derived | {"complete": len(found) == count and about.get("complete") is not False}
    layers: Any = {}
    if (folder / LAYERS).exists():
        layers = _json(folder / LAYERS)
    layers = {key: value for key, value in layers.items() if key != chain.BOUND} if isinstance(layers, dict) else {}
    return Run(rows, about, Witnesses(parts), layers)


def part(folder: Path, path: Path) -> Shard:
    """The shard of that file of rows; `made` as it was written. Raises `RunError` for damaged files."""
    rows, made = _rows(path)
    witnesses: Mapping[str, np.ndarray] = {}
    if name := made.get("witnesses"):
        if not _NAME.fullmatch(str(name)):
            raise RunError(f"{path} names witnesses that are no file of a run: {str(name)!r:.80}")
        _checked(folder / WITNESSES / str(name))
        witnesses = _Stored(folder / WITNESSES / str(name))
    return Shard(rows, witnesses, made)


def read_layers(folder: Path) -> dict[str, Any]:
    """`layers.json` with what binds it to the other files; empty where there is none."""
    found = _json(folder / LAYERS) if (folder / LAYERS).exists() else {}
    if not isinstance(found, dict):
        raise RunError(f"{folder / LAYERS} does not describe layers")
    return found


def read_about(folder: Path) -> dict[str, Any]:
    """`run.json`. Raises `RunError` where there is none."""
    if not (folder / ABOUT).exists() and (folder / "rows.parquet").exists():
        raise RunError(f"{folder} was written by an earlier version of pertbound; compute it again with this one")
    about = _json(folder / ABOUT)
    if not isinstance(about, dict):
        raise RunError(f"{folder / ABOUT} does not describe a run")
    return about


def write(folder: Path, run: Run) -> None:
    """Write a run that is in memory, as one shard, in the place of what was there. Raises `RunError`."""
    about = dict(run.about) | {"shards": {"samples": len(set(run.rows.column("sample").to_pylist())), "count": 1}}
    with writing(folder, about, overwrite=True) as writer:
        writer.put(0, Shard(run.rows, dict(run.witnesses)))
    write_layers(folder, run.layers)


def write_layers(folder: Path, layers: Mapping[str, Any]) -> None:
    """Write `layers.json` into a run folder, unless there is nothing to say. Raises `RunError` where that fails."""
    if layers:
        with _errors(folder):
            names = (path.name for path in shards(folder).values())
            bound = chain.of_layers(read_about(folder), names, layers)
            _write_json(folder / LAYERS, dict(layers) | {chain.BOUND: bound})


@contextmanager
def writing(
    folder: Path, about: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Generator[Writer]:
    """Hold a run folder for writing: a new run that `about` describes, or, with `resume`, one that was begun.

    `about["shards"]` holds the `count` of shards. Raises `RunError` where the folder holds a run already and neither
    `resume` nor `overwrite` is given; where the run there was asked something else (the message says what differs);
    where another process writes to it; and where it cannot be written. A new run in which not one shard was put leaves
    nothing behind.
    """
    with _errors(folder):
        fresh_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    with _errors(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is writing to {folder}; wait for it, or name another --out") from None
    writer, new = Writer(folder, int(about["shards"]["count"])), overwrite or not holds_run(folder)
    try:
        with _errors(folder):
            if new:
                _clear(folder)
                _write_json(folder / ABOUT, about)
            elif resume:
                _require_same(folder, read_about(folder), about)
                writer.look()
            else:
                raise RunError(
                    f"{folder} already holds a run; name another --out, or add --resume to go on with it, or "
                    "--overwrite to replace it"
                )
        writer.run = chain.of_run(read_about(folder))
        yield writer
    finally:
        if new and writer.empty:
            with suppress(OSError):
                _clear(folder)
                if fresh_folder:
                    (folder / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        lock.release()


@final
class Writer:
    """The one who may write to a run folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.damaged: list[int] = []
        """Shards that were there and are not what was written: they were set aside, and are missing."""
        self._done: set[int] = set()
        self.run = ""
        """The SHA-256 of `run.json`, which every shard keeps."""

    @property
    def missing(self) -> list[int]:
        """The shards that are to be computed, in order."""
        return [index for index in range(self.count) if index not in self._done]

    @property
    def empty(self) -> bool:
        """Whether there is not one shard."""
        return not self._done

    def look(self) -> None:
        """Find out which shards are there, set damaged ones aside (as `.damaged`), and remove what was not finished."""
        for kind in (ROWS, WITNESSES):
            for path in (self.folder / kind).glob(".*.part"):
                path.unlink(missing_ok=True)
        named: set[str] = set()
        for index, path in shards(self.folder).items():
            try:
                _, made = _rows(path)
                if name := made.get("witnesses"):
                    _checked(self.folder / WITNESSES / str(name))
                    named.add(str(name))
            except RunError:
                path.replace(path.with_name(path.name + ".damaged"))
                self.damaged.append(index)
            else:
                self._done.add(index)
        for path in (self.folder / WITNESSES).glob("*.npz"):
            if path.name not in named:  # a shard that was not finished, or is damaged
                path.unlink(missing_ok=True)

    def put(self, index: int, shard: Shard) -> None:
        """Add a shard. When this returns it is on the disk; before, it is not there. Raises `RunError`."""
        if index in self._done or not 0 <= index < self.count:
            raise RunError(f"{self.folder}: shard {index} of {self.count} is there already, or too many")
        with _errors(self.folder):
            name = None
            if shard.witnesses:
                stream = io.BytesIO()
                np.savez_compressed(stream, allow_pickle=False, **shard.witnesses)
                name = _put(self.folder / WITNESSES, index, "npz", stream.getbuffer())
            made = json.dumps(dict(shard.made) | {"shard": index, "witnesses": name, chain.RUN: self.run})
            sink = pa.BufferOutputStream()
            pq.write_table(shard.rows.replace_schema_metadata({_KEY: made}), sink, compression="zstd")
            _put(self.folder / ROWS, index, "parquet", memoryview(sink.getvalue()))
        self._done.add(index)


def shards(folder: Path) -> dict[int, Path]:
    """The files of rows of a run, by the number of their shard. Raises `RunError` where one is there twice."""
    found: dict[int, Path] = {}
    for path in (folder / ROWS).glob("*.parquet"):
        if match := _NAME.fullmatch(path.name):
            if (index := int(match[1])) in found:
                raise RunError(f"{folder} holds shard {index} twice: {found[index].name} and {path.name}")
            found[index] = path
    return found


def write_whole(path: Path, write_to: Callable[[Path], object]) -> None:
    """Call `write_to` with another name beside `path`, sync, then rename: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write_to(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _put(folder: Path, index: int, suffix: str, data: memoryview) -> str:
    """Write bytes under the name that says what they are."""
    folder.mkdir(exist_ok=True)
    name = f"{index:05d}-{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
    write_whole(folder / name, lambda path: path.write_bytes(data))
    return name


def _checked(path: Path) -> bytes:
    """The bytes of a file that holds what its name says. Raises `RunError` for others."""
    match = _NAME.fullmatch(path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[2]:
        raise RunError(
            f"{path} is damaged: its content is not what was written. The same command with --resume mends it"
        )
    return data


def _rows(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """A file's rows, and what is said about them."""
    data = _checked(path)
    try:
        rows = pq.read_table(pa.BufferReader(data), use_threads=False)
        made: dict[str, Any] = json.loads((rows.schema.metadata or {}).get(_KEY, b"{}"))
        return rows.select(SCHEMA.names).cast(SCHEMA), made
    except _DAMAGE as error:
        raise RunError(f"{path} does not hold a run's rows: {error}") from error


@final
class _Stored(Mapping[str, np.ndarray]):
    """One file of witnesses. Its own checksums are checked array by array, as they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        with self._open() as stored:
            return tuple(stored.files)

    @contextmanager
    def _open(self) -> Generator[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                yield stored
        except _DAMAGE as error:
            raise RunError(f"{self.path} does not hold witnesses: {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        with self._open() as stored:
            return stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _require_same(folder: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was asked something else."""
    one, other = _question(begun), _question(asked)
    keys = [key for key in dict.fromkeys((*one, *other)) if one.get(key) != other.get(key)]
    if keys:
        said = "; ".join(f"{key} was {one.get(key)!r} and is now {other.get(key)!r}" for key in keys)
        raise RunError(f"{folder} holds another run, which cannot be gone on with: {said}")


def _question(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's rows depend on, flat."""
    model, data = about.get("model", {}), about.get("data", {})
    found = {"model sha256": model.get("sha256"), "data sha256": data.get("sha256"), "samples": data.get("samples")}
    found |= {f"option {name}": value for name, value in json.loads(json.dumps(about.get("options", {}))).items()}
    return found | {f"shards' {name}": value for name, value in about.get("shards", {}).items()}


def _clear(folder: Path) -> None:
    """Remove a run; `run.json` goes first, without which the rest is none."""
    for name in (ABOUT, LAYERS, "rows.parquet", "witnesses.npz"):
        (folder / name).unlink(missing_ok=True)
    for kind in (ROWS, WITNESSES):
        for pattern in ("*.parquet", "*.npz", "*.damaged", ".*.part"):
            for path in (folder / kind).glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (folder / kind).rmdir()  # which refuses where anything is left


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.parent} is not a run folder ({error}); expected {ABOUT} and {ROWS}/ as written by "
            "`pertbound certify|attack|bracket|demo|reproduce --out`"
        ) from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync(folder: Path) -> None:
    """Make a new name in a folder last, where folders can be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _errors(folder: Path) -> Generator[None]:
    """Say of a system's refusal what it means for the run."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "; what was finished is kept: make room, and give the same command with --resume" if full else ""
        raise RunError(f"cannot write the run folder {folder}: {error}{remedy}") from error
