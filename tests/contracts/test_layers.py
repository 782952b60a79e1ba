"""Every layer of the catalogue through every contract that applies, and random geometries against the oracles."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pertbound.layers
from contracts import layer as contracts
from contracts.catalogue import Case, catalogue
from oracles import dense, loops
from oracles.exact import exact, long
from pertbound.layers import AveragePool, Conv, Diagonal, Layer, Linear, LpPool, MaxPool
from pertbound.layers.pool import windows_per_entry
from pertbound.numerics import convolution_norm_upper

CASES = catalogue()
ONE_INPUT = {name: case for name, case in CASES.items() if len(case.shapes) == 1}


DEAR = (
    *("kernel larger than half the input", "beyond its coarse grid", "large padding", "depthwise", "dilation 2"),
    *("two groups", "even kernel"),
)
"""Geometries of `Conv` that take more than a second."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in {f"Conv: 2-D, {kind}" for kind in DEAR}))
        for name, case in CASES.items()
    ],
)
def test_contracts(case: Case, generator: torch.Generator) -> None:
    contracts.check_layer(case.layer, case.shapes, generator)


def _concrete(layer: type[Layer]) -> set[type[Layer]]:
    found = set() if inspect.isabstract(layer) else {layer}
    return found.union(*(_concrete(heir) for heir in layer.__subclasses__()))


def test_every_layer_is_in_the_catalogue() -> None:
    known = {layer for layer in _concrete(Layer) if layer.__module__.startswith("pertbound.")}
    assert known == {type(case.layer) for case in CASES.values()}
    assert known == {
        getattr(pertbound.layers, name) for name in pertbound.layers.__all__ if name[0].isupper()
    } & _concrete(Layer)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_forward_is_the_definition(case: Case, generator: torch.Generator) -> None:
    inputs = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in case.shapes]
    computed = dense.in_float64(case.layer).forward(*inputs)
    true = exact(case.layer, *(long(part) for part in inputs))
    assert computed.shape == true.shape
    replaced = math.exp(-getattr(case.layer, "threshold", math.inf))
    assert np.allclose(long(computed), true, rtol=1e-12, atol=1e-12 + replaced)


ATTAINED = [
    *(name for name, case in CASES.items() if isinstance(case.layer, MaxPool | LpPool)),
    *("ReLU", "LeakyReLU 0.01", "LeakyReLU 0", "LeakyReLU 1", "LeakyReLU 3", "Tanh", "Sigmoid", "Softplus 1"),
]
NOT_ATTAINED = {
    "LpPool: 2-D, p = 1, overlapping": 0.8,  # Hoelder's inequality and the overlap are not sharp together
    "LpPool: 2-D, p = 1.5, overlapping": 0.75,
}


@pytest.mark.parametrize("name", ATTAINED)
def test_moduli_are_attained(name: str, generator: torch.Generator) -> None:
    """Linear layers: see `check_linear`."""
    assert contracts.check_modulus(CASES[name].layer, generator) >= NOT_ATTAINED.get(name, 0.99)


@pytest.mark.parametrize("name", [name for name, case in ONE_INPUT.items() if isinstance(case.layer, Linear)])
def test_the_oracle_agrees_with_automatic_differentiation(name: str, generator: torch.Generator) -> None:
    layer = CASES[name].layer
    assert isinstance(layer, Linear)
    at = torch.randn(layer.input_shape, generator=generator, dtype=torch.float64)
    written = dense.matrix(layer)
    size = max(np.abs(written).max(), 1e-300)
    assert np.allclose(dense.jacobian(layer, at) / size, written / size, atol=1e-13)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4)])
def test_from_batch_norm_is_batch_norm(shape: tuple[int, ...], affine: bool, generator: torch.Generator) -> None:
    features = shape[0]
    mean = torch.randn(features, generator=generator, dtype=torch.float64)
    variance = torch.rand(features, generator=generator, dtype=torch.float64)
    weight = torch.randn(features, generator=generator, dtype=torch.float64) if affine else None
    bias = torch.randn(features, generator=generator, dtype=torch.float64) if affine else None
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    layer = Diagonal.from_batch_norm(shape, mean, variance, weight, bias, 1e-3)
    wanted = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3)
    assert torch.allclose(layer.forward(x), wanted, rtol=1e-13, atol=1e-13)


# Random geometries.

small = st.integers(1, 3)


