"""The processes of a Ray cluster: shards are tasks. The only file that imports Ray, an extra."""

from __future__ import annotations

import functools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from pertbound.engine.base import Done, Engine, Failed, Make, said
from pertbound.errors import InputError, PertboundError, RunError
from pertbound.records import Shard


@final
@dataclass(frozen=True, kw_only=True)
class Ray(Engine):
    """Computes on a Ray cluster: the one at `address` ("auto": the one that this machine belongs to), or one that is
    started on this machine for the run.

    Each shard is a task on `cpus` processors and `gpus` graphics processors; the processes that compute tasks are kept,
    and each loads the model once. Nodes may come and go: Ray computes the tasks of a lost one elsewhere, `tries` times
    at most; a shard whose computation raises is tried as often. What `make` names must be readable from every node.
    Only this process writes.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    tries: int = 3

    def __post_init__(self) -> None:
        given = self.address
        if given is None or given in ("auto", "local") or "://" in given:
            return
        host, _, port = given.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 2**16):
            raise InputError(f"the address of a Ray cluster is auto or HOST:PORT, as in 127.0.0.1:6379; got {given!r}")

    def run(self, make: Make, indices: Sequence[int]) -> Iterator[Done | Failed]:
        """In the order in which they are finished. `make` must be hashable, and picklable."""
        if not indices:
            return
        ray = _ray()
        owned = not ray.is_initialized()
        if owned:
            _connect(ray, self.address)
        running: dict[Any, tuple[int, int]] = {}
        try:
            self._require_resources(ray)
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.tries - 1)(_compute)
            waiting = deque((index, 1) for index in indices)
            while waiting or running:
                while waiting and len(running) < self._room(ray):
                    index, attempt = waiting.popleft()
                    running[task.remote(make, index)] = (index, attempt)
                ready, _ = ray.wait(list(running), timeout=1.0)
                for one in ready:
                    index, attempt = running.pop(one)
                    try:
                        shard = ray.get(one)
                    except ray.exceptions.RayError as error:
                        cause = getattr(error, "cause", None)
                        if attempt < self.tries and not isinstance(cause, PertboundError):
                            waiting.append((index, attempt + 1))
                        else:
                            yield Failed(index, cause or RunError(f"Ray did not compute it: {said(error)}"), attempt)
                    else:
                        yield Done(index, shard)
        finally:
            for one in running:
                ray.cancel(one, force=False)
            if owned:
                ray.shutdown()

    def _room(self, ray: Any) -> int:
        """How many tasks may be under way: as many as the cluster has room for now, and half as many to follow."""
        have = ray.cluster_resources()
        slots = have.get("CPU", 1) / self.cpus if self.cpus else have.get("CPU", 1)
        if self.gpus:
            slots = min(slots, have.get("GPU", 0) / self.gpus)
        return max(2, int(1.5 * slots))

    def _require_resources(self, ray: Any) -> None:
        if not any(
            node["Alive"]
            and node["Resources"].get("CPU", 0) >= self.cpus
            and node["Resources"].get("GPU", 0) >= self.gpus
            for node in ray.nodes()
        ):
            raise RunError(
                f"no node of the Ray cluster has {self.cpus:g} processors and {self.gpus:g} graphics processors, which "
                "each shard is asked to have; ask for less, or add such a node"
            )


def _ray() -> Any:
    # Ray would otherwise have every worker build the environment of `uv run` or hook into it, and report usage
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs the package ray: pip install 'pertbound[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        _require_answer(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=None)
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"cannot connect to a Ray cluster at {address!r}: {error}. Start one with `ray start --head`, or leave the "
            "address out"
        ) from error


def _require_answer(address: str | None) -> None:
    """Ray itself would try for minutes. Raises `OSError`."""
    if address is None or address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


def _compute(make: Make, index: int) -> Shard:
    """In a worker."""
    return _loaded(make)(index)


@functools.lru_cache(maxsize=1)
def _loaded(make: Make) -> Callable[[int], Shard]:
    """What computes shards; loaded once in each process."""
    return make()
