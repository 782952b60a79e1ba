"""Rows: what every command writes and every report reads. One row per sample and method.

A run is a folder:

- `rows.parquet`: the rows, in the columns of `SCHEMA`;
- `run.json`: what was asked: model, data, options, versions, and the units of distances;
- `witnesses.npz` (optional): `sample`, `original`, `adversarial`, `new_class`: the input behind the nearest witness of
  each sample, and the class that it gets;
- `layers.json` (optional): what each layer's step costs on some samples, as `experiments/layers.py` writes it:
  `losses` (`LayerLosses`) and `factors` (`LayerFactors`), each with `nodes`, `layers` and `sample`.

Distances are in the units of the classifier's input (`run.json` says how many of the data's own pixel
units one of them is, under `pixel_scale`). Nothing here knows torch.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pertbound.errors import RunError

CERTIFIED = "certified"
"""`guarantee` of a row whose `l2` is a proven lower bound."""
ESTIMATE = "estimate"
"""`guarantee` of a row whose `l2` is a formula's value that is not proven."""
WITNESS = "witness"
"""`guarantee` of a row whose `l2` is the distance to an input that was seen to be misclassified."""
NONE = "none"
"""`guarantee` of a row of an attack that found nothing: `l2` and `linf` are null."""

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("sample", pa.int64(), "0-based position of the sample in its data set"),
    ("label", pa.int32(), "the data set's label; null when it has none"),
    ("reference", pa.int32(), "the class that a perturbation must leave: the prediction, or the label"),
    ("predicted", pa.int32(), "the class that the model gives to the sample itself"),
    ("method", pa.string(), "name of the certificate, estimate or attack, with its options"),
    ("guarantee", pa.string(), "certified | estimate | witness | none (an attack that found nothing)"),
    ("l2", pa.float64(), "lower bound on, or size of, the perturbation in L2; null when none was found"),
    ("linf", pa.float64(), "the same in L-infinity; certificates have a value in the norm that was asked about only"),
    ("l1", pa.float64(), "the same in L1"),
    ("seconds", pa.float64(), "the batch's computing time divided by its number of samples"),
    ("note", pa.string(), "anything a reader of the row must know, such as the surrogate that was used"),
)

SCHEMA = pa.schema([pa.field(name, kind, metadata={"doc": text}) for name, kind, text in _COLUMNS])
"""The columns; each field's metadata says what it holds."""


@dataclass(frozen=True)
class Run:
    """A run in memory: its rows, what was asked, and (where kept) the inputs behind its witnesses and `layers.json`."""

    rows: pa.Table
    about: Mapping[str, Any]
    witnesses: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)


def table(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pa.Table:
    """The rows with the given columns, cast to `SCHEMA`; columns left out are null."""
    length = len(next(iter(columns.values())))
    unknown = set(columns) - set(SCHEMA.names)
    if unknown:
        raise RunError(f"no such columns: {sorted(unknown)}; known are {SCHEMA.names}")
    arrays = [
        pa.array(columns[f.name], type=f.type, from_pandas=True) if f.name in columns else pa.nulls(length, f.type)
        for f in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write(folder: Path, run: Run) -> None:
    """Write a run folder. Each file appears whole or not at all; `rows.parquet` comes last.

    Raises `RunError` when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("witnesses.npz", "layers.json"):  # those of a run that this one replaces
            (folder / name).unlink(missing_ok=True)
        if run.witnesses:
            write_whole(folder / "witnesses.npz", lambda path: _save_arrays(path, run.witnesses))
        write_layers(folder, run.layers)
        text = json.dumps(run.about, indent=2, sort_keys=True) + "\n"
        write_whole(folder / "run.json", lambda path: path.write_text(text, encoding="utf-8"))
        write_whole(folder / "rows.parquet", lambda path: pq.write_table(run.rows, path))
    except OSError as error:
        raise RunError(f"cannot write the run folder {folder}: {error}") from error


def write_layers(folder: Path, layers: Mapping[str, Any]) -> None:
    """Write `layers.json` into a run folder, unless there is nothing to say. Raises `RunError` where that fails."""
    if not layers:
        return
    text = json.dumps(layers) + "\n"
    try:
        write_whole(folder / "layers.json", lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot write {folder / 'layers.json'}: {error}") from error


def read(folder: Path) -> Run:
    """Read a run folder. Raises `RunError` when it is not one."""
    try:
        rows = pq.read_table(folder / "rows.parquet")
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        layers: Any = {}
        if (folder / "layers.json").exists():
            layers = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
        witnesses: dict[str, np.ndarray] = {}
        if (folder / "witnesses.npz").exists():
            with np.load(folder / "witnesses.npz", allow_pickle=False) as stored:
                witnesses = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        raise RunError(
            f"{folder} is not a run folder ({error}); expected rows.parquet and run.json as written by "
            "`pertbound certify|attack|bracket|demo|reproduce --out`"
        ) from error
    if "l1" not in rows.column_names:  # runs of version 0.1, which knew L2 only
        rows = rows.append_column(SCHEMA.field("l1"), pa.nulls(len(rows), pa.float64()))
    missing = set(SCHEMA.names) - set(rows.column_names)
    if missing:
        raise RunError(f"{folder / 'rows.parquet'} lacks the columns {sorted(missing)}")
    return Run(rows, about, witnesses, layers if isinstance(layers, dict) else {})


def write_whole(path: Path, write_to: Callable[[Path], object]) -> None:
    """Call `write_to` with a temporary name beside `path`, then rename: readers never see half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write_to(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
