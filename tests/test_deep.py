"""Deep graphs take linear work, counted in operations; what is left out of a bound changes no ordinary radius."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from contracts.graphs import graphs, linear_chain
from pertbound import push as module
from pertbound.certificates import Lipschitz
from pertbound.frontends.conversion import Converter, Value
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Call, Program, Ref
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Dense, ReLU
from pertbound.problem import Problem
from pertbound.push import Push

GRAPHS = graphs()


def deep(layers: int, side: int = 4) -> Graph:
    """So many dense layers with ReLU between them."""
    generator = torch.Generator().manual_seed(layers)
    nodes, last = list[Node](), INPUT
    for k in range(layers):
        nodes.append(Node(f"d{k}", Dense((side,), torch.randn(side, side, generator=generator) / side, None), (last,)))
        nodes.append(Node(f"r{k}", ReLU((side,)), (f"d{k}",)))
        last = f"r{k}"
    return Graph(
        [*nodes, Node("out", Dense((side,), torch.randn(3, side, generator=generator), None), (last,))], (side,)
    )


def factors(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many matrices are multiplied for the norms of a graph."""
    found, inner = [0], module.matrix_of

    def counted(chain: Any, **options: Any) -> Any:
        found[0] += len(chain)
        return inner(chain, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "matrix_of", counted)
        Push(graph)
    return found[0]


def test_products_are_linear_in_the_number_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRODUCTS", 16)
    counts = [factors(deep(layers), monkeypatch) for layers in (10, 20, 40)]
    assert counts[1] < 2.5 * counts[0]
    assert counts[2] < 2.5 * counts[1]
    monkeypatch.setattr(module, "LONGEST", 10**9)
    monkeypatch.setattr(module, "PRODUCTS", 10**9)
    assert factors(deep(40), monkeypatch) > 10 * counts[2], "the mutant without a limit is caught by this count"


@pytest.mark.slow
def test_four_hundred_layers_are_certified() -> None:
    graph = deep(400)
    assert Push(graph)._longest == 2
    answer = Lipschitz().certify(Problem(graph, torch.randn(2, 4)))
    assert bool(torch.isfinite(answer.radius).all())


ALL = [pytest.param(graph, marks=pytest.mark.slow, id=name) for name, graph in GRAPHS.items()]


@pytest.mark.parametrize("graph", [*ALL, linear_chain(), deep(15)])
def test_no_radius_of_an_ordinary_graph_depends_on_the_limit(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, *graph.input_shape, generator=torch.Generator().manual_seed(1), dtype=graph.dtype)
    rho = torch.tensor([[0.1, 1.0]], dtype=torch.float64)

    def measured() -> list[torch.Tensor]:
        push = Push(graph)
        logits, summary = push.summarise(x)
        radii = push.radii(rho, summary)
        changes = push.changes(summary, logits.argmax(1))(rho[:, :1])
        return [*(value.expand(3, 2) for value in radii.values()), changes]

    limited = measured()
    monkeypatch.setattr(module, "LONGEST", 10**9)
    monkeypatch.setattr(module, "PRODUCTS", 10**9)
    monkeypatch.setattr(module, "MOST_NAMES", 10**9)
    for a, b in zip(limited, measured(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


# --- reading --------------------------------------------------------------------------------------------------------


def lines(work: Callable[[], object]) -> int:
    """How many lines of the library `work` runs, those of inner loops included."""
    count = [0]

    def local(frame: Any, event: str, argument: Any) -> Any:
        count[0] += event == "line"
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        inside = "pertbound" in frame.f_code.co_filename or frame.f_code.co_filename == __file__
        count[0] += inside
        return local if inside else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count[0]


def read(number: int, in_place: bool) -> Converter:
    """A chain of so many activations, each of a new value, or all of them in place on one tensor."""
    first = Call("c", "aten.neg.default", {"self": Ref("x")})
    target = "aten.relu_.default" if in_place else "aten.relu.default"
    calls = [first] + [
        Call(f"c{k}", target, {"self": Ref("c" if in_place or k == 0 else f"c{k - 1}")}) for k in range(number)
    ]
    converter = Converter(Program("x", (2, 3), {}, tuple(calls), f"c{number - 1}"), HANDLERS)
    for call in calls:
        converter.read(call)
    return converter


@pytest.mark.parametrize("in_place", [False, True])
def test_reading_is_linear_in_the_number_of_activations(in_place: bool) -> None:
    few, many = (lines(lambda n=n: read(n, in_place)) for n in (60, 240))
    assert many < 4.5 * few


def test_the_count_catches_a_search_among_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Converter.add

    def mutant(self: Converter, call: Call, *arguments: Any, **options: Any) -> Value:
        assert all(node.name != call.name for node in self.nodes)
        return inner(self, call, *arguments, **options)

    monkeypatch.setattr(Converter, "add", mutant)
    few, many = (lines(lambda n=n: read(n, False)) for n in (60, 240))
    assert many > 4.5 * few


def test_every_name_of_a_tensor_changed_in_place_reads_the_result() -> None:
    converter = read(5, True)
    made = {converter.result(name).node for name in ("c", "c0", "c3", "c4")}
    assert made == {converter.nodes[-1].name}
    assert len(converter.nodes) == 6
    assert converter.result("x").node == INPUT
    assert converter.result("nothing") is None


def test_nodes_are_found_without_a_search() -> None:
    graph = deep(30)
    assert lines(lambda: graph.node("out")) == lines(lambda: graph.node("d0"))
    assert graph.node("r3").name == "r3"
