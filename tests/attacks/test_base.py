"""Asking an attack: every witness is run again, and nothing is believed that was not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.problem import Problem

FGS = pb.FastGradientSign(max_epsilon=3.0, probes=20)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)).eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> pb.Graph:
    return pb.from_torch(model, torch.zeros(1, 1, 8, 8))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@final
@dataclass(frozen=True, kw_only=True)
class Claims(pb.Attack):
    """Claims whatever it was given."""

    candidate: Any

    @property
    def name(self) -> str:
        return "claims"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        return self.candidate(problem.x, reference) if callable(self.candidate) else self.candidate


def predictions(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def test_every_witness_is_misclassified_by_the_original_model(model: nn.Module, graph: pb.Graph, x: Tensor) -> None:
    witness = pb.attack(graph, x, FGS)
    assert int(witness.found.sum()) > 20
    assert torch.equal(witness.predicted, predictions(model, x))
    assert torch.equal(witness.reference, witness.predicted)
    chosen = witness.found
    assert bool((predictions(model, witness.adversarial[chosen]) != witness.reference[chosen]).all())
    for sample in chosen.nonzero().flatten().tolist():  # one by one too, where sums are ordered otherwise
        assert int(predictions(model, witness.adversarial[sample : sample + 1])) != int(witness.reference[sample])
    exact = torch.linalg.vector_norm((witness.adversarial.double() - x.double()).flatten(1), dim=1)
    assert torch.allclose(witness.distance[chosen], exact[chosen], rtol=1e-11)
    assert bool((witness.distance[chosen] >= exact[chosen]).all())
    assert witness.distance.dtype == witness.linf.dtype == torch.float64
    assert witness.adversarial.dtype == x.dtype
    assert witness.adversarial.shape == x.shape
    assert witness.method == "fgs"


def test_an_original_that_disagrees_is_not_believed_past(graph: pb.Graph, x: Tensor) -> None:
    """The graph alone would take the candidates; the model behind it keeps the reference class."""

    def stubborn(z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(predictions(graph, x)[: len(z)], 4).float()

    broken = pb.Graph(graph.nodes, graph.input_shape, original=stubborn)
    witness = pb.attack(broken, x, FGS)
    assert not bool(witness.found.any())
    assert bool(torch.isinf(witness.distance).all())
    assert torch.equal(witness.adversarial, x)


def test_an_original_that_returns_nan_is_not_believed(graph: pb.Graph, x: Tensor) -> None:
    broken = pb.Graph(graph.nodes, graph.input_shape, original=lambda z: torch.full((len(z), 4), torch.nan))
    assert not bool(pb.attack(broken, x, FGS).found.any())


def test_an_original_that_disagrees_a_little_decides(model: nn.Module, graph: pb.Graph, x: Tensor) -> None:
    """Its logits favour the reference class by 0.05, so a step that just suffices for the graph does not for it."""
    reference = predictions(model, x)

    def biased(z: Tensor) -> Tensor:
        with torch.no_grad():
            return model(z) + 0.05 * nn.functional.one_hot(reference, 4)

    witness = pb.attack(pb.Graph(graph.nodes, graph.input_shape, original=biased), x, FGS)
    assert bool((biased(witness.adversarial).argmax(1) != reference)[witness.found].all())
    assert int(witness.found.sum()) < int(pb.attack(graph, x, FGS).found.sum())


@pytest.mark.parametrize(
    "candidate",
    [
        lambda x, reference: x,
        lambda x, reference: torch.full_like(x, torch.nan),
        lambda x, reference: torch.full_like(x, torch.inf),
        lambda x, reference: torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) % 2 == 0, torch.nan, x),
    ],
    ids=["x", "nan", "inf", "half nan"],
)
def test_false_claims_are_not_believed(graph: pb.Graph, x: Tensor, candidate: Any) -> None:
    witness = pb.attack(graph, x, Claims(candidate=candidate))
    assert not bool(witness.found.any())
    assert torch.equal(witness.adversarial, x)
    assert bool(torch.isinf(witness.distance).all())


def test_a_tie_is_no_witness(x: Tensor) -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    graph = pb.from_torch(model, torch.zeros(1, 2))
    start = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    tie = Claims(candidate=torch.full((2, 2), 1.5))
    assert not bool(pb.attack(graph, start, tie).found.any())
    beyond = Claims(candidate=torch.tensor([[1.5, 1.6], [1.6, 1.5]]))
    assert bool(pb.attack(graph, start, beyond).found.all())


def test_labels_set_the_reference(model: nn.Module, graph: pb.Graph, x: Tensor) -> None:
    predicted = predictions(model, x)
    labels = predicted.clone()
    labels[::3] = (labels[::3] + 1) % 4
    witness = pb.attack(graph, x, FGS, labels)
    already = labels != predicted
    assert torch.equal(witness.reference, labels)
    assert torch.equal(witness.predicted, predicted)
    assert bool(witness.found[already].all())
    assert bool((witness.distance[already] == 0).all())
    assert bool((witness.linf[already] == 0).all())
    assert torch.equal(witness.adversarial[already], x[already])
    plain = pb.attack(graph, x, FGS)
    assert torch.equal(witness.distance[~already], plain.distance[~already])


def test_a_misclassified_sample_has_distance_0_whatever_the_attack_claims(graph: pb.Graph, x: Tensor) -> None:
    labels = (predictions(graph, x) + 1) % 4
    witness = pb.attack(graph, x, Claims(candidate=lambda x, _: x + 1), labels)
    assert bool(witness.found.all())
    assert bool((witness.distance == 0).all())
    assert torch.equal(witness.adversarial, x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_integer_dtype(graph: pb.Graph, x: Tensor, dtype: torch.dtype) -> None:
    predicted = predictions(graph, x)
    witness = pb.attack(graph, x, FGS, predicted.to(dtype))
    assert torch.equal(witness.distance, pb.attack(graph, x, FGS).distance)
    assert witness.reference.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [1, 7, 39, 40, 1000])
def test_batches_do_not_change_the_answer(graph: pb.Graph, x: Tensor, batch_size: int) -> None:
    whole = pb.attack(graph, x, FGS, batch_size=500)
    parts = pb.attack(graph, x, FGS, batch_size=batch_size)
    assert torch.equal(parts.found, whole.found)
    assert torch.equal(parts.predicted, whole.predicted)
    assert torch.allclose(parts.distance[whole.found], whole.distance[whole.found], rtol=1e-3)


def test_nothing_that_the_caller_holds_is_changed(model: nn.Module, graph: pb.Graph, x: Tensor) -> None:
    before = x.clone()
    weights = [parameter.clone() for parameter in model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    witness = pb.attack(graph, x, FGS)
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    witness.adversarial.add_(1)
    assert torch.equal(x, before)


def test_inputs_that_want_gradients_are_taken_as_they_are(graph: pb.Graph, x: Tensor) -> None:
    wanting = x.clone().requires_grad_(True)
    witness = pb.attack(graph, wanting, FGS)
    assert wanting.grad is None
    assert not witness.adversarial.requires_grad
    assert not witness.distance.requires_grad
    assert torch.equal(witness.distance, pb.attack(graph, x, FGS).distance)


@pytest.mark.parametrize(
    ("bad", "labels", "message"),
    [
        (torch.zeros(0, 1, 8, 8), None, "empty"),
        (torch.zeros(1, 8, 8), None, "unsqueeze"),
        (torch.zeros(2, 1, 8, 7), None, r"\(2, 1, 8, 7\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), None, "float64"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), None, "int64"),
        (torch.full((2, 1, 8, 8), torch.nan), None, "position 0"),
        (torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), -torch.inf)]), None, "position 1"),
        (torch.full((2, 1, 8, 8), 3e38), torch.tensor([0, 4]), "0 to 3"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, -1]), "-1"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0]), r"\(1,\)"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([[0, 1]]), r"\(1, 2\)"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0.0, 1.0]), "float32"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([True, False]), "bool"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(graph: pb.Graph, bad: Tensor, labels: Tensor | None, message: str) -> None:
    with pytest.raises(pb.InputError, match=message):
        pb.attack(graph, bad, FGS, labels)
    with pytest.raises(pb.InputError, match=message):
        pb.certify(graph, bad, pb.Lipschitz(), labels)


@pytest.mark.parametrize(
    "labels", [[0] * 40, np.zeros(40, dtype=np.int64), 0, "cat"], ids=["list", "array", "int", "str"]
)
def test_labels_that_are_no_tensor_are_refused(graph: pb.Graph, x: Tensor, labels: Any) -> None:
    with pytest.raises(pb.InputError, match="labels"):
        pb.attack(graph, x, FGS, labels)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 1, 8, 8), dtype=np.float32), [[0.0]], None], ids=["array", "list", "None"]
)
def test_inputs_that_are_no_tensor_are_refused(graph: pb.Graph, bad: Any) -> None:
    with pytest.raises(pb.InputError):
        pb.attack(graph, bad, FGS)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_1_is_refused(graph: pb.Graph, x: Tensor, batch_size: int) -> None:
    with pytest.raises(pb.InputError, match="batch"):
        pb.attack(graph, x, FGS, batch_size=batch_size)
    with pytest.raises(pb.InputError, match="batch"):
        pb.certify(graph, x, pb.Lipschitz(), batch_size=batch_size)


def test_a_method_of_the_other_side_is_refused(graph: pb.Graph, x: Tensor) -> None:
    wrong: Any = pb.Lipschitz()
    with pytest.raises(pb.InputError, match="Lipschitz"):
        pb.attack(graph, x, wrong)
    for other in (FGS, pb.Lipschitz):
        given: Any = other
        with pytest.raises(pb.InputError):
            pb.certify(graph, x, given)


def test_inputs_so_large_that_logits_overflow_are_never_found_by_nan(graph: pb.Graph) -> None:
    x = torch.full((3, 1, 8, 8), 3e38)
    witness = pb.attack(graph, x, FGS)
    assert not bool(witness.distance.isnan().any())
    assert torch.equal(torch.isinf(witness.distance), ~witness.found)
