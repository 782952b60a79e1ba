"""Data sets of the Hugging Face library `datasets`, an optional extra: from its hub, from files, or already loaded."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from pertbound.data.dataset import BYTES, DataSet, pixel_units
from pertbound.data.images import Images, decoded, header
from pertbound.data.inputs import Inputs, Rows
from pertbound.data.numbers import as_labels
from pertbound.errors import DataError, InputError

PREFIX = "hf:"
"""What the names of such data sets begin with."""
SAVED = ("state.json", "dataset_dict.json")
"""A folder that `save_to_disk` wrote holds one of these."""
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
_LABELS = ("label", "labels", "y", "target", "fine_label")
"""Columns of integers that are labels even where their type does not say so; the first of them."""
_EXACT = 2**24
"""Integers up to here are float32."""


def load_huggingface(name: str, images: Images | None = None, *, train: bool = False) -> DataSet:
    """The data set called `NAME`, `NAME:SPLIT` or `NAME:CONFIGURATION:SPLIT`.

    `NAME` is one of the hub's, a folder that `save_to_disk` wrote, or a file (.parquet, .csv, .json, .arrow); of
    these, `datasets` keeps a converted copy in its cache. Without a split it is `train` where asked for, else `test`,
    else the only one. No code of a data set is ever run. Raises `DataError` when the library is absent, or fails.
    """
    datasets = _library()
    place, *rest = [name] if Path(name).exists() else re.split(r":(?![^\[]*\])", name)  # a split may be test[:100]
    if not place or len(rest) > 2:
        raise DataError(f"{PREFIX}{name} is not {PREFIX}NAME, {PREFIX}NAME:SPLIT or {PREFIX}NAME:CONFIGURATION:SPLIT")
    split = rest[-1] if rest else None
    path = Path(place)
    try:
        if any((path / marker).is_file() for marker in SAVED):
            found = datasets.load_from_disk(place)
        elif path.is_file() and path.suffix in _BUILDERS:
            found = datasets.load_dataset(_BUILDERS[path.suffix], data_files=place)
        else:
            found = datasets.load_dataset(place, rest[0] if len(rest) == 2 else None, split=split)
    except Exception as error:  # of many kinds: no network, no such name, damaged files
        said = str(error).strip().partition("\n")[0]
        raise DataError(f"cannot load {PREFIX}{name}: {said or type(error).__name__}") from error
    if isinstance(found, Mapping):
        splits = cast("Mapping[str, Any]", found)
        split = split or ("train" if train else "test" if "test" in splits or len(splits) > 1 else next(iter(splits)))
        if split not in splits:
            raise DataError(f"{PREFIX}{name} has no split {split!r}, only {list(splits)}; name one: {PREFIX}NAME:SPLIT")
        found = splits[split]
    source = f"{PREFIX}{place}" + (f", split {split}" if split else "")
    return from_huggingface(found, images, name=path.name.removesuffix(path.suffix), source=source)


def from_huggingface(
    dataset: Any, images: Images | None = None, *, name: str = "", source: str = "a data set in memory"
) -> DataSet:
    """A `datasets.Dataset` as it is: its rows are read, and its images decoded, when a slice of them is asked for.

    Inputs are its one column of images, or of arrays or lists, or else all columns of numbers, (N, columns). Labels are
    its `ClassLabel`, or integers called `label`; -1 everywhere means none. Raises `DataError` naming the columns where
    that is not clear; `select_columns` and `rename_column` of `datasets` make it so.
    """
    datasets = _library()
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(f"a datasets.Dataset is needed, one split and not streamed, got {type(dataset).__name__}")
    columns: dict[str, Any] = dict(dataset.features)
    if len(dataset) == 0:
        raise DataError(f"{source} is empty")
    label, notes = _label_column(columns, datasets)
    labels = None if label is None else _labels(dataset, label, source)
    inputs, units, more = _inputs(dataset, columns, label, images, source, datasets)
    try:
        return DataSet(
            name=name or str(getattr(dataset.info, "dataset_name", None) or "huggingface"),
            inputs=inputs,
            labels=labels,
            pixel_scale=255.0 if isinstance(inputs, Pictures) else 1.0,
            positions=torch.arange(len(dataset)),
            notes=(*notes, *more),
            source=f"{source} ({len(dataset)} rows)",
            units=units,
        )
    except InputError as error:
        raise DataError(f"{source}: {error}") from error


@final
@dataclass(frozen=True, eq=False)
class Pictures:
    """A column of encoded images, decoded by ourselves."""

    dataset: Any
    column: str
    images: Images
    shape: tuple[int, ...]
    source: str

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> Tensor:
        """The decoded images, (k, channels, height, width) float32 in [0, 1]."""
        places = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        found = np.empty((len(places), *self.shape[1:]), np.uint8)
        for at, (place, content) in enumerate(zip(places, self._encoded(rows), strict=True)):
            name = f"{self.source}, row {place}"
            pixels = decoded(_content(content, name), name, self.images)
            if pixels.shape != self.shape[1:]:
                raise DataError(
                    f"{name} gives {pixels.shape[1]} x {pixels.shape[2]} pixels, the first row {self.shape[2]} x "
                    f"{self.shape[3]}; declare resize and crop, such as --resize 256 --crop 224"
                )
            found[at] = pixels
        return torch.from_numpy(found).float().div_(255)

    def _encoded(self, rows: Rows) -> Iterator[Any]:
        yield from self.dataset[_places(rows)][self.column]


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of numbers: one of arrays, or several of plain numbers beside each other."""

    dataset: Any
    columns: tuple[str, ...]
    shape: tuple[int, ...]
    source: str

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> Tensor:
        """The rows, (k, *shape) float32."""
        return _numbers(self.dataset, self.columns, rows, self.source)


