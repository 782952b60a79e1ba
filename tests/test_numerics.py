"""Operator norms from above: never below the true one, close to it, and fail-closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import dense
from pertbound import numerics
from pertbound.layers import Conv
from pertbound.numerics import (
    GRID,
    UNIT32,
    UNIT64,
    convolution_norm_upper,
    frobenius_norm_upper,
    gamma,
    pair_distances_upper,
    row_norms_upper,
    spectral_norm_upper,
)

CLOSE = 2.5e-4


def _true(matrices: Tensor) -> float:
    a = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64).numpy()
    return float(np.linalg.svd(a, compute_uv=False).max())


def _check(matrices: Tensor, close: float = CLOSE) -> None:
    true, upper = _true(matrices), spectral_norm_upper(matrices)
    assert upper >= true * (1 - 1e-12)
    assert upper <= true * (1 + close)


def _random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Spectral norms.


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    exponent=st.integers(-150, 150),
    rank=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_spectral_norms(rows: int, columns: int, exponent: int, rank: int, seed: int) -> None:
    rank = min(rank, rows, columns)
    a = _random(seed, rows, rank) @ _random(seed + 1, rank, columns)
    _check(a * 10.0**exponent)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 6),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    imaginary=st.booleans(),
)
def test_spectral_norms_of_batches(batch: int, rows: int, columns: int, seed: int, imaginary: bool) -> None:
    a = _random(seed, batch, rows, columns) * 10.0 ** _random(seed + 2, batch, 1, 1)
    if imaginary:
        a = a.to(torch.complex128) + 1j * _random(seed + 1, batch, rows, columns)
    _check(a)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (150, 150), (33, 400), (64, 65, 1), (300, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_spectral_norms_of_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    _check(_random(7, *shape, dtype=dtype))


@pytest.mark.parametrize("decay", [0.99, 0.9, 0.5, 0.1, 1e-3])
@pytest.mark.parametrize("size", [5, 60])
def test_spectral_norms_of_ill_conditioned_matrices(decay: float, size: int) -> None:
    left, right = (torch.linalg.qr(_random(seed, size, size)).Q for seed in (1, 2))
    values = decay ** torch.arange(size, dtype=torch.float64)
    upper = spectral_norm_upper(left * values @ right)
    assert 1 - 1e-12 <= upper <= 1 + CLOSE


@pytest.mark.parametrize("size", [3, 40, 150])
def test_spectral_norms_of_clustered_values(size: int) -> None:
    """Isometries, and a top value that a power iteration from a poor start needs long to find."""
    q = torch.linalg.qr(_random(3, size, size)).Q
    _check(q)
    _check(torch.eye(size, dtype=torch.float64))
    values = torch.ones(size, dtype=torch.float64)
    values[-1] = 1.001
    _check(q * values)
    _check(torch.diag(values))


def test_spectral_norm_of_a_top_direction_that_the_guess_misses() -> None:
    """The guess starts from a vector seeded with 0: a matrix whose top direction is orthogonal to that one."""
    n = 80
    start = torch.randn(1, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]
    hidden = _random(5, n)
    hidden -= (hidden @ start) / (start @ start) * start
    hidden /= torch.linalg.vector_norm(hidden)
    start = start / torch.linalg.vector_norm(start)
    _check(torch.outer(hidden, hidden) * 3 + torch.outer(start, start))
    _check(torch.outer(hidden, hidden) * 1000 + torch.outer(start, start))


@pytest.mark.parametrize("factor", [1e-9, 0.5, 0.999, 1.0, 1.001, 3.0])
@pytest.mark.parametrize("shape", [(40, 60), (70, 5, 9), (3, 40, 40)])
def test_no_guess_is_believed(factor: float, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is guessed, what is returned was proved; only a guess that is too large costs tightness."""
    guess = numerics._largest_eigenvalue_guess
    monkeypatch.setattr(numerics, "_largest_eigenvalue_guess", lambda gram, steps: factor * guess(gram, steps))
    _check(_random(9, *shape), CLOSE if factor <= 1 else factor)
    monkeypatch.setattr(numerics, "_below", lambda gram, tau: torch.ones(len(gram), dtype=torch.bool))
    if factor < 0.9:
        with pytest.raises(AssertionError):  # without the proof
            _check(_random(9, *shape), factor)


