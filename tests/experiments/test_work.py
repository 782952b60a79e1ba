"""Measuring: every method about every sample, in shards of rows that say which is which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound import records
from pertbound.data import DataSet
from pertbound.experiments.work import Work, collect, rows_of

FGS = pb.FastGradientSign(max_epsilon=2.0)


def data(count: int = 23, *, labels: bool = True) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    return DataSet(
        name="points",
        inputs=torch.randn(count, 6, generator=generator),
        labels=torch.randint(3, (count,), generator=generator) if labels else None,
        pixel_scale=1.0,
        positions=torch.arange(count) * 10 + 5,
        notes=(),
        source="here",
    )


@pytest.fixture(scope="module")
def graph() -> pb.Graph:
    torch.manual_seed(0)
    return pb.from_torch(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 6))


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 23), (5, 7), (23, 5), (100, 100)])
@pytest.mark.parametrize("against_labels", [True, False])
def test_rows_say_what_the_functions_answer(
    graph: pb.Graph, batch_size: int, shard_size: int, against_labels: bool
) -> None:
    points = data()
    work = Work(
        network=graph,
        data=points,
        methods=(FGS, pb.Lipschitz()),
        against_labels=against_labels,
        batch_size=batch_size,
        shard_size=shard_size,
    )
    run = collect(work, {})
    rows = run.rows
    assert rows.schema.equals(records.SCHEMA)
    assert rows.num_rows == 46
    columns = {name: np.array(rows.column(name).to_pylist()) for name in rows.column_names}
    labels = points.labels if against_labels else None
    witness = pb.attack(graph, points.inputs, FGS, labels, batch_size=batch_size)
    certified = pb.certify(graph, points.inputs, pb.Lipschitz(), labels, batch_size=batch_size)
    upper, lower = columns["method"] == "fgs", columns["method"] == "lipschitz"
    for chosen, answer in ((upper, witness), (lower, certified)):
        assert columns["sample"][chosen].tolist() == points.positions.tolist()
        assert points.labels is not None
        assert columns["label"][chosen].tolist() == points.labels.tolist()
        assert columns["reference"][chosen].tolist() == answer.reference.tolist()
        assert columns["predicted"][chosen].tolist() == answer.predicted.tolist()
    found = witness.found.numpy()
    assert (columns["guarantee"][upper] == np.where(found, "witness", "none")).all()
    assert columns["l2"][upper][found].astype(float) == pytest.approx(witness.distance.numpy()[found], rel=1e-6)
    assert columns["l2"][lower].astype(float) == pytest.approx(
        certified.radius.numpy(), rel=2e-6
    )  # float32 in other batches
    assert points.labels is not None
    assert run.about["accuracy"] == pytest.approx(float((witness.predicted == points.labels).double().mean()))
    kept = run.witnesses
    assert kept["sample"].tolist() == points.positions.numpy()[found].tolist()
    assert np.array_equal(kept["original"], points.inputs.numpy()[found])
    assert kept["adversarial"].shape == kept["original"].shape


def test_without_labels_there_is_no_accuracy_and_none_to_measure_against(graph: pb.Graph) -> None:
    run = collect(Work(network=graph, data=data(labels=False), methods=(FGS,)), {})
    assert run.about["accuracy"] is None
    assert set(run.rows.column("label").to_pylist()) == {None}
    with pytest.raises(pb.InputError, match="no labels"):
        Work(network=graph, data=data(labels=False), methods=(FGS,), against_labels=True)


@pytest.mark.parametrize("keep", [0, 1, 7, 10**6])
def test_of_the_first_samples_the_nearest_witness_is_kept(graph: pb.Graph, keep: int) -> None:
    methods = (FGS, pb.DDN(), pb.FastGradientSign(max_epsilon=2.0, probes=11))
    work = Work(network=graph, data=data(), methods=methods, batch_size=4, shard_size=9, keep_witnesses=keep)
    run = collect(work, {})
    kept = run.witnesses
    rows = [row for row in run.rows.to_pylist() if row["guarantee"] == "witness"]
    first = data().positions[: min(keep, 23)].tolist()
    nearest = {s: min(row["l2"] for row in rows if row["sample"] == s) for s in {r["sample"] for r in rows} & {*first}}
    if keep == 0:
        assert len(kept) == 0
        return
    assert sorted(kept["sample"].tolist()) == sorted(nearest)
    assert len(kept["sample"]) == len(kept["original"]) == len(kept["adversarial"])
    sizes = np.linalg.norm(kept["adversarial"].astype(float) - kept["original"], axis=1)
    assert sizes == pytest.approx([nearest[sample] for sample in kept["sample"].tolist()], rel=1e-6)


def test_some_witnesses_are_those_of_all(graph: pb.Graph) -> None:
    kept = collect(Work(network=graph, data=data(), methods=(FGS,), shard_size=4), {}).witnesses
    assert isinstance(kept, records.Witnesses)
    for places in ([3, 0, 11], [5], list(range(len(kept["sample"])))[::-1], []):
        some = kept.take(places)
        assert (set(some) == set(kept)) == bool(places)
        for name, values in some.items():
            assert np.array_equal(values, kept[name][places])


def test_bad_inputs_are_refused_before_any_work(graph: pb.Graph) -> None:
    other = DataSet("other", torch.randn(3, 7), None, 1.0, torch.arange(3), (), "here")
    with pytest.raises(pb.InputError, match=r"\(3, 7\)"):
        Work(network=graph, data=other, methods=(FGS,))
    points = data()
    beyond = DataSet("beyond", points.inputs, torch.full((23,), 3), 1.0, points.positions, (), "here")
    with pytest.raises(pb.InputError, match="0 to 2"):
        Work(network=graph, data=beyond, methods=(FGS,), against_labels=True)
    with pytest.raises(pb.InputError, match="at least 1"):
        Work(network=graph, data=points, methods=(FGS,), shard_size=0)


def test_progress_rises_to_the_total(graph: pb.Graph) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    collect(Work(network=graph, data=data(), methods=(FGS, pb.Lipschitz()), shard_size=8, on_progress=tell), {})
    assert {total for _, _, total in told} == {23}
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 23
    assert told[0][0] == "operator norms"
    assert {stage for stage, _, _ in told} == {"operator norms", "fgs", "lipschitz"}


def test_shards_are_the_same_in_any_order(graph: pb.Graph) -> None:
    options: dict[str, Any] = {"network": graph, "data": data(), "methods": (FGS, pb.Lipschitz()), "shard_size": 6}
    forwards, backwards = Work(**options), Work(**options)
    assert forwards.shards == {"samples": 23, "size": 6, "count": 4}
    one = {i: forwards(i) for i in range(4)}
    other = {i: backwards(i) for i in reversed(range(4))}
    for i in range(4):
        assert one[i].rows.drop(["seconds"]).equals(other[i].rows.drop(["seconds"]))
        assert all(np.array_equal(one[i].witnesses[name], other[i].witnesses[name]) for name in one[i].witnesses)
    whole = pa.concat_tables([one[i].rows for i in range(4)])
    assert sorted(whole.column("sample").to_pylist()) == sorted(2 * data().positions.tolist())


def test_float64_networks_are_asked_in_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    graph = pb.from_torch(model, torch.zeros(1, 6, dtype=torch.float64))
    run = collect(Work(network=graph, data=data(), methods=(FGS, pb.Lipschitz())), {})
    assert run.witnesses["adversarial"].dtype == np.float64


def test_infinite_estimates_stay_infinite_and_missing_ones_are_null() -> None:
    estimate = pb.Estimate(
        torch.tensor([torch.inf, 1.0, 0.0], dtype=torch.float64), torch.zeros(3).long(), torch.zeros(3).long(), "m", "b"
    )
    rows = rows_of(estimate, np.arange(3), None, 0.5)
    assert rows.column("l2").to_pylist() == [float("inf"), 1.0, 0.0]
    assert rows.column("guarantee").to_pylist() == ["estimate"] * 3
