"""Operator norms bounded from above, with the rounding of their own computation included.

Power iteration approaches a spectral norm from below, so it may only *guess*. Every number that leaves this
module under a name ending in `_upper` was *proved*: by a Cholesky factorisation that ran to its end, or by a
formula whose rounding error is added. All of it is float64; inputs are converted.

Rounding model (Higham, Accuracy and Stability of Numerical Algorithms, 2002, sections 2.2 and 3.1): a sum of n
products, in any order and with or without fused multiply-adds, is off by at most gamma(n) times the sum of the
products' absolute values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNIT64 = 2.0**-53
"""Half the distance from 1 to the next float64."""
UNIT32 = 2.0**-24
"""Half the distance from 1 to the next float32."""
TINY32 = 2.0**-126
"""Smallest normal float32: what one operation can lose to underflow when denormals are flushed."""
TINY64 = 2.0**-1022
"""Smallest normal float64."""

GRID = 8
"""Frequencies for each tap beyond the first on the grid where a convolution's symbol is evaluated: more costs more, and
what lies between the grid's points costs a factor of at most 1 / cos(pi / (2 GRID)) = 1.02 for each dimension."""

ROUGH, FINE = 16, 48
"""Steps of Lanczos' method for guesses: of a batch of matrices, and of one, or of the few that may be the largest."""

SLACK = 1e-9
"""Relative reserve on scalars computed in float64: fewer than 10^6 operations on terms of one sign lose
less than 10^6 * 2^-53 < 1.2e-10."""


def gamma(terms: int, unit: float = UNIT64) -> float:
    """The classical gamma_n = n u / (1 - n u); infinite when n u >= 1, where the model says nothing."""
    product = terms * unit
    return product / (1 - product) if product < 1 else math.inf


def tiny(unit: float) -> float:
    """The smallest normal number of the arithmetic of that unit roundoff.

    Where denormals are flushed, an operation reads each operand below it as 0 and may write 0 for a result below it: a
    product of w and x is off by at most tiny (abs(w) + abs(x) + 1), a sum of two by at most 3 tiny.
    """
    return TINY32 if unit == UNIT32 else TINY64


def spectral_norm_upper(matrices: Tensor, *, tolerance: float = 1e-4) -> float:
    """An upper bound on the largest spectral norm among `matrices`, of shape (..., m, n), real or complex.

    With A the side-reduced matrix (k = min(m, n) rows) and G = A A^*, a guess tau >= lambda_max(G) from
    power iteration is *proved* by factorising tau I - G: where Cholesky's algorithm in floating point runs
    to its end, lambda_min(tau I - G) >= -gamma_{k+1} trace (Rump, Verification of positive definiteness, BIT
    2006, Theorem 2.3; any order of evaluation). The error of forming G is at most gamma_n norm(A)_F^2
    (Higham, section 3.5). Complex arithmetic costs a factor below 4 in both. The result lies within about
    `tolerance` of the norm, relatively. Zero matrices give 0; NaN or infinity give infinity.
    """
    a = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
    if a.numel() == 0:
        return 0.0
    a = a.reshape(-1, *a.shape[-2:])
    parts = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a  # far cheaper to look at
    size = float(torch.linalg.vector_norm(parts, math.inf))
    if not size < math.inf:
        return math.inf
    if size == 0.0:
        return 0.0
    scale = 2.0 ** math.floor(math.log2(size))  # dividing by a power of two is exact but for underflow
    if scale == 0.0:
        return math.inf
    parts = parts / scale
    a = torch.view_as_complex(parts) if a.is_complex() else parts
    if a.shape[-2] > a.shape[-1]:
        a = a.mH
    k, n = a.shape[-2:]
    factor = 4.0 if a.is_complex() else 1.0
    gram = a @ a.mH
    frobenius = float(torch.linalg.vector_norm(parts, dim=tuple(range(1, parts.dim()))).square().max())
    tau = _largest_eigenvalue_proved(gram, tolerance)
    error = factor * (gamma(k + 4) * k * tau + gamma(n + 4) * frobenius + k * n * 2.0**-1000)
    return math.sqrt(tau + error) * (1 + 4 * UNIT64) * scale