@st.composite
def geometries(draw: st.DrawFn, *, pooling: bool = False) -> dict[str, tuple[int, ...]]:
    dims = draw(st.integers(1, 2))

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(dims))

    window, stride, dilation = each(st.integers(1, 4)), each(st.integers(1, 4)), each(st.integers(1, 3))
    padding = tuple(draw(st.integers(0, q // 2 if pooling else 3)) for q in window)
    spatial = []
    for q, d, p in zip(window, dilation, padding, strict=True):
        reach = d * (q - 1) + 1 - 2 * p
        spatial.append(draw(st.integers(max(1, reach), max(1, reach) + (7 if dims == 2 else 12))))
    return {
        "spatial": tuple(spatial),
        "window": window,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
    }


@settings(max_examples=120, deadline=None, derandomize=True)
@given(geometry=geometries(), groups=st.integers(1, 3), inside=small, outside=small, seed=st.integers(0, 10**6))
def test_any_convolution(
    geometry: dict[str, tuple[int, ...]], groups: int, inside: int, outside: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups * outside, inside, *geometry["window"], generator=generator)
    if seed % 3 == 0:
        weight = weight.abs()
    layer = Conv(
        (groups * inside, *geometry["spatial"]),
        weight,
        None,
        geometry["stride"],
        geometry["padding"],
        geometry["dilation"],
        groups,
    )
    a = dense.matrix(layer)
    true = dense.norm(a)
    assert true * (1 - 1e-12) <= layer.norm_upper <= 1.001 * true + 1e-140
    assert layer.structural_norm_upper() >= true * (1 - 1e-12)
    assert layer.absolute_norm_upper >= dense.norm(np.abs(a)) * (1 - 1e-12)
    assert float((layer.row_norms_upper.reshape(-1) - torch.from_numpy(np.linalg.norm(a, axis=1))).min()) >= 0
    padded = [n + 2 * p for n, p in zip(geometry["spatial"], geometry["padding"], strict=True)]
    longer = [n + 200 for n in padded]  # a longer input contains this one, and is on the coarse grid
    everywhere = convolution_norm_upper(weight, longer, geometry["stride"], geometry["dilation"], groups)
    assert everywhere >= true * (1 - 1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(geometry=geometries(pooling=True), ceil=st.booleans(), seed=st.integers(0, 10**6))
def test_any_max_pool(geometry: dict[str, tuple[int, ...]], ceil: bool, seed: int) -> None:
    shape = (1, *geometry["spatial"])
    layer = MaxPool(shape, geometry["window"], geometry["stride"], geometry["padding"], geometry["dilation"], ceil)
    sizes = tuple(geometry[part] for part in ("spatial", "window", "stride", "padding", "dilation"))
    assume(all(inside for _, inside in loops.windows(*sizes, ceil)))  # such windows give minus infinity
    most = loops.most_windows(*sizes, ceil)
    bound = windows_per_entry(geometry["window"], geometry["stride"], geometry["dilation"])
    assert most <= bound
    radius = torch.ones(1, 1, dtype=torch.float64)
    # from a constant input, one entry that grows moves every window that holds it
    base = torch.zeros(math.prod(shape), *shape, dtype=torch.float64)
    grown = base + torch.eye(math.prod(shape), dtype=torch.float64).reshape(base.shape)
    moved = torch.linalg.vector_norm((layer.forward(grown) - layer.forward(base)).flatten(1), dim=1)
    assert float(moved.max()) == pytest.approx(math.sqrt(most), rel=1e-12)
    assert float(moved.max()) <= float(layer.modulus(radius)) * (1 + 1e-12)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 16, *shape, generator=generator, dtype=torch.float64)
    out = torch.linalg.vector_norm((layer.forward(x) - layer.forward(y)).flatten(1), dim=1, keepdim=True)
    into = torch.linalg.vector_norm((x - y).flatten(1), dim=1, keepdim=True)
    assert bool((out <= layer.modulus(into) * (1 + 1e-12)).all())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    geometry=geometries(pooling=True),
    ceil=st.booleans(),
    include=st.booleans(),
    divisor=st.none() | st.integers(1, 9),
)
def test_any_average_pool(geometry: dict[str, tuple[int, ...]], ceil: bool, include: bool, divisor: int | None) -> None:
    spatial = tuple(
        max(n, q - 2 * p) for n, q, p in zip(geometry["spatial"], geometry["window"], geometry["padding"], strict=True)
    )
    if len(spatial) == 1:
        divisor = None  # one-dimensional average pooling takes no divisor
    layer = AveragePool(
        (1, *spatial), geometry["window"], geometry["stride"], geometry["padding"], ceil, include, divisor
    )
    a = dense.matrix(layer)
    true = dense.norm(a)
    assert true * (1 - 1e-12) <= layer.norm_upper <= 1.001 * true
    assert layer.absolute_norm_upper >= true * (1 - 1e-12)
    assert float((layer.row_norms_upper.reshape(-1) - torch.from_numpy(np.linalg.norm(a, axis=1))).min()) >= 0
    x = np.random.default_rng(0).standard_normal((1, 1, *spatial))
    wanted = loops.average_pool(x, geometry["window"], geometry["stride"], geometry["padding"], ceil, include, divisor)
    assert np.allclose(layer.forward(torch.from_numpy(x)).numpy(), wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    geometry=geometries(pooling=True),
    p=st.sampled_from([1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0]),
    seed=st.integers(0, 10**6),
)
def test_any_lp_pool(geometry: dict[str, tuple[int, ...]], p: float, seed: int) -> None:
    spatial = tuple(max(n, q) for n, q in zip(geometry["spatial"], geometry["window"], strict=True))
    layer = LpPool((1, *spatial), p, geometry["window"], geometry["stride"])
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(spatial)
    base = torch.zeros(n + 18, 1, *spatial, dtype=torch.float64)
    moves = [torch.eye(n, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64)]
    window = torch.zeros(spatial, dtype=torch.float64)
    window[tuple(slice(0, q) for q in geometry["window"])] = 1.0  # one whole window: Hoelder's worst case
    moves += [window.reshape(1, -1), torch.randn(16, n, generator=generator, dtype=torch.float64)]
    moved = torch.cat(moves).reshape(base.shape)
    out = torch.linalg.vector_norm((layer.forward(base + moved) - layer.forward(base)).flatten(1), dim=1)
    into = torch.linalg.vector_norm(moved.flatten(1), dim=1, keepdim=True)
    assert bool((out <= layer.modulus(into).squeeze(1) * (1 + 1e-12)).all())
