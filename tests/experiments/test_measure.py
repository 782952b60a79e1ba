"""Measuring: every method about every sample, in rows that say which is which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound import records
from pertbound.data import DataSet
from pertbound.experiments.measure import Measured, measure, rows_of

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


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
@pytest.mark.parametrize("against_labels", [True, False])
def test_rows_say_what_the_functions_answer(graph: pb.Graph, batch_size: int, against_labels: bool) -> None:
    points = data()
    measured = Measured(23, keep_witnesses=1000)
    measure(graph, points, (FGS, pb.Lipschitz()), measured, against_labels=against_labels, batch_size=batch_size)
    assert measured.complete
    assert measured.done == 23
    rows = measured.rows
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
    assert columns["l2"][lower].astype(float) == pytest.approx(certified.radius.numpy(), rel=1e-9)
    right = (witness.predicted == points.labels).sum()
    assert measured.correct == int(right)
    kept = measured.witnesses
    assert kept["sample"].tolist() == points.positions.numpy()[found].tolist()
    assert np.array_equal(kept["original"], points.inputs.numpy()[found])
    assert kept["adversarial"].shape == kept["original"].shape


def test_without_labels_there_is_no_accuracy_and_none_to_measure_against(graph: pb.Graph) -> None:
    measured = Measured(23, 0)
    measure(graph, data(labels=False), (FGS,), measured)
    assert measured.correct == 0
    assert set(measured.rows.column("label").to_pylist()) == {None}
    with pytest.raises(pb.InputError, match="no labels"):
        measure(graph, data(labels=False), (FGS,), Measured(23, 0), against_labels=True)


@pytest.mark.parametrize("keep", [0, 1, 7, 10**6])
def test_of_so_many_samples_the_nearest_witness_is_kept(graph: pb.Graph, keep: int) -> None:
    measured = Measured(23, keep_witnesses=keep)
    measure(graph, data(), (FGS, pb.DDN(), pb.FastGradientSign(max_epsilon=2.0, probes=11)), measured, batch_size=4)
    kept = measured.witnesses
    if keep == 0:
        assert kept == {}
        return
    rows = [row for row in measured.rows.to_pylist() if row["guarantee"] == "witness"]
    nearest = {
        sample: min(row["l2"] for row in rows if row["sample"] == sample) for sample in {r["sample"] for r in rows}
    }
    assert len(kept["sample"]) == len(kept["original"]) == len(kept["adversarial"]) == min(keep, len(nearest))
    sizes = np.linalg.norm(kept["adversarial"].astype(float) - kept["original"], axis=1)
    assert sizes == pytest.approx([nearest[sample] for sample in kept["sample"].tolist()], rel=1e-6)


def test_bad_inputs_are_refused_before_any_work(graph: pb.Graph) -> None:
    told: list[str] = []

    def tell(stage: str, done: int, total: int) -> None:
        told.append(stage)

    other = DataSet("other", torch.randn(3, 7), None, 1.0, torch.arange(3), (), "here")
    with pytest.raises(pb.InputError, match=r"\(3, 7\)"):
        measure(graph, other, (FGS,), Measured(3, 0), on_progress=tell)
    points = data()
    labels = torch.full((23,), 3)
    beyond = DataSet("beyond", points.inputs, labels, 1.0, points.positions, (), "here")
    with pytest.raises(pb.InputError, match="0 to 2"):
        measure(graph, beyond, (FGS,), Measured(23, 0), against_labels=True, on_progress=tell)
    assert told == []


def test_progress_rises_to_the_total(graph: pb.Graph) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    measure(graph, data(), (FGS, pb.Lipschitz()), Measured(23, 0), batch_size=8, on_progress=tell)
    assert {total for _, _, total in told} == {23}
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 23
    assert told[0][0] == "operator norms"
    assert {stage for stage, _, _ in told} == {"operator norms", "fgs", "lipschitz"}


def test_an_interruption_leaves_whole_batches(graph: pb.Graph) -> None:
    measured = Measured(23, 0)

    def tell(stage: str, done: int, total: int) -> None:
        if done == 16 and stage == "lipschitz":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(graph, data(), (FGS, pb.Lipschitz()), measured, batch_size=8, on_progress=tell)
    assert measured.done == 16
    assert not measured.complete
    assert measured.rows.num_rows == 32


def test_float64_networks_are_asked_in_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    graph = pb.from_torch(model, torch.zeros(1, 6, dtype=torch.float64))
    measured = Measured(23, 100)
    measure(graph, data(), (FGS, pb.Lipschitz()), measured)
    assert measured.complete
    assert measured.witnesses["adversarial"].dtype == np.float64


def test_infinite_estimates_stay_infinite_and_missing_ones_are_null() -> None:
    estimate = pb.Estimate(
        torch.tensor([torch.inf, 1.0, 0.0], dtype=torch.float64), torch.zeros(3).long(), torch.zeros(3).long(), "m", "b"
    )
    rows = rows_of(estimate, np.arange(3), None, 0.5)
    assert rows.column("l2").to_pylist() == [float("inf"), 1.0, 0.0]
    assert rows.column("guarantee").to_pylist() == ["estimate"] * 3
    assert rows.column("note").to_pylist() == ["b"] * 3
    found = torch.tensor([True, False, True])
    nothing = torch.tensor([2.0, torch.inf, 0.0], dtype=torch.float64)
    classes = torch.zeros(3).long(), torch.ones(3).long()
    witness = pb.Witness(torch.zeros(3, 2), found, nothing, nothing + 1, nothing + 2, *classes, "w")
    rows = rows_of(witness, np.array([4, 5, 6]), torch.tensor([1, 2, 0]), 0.5)
    assert rows.column("l2").to_pylist() == [2.0, None, 0.0]
    assert rows.column("linf").to_pylist() == [3.0, None, 1.0]
    assert rows.column("l1").to_pylist() == [4.0, None, 2.0]
    assert rows.column("guarantee").to_pylist() == ["witness", "none", "witness"]
    assert rows.column("label").to_pylist() == [1, 2, 0]


def test_equal_classifiers_have_equal_hashes_and_others_do_not(graph: pb.Graph) -> None:
    from pertbound.experiments.provenance import parameters, weights_sha256

    def built(change: float = 0.0, slope: float = 0.1, stride: int = 2, order: bool = False) -> pb.Graph:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv1d(1, 2, 2, stride=stride), nn.LeakyReLU(slope)]
        model = nn.Sequential(
            *(layers[::-1] if order else layers), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 3)
        )
        with torch.no_grad():
            model[-1].bias[0] += change
        return pb.from_torch(model, torch.zeros(1, 1, 8))

    hashes = [
        weights_sha256(g) for g in (built(), built(change=1e-3), built(slope=0.2), built(stride=3), built(order=True))
    ]
    assert len(set(hashes)) == 5
    assert weights_sha256(built()) == hashes[0]
    assert parameters(graph) == 6 * 8 + 8 + 8 * 3 + 3


def layered(kind: nn.Module) -> pb.Graph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), kind, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    return pb.from_torch(model, torch.zeros(1, 1, 10, 10))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2)),
        (nn.MaxPool2d(2), nn.AvgPool2d(2)),
        (nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        (nn.AvgPool2d(2), nn.AvgPool2d(2, divisor_override=3)),
        (nn.LPPool2d(2, 2), nn.LPPool2d(4, 2)),
        (nn.Softplus(2.0), nn.Softplus(3.0)),
        (nn.Softplus(threshold=20), nn.Softplus(threshold=5)),
    ],
    ids=str,
)
def test_every_option_of_a_layer_enters_the_hash(one: nn.Module, other: nn.Module) -> None:
    """Two networks that compute something else must not pass for the same one."""
    from pertbound.experiments.provenance import weights_sha256

    first, second = layered(one), layered(other)
    x: Tensor = torch.randn(3, 1, 10, 10)
    assert not torch.equal(first(x), second(x)) or isinstance(one, nn.Softplus | nn.MaxPool2d)
    assert weights_sha256(first) != weights_sha256(second)
