from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from pertbound.data import DataSet
from pertbound.errors import InputError


def made(**changes: Any) -> DataSet:
    fields: dict[str, Any] = {
        "name": "made",
        "inputs": torch.arange(12.0).reshape(3, 1, 2, 2),
        "labels": torch.tensor([2, 0, 1]),
        "pixel_scale": 255.0,
        "positions": torch.tensor([7, 8, 11]),
        "notes": ("a note",),
        "source": "here",
    }
    return DataSet(**{**fields, **changes})


def test_a_limit_keeps_the_first_inputs_with_their_labels_and_positions():
    data = made().limit(2)
    assert len(data) == 2
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0]
    assert data.positions.tolist() == [7, 8]
    assert data.notes == ("a note",)


def test_a_limit_beyond_the_end_keeps_everything():
    assert len(made().limit(99)) == 3


def test_a_limit_works_without_labels():
    assert made(labels=None).limit(1).labels is None


@pytest.mark.parametrize("n", [0, -1])
def test_a_limit_below_one_is_refused(n: int):
    with pytest.raises(InputError, match="at least 1"):
        made().limit(n)


def test_the_hash_depends_on_values_shape_and_labels_only():
    data = made()
    assert data.sha256() == made(name="other", source="there").sha256()
    others = [
        made(inputs=data.inputs + 1),
        made(inputs=data.inputs.reshape(3, 1, 1, 4)),
        made(labels=torch.tensor([2, 0, 2])),
        made(labels=None),
    ]
    assert len({other.sha256() for other in [data, *others]}) == 5


def test_the_hash_does_not_depend_on_memory_layout():
    inputs = torch.arange(12.0).reshape(3, 2, 2)
    transposed = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    assert made(inputs=inputs).sha256() == made(inputs=transposed).sha256()


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        made().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.zeros(3, 4, dtype=torch.float64)}, "float32"),
        ({"inputs": torch.zeros(3)}, r"shape \(3,\)"),
        ({"inputs": torch.zeros(0, 4), "labels": None, "positions": torch.zeros(0).long()}, "empty"),
        ({"inputs": torch.zeros(3, 0)}, "empty"),
        ({"inputs": torch.tensor([[0.0], [math.nan], [math.inf]])}, "2 of 3 inputs hold NaN.* position 1"),
        ({"labels": torch.tensor([0, 1])}, r"labels must be int64 of shape \(3,\)"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0])}, "labels must be int64"),
        ({"labels": torch.tensor([0, -1, 2])}, "labels count from 0, got -1 at place 1"),
        ({"positions": torch.tensor([0, 1])}, "positions must be int64"),
        ({"positions": torch.tensor([0, 1, -5])}, "positions count from 0"),
        ({"pixel_scale": 0.0}, "pixel_scale"),
        ({"pixel_scale": math.nan}, "pixel_scale"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        made(**changes)