@pytest.mark.parametrize("shape", [(1, 100, 100), (3, 64, 90), (1, 500, 500)])
def test_guesses_are_good_enough_that_one_proof_will_do(shape: tuple[int, ...]) -> None:
    a = _random(4, *shape)
    gram = a @ a.mT
    true = float(torch.linalg.eigvalsh(gram).max())
    assert true * (1 - 1e-4) <= numerics._largest_eigenvalue_guess(gram, numerics.FINE) <= true * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-150, 1e-30, 1.0, 1e30, 1e150, 1e200, 1e300])
def test_spectral_norms_at_the_ends_of_the_range(scale: float) -> None:
    a = _random(1, 6, 5)
    upper = spectral_norm_upper(a * scale) / scale
    assert _true(a) * (1 - 1e-12) <= upper <= _true(a) * (1 + CLOSE)


def test_spectral_norms_of_mixed_scales() -> None:
    _check(torch.tensor([[1e150, 1.0], [1e-150, -1e149]], dtype=torch.float64))
    _check(torch.tensor([[1.0, 0.0], [0.0, 1e-170]], dtype=torch.float64))
    _check(torch.stack([_random(1, 4, 4) * 1e-100, _random(2, 4, 4)]))


def test_spectral_norms_of_denormal_numbers() -> None:
    assert spectral_norm_upper(torch.full((2, 2), 5e-324, dtype=torch.float64)) >= 1e-323
    assert spectral_norm_upper(torch.full((2, 2), 1e-45)) >= 2 * 1.4e-45


def test_spectral_norms_of_nothing() -> None:
    assert spectral_norm_upper(torch.zeros(3, 4)) == 0.0
    assert spectral_norm_upper(torch.zeros(2, 3, 4)) == 0.0
    assert spectral_norm_upper(torch.zeros(0, 4)) == 0.0
    assert spectral_norm_upper(torch.zeros(1, 1)) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_spectral_norms_fail_closed(bad: float) -> None:
    for shape in ((3, 4), (2, 50, 50)):
        a = _random(0, *shape)
        a[..., 0, 1] = bad
        assert spectral_norm_upper(a) == math.inf
    assert spectral_norm_upper(torch.full((2, 2), 1.7e308, dtype=torch.float64)) >= 1.7e308


def test_spectral_norms_leave_their_argument_alone() -> None:
    a = _random(0, 5, 5)
    before = a.clone()
    spectral_norm_upper(a)
    assert torch.equal(a, before)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_tolerance(tolerance: float) -> None:
    for size in (6, 70):
        a = _random(2, size, size + 5)
        true = _true(a)
        assert true * (1 - 1e-12) <= spectral_norm_upper(a, tolerance=tolerance) <= true * (1 + 2.5 * tolerance)


# Vectors.


def test_gamma() -> None:
    assert gamma(0) == 0.0
    assert gamma(3) >= 3 * UNIT64
    assert gamma(100, UNIT32) == pytest.approx(100 * 2.0**-24, rel=1e-4)
    assert gamma(2**24, UNIT32) == math.inf
    assert gamma(2**53) == math.inf
    assert all(gamma(n) < gamma(n + 1) for n in (0, 1, 10, 10**6))
    assert torch.finfo(torch.float32).eps / 2 == UNIT32
    assert torch.finfo(torch.float64).eps / 2 == UNIT64


def _exact_norm(values: Tensor) -> float:
    flat = [float(v) for v in values.to(torch.float64).flatten()]
    return math.hypot(*flat)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(n=st.integers(1, 500), exponent=st.integers(-140, 140), seed=st.integers(0, 10**6))
