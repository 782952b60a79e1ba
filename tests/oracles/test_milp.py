"""The oracle for smallest perturbations against closed forms, grids and the enumeration of all linear pieces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, lsq_linear, nnls
from torch import Tensor

from oracles import milp
from oracles.dense import matrix
from oracles.loops import windows
from oracles.milp import Exact, smallest_perturbation
from oracles.networks import SMOOTH, chain, random_conv_graph, random_relu_graph, random_smooth_graph
from pertbound.graph import INPUT, Graph, Node, in_float64
from pertbound.layers import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool,
    ReLU,
    Reshape,
)

Array = NDArray[np.float64]
NORMS = (1, 2, math.inf)
DUAL = {1: math.inf, 2: 2, math.inf: 1}


def sample(graph: Graph, generator: torch.Generator) -> tuple[Tensor, int]:
    x = torch.randn(graph.input_shape, generator=generator)
    return x, int(graph(x[None]).argmax())


def check(
    answer: Exact, graph: Graph, x: Tensor, reference: int, p: float, box: tuple[float, float] | None = None
) -> None:
    """The answer is tight, and its witness is what it says."""
    assert answer.distance_lower <= answer.distance_upper <= (1 + 1e-6) * answer.distance_lower
    witness = answer.witness
    assert witness is not None
    assert graph.derive(in_float64)(witness[None]).argmax() != reference
    assert answer.distance_upper == np.linalg.norm((witness - x.double()).numpy().ravel(), p)
    if box is not None:
        assert box[0] <= float(witness.min()) <= float(witness.max()) <= box[1]


# --- the enumeration of linear pieces: no binary variables, no bounds, other solvers --------------------------------


def pieces(
    layers: Sequence[Layer], a: Array, c: Array, g: Array, h: Array
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """The affine pieces a r + c on g r <= h of what the layers make of one such piece."""
    if not layers:
        yield a, c, g, h
        return
    layer, rest = layers[0], layers[1:]
    match layer:
        case Linear():
            m = matrix(layer)
            shift = layer.forward(torch.zeros(1, *layer.input_shape, dtype=torch.float64)).numpy().ravel()
            yield from pieces(rest, m @ a, m @ c + shift, g, h)
        case ReLU() | LeakyReLU():
            slope = layer.slope if isinstance(layer, LeakyReLU) else 0.0
            for signs in itertools.product((-1.0, 1.0), repeat=len(c)):
                s = np.array(signs)
                slopes = np.where(s > 0, 1.0, slope)
                more_g, more_h = np.concatenate([g, -s[:, None] * a]), np.concatenate([h, s * c])
                yield from pieces(rest, slopes[:, None] * a, slopes * c, more_g, more_h)
        case MaxPool():
            channels, *spatial = layer.input_shape
            shape = (layer.window, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
            held = [
                [int(np.ravel_multi_index((channel, *at), layer.input_shape)) for at in inside]
                for channel in range(channels)
                for _, inside in windows(tuple(spatial), *shape)
            ]
            for winners in itertools.product(*held):
                below = [(i, w) for w, entries in zip(winners, held, strict=True) for i in entries if i != w]
                loser, winner = np.array(below).T
                more_g, more_h = np.concatenate([g, a[loser] - a[winner]]), np.concatenate([h, c[winner] - c[loser]])
                yield from pieces(rest, a[list(winners)], c[list(winners)], more_g, more_h)
        case _:
            raise NotImplementedError


def nearest_in_polyhedron(g: Array, h: Array, p: float) -> float:
    """min norm(r)_p over g r <= h, infinite where there is none."""
    if (h >= 0).all():
        return 0.0
    return least_distance(g, h) if p == 2 else linear_program(g, h, p)


def linear_program(g: Array, h: Array, p: float) -> float:
    """min t with abs(r_i) <= t (p infinite), or the sum of t_i with abs(r_i) <= t_i (p = 1)."""
    rows, d = g.shape
    eye = np.eye(d)
    sizes = np.ones((d, 1)) if p == math.inf else eye
    k = sizes.shape[1]
    a = np.block([[g, np.zeros((rows, k))], [eye, -sizes], [-eye, -sizes]])
    cost = np.append(np.zeros(d), np.ones(k))
    result = linprog(cost, a, np.concatenate([h, np.zeros(2 * d)]), bounds=[(None, None)] * d + [(0, None)] * k)
    assert result.status in (0, 2)
    return float(result.fun) if result.status == 0 else math.inf


def least_distance(g: Array, h: Array) -> float:
    """p = 2, from the dual: non-negative least squares (Lawson and Hanson, Solving least squares problems, ch. 23).

    SciPy's `nnls` can lose its way among nearly parallel rows, so an answer is taken only with its multipliers, and
    `lsq_linear`, which is slower, is asked next; that there is none, only a linear program may say.
    """
    size = np.linalg.norm(g, axis=1)
    if (h[size == 0] < 0).any():
        return math.inf
    g, h = g[size > 0] / size[size > 0, None], h[size > 0] / size[size > 0]
    dual, unit = np.vstack([-g.T, -h]), np.append(np.zeros(g.shape[1]), 1.0)
    for solve in (
        lambda: nnls(dual, unit, maxiter=1000)[0],
        lambda: lsq_linear(dual, unit, (0, math.inf), method="bvls", tol=1e-15, max_iter=1000).x,
    ):
        u = solve()
        residual = dual @ u - unit
        if residual[-1] < -1e-12:
            r, multipliers = -residual[:-1] / residual[-1], u / -residual[-1]
            slack, square = h - g @ r, float(r @ r)
            if (slack >= -1e-8 * (1 + square**0.5)).all() and multipliers @ np.abs(slack) <= 1e-6 * (1 + square):
                return square**0.5
    assert linear_program(g, h, math.inf) == math.inf
    return math.inf


def enumerated(
    graph: Graph, x: Tensor, reference: int, box: tuple[float, float] | None, norms: Sequence[float] = NORMS
) -> dict[float, float]:
    """The smallest perturbation for each norm, by a projection onto every linear piece of every class's region."""
    graph = graph.derive(in_float64)
    at = x.double().numpy().ravel()
    d = len(at)
    g, h = np.zeros((0, d)), np.zeros(0)
    if box is not None:
        g, h = np.vstack([np.eye(d), -np.eye(d)]), np.append(np.full(d, box[1]) - at, at - box[0])
    best = dict.fromkeys(norms, math.inf)
    for a, c, g_all, h_all in pieces([node.layer for node in graph.nodes], np.eye(d), at, g, h):
        for j in set(range(graph.classes)) - {reference}:
            inside, room = np.vstack([g_all, a[reference] - a[j]]), np.append(h_all, c[j] - c[reference])
            for p in norms:
                best[p] = min(best[p], nearest_in_polyhedron(inside, room, p))
    return best


