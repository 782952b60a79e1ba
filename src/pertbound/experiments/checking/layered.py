"""`layers.json` against the run's files, and computed again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pertbound import chain, store
from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.layers import by_layer, certificate_for
from pertbound.experiments.work import OnProgress, Work
from pertbound.shard_files import run_id

CLOSE = 1e-6
"""Numbers of `layers.json` come out again to this relative difference on the machine that computed them."""


def compare_layers(
    folder: Path, work: Work, about: Mapping[str, Any], found: Trust, tell: OnProgress, *, again: bool
) -> None:
    """Whether `layers.json`, if any, belongs to these files and, with `again`, says what comes out again."""
    stored = store.read_layers(folder)
    if not stored:
        return
    names = (path.name for path in store.shards(folder).values())
    bound, run = stored.pop(chain.BOUND, None), stored.pop("run", None)
    if bound != chain.of_layers(about, names, stored) or run != run_id(about):
        found.contradict("layers.json was changed, or belongs to another run.json or other rows: hashes differ")
    asked = stored.pop("asked", None)
    if type(asked) is not int or asked < 0:
        found.contradict(f"layers.json says that {asked!r:.40} samples were asked for")
        return
    if not again:
        return
    tell("layers", 0, 1)
    now = by_layer(
        work.network,
        work.data,
        store.read(folder),
        losses=asked,
        certificate=certificate_for(work.methods),
        against_labels=work.against_labels,
        within=work.within,
    )
    for key, value in {**stored, **now}.items():
        _compare(key, stored.get(key), now.get(key), value, found)


def _compare(key: str, said: Any, now: Any, either: Any, found: Trust) -> None:
    if isinstance(either, Mapping) and isinstance(said, Mapping) and isinstance(now, Mapping):
        for name in {**said, **now}:
            _compare(f"{key}.{name}", said.get(name), now.get(name), said.get(name), found)
    elif not _same(said, now):
        text = f"layers.json: {key} comes out otherwise when it is computed again"
        (found.doubt if _numbers(said) and _numbers(now) else found.contradict)(text)


def _same(said: Any, now: Any) -> bool:
    if isinstance(said, list) and isinstance(now, list):
        return len(said) == len(now) and all(_same(a, b) for a, b in zip(said, now, strict=True))
    if isinstance(said, float) and isinstance(now, int | float):
        return math.isclose(said, now, rel_tol=CLOSE, abs_tol=1e-12)
    return type(said) is type(now) and bool(said == now)


def _numbers(value: Any) -> bool:
    """Whether this is nothing but numbers, in lists of any depth; an empty list is none."""
    if isinstance(value, list):
        return bool(value) and all(each is None or _numbers(each) for each in value)
    return isinstance(value, float)