def _largest_eigenvalue_proved(gram: Tensor, tolerance: float) -> float:
    """A tau for which tau I - G has a Cholesky factor in floating point, for every G of the batch.

    Starts from a rough guess, and from a better one for the matrices that fail there; then doubles its distance to
    what failed until the factorisation succeeds, and bisects. A matrix that has passed at a smaller tau need not be
    tried again.
    """
    failed_at = _largest_eigenvalue_guess(gram, ROUGH if len(gram) > 1 else FINE)  # of a batch only the largest matters
    step, rough = tolerance, len(gram) > 1
    while True:
        proved = failed_at * (1 + step)
        failing = gram[~_below(gram, proved)]
        if len(failing) == 0:
            break
        gram, failed_at, step = failing, proved, 2 * step
        if rough:
            better = _largest_eigenvalue_guess(gram, FINE)
            failed_at, step, rough = max(proved, better), tolerance, False
    while proved > failed_at * (1 + 2 * tolerance):
        middle = (proved + failed_at) / 2
        failing = gram[~_below(gram, middle)]
        if len(failing) == 0:
            proved = middle
        else:
            gram, failed_at = failing, middle
    return proved


def _below(gram: Tensor, tau: float) -> Tensor:
    """For each G of the batch: did Cholesky's algorithm on tau I - G run to its end?"""
    shifted = -gram
    diagonal = shifted.diagonal(dim1=-2, dim2=-1)
    diagonal += tau
    return torch.linalg.cholesky_ex(shifted).info == 0


