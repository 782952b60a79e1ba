"""The bracket: the certificate never above the witness, and each sample gets the best of all answers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, final

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pertbound as pb
from pertbound.graph import INPUT, Node
from pertbound.layers import Dense, LeakyReLU, MaxPool, ReLU, Reshape, Sigmoid, Softplus, Tanh
from pertbound.problem import Problem

ATTACK = pb.FastGradientSign(max_epsilon=4.0, probes=20)


def network(generator: torch.Generator, kind: str, *, scale: float, classes: int) -> pb.Graph:
    """Two or three layers on six inputs, without tracing."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    activations: dict[str, Any] = {
        "relu": ReLU((8,)), "leaky": LeakyReLU((8,), 0.1), "tanh": Tanh((8,)), "sigmoid": Sigmoid((8,)),
        "softplus": Softplus((8,), 3.0, 20.0),
    }  # fmt: skip
    nodes = [Node("a", Dense((6,), draw(8, 6), draw(8)), (INPUT,))]
    if kind == "pool":
        nodes += [
            Node("f", Reshape((8,), (2, 4)), ("a",)),
            Node("p", MaxPool((2, 4), (2,), (2,), (0,), (1,), False), ("f",)),
            Node("g", Reshape((2, 2), (4,)), ("p",)),
            Node("out", Dense((4,), draw(classes, 4), draw(classes)), ("g",)),
        ]
    else:
        nodes += [
            Node("r", activations[kind], ("a",)),
            Node("b", Dense((8,), draw(8, 8), draw(8)), ("r",)),
            Node("q", activations[kind], ("b",)),
            Node("out", Dense((8,), draw(classes, 8), draw(classes)), ("q",)),
        ]
    return pb.Graph(nodes, (6,))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6),
    st.sampled_from(["relu", "leaky", "tanh", "sigmoid", "softplus", "pool"]),
    st.sampled_from([0.1, 0.5, 2.0]),
    st.integers(2, 4),
)
def test_no_witness_is_nearer_than_what_was_certified(seed: int, kind: str, scale: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = network(generator, kind, scale=scale, classes=classes)
    x = torch.randn(40, 6, generator=generator)
    labels = torch.randint(classes, (40,), generator=generator)
    for given_labels in (None, labels):
        answer = pb.bracket(graph, x, given_labels, attacks=(ATTACK,))
        assert bool((answer.lower <= answer.upper).all())
        assert bool((answer.lower >= 0).all())
        assert not bool(answer.lower.isnan().any() or answer.upper.isnan().any())


def test_small_steps_in_random_directions_respect_the_certificate() -> None:
    """An attack that does not look at the gradient: the radius must hold in every direction."""
    generator = torch.Generator().manual_seed(4)
    graph = network(generator, "relu", scale=1.0, classes=3)
    x = torch.randn(10, 6, generator=generator)
    answer = pb.certify(graph, x, pb.Lipschitz())
    direction = torch.randn(400, 10, 6, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True) * answer.radius[:, None]
    moved = (x.double() + direction).reshape(-1, 6).float()
    assert bool((graph(moved).argmax(1).reshape(400, 10) == answer.predicted).float().mean() == 1.0)


@pytest.fixture(scope="module")
def graph() -> pb.Graph:
    torch.manual_seed(0)
    return pb.from_torch(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 6))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(30, 6, generator=torch.Generator().manual_seed(1))


@final
@dataclass(frozen=True, kw_only=True)
class Says(pb.Certificate):
    """Certifies what it was told, right or wrong."""

    radius: Tensor
    title: str

    @property
    def name(self) -> str:
        return self.title

    def certify(self, problem: Problem) -> pb.Certified:
        predicted = problem.network.run(problem.x).argmax(1)
        return pb.Certified(self.radius, problem.reference(predicted), predicted, self.title, pb.Guarantee())


@final
@dataclass(frozen=True, kw_only=True)
class Moves(pb.Attack):
    """Moves every sample along a fixed direction."""

    by: float
    title: str

    @property
    def name(self) -> str:
        return self.title

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        return problem.x + self.by * torch.ones_like(problem.x)


