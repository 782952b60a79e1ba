"""The push through whole graphs: sound at every node and for every pair of classes, and as tight as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.graphs import Builder, convolutional_chain, exact, graphs, linear_chain, mlp
from contracts.push import check_push
from mutants.push import PushMutant, push_mutants
from oracles import ascent, dense
from oracles import exact as precise
from pertbound import push as module
from pertbound.certificates import Lipschitz
from pertbound.graph import Graph
from pertbound.layers import Add, AveragePool, Conv, Dense, Layer, Linear, MaxPool, ReLU, Reshape, linear
from pertbound.layers.linear import matrix_of
from pertbound.problem import Problem
from pertbound.push import Push, _product_error

GRAPHS = graphs()
MUTANTS = push_mutants()


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_nothing_moves_further(graph: Graph, generator: torch.Generator) -> None:
    check_push(graph, generator)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_mutant_is_caught(mutant: PushMutant, generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match="moves by"):
        check_push(mutant.graph, generator, mutant.make)


@pytest.mark.parametrize("mutant", [m for m in MUTANTS.values() if m.make is not Push])
def test_original_passes(mutant: PushMutant, generator: torch.Generator) -> None:
    check_push(mutant.graph, generator)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_no_attack_below_the_certified_radius(graph: Graph, generator: torch.Generator) -> None:
    x = torch.randn(8, *graph.input_shape, generator=generator, dtype=graph.dtype)
    answer = Lipschitz().certify(Problem(graph, x))
    assert bool((answer.radius >= 0).all())
    assert bool(torch.isfinite(answer.radius).all())
    assert float(answer.radius.max()) > 0
    true = exact(graph)
    starts = [ascent.directions(sample, generator, coordinates=6, random=4) for sample in x]
    many = len(starts[0])
    z = x.to(torch.float64).repeat_interleave(many, 0)
    reference = answer.reference.repeat_interleave(many)

    def others_lead(z: torch.Tensor) -> torch.Tensor:
        logits = true.run(z)
        own = logits.gather(1, reference[:, None])
        return (logits - own).scatter(1, reference[:, None], -torch.inf).amax(1)

    radius = (answer.radius * (1 - 1e-9)).repeat_interleave(many)
    lead, _ = ascent.ascend(others_lead, z, torch.cat(starts), radius, steps=8)
    assert float(lead.max()) < 0


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "squashed"])
def test_neighbours_across_the_boundary(name: str, generator: torch.Generator) -> None:
    """Two inputs as close as the dtype allows, of different classes: there rounding decides what is computed."""
    graph, true = GRAPHS[name], exact(GRAPHS[name])
    ends = 3 * torch.randn(2, 64, *graph.input_shape, generator=generator, dtype=torch.float64)
    low, high = (end.to(graph.dtype) for end in ends)
    with torch.no_grad():
        start = graph(low).argmax(1)
        differ = graph(high).argmax(1) != start
        low, high, start = low[differ], high[differ], start[differ]
        for _ in range(60):
            middle = (low + high) / 2
            same = (graph(middle).argmax(1) == start).reshape(-1, *(1 for _ in graph.input_shape))
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    assert len(low) > 3
    for x, other in ((low, high), (high, low)):
        for labels in (None, start):
            answer = Lipschitz().certify(Problem(graph, x, labels))
            for z in (x, other):
                wide = z.to(torch.float64)
                logits = true.run(wide)
                own = logits.gather(1, answer.reference[:, None]).squeeze(1)
                rival = logits.scatter(1, answer.reference[:, None], -torch.inf).amax(1)
                left = rival > own + 1e-13 * (1 + logits.abs().amax(1))
                distance = torch.linalg.vector_norm((wide - x.to(torch.float64)).flatten(1), dim=1)
                assert bool((answer.radius[left] <= distance[left]).all())


# Tightness.


def _matrix(graph: Graph) -> np.ndarray:
    """The product of the graph's linear layers, by what each computes."""
    product = np.eye(math.prod(graph.input_shape))
    for node in graph.nodes:
        assert isinstance(node.layer, Linear)
        product = dense.matrix(node.layer) @ product
    return product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [linear_chain, convolutional_chain])
