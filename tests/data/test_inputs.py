"""Inputs that are not in memory: every slice is right, or refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pertbound.data import DataSet, load_npy
from pertbound.data.inputs import Checked
from pertbound.errors import DataError, InputError

X = torch.arange(40.0).reshape(10, 2, 2)


class Read:
    """Inputs that remember what they were asked for, and give what they are told to."""

    def __init__(self, values: Tensor = X, shape: tuple[int, ...] | None = None) -> None:
        self.values, self.shape = values, shape or tuple(values.shape)
        self.asked: list[Any] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        self.asked.append(rows)
        return self.values[rows]


def made(inputs: Any) -> DataSet:
    return DataSet("made", inputs, None, 1.0, torch.arange(len(inputs)), (), "a source")


@pytest.mark.parametrize(
    "rows",
    [
        *(slice(None), slice(3, 7), slice(-3, None), slice(8, 99), slice(5, 2), slice(1, 9, 3)),
        *([1, 4, 1], [-1, 0], [], torch.tensor([9, 0]), torch.arange(10) % 3 == 0, 4, -10),
    ],
    ids=str,
)
def test_it_is_indexed_as_a_tensor_is(rows: Any):
    assert torch.equal(made(Read()).inputs[rows], X[rows])


def test_only_what_was_asked_for_is_read():
    stored = Read()
    data = made(stored)
    assert stored.asked == []
    assert data.inputs[2:5].shape == (3, 2, 2)
    assert stored.asked == [slice(2, 5)]


def test_a_limit_stays_lazy_and_ends_where_it_says():
    stored = Read()
    data = made(stored).limit(4)
    assert (len(data), data.inputs.shape, data.positions.tolist()) == (4, (4, 2, 2), [0, 1, 2, 3])
    assert stored.asked == []
    assert torch.equal(data.inputs[2:], X[2:4])
    assert len(data.limit(9)) == 4
    for rows in ([4], torch.tensor([-5]), 4):
        with pytest.raises(IndexError, match="4 inputs"):
            data.inputs[rows]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_it_can_be_iterated_over():
    inputs = made(Read()).inputs
    assert isinstance(inputs, Checked)
    assert torch.equal(torch.stack(list(inputs)), X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [slice(4, 9), [2, 7, 1], torch.tensor([7])], ids=str)
def test_what_is_not_finite_is_refused_with_its_position(bad: float, rows: Any):
    data = made(Read(torch.where(X == 29, bad, X)))
    assert len(data.inputs[:7]) == 7
    with pytest.raises(DataError, match=r"a source: 1 of the \d inputs read hold NaN or infinity, .* position 7;"):
        data.inputs[rows]
    with pytest.raises(DataError, match="position 7;"):
        data.sha256()


def test_infinities_that_cancel_are_seen():
    values = X.clone()
    values[3] = torch.tensor([[np.inf, -np.inf], [0.0, 0.0]])
    with pytest.raises(DataError, match="position 3;"):
        made(Read(values)).inputs[:]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (Read(X.double()), "must be float32 of shape"),
        (Read(X, (10, 4)), r"must be float32 of shape \(2, 4\), got torch.float32 of \(2, 2, 2\)"),
    ],
)
def test_what_is_not_as_announced_is_refused(inputs: Read, message: str):
    with pytest.raises(DataError, match=message):
        made(inputs).inputs[1:3]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (Read(X, (10,)), r"\(N, \*shape\)"),
        (Read(X, (0, 4)), "empty"),
        (Read(X, (10, 0)), "empty"),
        ([[1.0, 2.0]], "tensor, or have shape"),
        (X.double(), "float32"),
    ],
)
def test_what_cannot_be_inputs_is_refused_at_once(inputs: Any, message: str):
    with pytest.raises(InputError, match=message):
        made(inputs)


def test_the_hash_is_that_of_the_same_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pertbound.data.dataset._ENTRIES", 12)  # three inputs at once
    np.save(tmp_path / "x.npy", X.double().numpy())
    np.save(tmp_path / "x.labels.npy", np.arange(10))
    here = DataSet("here", X, torch.arange(10), 1.0, torch.arange(10), (), "")
    assert load_npy(tmp_path / "x.npy").sha256() == here.sha256() != made(Read()).sha256()
    assert load_npy(tmp_path / "x.npy").limit(4).sha256() == here.limit(4).sha256() != here.sha256()
    monkeypatch.undo()
    assert made(Read()).sha256() == made(X).sha256()
    # what version 0.1 gave
    assert made(torch.arange(4.0).reshape(2, 2)).sha256()[:16] == "43b7aede83099383"
