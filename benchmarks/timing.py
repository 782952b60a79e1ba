"""Times as ratios: two pieces of work in turn, several times, so that a machine's drift cancels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Pairwise ratios of the times of two pieces of work, and the median times themselves (seconds)."""

    median: float
    smallest: float
    largest: float
    seconds: float
    reference_seconds: float

    def __str__(self) -> str:
        return f"{self.median:.2f} (from {self.smallest:.2f} to {self.largest:.2f})"


def ratio(work: Callable[[], object], reference: Callable[[], object], repeats: int = 9) -> Ratio:
    """Time reference and work in turn, `repeats` times after one round that is not counted."""
    pairs: list[tuple[float, float]] = []
    for round_ in range(repeats + 1):
        start = time.perf_counter()
        reference()
        middle = time.perf_counter()
        work()
        end = time.perf_counter()
        if round_:
            pairs.append((end - middle, middle - start))
    ratios = [a / b for a, b in pairs]
    return Ratio(
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )
