"""The graph: what may be one, what it computes, and that it stays what it is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.graph import INPUT, Node, in_float64
from pertbound.layers import Add, Concat, Dense, ReLU, Reshape


def dense(name: str, source: str, inputs: int = 4, outputs: int = 4) -> Node:
    generator = torch.Generator().manual_seed(len(name) * 31 + inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    return Node(name, Dense((inputs,), weight, torch.randn(outputs, generator=generator)), (source,), f"net.{name}")


@pytest.fixture
def branching() -> pb.Graph:
    """Both branches of a sum read one value, one of them twice."""
    nodes = [
        dense("a", INPUT),
        Node("r", ReLU((4,)), ("a",)),
        dense("b", "r"),
        Node("s", Add(), ("b", "r", "r")),
        Node("c", Concat(1), ("s", INPUT, "s")),
        dense("out", "c", 12, 3),
    ]
    return pb.Graph(nodes, (4,))


def by_hand(graph: pb.Graph, x: Tensor) -> Tensor:
    layers: dict[str, Any] = {node.name: node.layer for node in graph.nodes}
    r = layers["a"].forward(x).relu()
    s = layers["b"].forward(r) + r + r
    return layers["out"].forward(torch.cat([s, x, s], 1))


def test_a_graph_computes_its_nodes(branching: pb.Graph) -> None:
    x = torch.randn(6, 4)
    assert torch.allclose(branching(x), by_hand(branching, x))
    assert branching.classes == 3
    assert branching.input_shape == (4,)
    assert branching.output.name == "out"
    assert branching.node("s").inputs == ("b", "r", "r")
    assert branching.device == torch.device("cpu")


def test_a_visitor_sees_every_node_once_in_order_with_its_values(branching: pb.Graph) -> None:
    x = torch.randn(2, 4)
    seen: list[str] = []

    def visit(node: Node, arguments: tuple[Tensor, ...], value: Tensor) -> None:
        seen.append(node.name)
        assert torch.equal(value, node.layer.forward(*arguments))

    result = branching.run(x, visit)
    assert seen == ["a", "r", "b", "s", "c", "out"]
    assert torch.equal(result, branching(x))


def test_values_are_dropped_after_their_last_use() -> None:
    """A long chain keeps two values, not all."""
    import weakref

    nodes = [dense("n0", INPUT)] + [dense(f"n{i}", f"n{i - 1}") for i in range(1, 10)]
    graph = pb.Graph(nodes, (4,))
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def visit(node: Node, arguments: tuple[Tensor, ...], value: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(value))
        most = max(most, sum(ref() is not None for ref in alive))

    with torch.no_grad():
        graph.run(torch.randn(2, 4), visit)
    assert most <= 3


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "no layers"),
        ([dense("a", "nobody")], "nobody"),
        ([dense("a", "b"), dense("b", INPUT)], "'a'"),
        ([dense("a", "a")], "'a'"),
        ([dense("a", INPUT), dense("a", INPUT)], "'a'"),
        ([dense(INPUT, INPUT)], "input"),
        ([dense("a", INPUT, 4, 1)], "at least 2 classes"),
        ([Node("a", Reshape((4,), (2, 2)), (INPUT,))], r"\(1, 2, 2\)"),
    ],
)
def test_what_is_no_graph_is_refused(nodes: list[Node], message: str) -> None:
    with pytest.raises(pb.ConversionError, match=message):
        pb.Graph(nodes, (4,))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4), r"unsqueeze\(0\)"),
        (torch.zeros(2, 5), r"\(batch, 4\).*\(2, 5\)"),
        (torch.zeros(2, 4, 1), r"\(2, 4, 1\)"),
        (torch.zeros(2, 4, dtype=torch.float64), "float64"),
        (torch.zeros(2, 4, dtype=torch.float16), "float16"),
        (torch.zeros(2, 4, dtype=torch.int64), "int64"),
        (torch.tensor(1.0), r"\(\)"),
    ],
)
def test_inputs_of_another_shape_or_dtype_are_refused(branching: pb.Graph, x: Tensor, message: str) -> None:
    with pytest.raises(pb.InputError, match=message):
        branching(x)


@pytest.mark.parametrize("x", [[1.0, 2.0], None, "x"], ids=str)
def test_inputs_that_are_no_tensor_are_refused(branching: pb.Graph, x: Any) -> None:
    with pytest.raises(pb.InputError):
        branching(x)


def test_an_empty_batch_gives_empty_logits(branching: pb.Graph) -> None:
    assert branching(torch.zeros(0, 4)).shape == (0, 3)


def test_what_is_derived_is_computed_once_for_each_graph(branching: pb.Graph) -> None:
    calls: list[pb.Graph] = []

    def compute(graph: pb.Graph) -> int:
        calls.append(graph)
        return 7

    assert branching.derive(compute) == branching.derive(compute) == 7
    other = pb.Graph(branching.nodes, (4,))
    other.derive(compute)
    assert calls == [branching, other]


def test_float64_weights_are_exactly_the_float32_ones(branching: pb.Graph) -> None:
    exact = branching.derive(in_float64)
    assert exact.dtype == torch.float64
    assert branching.dtype == torch.float32
    assert branching.derive(in_float64) is exact
    for one, other in zip(branching.nodes, exact.nodes, strict=True):
        for field in dataclasses.fields(one.layer):  # type: ignore[arg-type]
            value, wide = getattr(one.layer, field.name), getattr(other.layer, field.name)
            if isinstance(value, Tensor):
                assert wide.dtype == torch.float64
                assert torch.equal(value.double(), wide)
    x = torch.randn(5, 4)
    assert torch.allclose(exact(x.double()).float(), branching(x), atol=1e-5)


def test_a_graph_keeps_its_original_when_it_is_converted() -> None:
    model = nn.Linear(4, 3)
    graph = pb.from_torch(model, torch.zeros(1, 4))
    assert graph.derive(in_float64).original is graph.original
    assert graph.original is not None
    assert graph.original is not model


def test_nodes_and_layers_cannot_be_changed(branching: pb.Graph) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        branching.nodes[0].name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        branching.nodes[0].layer.bias = None  # type: ignore[attr-defined]
    assert isinstance(branching.nodes, tuple)


def test_gradients_reach_the_input(branching: pb.Graph) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    branching(x).sum().backward()
    assert x.grad is not None
    assert math.isfinite(float(x.grad.abs().sum()))
    with torch.no_grad():
        assert not branching(x).requires_grad
