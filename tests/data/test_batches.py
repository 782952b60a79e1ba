"""Data sets from a program's own objects: what a loader yields, and what has `__getitem__`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pertbound as pb
from pertbound.errors import DataError, InputError

X = torch.rand(7, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([1, 0, 2, 2, 0, 1, 1])


class Counted:
    """A data set of single samples that counts how often one is read."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples, self.reads = samples, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Any:
        self.reads += 1
        return self.samples[place]


@pytest.mark.parametrize(
    "batches",
    [
        DataLoader(TensorDataset(X, Y), batch_size=3),
        [(X[:2], Y[:2]), (X[2:].numpy(), Y[2:].numpy().astype(np.uint8))],
        ([X[k : k + 1].double(), Y[k : k + 1].int()] for k in range(7)),
    ],
    ids=["loader", "list", "generator"],
)
def test_batches_are_put_together(batches: Any):
    data = pb.DataSet.from_batches(batches, name="mine", pixel_scale=255.0, units="units")
    assert isinstance(data.inputs, torch.Tensor)
    assert torch.equal(data.inputs, X)
    assert data.labels is not None
    assert torch.equal(data.labels, Y)
    assert (data.name, data.pixel_scale, data.units) == ("mine", 255.0, "units")
    assert data.positions.tolist() == list(range(7))


def test_labels_may_be_left_out_and_values_are_kept():
    for batches in ([X * 200], [(X * 200,)], DataLoader(TensorDataset(X * 200), batch_size=7)):
        data = pb.DataSet.from_batches(batches)
        assert data.labels is None
        assert torch.equal(data.inputs[:], X * 200)
    for dtype in (torch.float16, torch.bfloat16, torch.uint8):
        stored = (X * 200).to(dtype)
        assert torch.equal(pb.DataSet.from_batches([stored]).inputs[:], stored.float())


def test_no_more_batches_are_asked_for_than_needed():
    asked: list[int] = []

    def forever() -> Iterator[Any]:
        for k in itertools.count():
            asked.append(k)
            yield X[:3], Y[:3]

    data = pb.DataSet.from_batches(forever(), limit=4)
    assert (len(data), asked) == (4, [0, 1])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "gave no samples; an iterator that was used before is empty"),
        ([(X[0], Y[0])], r"y in batch 0 of mine must have the shape \(1,\)"),
        ([X[0, 0, 0]], "from_samples takes single ones"),
        ([X, X[:, :, :1]], r"x in batch 1 of mine must have the shape \(n, 1, 2, 2\), got \(7, 1, 1, 2\)"),
        ([(X, Y), X], "batch 1 of mine has no labels, unlike"),
        ([X, (X, Y)], "batch 1 of mine has labels, unlike"),
        ([(X, Y[:6])], r"y in batch 0 of mine must have the shape \(7,\), got \(6,\)"),
        ([(X, Y.float())], "y in batch 0 of mine must hold integers, got float32"),
        ([(X, Y - 1)], "labels count from 0"),
        ([(X.long(), Y)], "floating point or uint8, got int64"),
        ([(X, Y, Y)], r"must be x or \(x, y\), got 3 things"),
        (["images"], r"must be a tensor or an array, got str; .* such as torchvision\.transforms\.ToTensor"),
        ([([[1.0], [1.0, 2.0]], Y)], "x in batch 0 of mine is no array"),
        ([X, torch.where(X > 0.9, torch.nan, X)], "hold NaN or infinity"),
    ],
)
def test_what_cannot_be_meant_names_its_batch(batches: Any, message: str):
    with pytest.raises(InputError, match=message):
        pb.DataSet.from_batches(batches, name="mine")


def test_samples_are_read_when_they_are_asked_for():
    samples = Counted(list(zip(X, Y.tolist(), strict=True)))
    data = pb.DataSet.from_samples(samples, labels=Y)
    assert samples.reads == 1
    assert torch.equal(data.inputs[2:5], X[2:5])
    assert torch.equal(data.inputs[[6, 0]], X[[6, 0]])
    assert samples.reads == 6
    assert data.sha256() == pb.DataSet.from_batches([(X, Y)]).sha256()
    read = pb.DataSet.from_samples(TensorDataset(X, Y))
    assert read.labels is not None
    assert torch.equal(read.labels, Y)
    assert pb.DataSet.from_samples(list(X)).labels is None


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "is empty"),
        (iter([X]), "must have __len__ and __getitem__"),
        ([(X[0], 1), (X[0, 0], 1)], r"item 1 of mine has the shape \(2, 2\), the first \(1, 2, 2\)"),
        ([(X[0], 1), X[0]], "item 1 of mine has no label"),
        ([(X[0], 1), (X[0] / 0, 1)], "item 1 of mine holds NaN"),
        ([(X[0], 1), (X[0], -1)], "labels count from 0"),
        ([(X[0], Y)], "one number"),
        ([(X[0], "cat")], "got str"),
        ([torch.tensor(1.0)], "single number"),
    ],
)
def test_what_cannot_be_meant_names_its_item(samples: Any, message: str):
    with pytest.raises(InputError, match=message):
        pb.DataSet.from_samples(samples, name="mine")


def test_an_item_that_is_not_finite_is_met_where_it_is():
    data = pb.DataSet.from_samples([*X, torch.full((1, 2, 2), torch.nan)], name="mine")
    assert len(data.inputs[:7]) == 7
    with pytest.raises(DataError, match=r"mine \(list\): 1 of the 3 inputs .* position 7"):
        data.inputs[5:]