def test_norms_of_vectors(n: int, exponent: int, seed: int) -> None:
    v = _random(seed, n) * 10.0**exponent
    true = _exact_norm(v)
    for upper in (frobenius_norm_upper(v), float(row_norms_upper(v)), frobenius_norm_upper(v.reshape(1, n, 1))):
        assert true * (1 - 1e-15) <= upper <= true * (1 + 1e-9) + n * 1e-149
    f32 = v.to(torch.float32)
    if bool(torch.isfinite(f32).all()):
        assert frobenius_norm_upper(f32) >= _exact_norm(f32) * (1 - 1e-15)


def test_norms_of_vectors_whose_squares_leave_the_range() -> None:
    assert frobenius_norm_upper(torch.full((3,), 1e-170, dtype=torch.float64)) >= 1.7e-170
    assert frobenius_norm_upper(torch.full((3,), 1e200, dtype=torch.float64)) >= 1.7e200
    assert float(row_norms_upper(torch.full((1, 3), 1e-170, dtype=torch.float64))) >= 1.7e-170
    assert frobenius_norm_upper(torch.zeros(0)) == 0.0
    assert math.isnan(value := frobenius_norm_upper(torch.tensor([math.nan]))) or value == math.inf


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 12),
    n=st.integers(1, 40),
    offset=st.sampled_from([0.0, 1.0, 1e4, 1e8]),
    exponent=st.integers(-100, 100),
    seed=st.integers(0, 10**6),
)
def test_pair_distances(rows: int, n: int, offset: float, exponent: int, seed: int) -> None:
    a = (_random(seed, rows, n) + offset) * 10.0**exponent
    upper = pair_distances_upper(a)
    true = np.linalg.norm(a.numpy()[:, None].astype(np.longdouble) - a.numpy()[None].astype(np.longdouble), axis=2)
    assert upper.shape == (rows, rows)
    assert upper.dtype == torch.float64
    assert bool((upper.diagonal() == 0).all())
    norms = torch.linalg.vector_norm(a, dim=1).numpy()
    loose = 1e-6 * (norms[:, None] + norms[None]) + 1e-140
    assert bool((upper.numpy() >= true * (1 - 1e-15)).all())
    assert bool((upper.numpy() <= true + loose).all())


def test_pair_distances_of_rows_that_nearly_agree() -> None:
    base = _random(1, 1, 30)
    rows = torch.cat([base, base, base * (1 + 1e-12), -base])
    upper = pair_distances_upper(rows)
    assert float(upper[0, 1]) >= 0
    assert float(upper[0, 2]) >= 1e-12 * float(torch.linalg.vector_norm(base))
    assert float(upper[0, 3]) >= 2 * _exact_norm(base) * (1 - 1e-15)


