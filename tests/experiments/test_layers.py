"""`layers.json` as commands write it: which samples, and the numbers of `layer_losses` and `layer_factors`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pertbound as pb
from oracles.networks import random_relu_graph
from pertbound import records, store
from pertbound.data import DataSet
from pertbound.experiments.layers import by_layer, certificate_for, losses_by_default
from pertbound.experiments.work import Work, collect

QUICK = pb.QuadraticRelaxation(steps=5)


@pytest.fixture
def graph() -> pb.Graph:
    return random_relu_graph(torch.Generator().manual_seed(2))


@pytest.fixture
def data(graph: pb.Graph) -> DataSet:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(4))
    labels = graph(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    return DataSet("random", x, labels, 1.0, torch.arange(100, 109), (), "a generator")


def test_the_numbers_are_those_of_the_library(graph: pb.Graph, data: DataSet, tmp_path: Path) -> None:
    run = collect(Work(network=graph, data=data, methods=(pb.DDN(), pb.Lipschitz())), {})
    found = by_layer(graph, data, run, losses=3, certificate=QUICK)
    assert found["factors"]["sample"] == list(range(100, 109))
    assert found["losses"]["sample"] == [100, 104, 108]
    rows = torch.tensor([0, 4, 8])
    adversarial = torch.as_tensor(run.witnesses["adversarial"])
    lost = pb.layer_losses(graph, data.inputs[rows], certificate=QUICK, adversarial=adversarial[rows])
    assert found["losses"]["lost"] == lost.lost.tolist()
    assert found["losses"]["radius"] == lost.radius.tolist()
    factors = pb.layer_factors(graph, data.inputs, adversarial)
    assert torch.allclose(torch.tensor(found["factors"]["looseness"], dtype=torch.float64), factors.looseness)
    store.write(tmp_path, records.Run(run.rows, {}, {}, found))
    assert store.read(tmp_path).layers == found
    json.loads((tmp_path / "layers.json").read_text(), parse_constant=pytest.fail)
    store.write(tmp_path, records.Run(run.rows, {}))
    assert not (tmp_path / "layers.json").exists(), "that of the run that was replaced"


def test_without_witnesses_there_are_losses_only(graph: pb.Graph, data: DataSet) -> None:
    run = collect(Work(network=graph, data=data, methods=(pb.Lipschitz(),), against_labels=True), {})
    assert by_layer(graph, data, run, losses=0) == {}
    found = by_layer(graph, data, run, losses=2, certificate=QUICK, against_labels=True)
    assert set(found) == {"losses"}
    assert found["losses"]["sample"] == [108], "the first one is misclassified as it stands"


def test_only_what_was_measured_is_divided(graph: pb.Graph, data: DataSet) -> None:
    run = collect(Work(network=graph, data=data.limit(4), methods=(pb.DDN(), pb.Lipschitz())), {})
    found = by_layer(graph, data, run, losses=50, certificate=QUICK)
    assert found["losses"]["sample"] == found["factors"]["sample"] == [100, 101, 102, 103]


def test_what_is_dear_is_asked_for_by_what_is_as_dear() -> None:
    assert losses_by_default([pb.DDN(), pb.Lipschitz(), pb.Interval(), pb.Published()]) == 0
    assert losses_by_default([pb.Lipschitz(), pb.Auto(seconds=1)]) > 0
    assert certificate_for([pb.Lipschitz(), QUICK]) is QUICK
    assert certificate_for([pb.Lipschitz()]) == pb.QuadraticRelaxation()
