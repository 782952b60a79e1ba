"""Models that treat some batches in another way than others are refused, before or when these are asked about."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import pertbound as pb
from pertbound.frontends import agreement
from pertbound.frontends.agreement import require_agreement, require_own_agreement
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Dense

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 1.0], [-1.0, 0.25]])


class Counted:
    """A model that runs the linear map, but what `odd` says is negated; it counts the rows that it is asked about."""

    def __init__(self, odd: Callable[[Tensor], bool]) -> None:
        self.odd = odd
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        y = x @ WEIGHT.to(x.dtype).T
        return -y if self.odd(x) else y


def graph_of(model: Callable[[Tensor], Tensor] | None) -> Graph:
    return Graph([Node("logits", Dense((2,), WEIGHT, None), (INPUT,))], (2,), original=model)


def agrees(odd: Callable[[Tensor], bool], example: Tensor | None = None) -> list[int]:
    model = Counted(odd)
    require_agreement(graph_of(model), lambda y: y, model, torch.zeros(1, 2) if example is None else example)
    return model.sizes


def test_batches_of_many_sizes_are_tried() -> None:
    assert sorted(set(agrees(lambda x: False))) == [1, 2, 3, 5, 7, 9, 17, 33]
    assert 12 in agrees(lambda x: False, torch.ones(12, 2))


ODD: dict[str, Callable[[Tensor], bool]] = {
    "5 or more": lambda x: len(x) >= 5,
    "7 or more": lambda x: len(x) >= 7,
    "more than 16": lambda x: len(x) > 16,
    "more than 32": lambda x: len(x) > 32,
    "single": lambda x: len(x) == 1,
    "odd": lambda x: len(x) % 2 == 1,
    "values above 10": lambda x: bool((x > 10).any()),
    "values above 100": lambda x: bool((x > 100).any()),
    "small values": lambda x: bool((x.abs() < 0.05).all()) and bool((x != 0).all()),
}


@pytest.mark.parametrize("name", ODD)
def test_models_that_depend_on_the_batch_are_refused(name: str) -> None:
    with pytest.raises(pb.ConversionError, match="batch of"):
        agrees(ODD[name])


def test_errors_of_the_model_are_conversion_errors() -> None:
    def fail(x: Tensor) -> bool:
        raise KeyError("odd")

    with pytest.raises(pb.ConversionError, match="cannot run a batch of 2"):
        agrees(fail)


def test_large_networks_are_tried_on_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "ENTRIES", 5 * 5 + 7 * 5)  # two inputs and three outputs
    assert sorted(set(agrees(lambda x: False))) == [1, 2, 3, 5, 7]


ASKED: dict[str, Callable[[Graph, Tensor], object]] = {
    "certify": lambda network, x: pb.certify(network, x, pb.Lipschitz()),
    "bracket": lambda network, x: pb.bracket(network, x, attacks=[pb.DDN(steps=2)]),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_batch_that_is_asked_about_is_tried(name: str) -> None:
    model = Counted(lambda x: len(x) == 40)
    network = graph_of(model)
    ASKED[name](network, torch.ones(6, 2))
    with pytest.raises(pb.ConversionError, match="batch of 40"):
        ASKED[name](network, torch.ones(40, 2))


def test_each_size_costs_one_forward_pass() -> None:
    model = Counted(lambda x: False)
    network = graph_of(model)
    for _ in range(3):
        pb.certify(network, torch.ones(10, 2), pb.Lipschitz(), batch_size=4)
    assert model.sizes == [4, 2]


@pytest.mark.parametrize("finish", [lambda y: y, lambda y: y.softmax(1), lambda y: y.log_softmax(1)])
def test_outputs_may_be_probabilities(finish: Callable[[Tensor], Tensor]) -> None:
    model = Counted(lambda x: False)
    assert pb.certify(graph_of(lambda x: finish(model(x))), torch.ones(2, 2), pb.Lipschitz()).radius.shape == (2,)
    with pytest.raises(pb.ConversionError):
        pb.certify(graph_of(lambda x: finish(2 * model(x)) + 1), torch.ones(2, 2), pb.Lipschitz())


def test_what_the_network_rounds_is_no_disagreement() -> None:
    """1e8 (x + 1) - 1e8 x: what is left of it depends on the order of the sums."""
    weight = torch.tensor([[1e8, -1e8, 1.0], [0.0, 0.0, 1.0]])
    network = Graph([Node("logits", Dense((3,), weight, None), (INPUT,))], (3,))
    exact = lambda x: (x.double() @ weight.double().T).float()  # noqa: E731
    network = Graph(network.nodes, (3,), original=exact)
    x = torch.tensor([[0.7654321, 0.7654322, 0.3], [0.1234567, 0.1234566, 0.1]])
    assert bool(torch.isfinite(pb.certify(network, x, pb.Lipschitz()).radius).all())


def test_a_mutant_that_tries_small_batches_only_would_be_seen() -> None:
    with patch.object(agreement, "BATCHES", ()):
        agrees(ODD["5 or more"])


def test_an_output_that_overflows_excuses_no_other_one() -> None:
    """One logit is infinite in float32 and not in float64; another one is a different function."""

    def other(x: torch.Tensor) -> torch.Tensor:
        logits = graph.run(x).clone()
        logits[:, 1] += 5.0
        return logits

    weight = torch.tensor([[3e38, 3e38], [1.0, 0.0], [0.0, 1.0]])
    graph = pb.Graph([Node("logits", Dense((2,), weight, None), (INPUT,))], (2,), original=other)
    x = torch.tensor([[10.0, 10.0]])
    assert bool(torch.isinf(graph(x)).any())
    with pytest.raises(pb.ConversionError, match="computes something else"):
        require_own_agreement(graph, x)
