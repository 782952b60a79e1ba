"""The run folder: what was asked, and shards of rows that appear whole or not at all.

- `run.json`: what was asked (model, data, options, versions); written once, before anything is computed;
- `rows/00012-<hash>.parquet`: the rows of samples 12 size to 13 size, in the columns of `records.SCHEMA`;
- `witnesses/00012-<hash>.npz`: `records.Witnesses` of the same samples, where there are any;
- `layers.json` (optional): what each layer's step costs on some samples, as `experiments/layers.py` writes it;
- `.lock`: held by the one process that writes.

A shard is written under another name, synced, and renamed. Its name holds the beginning of the SHA-256 of its bytes,
and the rows name their witnesses' file, which is written first: a file of rows under its own name is a whole shard, and
a damaged one is recognised. Nothing is kept in two places, so that nothing can disagree: which shards there are says
what is done. (`run.json` is repeated in every shard, for the day on which it is lost, and is read there only then.)

`run_folder.py` says what may be written where, and what is removed; `shard_files.py` what is believed of a file.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from pertbound import chain
from pertbound.disk import kind, plain_json, read_whole, require_folder, write_whole
from pertbound.errors import RunError
from pertbound.records import MOST_METHODS, SCHEMA, Run, Shard, Witnesses, measured, require_sound
from pertbound.run_folder import (
    ABOUT,
    LAYERS,
    LOCK,
    MOST_ABOUT,
    MOST_LAYERS,
    clear,
    holds_run,
    mark,
    read_about,
    rebuilt,
    require_real,
    require_room,
    require_same,
    unfinished,
)
from pertbound.shard_files import (
    MOST_ROWS,
    ROWS,
    WITNESSES,
    Stored,
    checked,
    described,
    named,
    packed_rows,
    packed_witnesses,
    read_rows,
    run_id,
    run_of,
    shards,
)

__all__ = [
    "LAYERS",
    "Writer",
    "holds_run",
    "part",
    "read",
    "read_about",
    "read_layers",
    "require_room",
    "shards",
    "write",
    "write_layers",
    "writing",
]


def read(folder: Path) -> Run:
    """Read a run folder, finished or not; witnesses are read when they are asked for.

    `about` is `run.json` with what follows from the rows: `complete`, `accuracy`, `seconds`. Raises `RunError` when the
    folder is not a run, a shard is damaged or of another run, and for more or other rows than a run has.
    """
    require_real(folder)
    about = read_about(folder)
    asked, run, found = about.get("shards", {}), run_id(about), shards(folder)
    count = int(asked.get("count", len(found)))
    tables, parts, once, seen, room = list[pa.Table](), list[Stored](), 0.0, 0, MOST_ROWS
    for index, path in sorted(found.items()):
        rows, made = read_rows(path, min(room, asked.get("size", room) * MOST_METHODS))
        _require_part(path, run, made["run"])
        samples = np.unique(rows.column("sample").to_numpy())
        if index >= count or len(samples) > asked.get("size", len(samples)):
            raise RunError(f"{path} holds {len(samples):,} samples as shard {index}, which is more than {ABOUT} says")
        if made.get("witnesses"):
            parts.append(Stored(folder / WITNESSES / made["witnesses"], samples.tolist(), _shape(about)))
        tables.append(rows)
        once, seen, room = once + float(made.get("once", 0.0)), seen + len(samples), room - len(rows)
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    try:
        require_sound(rows)
    except RunError as error:
        raise RunError(f"{folder} does not hold a run's rows: {error}") from error
    if len(np.unique(rows.column("sample").to_numpy())) < seen or seen > asked.get("samples", seen):
        raise RunError(f"{folder} holds {seen:,} samples in its shards, or some twice; {ABOUT} says otherwise")
    derived = measured(rows)
    if once:
        derived["seconds"]["operator norms"] = once
    if derived["accuracy"] is None and "accuracy" in about:
        del derived["accuracy"]
    about |= derived | {"complete": len(found) == count and about.get("complete") is not False}
    return Run(rows, about, Witnesses(parts), _layers(folder, run))


def part(folder: Path, path: Path) -> Shard:
    """The shard of that file of rows. Raises `RunError` for damaged files.

    `made` is as it was written, with the hash of the `run.json` that the file repeats (`chain.DESCRIPTION`).
    """
    rows, made = read_rows(path)
    _, about = described(path)
    try:
        made[chain.DESCRIPTION] = chain.of_run(plain_json(about))
    except ValueError as error:
        raise RunError(f"{path} repeats a {ABOUT} that cannot be read: {error}") from error
    witnesses: Mapping[str, np.ndarray] = {}
    if name := made.get("witnesses"):
        checked(folder / WITNESSES / name)
        witnesses = Stored(folder / WITNESSES / name, rows.column("sample").to_pylist())
    return Shard(rows, witnesses, made)


def write(folder: Path, run: Run) -> tuple[str, ...]:
    """Write a run that is in memory, as one shard, in the place of the run that was there, or into an empty folder.

    Returns the names of files that no run has written, which are left where they are. Raises `RunError`.
    """
    about = dict(run.about) | {"shards": {"samples": len(set(run.rows.column("sample").to_pylist())), "count": 1}}
    with writing(folder, about, overwrite=True) as writer:
        writer.put(0, Shard(run.rows, dict(run.witnesses)))
        writer.put_layers(run.layers)
        return writer.left


def write_layers(folder: Path, layers: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write `layers.json` into the folder of the run that `about` describes, unless there is nothing to say.

    Raises `RunError` where that fails, and where the folder holds another run by now.
    """
    if layers:
        with _locked(folder):
            begun = require_room(folder, resume=True) or {}
            require_same(folder, begun, about)
            Writer(folder, begun).put_layers(layers)


