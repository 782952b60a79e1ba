"""Rows: what every command writes and every report reads. One row per sample and method.

Distances are in the units of the classifier's input (`run.json` says how many of the data's own pixel
units one of them is, under `pixel_scale`). Nothing here knows torch, or files: `store.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import pyarrow as pa

from pertbound.errors import RunError

CERTIFIED = "certified"
"""`guarantee` of a row whose `l2` is a proven lower bound."""
ESTIMATE = "estimate"
"""`guarantee` of a row whose `l2` is a formula's value that is not proven."""
WITNESS = "witness"
"""`guarantee` of a row whose `l2` is the distance to an input that was seen to be misclassified."""
NONE = "none"
"""`guarantee` of a row of an attack that found nothing: `l2` and `linf` are null."""

MOST_METHODS = 1000
"""Methods of a run that is read, at most."""

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


@final
class Witnesses(Mapping[str, np.ndarray]):
    """The inputs behind witnesses, in parts that are read when they are asked for.

    `sample`, `original`, `adversarial`, `new_class`: the nearest witness of each sample, and the class that it gets.
    """

    def __init__(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._parts = tuple(parts)

    def __getitem__(self, name: str) -> np.ndarray:
        if not self._parts:
            raise KeyError(name)
        return np.concatenate([part[name] for part in self._parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0] if self._parts else ())

    def __len__(self) -> int:
        return len(self._parts[0]) if self._parts else 0

    def take(self, places: Sequence[int]) -> dict[str, np.ndarray]:
        """The same arrays at those places only, in that order; parts without any of them are not read."""
        ends = np.cumsum([len(part["sample"]) for part in self._parts])
        wanted = np.asarray(places, np.int64)
        of = np.searchsorted(ends, wanted, side="right")
        pieces: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        for number in dict.fromkeys(of.tolist()):
            part, (rows,) = self._parts[number], np.nonzero(of == number)
            inside = wanted[rows] - (ends[number] - len(part["sample"]))
            pieces.append((rows, {name: part[name][inside] for name in part}))
        order = np.argsort(np.concatenate([rows for rows, _ in pieces])) if pieces else np.empty(0, np.int64)
        return {name: np.concatenate([piece[name] for _, piece in pieces])[order] for name in self} if pieces else {}


@final
@dataclass(frozen=True)
class Shard:
    """What was found out about some consecutive samples of a run.

    `witnesses` are arrays as in `Witnesses`, empty for none; `made` says how: device, threads, versions.
    """

    rows: pa.Table
    witnesses: Mapping[str, np.ndarray] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)


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


def require_sound(rows: pa.Table) -> None:
    """Raise `RunError` for rows that no run writes, such as a stranger's may be.

    Those are: rows without a sample, a method or one of the four guarantees; negative samples and classes; sizes and
    times that are negative or NaN, and infinite ones but for lower bounds; a method that is of two kinds, or tells
    twice about one sample; more than `MOST_METHODS` methods.
    """
    for name in ("sample", "method", "guarantee"):
        if count := rows.column(name).null_count:
            raise RunError(f"{count:,} rows have no {name}")
    kinds = {CERTIFIED: 0, ESTIMATE: 1, WITNESS: 2, NONE: 2}
    guarantee, method = (rows.column(name).dictionary_encode().combine_chunks() for name in ("guarantee", "method"))
    if unknown := set(guarantee.dictionary.to_pylist()) - set(kinds):
        raise RunError(f"unknown guarantees {sorted(unknown)[:3]} in the rows; known are {list(kinds)}")
    if len(names := method.dictionary.to_pylist()) > MOST_METHODS:
        raise RunError(f"the rows have {len(names):,} methods; at most {MOST_METHODS:,} are read")
    table = np.array([kinds[text] for text in guarantee.dictionary.to_pylist()], np.int64)
    kind = table[guarantee.indices.to_numpy()] if len(rows) else np.empty(0, np.int64)
    for name in ("sample", "label", "reference", "predicted", "l2", "linf", "l1", "seconds"):
        values = rows.column(name).to_numpy()
        bad = (values < 0) | (rows.column(name).is_valid().to_numpy() & np.isnan(values))
        bad |= np.isinf(values) & ((kind == kinds[WITNESS]) | (name == "seconds"))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise RunError(f"row {at} of sample {rows.column('sample')[at]} has the {name} {values[at]:g}")
    pair = method.indices.to_numpy().astype(np.int64) * 3 + kind
    found = np.unique(pair) // 3
    if several := [names[i] for i in found[1:][found[1:] == found[:-1]] if names[i] != "none"]:
        raise RunError(f"the method {several[0]!r} is of two kinds: its rows have different guarantees")
    sample = np.unique(rows.column("sample").to_numpy(), return_inverse=True)[1]
    order, again = np.unique(sample * (3 * len(names) + 1) + pair, return_index=True)
    if len(order) < len(rows):
        at = int(np.setdiff1d(np.arange(len(rows)), again)[0])
        raise RunError(f"{rows.column('method')[at]} tells twice about sample {rows.column('sample')[at]}")


def measured(rows: pa.Table) -> dict[str, Any]:
    """What follows from the rows and is said with them: `accuracy` (None without labels) and `seconds` by method."""
    label, predicted = rows.column("label"), rows.column("predicted")
    known = len(rows) > 0 and label.null_count == 0
    right = np.mean(label.to_numpy() == predicted.to_numpy()) if known else None
    sums = rows.group_by("method", use_threads=False).aggregate([("seconds", "sum")])
    seconds = dict(zip(sums.column("method").to_pylist(), sums.column("seconds_sum").to_pylist(), strict=True))
    return {"accuracy": None if right is None else float(right), "seconds": seconds}
