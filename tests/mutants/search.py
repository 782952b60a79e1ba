"""Searches with one thing wrong each."""

from __future__ import annotations

import torch
from torch import Tensor

from contracts.search import Margin
from pertbound.numerics import SLACK
from pertbound.search import LARGEST, largest_certified


def upper_end(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Returns the end of the last bracket that failed."""
    low = largest_certified(margin, like, tolerance=tolerance)
    return torch.where((low > 0) & (low < 0.99 * LARGEST), low * (1 + tolerance), low)


def middle(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Returns a radius inside the last bracket, which nobody evaluated."""
    return largest_certified(margin, like, tolerance=tolerance) * (1 - tolerance / 2)


def unshrunk(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Returns the evaluated radius itself, without the reserve."""
    return largest_certified(margin, like, tolerance=tolerance) / (1 - SLACK) ** 2


def nan_passes(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Asks whether the margin is not negative, which NaN satisfies."""
    return largest_certified(lambda r: torch.nan_to_num(margin(r), nan=1.0), like, tolerance=tolerance)


def ties_pass(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Takes a margin of 0 for certified."""

    def raised(radius: Tensor) -> Tensor:
        value = margin(radius)
        return torch.where(value == 0, torch.full_like(value, 1e-9), value)

    return largest_certified(raised, like, tolerance=tolerance)


def unlimited(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Answers infinity where nothing fails."""
    found = largest_certified(margin, like, tolerance=tolerance)
    return torch.where(found > 0.99 * LARGEST, torch.inf, found)


def one_bisection(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Stops long before the tolerance."""
    return largest_certified(margin, like, tolerance=0.3)


def batch_minimum(margin: Margin, like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """One radius for the whole batch."""
    found = largest_certified(margin, like, tolerance=tolerance)
    return torch.full_like(found, float(found.min()))


SEARCHES = (upper_end, middle, unshrunk, nan_passes, ties_pass, unlimited, one_bisection, batch_minimum)