@contextmanager
def writing(
    folder: Path,
    about: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    beside: Collection[str] = (),
) -> Generator[Writer]:
    """Hold a run folder for writing: a new run that `about` describes, or, with `resume`, one that was begun.

    `about["shards"]` holds the `count` of shards. A new run needs a folder that is absent or empty, but for files with
    the names `beside`. Raises `RunError` where the folder holds other things; where it holds a run already and neither
    `resume` nor `overwrite` is given; where the run there was asked something else (the message says what differs);
    where another process writes to it; and where it cannot be written. A new run in which not one shard was put leaves
    nothing behind in a folder of its own.
    """
    require_room(folder, resume=resume, overwrite=overwrite, beside=beside)
    with _errors(folder):
        fresh_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        writer = Writer(folder, about)
        begun = require_room(folder, resume=resume, overwrite=overwrite, beside=beside)
        new = overwrite if begun is not None else not shards(folder)
        try:
            with _errors(folder):
                if new:
                    writer.begin(begun)
                else:
                    writer.go_on(begun)
            yield writer
        finally:
            if new and writer.empty:
                with suppress(OSError):
                    writer.discard(beside)
                    if fresh_folder:
                        (folder / LOCK).unlink(missing_ok=True)
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Be the one process that writes to a folder."""
    lock = FileLock(folder / LOCK)
    with _errors(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is writing to {folder}; wait for it, or name another --out") from None
    try:
        yield
    finally:
        lock.release()


@final
class Writer:
    """The one who may write to a run folder."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.count = folder, int(about["shards"]["count"])
        self.damaged: list[int] = []
        """Shards that were there and are not what was written: they were set aside, and are missing."""
        self.left: tuple[str, ...] = ()
        """Files that stood in the folder of a run that was replaced, and are not of that run: they are still there."""
        self.rebuilt = False
        """Whether `run.json` was lost, and written again as the shards repeat it."""
        self._about = _json(about)
        self._run = run_id(json.loads(self._about))
        self._done: set[int] = set()
        self._put: list[Path] = []

    @property
    def missing(self) -> list[int]:
        """The shards that are to be computed, in order."""
        return [index for index in range(self.count) if index not in self._done]

    @property
    def empty(self) -> bool:
        """Whether there is not one shard."""
        return not self._done

    def begin(self, before: Mapping[str, Any] | None) -> None:
        """Begin a new run, in the place of the one that `before` describes."""
        if before is not None:
            self.left = clear(self.folder, before)  # until the next line its run.json stands, and lists fewer shards
        self._remove_unfinished()
        self._write(self.folder / ABOUT, self._about)

    def go_on(self, begun: Mapping[str, Any] | None) -> None:
        """Find out which shards are there, set damaged ones aside (as `.damaged`), and remove what was not finished."""
        if begun is None:
            self._about, self.rebuilt = rebuilt(self.folder, json.loads(self._about)), True
            self._remove_unfinished()
            self._write(self.folder / ABOUT, self._about)
        else:
            require_same(self.folder, begun, json.loads(self._about))
            self._about = read_whole(self.folder / ABOUT, MOST_ABOUT)
            self._remove_unfinished()
        kept: set[str] = set()
        for index, path in shards(self.folder).items():
            if not _whole(path):
                _set_aside(path)
                self.damaged.append(index)
                continue
            made, _ = described(path)
            _require_part(path, self._run, made["run"])
            name = made.get("witnesses")
            if name and not _whole(self.folder / WITNESSES / name):
                _set_aside(path)
                self.damaged.append(index)
                continue
            self._done.add(index)
            kept.add(name or "")
        for path in (self.folder / WITNESSES).glob("*.npz"):
            if path.name not in kept and run_of(path) == self._run:
                path.unlink()  # of a shard that was not finished

    def put(self, index: int, shard: Shard) -> None:
        """Add a shard. When this returns it is on the disk; before, it is not there. Raises `RunError`."""
        if index in self._done or not 0 <= index < self.count:
            raise RunError(f"{self.folder}: shard {index} of {self.count} is there already, or too many")
        with _errors(self.folder):
            name = None
            if shard.witnesses:
                data = packed_witnesses(shard.witnesses, self._run)
                name = named(index, data, "npz")
                self._write(self.folder / WITNESSES / name, data)
            data = packed_rows(shard, index, name, self._run, self._about)
            self._write(self.folder / ROWS / named(index, data, "parquet"), data)
        self._done.add(index)

    def put_layers(self, layers: Mapping[str, Any]) -> None:
        """Write `layers.json`, unless there is nothing to say."""
        if layers:
            _layers(self.folder, self._run)  # refuses to replace one that is not of this run
            with _errors(self.folder):
                names = (path.name for path in shards(self.folder).values())
                said, about = json.loads(_json(layers)), json.loads(self._about)
                bound = {"run": self._run, chain.BOUND: chain.of_layers(about, names, said)}
                self._write(self.folder / LAYERS, _json(said | bound))

    def discard(self, beside: Collection[str] = ()) -> None:
        """Remove what this writer wrote; but `run.json` stays where other files than those `beside` it are."""
        for path in self._put:
            if path.name != ABOUT:
                path.unlink(missing_ok=True)
        for name in (ROWS, WITNESSES):
            with suppress(OSError):
                (self.folder / name).rmdir()
        if self.folder / ABOUT in self._put and {path.name for path in self.folder.iterdir()} <= {ABOUT, LOCK, *beside}:
            (self.folder / ABOUT).unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        if path.parent != self.folder:
            require_folder(path.parent)
            path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(data), mark=mark(self._run))
        self._put.append(path)

    def _remove_unfinished(self) -> None:
        for path in unfinished(self.folder, self._run):
            path.unlink()