@pytest.mark.parametrize("seed", range(4))
def test_linear_networks_get_the_exact_distance(make, seed: int, dtype: torch.dtype) -> None:
    graph = make(seed=seed, dtype=dtype)
    x = torch.randn(16, *graph.input_shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    answer = Lipschitz().certify(Problem(graph, x))
    rows = _matrix(graph)
    logits = exact(graph)(x.to(torch.float64)).numpy()
    for logit, own, radius in zip(logits, answer.reference.tolist(), answer.radius.tolist(), strict=True):
        distances = [
            (logit[own] - logit[j]) / np.linalg.norm(rows[own] - rows[j]) for j in range(graph.classes) if j != own
        ]
        assert radius <= min(distances)
        resolved = 0.0 if dtype == torch.float64 else 0.05  # what of a margin float32's rounding may take
        assert radius >= min(distances) * (1 - 1e-3 - resolved)


def test_products_of_linear_maps_are_folded() -> None:
    graph = linear_chain(seed=1)
    push = Push(graph)
    _, summary = push.summarise(torch.zeros(1, 6, dtype=torch.float64))
    radii = push.radii(torch.ones(1, 1, dtype=torch.float64), summary)
    product, product_of_norms = np.eye(6), 1.0
    for node in graph.nodes:
        assert isinstance(node.layer, Linear)
        product = dense.matrix(node.layer) @ product
        product_of_norms *= dense.norm(dense.matrix(node.layer))
        assert float(radii[node.name]) == pytest.approx(dense.norm(product), rel=1e-3)
    assert dense.norm(product) < 0.5 * product_of_norms  # so that folding is what the numbers show


@pytest.mark.parametrize("seed", range(5))
def test_two_layers_with_relu_between(seed: int) -> None:
    graph = mlp(2, "ReLU", seed=seed, widths=(9,))
    first, _, second = (node.layer for node in graph.nodes)
    assert isinstance(first, Linear)
    assert isinstance(second, Linear)
    w1, w2 = dense.matrix(first), dense.matrix(second)
    push = Push(graph)
    x = torch.zeros(1, 5, dtype=torch.float64)
    _, summary = push.summarise(x)
    one = torch.ones(1, 1, dtype=torch.float64)
    bound = float(push.radii(one, summary)[graph.output.name])
    apart = dense.norm(w2) * dense.norm(w1)
    assert bound <= apart * (1 + 1e-3)
    assert bound <= (dense.norm(w2 @ w1) + apart) / 2 * (1 + 1e-3)
    changes = push.changes(summary, torch.zeros(1, dtype=torch.long))(one)[0]
    for j in range(1, 3):
        row = w2[0] - w2[j]
        norms = (np.linalg.norm(row @ w1) + np.linalg.norm(row) * dense.norm(w1)) / 2
        assert float(changes[j]) <= norms * (1 + 1e-3)


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Softplus 1"])
def test_smooth_activations_use_their_derivative_at_the_sample(kind: str) -> None:
    graph = mlp(2, kind, seed=2)
    first, activation, _ = graph.nodes
    assert isinstance(first.layer, Dense)
    x = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    push = Push(graph)
    _, summary = push.summarise(x)
    rho = 1e-6
    radii = push.radii(torch.full((4, 1), rho, dtype=torch.float64), summary)[activation.name]
    w = dense.matrix(first.layer)
    z = exact(graph).node(first.name).layer.forward(x)
    slopes = precise.slope(activation.layer, precise.long(z)).astype(np.float64)
    for slope, radius in zip(slopes, radii[:, 0].tolist(), strict=True):
        noise = 1e-8 if kind == "Softplus 1" else 1e-12  # what softplus's threshold leaves out
        assert radius <= np.linalg.norm(slope[:, None] * w) * rho * (1 + 1e-3) + noise
        assert radius >= dense.norm(slope[:, None] * w) * rho


# Rounding.


def test_the_error_of_products_is_bounded(generator: torch.Generator) -> None:
    """matrix_of in float64 against the product in long double."""
    if not precise.WIDER:
        pytest.skip("long double is no wider than double here")
    for seed in range(6):
        b = Builder((2, 6, 6), seed, torch.float64)
        b.conv(3, 3)
        b.average_pool(3, 1)
        b.flatten()
        b.dense(9)
        b.dense(5)
        graph = b.graph()
        layers = tuple(reversed([node.layer for node in graph.nodes]))
        assert all(isinstance(layer, Linear) for layer in layers)
        computed = matrix_of(layers)  # type: ignore[arg-type]
        assert computed is not None
        true = precise.long(torch.eye(72, dtype=torch.float64)).reshape(72, 2, 6, 6)
        for node in graph.nodes:
            true = precise.exact(_without_shift(node.layer), true)
        error = (precise.long(computed) - true.reshape(72, -1).T).astype(np.float64)
        allowed = _product_error(layers)  # type: ignore[arg-type]
        assert 0 < dense.norm(error) <= allowed  # so that a product error of 0 would be caught here
        assert allowed <= 1e-10 * dense.norm(computed.numpy())


def _without_shift(layer: Layer) -> Layer:
    match layer:
        case Dense():
            return Dense(layer.input_shape, layer.weight, None)
        case Conv():
            return Conv(
                layer.input_shape, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        case _:
            return layer


def test_rounding_that_decides_the_class_gives_no_radius() -> None:
    """Logits that differ by less than their rounding: float32 sees class 0, exactly it is class 1."""
    weight = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    big, small = 2.0**25, 1.0
    graph = _chain([Dense((3,), weight, torch.tensor([0.0, 0.25]))], (3,))
    x = torch.tensor([[big, small, -big], [big, -small, -big]])
    answer = Lipschitz().certify(Problem(graph, x))
    true = exact(graph)(x.to(torch.float64)).argmax(1)
    assert true.tolist() == [0, 1]
    wrong = answer.reference != true
    assert bool((answer.radius[wrong] == 0).all())


def _one_after_the_other(layer: Dense, *inputs: Tensor) -> Tensor:
    """`Dense.forward` for a kernel that sums from first to last: in which order torch does is up to the processor."""
    total = torch.zeros(len(inputs[0]), len(layer.weight), dtype=inputs[0].dtype)
    for i in range(inputs[0].shape[1]):
        total = total + inputs[0][:, i : i + 1] * layer.weight[:, i].to(total)
    return total if layer.bias is None else total + layer.bias.to(total)


def _require_no_radius(graph: Graph) -> None:
    """Where an overflow that all logits hide has changed the class."""
    x = torch.full((1, 5), 1e18)
    assert bool(torch.isfinite(graph(x)).all())
    answer = Lipschitz().certify(Problem(graph, x))
    wrong = answer.reference != exact(graph)(x.to(torch.float64)).argmax(1)
    assert bool(wrong.all()), "the overflow changes the class"
    assert float(answer.radius) == 0.0


def test_overflow_inside_a_sum_that_relu_hides_gives_no_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """-3e38 - 3e38 is minus infinity in float32, ReLU makes 0 of it, and all logits are finite."""
    monkeypatch.setattr(Dense, "forward", _one_after_the_other)
    weight = torch.tensor([[-3e20, -3e20, 3e20, 3e20, 3e20]])
    last = Dense((1,), torch.tensor([[0.0], [1e-30]]), torch.tensor([1e6, 0.0]))
    _require_no_radius(_chain([Dense((5,), weight, None), ReLU((1,)), last], (5,)))


def test_overflow_that_max_pooling_hides_gives_no_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where the entry at minus infinity should have been the largest of its window."""
    monkeypatch.setattr(Dense, "forward", _one_after_the_other)
    weight = torch.tensor([[-3e20, -3e20, 3e20, 3e20, 3e20], [0.0, 0.0, 0.0, 0.0, 1e-18]])
    layers: list[Layer] = [
        Dense((5,), weight, None),
        Reshape((2,), (1, 2)),
        MaxPool((1, 2), (2,), (2,), (0,), (1,), False),
        Reshape((1, 1), (1,)),
        Dense((1,), torch.tensor([[0.0], [1e-30]]), torch.tensor([1e6, 0.0])),
    ]
    _require_no_radius(_chain(layers, (5,)))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_give_no_radius(bad: float) -> None:
    """Infinity from overflow reaches the logits."""
    graph = _chain([Dense((2,), torch.tensor([[3e38, 3e38], [1.0, -1.0]]), None)], (2,))
    x = torch.tensor([[2.0, 2.0]] if bad == math.inf else [[-2.0, -2.0]] if bad == -math.inf else [[2.0, -2.0]])
    assert float(Lipschitz().certify(Problem(graph, x)).radius) == 0.0


def test_ties_give_no_radius() -> None:
    graph = _chain([Dense((2,), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None)], (2,))
    assert float(Lipschitz().certify(Problem(graph, torch.tensor([[0.3, 0.3]]))).radius) == 0.0


def test_tiny_weights_in_float64_do_not_vanish() -> None:
    """Weights whose squares underflow, and a layer that makes them large again."""
    first = Dense((2,), torch.tensor([[1e-170, 0.0], [0.0, 1e-170]], dtype=torch.float64), None)
    last = Dense((2,), torch.tensor([[1e170, 0.0], [0.0, 1e170]], dtype=torch.float64), None)
    for between in ([], [ReLU((2,))]):
        graph = _chain([first, *between, last], (2,), torch.float64)
        x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
        answer = Lipschitz().certify(Problem(graph, x))
        assert float(answer.radius) <= 1 / math.sqrt(2)


def _chain(layers: list[Layer], shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Graph:
    b = Builder(shape, 0, dtype)
    for layer in layers:
        b.add(layer)
    return b.graph()


# Ways to call it.


def test_radii_of_a_batch_are_those_of_its_samples(generator: torch.Generator) -> None:
    graph = GRAPHS["convolutional, Tanh, average"]
    x = torch.randn(5, *graph.input_shape, generator=generator, dtype=torch.float64)
    rho = torch.rand(5, 1, generator=generator, dtype=torch.float64)
    push = Push(graph)
    together = push.radii(rho, push.summarise(x)[1])
    for i in range(5):
        alone = push.radii(rho[i : i + 1], push.summarise(x[i : i + 1])[1])
        for name, radius in alone.items():
            assert float(radius) == pytest.approx(float(together[name][i]), rel=1e-9)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_batch_in_pieces_is_the_batch(
    graph: Graph, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(5, *graph.input_shape, generator=generator, dtype=torch.float64)
    push = Push(graph)
    logits, summary = push._summarise(x, None)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "CACHE", 1)
    assert push._for_each_thread == 1
    found, joined = push.summarise(x)
    torch.testing.assert_close(found, logits, rtol=1e-12, atol=1e-12)
    for whole, parts in zip(vars(summary).values(), vars(joined).values(), strict=True):
        assert list(whole) == list(parts)
        for name, value in whole.items():
            assert isinstance(value, torch.Tensor) == isinstance(parts[name], torch.Tensor)
            torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_norms_that_are_passed_over_are_not_missed(graph: Graph, generator: torch.Generator) -> None:
    """A layer whose diagonal is folded into it is not bounded itself, where only logits are asked for."""
    x = torch.randn(4, *graph.input_shape, generator=generator, dtype=torch.float64)
    rho, reference = torch.full((4, 1), 0.3, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    push, whole = Push(graph), Push(graph)
    whole._passed = set()
    _, summary = push.summarise(x)
    torch.testing.assert_close(
        push.changes(summary, reference)(rho), whole.changes(summary, reference)(rho), rtol=1e-3, atol=0.0
    )


def test_which_norms_are_passed_over() -> None:
    assert Push(GRAPHS["normalised, ReLU"])._passed
    assert not Push(GRAPHS["normalised, Sigmoid"])._passed  # whose Taylor bound reads them
    b = Builder((4,), 0)
    first = b.dense(3)
    second = b.batch_norm()
    b.add(Add(), first, second)
    assert not Push(b.graph())._passed  # the sum reads it, too


def test_it_runs_without_and_in_inference_mode() -> None:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    wanted = Lipschitz().certify(Problem(mlp(3, "Tanh", seed=3), x)).radius
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            graph = mlp(3, "Tanh", seed=3)
            assert torch.allclose(Lipschitz().certify(Problem(graph, x)).radius, wanted)


def test_autocast_does_not_enlarge_radii() -> None:
    """Under autocast layers compute in bfloat16, whose rounding is 2^16 times float32's."""
    graph = linear_chain(seed=2)
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    wanted = Lipschitz().certify(Problem(graph, x)).radius
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Lipschitz().certify(Problem(graph, x)).radius
    assert bool((found <= wanted * (1 + 1e-3)).all())


@pytest.mark.parametrize(
    "layer",
    [
        Reshape((2, 5000), (10_000,)),
        AveragePool((1, 100, 101), (2, 2), (1, 1), (0, 0), False, True, None),
    ],
)
def test_row_norms_need_no_huge_matrix(layer: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth activation behind a flattening or a pooling of an image: (10,000)^2 entries are not written out."""

    def refuse(chain: tuple[Linear, ...], *, always: bool = False) -> torch.Tensor | None:
        side = math.prod(chain[0].output_shape) * math.prod(chain[-1].input_shape)
        assert not always or side <= linear.DENSE_ENTRIES, f"a matrix of {side:.1g} entries is written out"
        return matrix_of(chain, always=always)

    monkeypatch.setattr(linear, "matrix_of", refuse)
    rows = layer.row_norms_upper
    assert rows.shape == layer.output_shape
    assert float(rows.max()) == pytest.approx(1.0 if isinstance(layer, Reshape) else 0.5)