def pooled_graph(generator: torch.Generator) -> Graph:
    """Every linear layer the oracle knows, and overlapping maxima, over six entries."""
    normal = {"generator": generator, "dtype": torch.float64}
    layers = [
        Diagonal((1, 6), 1 + 0.3 * torch.randn(1, 6, **normal), 0.3 * torch.randn(1, 6, **normal)),
        Conv((1, 6), torch.randn(2, 1, 2, **normal), torch.randn(2, **normal), (1,), (0,), (1,), 1),
        AveragePool((2, 5), (2,), (1,), (0,), False, True, None),
        MaxPool((2, 4), (2,), (1,), (0,), (1,), False),
        Reshape((2, 3), (6,)),
        Dense((6,), torch.randn(3, 6, **normal), torch.randn(3, **normal)),
    ]
    return chain(layers, (1, 6), torch.float64)


def merged_graph(generator: torch.Generator) -> Graph:
    """A residual connection and a concatenation over two entries."""

    def dense(inputs: int, outputs: int) -> Dense:
        return Dense(
            (inputs,), torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
        )

    nodes = [
        Node("a", dense(2, 4), (INPUT,)),
        Node("b", ReLU((4,)), ("a",)),
        Node("c", dense(4, 4), ("b",)),
        Node("sum", Add(), ("c", "a")),
        Node("d", ReLU((4,)), ("sum",)),
        Node("beside", Concat(1), ("d", INPUT)),
        Node("logits", dense(6, 3), ("beside",)),
    ]
    return Graph(nodes, (2,))


ENUMERATED = {
    "one layer": lambda g: random_relu_graph(g, (3, 6, 3)),
    "two layers": lambda g: random_relu_graph(g, (4, 4, 3, 3)),
    "leaky": lambda g: random_relu_graph(g, (3, 5, 3), activation=lambda shape: LeakyReLU(shape, 0.1)),
    "steep": lambda g: random_relu_graph(g, (3, 5, 2), activation=lambda shape: LeakyReLU(shape, 3.0)),
    "pooled": pooled_graph,
}


