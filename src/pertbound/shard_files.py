"""The two files of a shard: what they are called, how they are written, and what is believed of them.

A name holds the number of the shard and the beginning of the SHA-256 of the file's bytes. The metadata of the rows say
which run they are of (`run_id`), repeat its `run.json`, and name the witnesses' file. A run folder may come from a
stranger: nothing is unpacked before its size is known, and no name leads out of the folder.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pertbound.disk import open_whole, plain_json, read_whole
from pertbound.errors import RunError
from pertbound.records import SCHEMA, Shard

ROWS, WITNESSES = "rows", "witnesses"
MOST_ROWS = 4_000_000
"""Rows of a run, at most."""
MOST_BYTES = 2**30
"""Bytes of a file of rows, packed or unpacked, and of the text in it, at most."""
MOST_WITNESSES = 2**32
"""Bytes of a file of witnesses, and of each array in it, at most."""
MOST_TEXT = 10_000
"""Bytes of one cell of text, at most."""
NAME = re.compile(r"([0-9]{5,9})-([0-9a-f]{16})\.(parquet|npz)")
_KEY, _ABOUT = b"pertbound", b"pertbound.run"
_TEXTS = [field.name for field in SCHEMA if field.type == pa.string()]
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, pa.ArrowException, SyntaxError, tokenize.TokenError),  # as numpy reads headers
)


def run_id(about: Mapping[str, Any]) -> str:
    """The hash of what a run's rows depend on: shards of one id can stand for each other."""
    return hashlib.sha256(json.dumps(question(about), sort_keys=True).encode()).hexdigest()


