"""What an engine is, and how a run is driven by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from pertbound.records import Shard
from pertbound.store import Writer

Make = Callable[[], Callable[[int], Shard]]
"""Gives, in the process that computes, what computes a shard from its number."""
HOPELESS = 3
"""So many shards that fail before one succeeds end the run: they fail for a reason that the others share."""


@final
@dataclass(frozen=True)
class Done:
    """A shard that was computed."""

    index: int
    shard: Shard


@final
@dataclass(frozen=True)
class Failed:
    """A shard that was tried as often as it should be, and the last error."""

    index: int
    error: Exception
    tries: int


class Engine(ABC):
    """Computes shards; a frozen dataclass of its options."""

    @abstractmethod
    def run(self, make: Make, indices: Sequence[int]) -> Iterator[Done | Failed]:
        """Every one of these shards, in the order in which they are finished. No more of them are held than are being
        computed.
        """


def drive(engine: Engine, make: Make, writer: Writer, on_shard: Callable[[int], None] | None = None) -> list[Failed]:
    """Compute and write all shards of a run that are missing; returns those that failed, which are missing still.

    `on_shard` is told the number of each shard that was written. Where the first ones fail and none succeeds, the first
    error is raised as it is.
    """
    failed: list[Failed] = []
    fresh, left = writer.empty, writer.missing
    for result in engine.run(make, left):
        if isinstance(result, Failed):
            failed.append(result)
            nothing = fresh and writer.empty
            if nothing and len(failed) == min(HOPELESS, len(left)):
                raise failed[0].error
            continue
        writer.put(result.index, result.shard)
        if on_shard is not None:
            on_shard(result.index)
    return sorted(failed, key=lambda one: one.index)


def said(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
