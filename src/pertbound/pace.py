"""What the clock decided while a bound was sought, so that the same computation can be repeated without a clock.

A method under a budget of time is a fixed sequence of steps but for some decisions: whether there is time for another
round, how many domains a round takes. `Pace` records these numbers. With the recorded numbers a later run takes the
same steps, however fast its machine is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import final

from pertbound.errors import RunError

MOST = 10**7
"""More decisions than this are not taken again: an honest budget of hours makes fewer."""


@final
class Pace:
    """The decisions of one computation, in their order.

    `again` are those of an earlier computation, as `coded` gives them: then the clock is not asked. Once they are used
    up every decision is 0, which means no, none, or stop at every place that asks. Raises `RunError` where `again` is
    not such a list.
    """

    def __init__(self, again: object = None, *, end: float = math.inf) -> None:
        """`end`, by `time.monotonic`, is when whoever repeats loses patience: all later decisions are 0."""
        self._again = None if again is None else _decoded(again)
        self._end = end
        self._taken: list[int] = []

    def decide(self, now: int) -> int:
        """The earlier decision where there is one, else `now`."""
        value = int(now) if self._again is None else next(self._again, 0)
        value = value if time.monotonic() < self._end else 0
        self._taken.append(value)
        return value

    def coded(self) -> list[list[int]]:
        """All decisions so far as JSON keeps them: [value, how often it follows itself], ..."""
        return [[value, len(list(same))] for value, same in groupby(self._taken)]


def _decoded(coded: object) -> Iterator[int]:
    pairs: list[tuple[int, int]] = []
    for pair in _listed(coded):
        numbers = _listed(pair)
        if len(numbers) != 2 or not all(type(number) is int and 0 <= number <= MOST for number in numbers):
            raise RunError(f"a shard's decisions must be pairs of integers from 0 to {MOST}, got {pair!r:.80}")
        pairs.append((numbers[0], numbers[1]))  # type: ignore[arg-type]
    if sum(count for _, count in pairs) > MOST:
        raise RunError(f"a shard records more than {MOST} decisions, which are not taken again")
    return _flat(pairs)


def _flat(pairs: Iterable[tuple[int, int]]) -> Iterator[int]:
    for value, count in pairs:
        for _ in range(count):
            yield value


def _listed(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise RunError(f"a shard's decisions must be lists, got {value!r:.80}")
    return value
