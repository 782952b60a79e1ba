"""One shard after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from pertbound.engine.base import Done, Engine, Failed, Make
from pertbound.errors import PertboundError


@final
@dataclass(frozen=True, kw_only=True)
class Local(Engine):
    """Computes in this process, with torch's threads or a GPU. A shard that fails is tried `tries` times in all, but
    once where the failure is pertbound's own refusal, which would be the same again.
    """

    tries: int = 2

    def run(self, make: Make, indices: Sequence[int]) -> Iterator[Done | Failed]:
        """In the order given."""
        work = make() if indices else None
        for index in indices:
            assert work is not None
            for attempt in range(1, self.tries + 1):
                try:
                    shard = work(index)
                except Exception as error:  # noqa: BLE001 - whatever it is, the other shards are computed
                    if attempt == self.tries or isinstance(error, PertboundError):
                        yield Failed(index, error, attempt)
                        break
                else:
                    yield Done(index, shard)
                    break