@pytest.mark.parametrize("box", [None, (-1.0, 1.0)], ids=["everywhere", "box"])
@pytest.mark.parametrize("name", ENUMERATED)
def test_agrees_with_the_enumeration_of_pieces(
    name: str, box: tuple[float, float] | None, generator: torch.Generator
) -> None:
    graph = ENUMERATED[name](generator)
    x = 2 * torch.rand(graph.input_shape, generator=generator, dtype=graph.dtype) - 1
    reference = int(graph(x[None]).argmax())
    expected = enumerated(graph, x, reference, box)
    assert all(d > 0.0 for d in expected.values())
    for p in NORMS:
        answer = smallest_perturbation(graph, x, reference, p=p, box=box)
        if expected[p] == math.inf:
            assert answer.distance_upper == math.inf
            assert answer.distance_lower == math.inf if box else answer.distance_lower >= 1e4
            continue
        check(answer, graph, x, reference, p, box)
        assert answer.distance_lower <= expected[p] * (1 + 1e-7)
        assert answer.distance_upper >= expected[p] * (1 - 1e-7)


def test_ten_hidden_units_agree_with_the_enumeration(generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, (5, 5, 5, 2))
    x, reference = sample(graph, generator)
    expected = enumerated(graph, x, reference, None, norms=(2,))[2]
    answer = smallest_perturbation(graph, x, reference, p=2)
    assert answer.distance_lower == pytest.approx(expected, rel=1e-7)
    assert answer.distance_upper == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("seed", [5, 7, 8])
def test_windows_whose_largest_entry_changes(seed: int) -> None:
    """Seeds at which a wrong constant, a free choice or a lost candidate in a window moves the answer."""
    generator = torch.Generator().manual_seed(seed)
    graph = pooled_graph(generator)
    x = torch.randn(graph.input_shape, generator=generator, dtype=graph.dtype)
    reference = int(graph(x[None]).argmax())
    expected = enumerated(graph, x, reference, None, norms=(math.inf,))[math.inf]
    answer = smallest_perturbation(graph, x, reference, p=math.inf)
    check(answer, graph, x, reference, math.inf)
    assert answer.distance_lower == pytest.approx(expected, rel=1e-9)


def test_a_narrow_cone_far_away_is_bracketed() -> None:
    """Here another class wins only in a thin cone whose tip is 225 to 373 away, and grows by 0.002 per unit inside."""
    generator = torch.Generator().manual_seed(20171204)
    graph = random_relu_graph(generator, (4, 4, 3, 2))
    x = 2 * torch.rand(4, generator=generator) - 1
    reference = int(graph(x[None]).argmax())
    expected = enumerated(graph, x, reference, None)
    assert expected[math.inf] > 200
    for p in NORMS:
        answer = smallest_perturbation(graph, x, reference, p=p)
        assert 0.999 * expected[p] <= answer.distance_lower <= expected[p] * (1 + 1e-7)
        assert expected[p] * (1 - 1e-7) <= answer.distance_upper <= 1.001 * expected[p]


# --- closed forms and grids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_linear_classifiers_have_a_closed_form(p: float, generator: torch.Generator) -> None:
    """margin / dual norm of the difference of weights."""
    for size in (1, 2, 7):
        graph = random_relu_graph(generator, (size, 4))
        x, reference = sample(graph, generator)
        layer = graph.nodes[0].layer
        assert isinstance(layer, Dense)
        w, logits = layer.weight.double().numpy(), graph.derive(in_float64)(x[None].double())[0].numpy()
        others = [j for j in range(4) if j != reference]
        expected = min((logits[reference] - logits[j]) / np.linalg.norm(w[reference] - w[j], DUAL[p]) for j in others)
        answer = smallest_perturbation(graph, x, reference, p=p)
        check(answer, graph, x, reference, p)
        assert answer.distance_lower == pytest.approx(expected, rel=1e-7)


def boxed_distance(w: Array, margin: float, low: Array, high: Array, p: float) -> float:
    """min norm(r)_p over w r >= margin, low <= r <= high, low <= 0 <= high, by what an optimal r looks like."""
    room = np.where(w > 0, high, -low)  # how far each entry can go in its useful direction
    w = np.abs(w)
    if w @ room < margin:
        return math.inf
    if p == 1:  # the steepest entries first, each to its end
        order = np.argsort(-w)
        gained = np.append(0.0, np.cumsum((w * room)[order]))
        k = int(np.searchsorted(gained, margin)) - 1
        return float(room[order][:k].sum() + (margin - gained[k]) / w[order][k])
    short, long = 0.0, float(room.max() if p == math.inf else (room / w).max())
    for _ in range(200):  # entries move by t, or by t w, until they meet the box
        t = (short + long) / 2
        r = np.minimum(t if p == math.inf else t * w, room)
        short, long = (short, t) if w @ r >= margin else (t, long)
    return float(np.linalg.norm(np.minimum(long if p == math.inf else long * w, room), p))