def _inputs(
    dataset: Any, columns: dict[str, Any], label: str | None, images: Images | None, source: str, datasets: Any
) -> tuple[Inputs, str, tuple[str, ...]]:
    """The inputs, their units, and notes about them."""
    others = {name: feature for name, feature in columns.items() if name != label}
    pictures = [name for name, feature in others.items() if isinstance(feature, datasets.Image)]
    arrays = [name for name, feature in others.items() if _kind(feature) and not isinstance(feature, datasets.Value)]
    plain = [n for n, f in others.items() if _kind(f) and isinstance(f, datasets.Value)]
    chosen = pictures or arrays or plain
    if not chosen or (chosen is not plain and len(chosen) > 1):
        raise DataError(f"{source} has the columns {columns}; inputs need one of images or of arrays, or numbers only")
    if chosen is pictures:
        return _pictures(dataset, pictures[0], images or Images(), source, datasets)
    if images is not None and str(images):
        raise DataError(f"{source} has no column of images to resize or crop, only {columns}")
    numbers = dataset.with_format("numpy", columns=chosen)
    first = _numbers(numbers, tuple(chosen), slice(0, 1), source)
    units = BYTES if all(_kind(others[name]) == "uint8" for name in chosen) else f"the values of {', '.join(chosen)}"
    return Columns(numbers, tuple(chosen), (len(dataset), *first.shape[1:]), source), units, ()


def _pictures(
    dataset: Any, column: str, images: Images, source: str, datasets: Any
) -> tuple[Inputs, str, tuple[str, ...]]:
    encoded = dataset.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))
    name = f"{source}, row 0"
    size, grey = header(_content(encoded[0][column], name), name, images)
    notes = [f"images are {images} before anything is measured"] if str(images) else []
    if images.channels is None and grey:
        notes.append("images are read as grey, as the first of them is")
    images = replace(images, channels=images.channels or (1 if grey else 3))
    assert images.channels is not None
    shape = (len(dataset), images.channels, *size)
    return Pictures(encoded, column, images, shape, source), pixel_units(255), tuple(notes)


def _content(value: Any, name: str) -> bytes | Path:
    """The bytes of an encoded image, or the file that it is in."""
    found: dict[str, Any] = value or {}
    if found.get("bytes") is not None:
        return bytes(found["bytes"])
    if not found.get("path"):
        raise DataError(f"{name} holds no image")
    return Path(str(found["path"]))


def _numbers(dataset: Any, columns: tuple[str, ...], rows: Rows, source: str) -> Tensor:
    found: dict[str, Any] = dataset[_places(rows)]
    parts = [np.asarray(found[name]) for name in columns]
    for name, part in zip(columns, parts, strict=True):
        if part.dtype.kind not in "fiu":
            raise DataError(f"{source}: rows of the column {name!r} differ in length, or are no numbers")
        if part.dtype.kind != "f" and part.size and int(np.abs(part).max()) > _EXACT:
            raise DataError(f"{source}: the column {name!r} holds integers that are no float32 numbers; convert it")
    whole = parts[0] if len(parts) == 1 and parts[0].ndim > 1 else np.stack(parts, 1)
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as that
        return torch.from_numpy(np.array(whole, np.float32, order="C"))


def _label_column(columns: dict[str, Any], datasets: Any) -> tuple[str | None, tuple[str, ...]]:
    classes = [name for name, feature in columns.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in _LABELS if name in columns and "int" in _kind(columns[name])]
    if len(classes) == 1:
        return classes[0], ()
    if classes and not named:
        raise DataError(
            f"which of {classes} are the labels? Call one of them label (`rename_column`), or drop the others"
        )
    return (named[0], (f"labels are the column {named[0]} of {classes}",) if classes else ()) if named else (None, ())


def _labels(dataset: Any, column: str, source: str) -> Tensor | None:
    try:
        labels = as_labels(np.asarray(dataset.with_format("numpy", columns=[column])[:][column]), f"column {column!r}")
    except InputError as error:
        raise DataError(f"{source}: {error}") from error
    return None if bool((labels == -1).all()) else labels


def _kind(feature: Any) -> str:
    """The dtype of a column of numbers, by its name; empty for other columns."""
    inner = getattr(feature, "feature", None)  # of lists
    if inner is not None:
        return _kind(inner)
    dtype = str(getattr(feature, "dtype", ""))
    return dtype if re.fullmatch(r"u?int\d+|float\d+", dtype) else ""


def _places(rows: Rows) -> Any:
    return rows.tolist() if isinstance(rows, Tensor) else rows


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "data sets of Hugging Face need the package datasets: pip install 'pertbound[datasets]'"
        ) from error