def test_the_largest_certificate_and_the_nearest_witness_win(graph: pb.Graph, x: Tensor) -> None:
    rise = torch.linspace(0, 1e-3, 30, dtype=torch.float64)
    certificates = (Says(radius=rise, title="rise"), Says(radius=rise.flip(0), title="fall"))
    attacks = (Moves(by=50.0, title="far"), ATTACK, Moves(by=-50.0, title="other side"))
    answer = pb.bracket(graph, x, certificates=certificates, attacks=attacks)
    assert torch.equal(answer.lower, torch.maximum(rise, rise.flip(0)))
    assert answer.lower_method == ("fall",) * 15 + ("rise",) * 15
    distances = torch.stack([witness.distance for witness in answer.witnesses])
    assert torch.equal(answer.upper, distances.min(0).values)
    for sample, method in enumerate(answer.upper_method):
        given_by = [w for w in answer.witnesses if w.method == method]
        assert float(given_by[0].distance[sample]) == float(answer.upper[sample])
    assert [certified.method for certified in answer.certified] == ["rise", "fall"]
    assert [witness.method for witness in answer.witnesses] == ["far", "fgs", "other side"]


def test_a_bracket_that_contradicts_itself_is_an_error(graph: pb.Graph, x: Tensor) -> None:
    wrong = Says(radius=torch.full((30,), 1e6, dtype=torch.float64), title="wrong")
    with pytest.raises(pb.ContradictionError, match=r"^sample \d+: wrong proves .* but fgs found one of size"):
        pb.bracket(graph, x, certificates=(wrong, pb.Lipschitz()), attacks=(ATTACK,))
    right = pb.bracket(graph, x, attacks=(ATTACK,))
    first = int(right.witnesses[0].found.nonzero()[0])
    for excess, refused in ((1e-13, False), (1e-11, True)):
        lower = right.lower.clone()
        lower[first] = right.upper[first] * (1 + excess)
        with pytest.raises(pb.ContradictionError) if refused else nullcontext():
            replace(right, lower=lower)


def test_where_nothing_was_found_the_upper_end_is_infinite(graph: pb.Graph, x: Tensor) -> None:
    answer = pb.bracket(graph, x, attacks=(pb.FastGradientSign(max_epsilon=1e-6),))
    missing = ~answer.witnesses[0].found
    assert int(missing.sum()) > 20
    assert bool(torch.isinf(answer.upper[missing]).all())


def test_misclassified_samples_have_an_empty_bracket(graph: pb.Graph, x: Tensor) -> None:
    labels = (pb.certify(graph, x, pb.Lipschitz()).predicted + 1) % 3
    answer = pb.bracket(graph, x, labels)
    assert bool((answer.lower == 0).all())
    assert bool((answer.upper == 0).all())


def test_batches_do_not_change_the_bracket(graph: pb.Graph, x: Tensor) -> None:
    one, other = (pb.bracket(graph, x, attacks=(ATTACK,), batch_size=size) for size in (500, 7))
    assert torch.allclose(one.lower, other.lower, rtol=2e-6)
    assert torch.equal(torch.isinf(one.upper), torch.isinf(other.upper))


def test_zero_radius_is_a_certificate(graph: pb.Graph, x: Tensor) -> None:
    nothing = Says(radius=torch.zeros(30, dtype=torch.float64), title="nothing")
    answer = pb.bracket(graph, x, certificates=(nothing,), attacks=(ATTACK,))
    assert bool((answer.lower == 0).all())
    assert answer.lower_method == ("nothing",) * 30


@pytest.mark.parametrize("estimator", [pb.Published(), pb.Published(relu=pb.CurvatureFree())], ids=lambda e: e.name)
def test_estimates_never_enter_a_bracket(graph: pb.Graph, x: Tensor, estimator: Any) -> None:
    with pytest.raises(pb.InputError, match="Published cannot bound from below"):
        pb.bracket(graph, x, certificates=(pb.Lipschitz(), estimator))


@pytest.mark.parametrize(
    "options",
    [
        {"certificates": ()},
        {"attacks": ()},
        {"certificates": (ATTACK,)},
        {"attacks": (pb.Lipschitz(),)},
        {"attacks": (pb.Published(),)},
        {"certificates": (None,)},
        {"attacks": (pb.FastGradientSign,)},
    ],
    ids=str,
)
def test_methods_on_the_wrong_side_are_refused(graph: pb.Graph, x: Tensor, options: dict[str, Any]) -> None:
    with pytest.raises(pb.InputError):
        pb.bracket(graph, x, **options)