@pytest.mark.parametrize("p", NORMS)
def test_linear_classifiers_in_a_box(p: float, generator: torch.Generator) -> None:
    bitten, closed = 0, 0
    for _ in range(8):
        graph = random_relu_graph(generator, (6, 2))
        x = torch.rand(6, generator=generator)
        low, high = x - 0.4 * torch.rand(6, generator=generator), x + 0.4 * torch.rand(6, generator=generator)
        reference = int(graph(x[None]).argmax())
        layer = graph.nodes[0].layer
        assert isinstance(layer, Dense)
        logits = graph.derive(in_float64)(x[None].double())[0].numpy()
        w = layer.weight.double().numpy()
        w, margin = w[1 - reference] - w[reference], float(logits[reference] - logits[1 - reference])
        expected = boxed_distance(w, margin, *((side.double() - x.double()).numpy() for side in (low, high)), p)
        answer = smallest_perturbation(graph, x, reference, p=p, box=(low, high))
        bitten += math.inf > expected > margin / np.linalg.norm(w, DUAL[p]) * 1.001
        closed += expected == math.inf
        if expected == math.inf:
            assert answer == Exact(math.inf, math.inf, None)
        else:
            check(answer, graph, x, reference, p)
            assert answer.distance_lower == pytest.approx(expected, rel=1e-7)
            assert answer.witness is not None
            assert bool((answer.witness >= low).all() & (answer.witness <= high).all())
    assert bitten, "no box made any difference"
    assert closed, "every box held an adversarial example"


def test_one_input_against_a_grid(generator: torch.Generator) -> None:
    checked = 0
    for _ in range(5):
        graph = random_relu_graph(generator, (1, 10, 10, 3))
        x, reference = sample(graph, generator)
        grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
        wrong = graph.derive(in_float64)((x.double() + grid)[:, None]).argmax(1) != reference
        if not bool(wrong.any()):
            continue
        checked += 1
        nearest = float(grid[wrong].abs().min())
        for p in NORMS:
            answer = smallest_perturbation(graph, x, reference, p=p)
            check(answer, graph, x, reference, p)
            assert answer.distance_lower <= nearest <= answer.distance_upper + 1.01e-4
    assert checked > 1


@pytest.mark.parametrize("make", [lambda g: random_relu_graph(g, (2, 12, 3)), merged_graph], ids=["chain", "merged"])
def test_two_inputs_against_a_grid(make: object, generator: torch.Generator) -> None:
    assert callable(make)
    for _ in range(2):
        graph = make(generator)
        x, reference = sample(graph, generator)
        for p in NORMS:
            answer = smallest_perturbation(graph, x, reference, p=p)
            check(answer, graph, x, reference, p)
            side = torch.linspace(-1.1, 1.1, 701, dtype=torch.float64) * answer.distance_upper
            r = torch.cartesian_prod(side, side)
            size = torch.linalg.vector_norm(r, p, dim=1)
            r, size = r[size < 1.1 * answer.distance_upper], size[size < 1.1 * answer.distance_upper]
            wrong = graph.derive(in_float64)(x.double() + r).argmax(1) != reference
            nearest = float(size[wrong].min())
            assert answer.distance_lower <= nearest <= 1.02 * answer.distance_upper


# --- what the answers say at the edges --------------------------------------------------------------------------------


def test_misclassified_samples_are_at_distance_0(generator: torch.Generator) -> None:
    graph = random_relu_graph(generator)
    x, reference = sample(graph, generator)
    answer = smallest_perturbation(graph, x, (reference + 1) % 3, p=2)
    assert (answer.distance_lower, answer.distance_upper) == (0.0, 0.0)
    assert answer.witness is not None
    assert torch.equal(answer.witness, x.double())


def test_a_class_that_never_wins_is_searched_up_to_a_radius() -> None:
    graph = chain([Dense((2,), torch.zeros(2, 2), torch.tensor([1.0, 0.0]))], (2,))
    for p in NORMS:
        answer = smallest_perturbation(graph, torch.zeros(2), 0, p=p)
        assert answer.distance_upper == math.inf
        assert answer.witness is None
        assert 1e4 <= answer.distance_lower < math.inf
        assert smallest_perturbation(graph, torch.zeros(2), 0, p=p, box=(-1.0, 1.0)) == Exact(math.inf, math.inf, None)