def question(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's rows depend on, flat."""
    about = json.loads(json.dumps(about))
    model, data = about.get("model", {}), about.get("data", {})
    found = {"model sha256": model.get("sha256"), "data sha256": data.get("sha256"), "samples": data.get("samples")}
    found |= {f"option {name}": value for name, value in about.get("options", {}).items()}
    return found | {f"shards' {name}": value for name, value in about.get("shards", {}).items()}


def shards(folder: Path) -> dict[int, Path]:
    """The files of rows of a run, by the number of their shard. Raises `RunError` where one is there twice."""
    found: dict[int, Path] = {}
    for path in (folder / ROWS).glob("*.parquet"):
        if match := NAME.fullmatch(path.name):
            if (index := int(match[1])) in found:
                raise RunError(f"{folder} holds shard {index} twice: {found[index].name} and {path.name}")
            found[index] = path
    return found


def named(index: int, data: memoryview, suffix: str) -> str:
    """The name of a file of shard `index` that holds `data`."""
    return f"{index:05d}-{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"


def packed_rows(shard: Shard, index: int, witnesses: str | None, run: str, about: bytes) -> memoryview:
    """The bytes of a shard's rows. `about` are those of `run.json`, from which a lost one is rebuilt."""
    made = json.dumps(dict(shard.made) | {"shard": index, "witnesses": witnesses, "run": run})
    sink = pa.BufferOutputStream()
    pq.write_table(shard.rows.replace_schema_metadata({_KEY: made, _ABOUT: about}), sink, compression="zstd")
    return memoryview(sink.getvalue())


def packed_witnesses(arrays: Mapping[str, np.ndarray], run: str) -> memoryview:
    """The bytes of a shard's witnesses; the comment of the archive says which run they are of."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = run.encode()
    return stream.getbuffer()


def checked(path: Path) -> bytes:
    """The bytes of a file that holds what its name says. Raises `RunError` for others."""
    match = NAME.fullmatch(path.name)
    try:
        data = read_whole(path, MOST_WITNESSES if path.suffix == ".npz" else MOST_BYTES)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[2]:
        raise RunError(
            f"{path} is damaged: its content is not what was written. The same command with --resume mends it"
        )
    return data


def run_of(path: Path) -> str | None:
    """Which run a whole file of rows or witnesses says that it is of; None where it is damaged, or says nothing."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(checked(path))) as archive:
                return archive.comment.decode()
        return described(path)[0]["run"]
    except (RunError, *_DAMAGE):
        return None


def described(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a whole file of rows says about itself (`made_of`), and the `run.json` that it repeats. Or a `RunError`."""
    data = checked(path)
    try:
        schema = pq.read_schema(pa.BufferReader(data))
        return made_of(path, schema), schema.metadata[_ABOUT]
    except _DAMAGE as error:
        raise RunError(f"{path} does not say of which run its rows are: {error}") from error


def made_of(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What is said about a file of rows: its run, its shard, the name of its witnesses, how it was made."""
    made = plain_json((schema.metadata or {}).get(_KEY, b"{}"))
    if not isinstance(made, dict):
        raise ValueError("what it says of itself is no object")
    match, name = NAME.fullmatch(path.name), made.get("witnesses")
    if match is None or made.get("shard") != int(match[1]):
        raise ValueError("it says that it is another shard than its name does")
    other = NAME.fullmatch(name) if isinstance(name, str) else None
    if name is not None and (other is None or other[1] != match[1] or other[3] != "npz"):
        raise ValueError("what it names as its witnesses is no file of them")
    if not isinstance(made.get("run"), str):
        raise ValueError("it was written by an earlier version of pertbound; compute it again with this one")
    once = made.get("once", 0.0)
    if isinstance(once, bool) or not isinstance(once, (int, float)) or not once >= 0:
        raise ValueError("its computing time is no number")
    return made


def read_rows(path: Path, most: int = MOST_ROWS) -> tuple[pa.Table, dict[str, Any]]:
    """A file's rows, at most so many, and what is said about them. Raises `RunError`."""
    data = checked(path)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            about, schema = file.metadata, file.schema_arrow
        if not schema.equals(SCHEMA, check_metadata=False):
            raise ValueError(f"its columns are not those of a run, which are {', '.join(SCHEMA.names)}")
        if not 0 <= about.num_rows <= most:
            raise ValueError(f"it says that it holds {about.num_rows:,} rows, where at most {most:,} belong")
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        if not 0 <= sum(max(group.total_byte_size, 0) for group in groups) <= MOST_BYTES:
            raise ValueError(f"it would need more than {MOST_BYTES:,} bytes")
        made = made_of(path, schema)
        with pq.ParquetFile(pa.BufferReader(data), metadata=about, read_dictionary=_TEXTS) as file:
            rows = file.read(use_threads=False)
        room = MOST_BYTES
        for name in _TEXTS:
            room -= _text_bytes(rows.column(name))
            if room < 0:
                raise ValueError(f"its text would need more than {MOST_BYTES:,} bytes")
        for name in _TEXTS:
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows.column(name).cast(pa.string()))
        return pa.Table.from_arrays(rows.columns, schema=SCHEMA), made
    except _DAMAGE as error:
        raise RunError(f"{path} does not hold a run's rows: {error}") from error


def _text_bytes(column: pa.ChunkedArray) -> int:
    """At least as many bytes as a column of text has once it is no longer packed as a dictionary."""
    total = 0
    for chunk in column.chunks:
        sizes = pc.call_function("binary_length", [chunk.dictionary])
        if (longest := pc.call_function("max", [sizes]).as_py() or 0) > MOST_TEXT:
            raise ValueError(f"a cell in it holds {longest:,} bytes of text")
        if longest * len(chunk) < 2**16:
            total += longest * len(chunk)
            continue
        total += pc.call_function("sum", [sizes.take(chunk.indices)]).as_py() or 0
    return total


@final
class Stored(Mapping[str, np.ndarray]):
    """One file of witnesses of some of these samples, for inputs of this shape.

    The archive's own checksums are checked as arrays are read.
    """

    def __init__(self, path: Path, samples: Collection[int], shape: tuple[int, ...] | None = None) -> None:
        self.path, self._samples, self._shape = path, samples, shape

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        with self._open() as archive:
            names = tuple(info.filename.removesuffix(".npy") for info in archive.infolist())
            if len(set(names)) != len(names) or not {"sample", "original", "adversarial"} <= set(names) <= set(_TYPES):
                raise ValueError(f"it has the arrays {list(names)[:9]}; expected are {list(_TYPES)}")
            shapes = {name: _header(archive, name) for name in names}
            count = shapes["sample"][:1]
            if any(len(shape) != 1 for name, shape in shapes.items() if _TYPES[name] == "iu"):
                raise ValueError("its samples or classes have more than one dimension")
            if any(shape[:1] != count for shape in shapes.values()) or shapes["original"] != shapes["adversarial"]:
                raise ValueError(f"the shapes of its arrays do not fit: {shapes}")
            if self._shape is not None and shapes["original"][1:] != self._shape:
                raise ValueError(f"its inputs are of shape {shapes['original'][1:]}, and the run's of {self._shape}")
            sample = _array(archive, "sample").tolist()
            if len(set(sample)) != len(sample) or not set(sample) <= set(self._samples):
                raise ValueError("it is about samples that are not in the rows, or about one twice")
        return names

    @contextmanager
    def _open(self) -> Generator[zipfile.ZipFile]:
        try:
            with open_whole(self.path, MOST_WITNESSES) as stream, zipfile.ZipFile(stream) as archive:
                yield archive
        except _DAMAGE as error:
            raise RunError(f"{self.path} does not hold witnesses: {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with self._open() as archive:
            array = _array(archive, name)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_TYPES = {"sample": "iu", "original": "f", "adversarial": "f", "new_class": "iu"}
"""The arrays of witnesses, and what they may be of, as numpy's kinds: integers, or floats."""


def _header(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape of an array, once it is clear that reading it needs no more than it should."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        shape, kind, size = _described(member, name)
        if kind not in _TYPES[name] or size + member.tell() != info.file_size or size > MOST_WITNESSES:
            raise ValueError(f"{name} is of shape {shape} and kind {kind!r} in {info.file_size:,} bytes")
    return shape


def _described(member: IO[bytes], name: str) -> tuple[tuple[int, ...], str, int]:
    """Shape, kind and bytes of an array, from its header."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError(f"{name} is in a version of numpy's format that no run is written in")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{name} has the shape {shape}")
    size = dtype.itemsize
    for side in shape:
        size *= side
    return shape, dtype.kind, size


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)
