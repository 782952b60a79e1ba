"""Local response normalisation: its windows, and what it says of a sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pertbound.layers import LocalResponse


def windows(squares: Tensor, size: int) -> Tensor:
    """Sums over channels i - size // 2 to i + (size - 1) // 2, one by one."""
    n = squares.shape[1]
    parts = [squares[:, max(0, i - size // 2) : min(n, i + (size - 1) // 2 + 1)].sum(1) for i in range(n)]
    return torch.stack(parts, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-18, 3e-23, 1e15])
@pytest.mark.parametrize("shape", [(7, 3, 2), (3, 4), (1, 5)])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_local_is_the_largest_window_from_above(
    dtype: torch.dtype, scale: float, shape: tuple[int, ...], size: int, generator: torch.Generator
) -> None:
    """Where squares underflow, too: 3e-23 squared is a denormal float32, 1e-18 squared is small but normal."""
    x = (scale * torch.randn(4, *shape, generator=generator)).to(dtype)
    exact = windows(x.to(torch.float64).square(), size).flatten(1).amax(1).sqrt()
    told = LocalResponse(shape, size, 1e-4, 0.75, 1.0).local(x)
    assert told is not None
    assert told.dtype == torch.float64
    assert bool((told >= exact).all())
    assert bool((told <= exact * (1 + 1e-5) + 4e-19).all())


def test_local_of_what_overflows_says_nothing() -> None:
    layer = LocalResponse((3, 2), 3, 1e-4, 0.75, 1.0)
    told = layer.local(torch.full((1, 3, 2), 1e30))
    assert told is not None
    assert float(told) == math.inf
    rho = torch.ones(1, 1, dtype=torch.float64)
    assert torch.equal(layer.modulus(rho, at=told[:, None]), layer.modulus(rho))