def test_a_narrow_spike_that_no_ray_meets_is_found() -> None:
    """Three ReLUs make a spike of width 2e-3 around (3, -2), after a ReLU per input; a long way from x."""
    width = 1e-3
    hats = [Dense((2,), torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3), torch.zeros(6)), ReLU((6,))]
    shift = -torch.tensor([3 - width, 3, 3 + width, -2 - width, -2, -2 + width])
    hats[0] = Dense((2,), hats[0].weight.double(), shift.double())
    tent = torch.tensor([[1.0, -2.0, 1.0, 0, 0, 0], [0, 0, 0, 1.0, -2.0, 1.0]], dtype=torch.float64) / width
    both = Dense((6,), tent.sum(0, keepdim=True), torch.tensor([-1.5], dtype=torch.float64))
    logits = Dense(
        (1,), torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([0.1, 0.0], dtype=torch.float64)
    )
    graph = chain([*hats, both, ReLU((1,)), logits], (2,), torch.float64)
    x = torch.tensor([0.3, 0.1], dtype=torch.float64)
    answer = smallest_perturbation(graph, x, 0, p=math.inf, box=(-5.0, 5.0))
    check(answer, graph, x, 0, math.inf)
    assert answer.distance_lower == pytest.approx(2.7 - 0.4 * width, abs=1e-6)  # there the sum of the hats is 1.6


@pytest.mark.parametrize("p", NORMS)
def test_a_time_limit_leaves_a_bracket(p: float, generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, (10, 25, 25, 4))
    x, reference = sample(graph, generator)
    answer = smallest_perturbation(graph, x, reference, p=p, time_limit=0.0)
    assert 0.0 <= answer.distance_lower < 0.99 * answer.distance_upper < math.inf


def test_refuses_what_it_does_not_know(generator: torch.Generator) -> None:
    graph = random_relu_graph(generator)
    with pytest.raises(ValueError, match="p = 1, 2 and infinity"):
        smallest_perturbation(graph, torch.zeros(4), 0, p=3)
    with pytest.raises(ValueError, match="one sample"):
        smallest_perturbation(graph, torch.zeros(1, 4), 0, p=2)
    smooth = random_smooth_graph(generator)
    with pytest.raises(NotImplementedError, match="Tanh"):
        smallest_perturbation(smooth, torch.zeros(4), int(smooth(torch.zeros(1, 4)).argmax()), p=2)


# --- size and solvers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("widths", [(5, 25, 25, 3), (10, 50, 3)], ids=str)
def test_fifty_hidden_units(widths: tuple[int, ...], p: float, generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, widths)
    x, reference = sample(graph, generator)
    check(smallest_perturbation(graph, x, reference, p=p), graph, x, reference, p)


@pytest.mark.parametrize("p", NORMS)
def test_a_convolutional_network(p: float, generator: torch.Generator) -> None:
    graph = random_conv_graph(generator)
    x = torch.rand(graph.input_shape, generator=generator)
    reference = int(graph(x[None]).argmax())
    check(smallest_perturbation(graph, x, reference, p=p, box=(0.0, 1.0)), graph, x, reference, p, (0.0, 1.0))


@pytest.mark.parametrize("p", [1, math.inf])
def test_the_two_solvers_agree(p: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_relu_graph(generator, (4, 10, 10, 3))
    x, reference = sample(graph, generator)
    one = smallest_perturbation(graph, x, reference, p=p)
    monkeypatch.setattr(milp, "_highs", milp._scip)
    other = smallest_perturbation(graph, x, reference, p=p)
    check(one, graph, x, reference, p)
    assert other.distance_lower == pytest.approx(one.distance_lower, rel=1e-6)


def test_random_networks_follow_their_generator() -> None:
    def logits(make: object, dtype: torch.dtype) -> Tensor:
        assert callable(make)
        graph = make(torch.Generator().manual_seed(3), dtype=dtype)
        return graph(torch.full((1, *graph.input_shape), 0.3, dtype=dtype))

    for make in (random_relu_graph, random_conv_graph, random_smooth_graph):
        assert torch.equal(logits(make, torch.float32), logits(make, torch.float32))
        assert logits(make, torch.float32).shape == (1, 3)
        assert torch.allclose(logits(make, torch.float64), logits(make, torch.float32).double(), atol=1e-5)
    generator = torch.Generator().manual_seed(3)
    kinds = {type(random_smooth_graph(generator, activation=make).nodes[1].layer).__name__ for make in SMOOTH}
    assert kinds == {"Tanh", "Sigmoid", "Softplus"}