def _require_part(path: Path, run: str, of: str) -> None:
    if of != run:
        raise RunError(f"{path} is a shard of another run than its {ABOUT} describes; move it elsewhere")


def _whole(path: Path) -> bool:
    try:
        checked(path)
    except RunError:
        return False
    return True


def _set_aside(path: Path) -> None:
    """Give a file that is not what was written another name, under which nothing is yet."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged{'' if number == 1 else number}")
        if not kind(aside):
            path.replace(aside)
            return
    raise RunError(f"{path} is damaged, and a thousand files of that name were set aside already")


def read_layers(folder: Path) -> dict[str, Any]:
    """`layers.json` with what binds it to the other files; empty where there is none. Raises `RunError`."""
    if not kind(folder / LAYERS):
        return {}
    try:
        layers = plain_json(read_whole(folder / LAYERS, MOST_LAYERS))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / LAYERS} cannot be read: {error}") from error
    if not isinstance(layers, dict):
        raise RunError(f"{folder / LAYERS} does not describe layers")
    return layers


def _layers(folder: Path, run: str) -> dict[str, Any]:
    """`layers.json` of this run, where there is one."""
    layers = read_layers(folder)
    if layers and layers.get("run") != run:
        raise RunError(f"{folder / LAYERS} is not of the run in {folder}; move it elsewhere")
    return {key: value for key, value in layers.items() if key not in ("run", chain.BOUND)}


def _shape(about: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of an input, where `run.json` says one."""
    shape = about.get("data", {}).get("input_shape")
    return tuple(shape) if isinstance(shape, list) and all(type(side) is int for side in shape) else None


def _json(value: Mapping[str, Any]) -> bytes:
    """As the run folder keeps it. Halves of surrogate pairs, as in paths that are no UTF-8, are spelt out."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise RunError(f"a run's description cannot be kept as JSON: {error}") from error
    return re.sub("[\ud800-\udfff]", lambda half: rf"\\u{ord(half[0]):x}", text).encode()


@contextmanager
def _errors(folder: Path) -> Generator[None]:
    """Say of a system's refusal what it means for the run."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "; what was finished is kept: make room, and give the same command with --resume" if full else ""
        raise RunError(f"cannot write the run folder {folder}: {error}{remedy}") from error