def test_pair_distances_fail_closed() -> None:
    for bad in (math.nan, math.inf, 1e200):
        rows = torch.tensor([[bad, 0.0], [1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
        upper = pair_distances_upper(rows)
        for j in (1, 2):
            assert not float(upper[0, j]) < 1e199
    tiny = pair_distances_upper(torch.tensor([[1e-170], [3e-170]], dtype=torch.float64))
    assert float(tiny[0, 1]) >= 2e-170


# Convolutions.


def test_theorem_4_2_is_false() -> None:
    """A 5 x 5 kernel of ones on 28 x 28: operator norm 24.3, where the paper has the kernel's norm, 5."""
    ones = torch.ones(1, 1, 5, 5)
    layer = Conv((1, 28, 28), ones, None, (1, 1), (0, 0), (1, 1), 1)
    a = dense.matrix(layer)
    true = dense.norm(a)
    assert true == pytest.approx(24.3, abs=0.05)
    assert frobenius_norm_upper(ones) == pytest.approx(5.0)
    assert true * (1 - 1e-12) <= layer.norm_upper <= true * 1.001
    assert layer.structural_norm_upper() >= true
    top = torch.from_numpy(dense.top_direction(a).copy()).reshape(1, 1, 28, 28)
    assert float(torch.linalg.vector_norm(layer.apply(top))) > 4.8 * 5.0


KERNELS = {
    "ones": lambda taps: torch.ones(1, 1, *taps, dtype=torch.float64),
    "random": lambda taps: _random(1, 2, 3, *taps),
    "alternating": lambda taps: (
        torch.ones(1, 1, *taps, dtype=torch.float64) * (1 - 2 * (torch.arange(taps[-1], dtype=torch.float64) % 2))
    ),
    "one frequency": lambda taps: torch.cos(1.234 * torch.arange(taps[-1], dtype=torch.float64)).expand(1, 1, *taps),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
def test_convolution_norms_at_every_size(kernel: str, taps: int) -> None:
    """Sizes from the kernel's own to well beyond the coarse grid, GRID (taps - 1): an upper bound at each."""
    weight = KERNELS[kernel]((taps,))
    coarse = GRID * (taps - 1)
    sizes = [*range(taps, taps + 9), coarse - 1, coarse, coarse + 1, coarse + 2, 2 * coarse + 1, 90]
    previous = 0.0
    for size in sorted({n for n in sizes if n >= taps}):
        for stride in (1, 2, 3):
            layer = Conv((weight.shape[1], size), weight, None, (stride,), (0,), (1,), 1)
            true = dense.norm(dense.matrix(layer))
            upper = convolution_norm_upper(weight, (size,), (stride,), (1,), 1)
            assert upper >= true * (1 - 1e-12), (size, stride)
            if stride == 1:
                assert upper >= previous * (1 - 1e-9), size  # norms grow with the input; `previous` is a true one
                previous = true
    widest = dense.norm(dense.matrix(Conv((weight.shape[1], 90), weight, None, (1,), (0,), (1,), 1)))
    assert convolution_norm_upper(weight, (10**6,), (1,), (1,), 1) >= widest
    # close to the supremum over all sizes, which a circular convolution of many points nearly reaches
    grid = torch.exp(1j * torch.outer(torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64), torch.arange(taps)))
    symbol = torch.einsum("oit,ft->foi", weight.to(torch.complex128), grid)
    supremum = float(np.linalg.svd(symbol.numpy(), compute_uv=False).max())
    for size in (coarse + 1, 500):
        upper = convolution_norm_upper(weight, (size,), (1,), (1,), 1)
        assert supremum * (1 - 1e-5) <= upper <= supremum * 1.0001 / math.cos(math.pi / (2 * GRID))


@pytest.mark.parametrize("taps", [(2, 2), (3, 2), (3, 3)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_convolution_norms_on_mixed_grids(kernel: str, taps: tuple[int, int]) -> None:
    """One dimension at its true size, the other on the coarse grid."""
    weight = KERNELS[kernel](taps)
    for size in ((5, 14), (14, 5), (4, 40), (26, 3)):
        layer = Conv((weight.shape[1], *size), weight, None, (1, 1), (0, 0), (1, 1), 1)
        true = dense.norm(dense.matrix(layer))
        upper = convolution_norm_upper(weight, size, (1, 1), (1, 1), 1)
        assert true * (1 - 1e-12) <= upper


def test_convolution_norms_of_zero_and_of_scaled_kernels() -> None:
    assert convolution_norm_upper(torch.zeros(2, 2, 3, 3), (9, 9), (1, 1), (1, 1), 1) <= 1e-140
    weight = _random(1, 2, 2, 3, 3)
    one = convolution_norm_upper(weight, (9, 9), (1, 1), (1, 1), 1)
    for scale in (2.0**-100, 2.0**100):
        assert convolution_norm_upper(weight * scale, (9, 9), (1, 1), (1, 1), 1) == pytest.approx(scale * one)
    assert convolution_norm_upper(weight * math.inf, (9, 9), (1, 1), (1, 1), 1) == math.inf


def test_grouped_convolutions_take_the_worst_group() -> None:
    weight = torch.cat([_random(1, 2, 1, 3), 10 * _random(2, 2, 1, 3)])
    groups = [convolution_norm_upper(weight[i : i + 2], (12,), (1,), (1,), 1) for i in (0, 2)]
    assert convolution_norm_upper(weight, (12,), (1,), (1,), 2) == pytest.approx(max(groups), rel=1e-9)
