"""Data sets from a program's own objects: batches that are kept, samples that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor

from pertbound.data.dataset import DataSet
from pertbound.data.inputs import Rows, not_finite
from pertbound.data.numbers import as_inputs, as_labels
from pertbound.errors import InputError


def gathered(batches: Iterable[Any], name: str, limit: int | None, pixel_scale: float, units: str) -> DataSet:
    """See `DataSet.from_batches`."""
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    count = 0
    if limit is not None and limit < 1:
        raise InputError(f"a limit of at least 1 input is needed, got {limit}")
    for number, batch in enumerate(batches):
        where = f"batch {number} of {name}"
        x, y = _parts(batch, where)
        x = as_inputs(x, f"x in {where}")
        if x.dim() < 2 or (inputs and x.shape[1:] != inputs[0].shape[1:]):
            expected = f"(n, {', '.join(map(str, inputs[0].shape[1:]))})" if inputs else "(n, *shape)"
            raise InputError(
                f"x in {where} must have the shape {expected}, got {tuple(x.shape)}; from_samples takes single ones"
            )
        if number and (y is None) != (not labels):
            raise InputError(f"{where} has {'no ' if y is None else ''}labels, unlike those before it")
        if y is not None:
            y = as_labels(y, f"y in {where}")
            if y.shape != (len(x),):
                raise InputError(f"y in {where} must have the shape ({len(x)},), got {tuple(y.shape)}")
            labels.append(y)
        inputs.append(x)
        count += len(x)
        if limit is not None and count >= limit:
            break
    if not count:
        raise InputError(f"{name} gave no samples; an iterator that was used before is empty")
    data = DataSet(
        name=name,
        inputs=torch.cat(inputs),
        labels=torch.cat(labels) if labels else None,
        pixel_scale=pixel_scale,
        positions=torch.arange(count),
        notes=(),
        source=f"{type(batches).__name__} in memory",
        units=units,
    )
    return data if limit is None else data.limit(limit)


def mapped(samples: Any, labels: Tensor | None, name: str, pixel_scale: float, units: str) -> DataSet:
    """See `DataSet.from_samples`."""
    if not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        raise InputError(
            f"{name} must have __len__ and __getitem__, got {type(samples).__name__}; batches are for from_batches"
        )
    if len(samples) == 0:
        raise InputError(f"{name} is empty")
    first, label = _sample(samples, 0, name)
    inputs = Samples(samples, (len(samples), *first.shape), name)
    if labels is None and label is not None:
        labels = torch.tensor([_label(inputs, place) for place in range(len(samples))], dtype=torch.int64)
    return DataSet(
        name=name,
        inputs=inputs,
        labels=labels,
        pixel_scale=pixel_scale,
        positions=torch.arange(len(samples)),
        notes=(),
        source=f"{name} ({type(samples).__name__})",
        units=units,
    )


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs that are the items of something, each read when it is asked for."""

    samples: Any
    shape: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> Tensor:
        """Those items, (k, *shape) float32."""
        places = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        return torch.stack([self.read(place)[0] for place in places])

    def read(self, place: int) -> tuple[Tensor, int | None]:
        """One item, of the shape that all have."""
        x, label = _sample(self.samples, place, self.name)
        if x.shape != self.shape[1:]:
            raise InputError(f"item {place} of {self.name} has the shape {tuple(x.shape)}, the first {self.shape[1:]}")
        return x, label


def _label(inputs: Samples, place: int) -> int:
    x, label = inputs.read(place)
    if label is None:
        raise InputError(f"item {place} of {inputs.name} has no label, unlike the first")
    if len(not_finite(x[None])):
        raise InputError(f"item {place} of {inputs.name} holds NaN or infinity; remove or repair it")
    return label


def _sample(samples: Any, place: int, name: str) -> tuple[Tensor, int | None]:
    where = f"item {place} of {name}"
    x, y = _parts(samples[place], where)
    x = as_inputs(x, f"x in {where}")
    if x.dim() < 1:
        raise InputError(f"x in {where} is a single number; an input has a shape")
    if y is None:
        return x, None
    label = as_labels(y, f"y in {where}")
    if label.numel() != 1:
        raise InputError(f"y in {where} must be one number, got the shape {tuple(label.shape)}")
    return x, int(label)


def _parts(item: Any, where: str) -> tuple[Any, Any]:
    """x and y, the latter None where there is none."""
    if not isinstance(item, tuple | list):
        return item, None
    parts = cast("Sequence[Any]", item)
    if len(parts) not in (1, 2):
        raise InputError(f"{where} must be x or (x, y), got {len(parts)} things")
    return parts[0], parts[1] if len(parts) == 2 else None