def _largest_eigenvalue_guess(gram: Tensor, steps: int) -> float:
    """Largest eigenvalue of a batch of positive semidefinite matrices, by Lanczos' method: only ever a guess."""
    tiny = float(torch.finfo(torch.float64).tiny)
    if gram.shape[-1] <= 32 and gram.shape[0] <= 64:
        return max(float(torch.linalg.eigvalsh(gram).max()), tiny)
    single = gram.to(torch.complex64 if gram.is_complex() else torch.float32) if len(gram) > 1 else gram
    generator = torch.Generator(device=gram.device).manual_seed(0)
    start = torch.randn(gram.shape[:-1], generator=generator, dtype=torch.float64, device=gram.device)
    vector = torch.nn.functional.normalize(start, dim=-1).to(single.dtype).unsqueeze(-1)
    before, beta = torch.zeros_like(vector), vector.real.new_zeros(len(gram), 1, 1)
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(steps, gram.shape[-1])):
        image = single @ vector - beta * before
        alpha = (vector.mH @ image).real
        image = image - alpha * vector
        beta = torch.linalg.vector_norm(image, dim=-2, keepdim=True)
        diagonal.append(alpha.flatten())
        beside.append(beta.flatten())
        before, vector = vector, image / beta.clamp_min(1e-30)
    off = torch.stack(beside, 1)[:, :-1]
    tridiagonal = torch.diag_embed(torch.stack(diagonal, 1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return max(float(torch.linalg.eigvalsh(tridiagonal.to(torch.float64)).max()), tiny)


def frobenius_norm_upper(tensor: Tensor) -> float:
    """An upper bound on the Frobenius (for vectors: Euclidean) norm; any shape."""
    flat = tensor.detach().to(torch.float64).reshape(-1)
    return float(torch.linalg.vector_norm(flat)) * (1 + gamma(flat.numel() + 4)) + flat.numel() * 2.0**-500


def row_norms_upper(matrix: Tensor) -> Tensor:
    """Upper bounds on the Euclidean norms of the last dimension; shape (..., n) to (...), float64."""
    values = matrix.detach().to(torch.float64)
    n = values.shape[-1]
    return torch.linalg.vector_norm(values, dim=-1) * (1 + gamma(n + 4)) + n * 2.0**-500


def pair_distances_upper(rows: Tensor) -> Tensor:
    """Upper bounds on the distances between all pairs of rows: (k, n) to (k, k), float64, zero diagonal.

    norm(a - b)^2 = a.a + b.b - 2 a.b, off by at most gamma_{n+4} (norm(a) + norm(b))^2 in floating point.
    """
    a = rows.detach().to(torch.float64)
    gram = a @ a.mT
    squares = gram.diagonal()
    norms = squares.clamp_min(0).sqrt()
    exact = squares[:, None] + squares[None, :] - 2 * gram
    error = gamma(a.shape[1] + 8) * (norms[:, None] + norms[None, :]).square() + a.shape[1] * 2.0**-1000
    distances = (exact.clamp_min(0) + error).sqrt() * (1 + 4 * UNIT64)
    return distances.fill_diagonal_(0.0)


def convolution_norm_upper(
    kernel: Tensor, padded: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> float:
    """An upper bound on the spectral norm of a convolution of any number of spatial dimensions.

    `kernel` is (out, in / groups, *window), `padded` the spatial size of the input *with* its padding.

    1. Zero padding is an isometry and a 'valid' convolution is some rows of the circular one on the padded
       size, so its norm is at most the circular one's.
    2. A stride s is exact, not a dropping of rows: the s^dims sub-grids of the input become channels (a
       permutation), and the convolution one of stride 1 on the sub-grids.
    3. A circular convolution is block-diagonal in the Fourier basis: its norm is the largest spectral norm
       of the symbol W(theta) = sum_t W_t exp(i theta.t) over the N frequencies of each dimension.
    4. On a grid coarser than that, u^* W(theta) v is, up to a phase, of exponential type d = (taps - 1) / 2
       in each coordinate. A real function f of type d with its maximum |f(t0)| = M has
       |f(t)| >= M cos(d (t - t0)) for |t - t0| <= pi / (2 d) (M. Riesz; Duffin and Schaeffer 1938), and some
       grid point lies within pi / N of t0, so the supremum over *all* frequencies is at most the grid's
       maximum over prod cos(pi d / N). That bound holds for every input size.

    Which of 3 and 4 is used is decided per dimension: whichever grid is smaller.
    """
    weight = kernel.detach().to(torch.float64)
    if dilation and any(d > 1 for d in dilation):
        weight = _dilate(weight, dilation)
    if any(s > 1 for s in stride):
        weight, padded = _stride_to_channels(weight, padded, stride)
    window = weight.shape[2:]
    grid: list[int] = []
    factor = 1.0
    for size, taps in zip(padded, window, strict=True):
        coarse = GRID * (taps - 1) or 1
        if size <= coarse:
            grid.append(max(int(size), 1))
        else:
            grid.append(coarse)
            factor /= math.cos(math.pi * (taps - 1) / 2 / coarse) if taps > 1 else 1.0
    out_channels, in_channels = weight.shape[:2]
    per_group = weight.reshape(groups, out_channels // groups, in_channels, *window)
    worst = max(_symbol_norm_upper(per_group[g], grid) for g in range(groups))
    return worst * factor * (1 + 1e-14)


def _symbol_norm_upper(weight: Tensor, grid: Sequence[int]) -> float:
    """Largest spectral norm of the symbol over a frequency grid; the last dimension by conjugate symmetry."""
    window = weight.shape[2:]
    symbol = weight.to(torch.complex128)
    for axis, (frequencies, taps) in enumerate(zip(grid, window, strict=True)):
        last = axis == len(grid) - 1
        count = frequencies // 2 + 1 if last else frequencies
        rank = torch.arange(max(count, taps), device=weight.device)
        turns = torch.outer(rank[:count], rank[:taps]) % frequencies
        wave = torch.exp(2j * math.pi * turns.to(torch.float64) / frequencies)
        symbol = (symbol.movedim(2, -1) @ wave.mT).contiguous()  # the axis's taps go, its frequencies come last
    stack = symbol.reshape(*symbol.shape[:2], -1).permute(2, 0, 1)
    largest = 0.0
    entries = max(stack.shape[1] * stack.shape[2], 1)
    for chunk in stack.split(max(1, 2**24 // entries)):
        largest = max(largest, spectral_norm_upper(chunk))
    taps = math.prod(window)
    # |computed - exact symbol| <= gamma sum_t |W_t| entrywise; in norm at most gamma sqrt(taps) norm(W)_F
    return largest + gamma(16 * taps + 64) * math.sqrt(taps) * frobenius_norm_upper(weight)


def _dilate(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """The kernel with its holes written out as zeros."""
    sizes = [(q - 1) * d + 1 for q, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = weight.new_zeros(*weight.shape[:2], *sizes)
    wide[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weight
    return wide


def _stride_to_channels(weight: Tensor, padded: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """The stride-1 kernel on the sub-grids of the input: (out, in * prod(stride), *ceil(window / stride))."""
    window = weight.shape[2:]
    taps = [-(-q // s) for q, s in zip(window, stride, strict=True)]
    whole = weight.new_zeros(*weight.shape[:2], *(t * s for t, s in zip(taps, stride, strict=True)))
    whole[(slice(None), slice(None), *(slice(0, q) for q in window))] = weight
    split = [size for t, s in zip(taps, stride, strict=True) for size in (t, s)]
    dims = len(stride)
    phases = whole.reshape(*weight.shape[:2], *split).permute(
        0, 1, *(3 + 2 * i for i in range(dims)), *(2 + 2 * i for i in range(dims))
    )
    merged = phases.reshape(weight.shape[0], -1, *taps)
    return merged, tuple(-(-n // s) for n, s in zip(padded, stride, strict=True))
