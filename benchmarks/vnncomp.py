"""The verification competition's properties (see --data-dir): what holds, what has a counterexample, how fast."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pertbound as pb


@dataclass(frozen=True)
class Instance:
    """A line of a family's `instances.csv`."""

    family: str
    network: Path
    claim: Path

    @property
    def name(self) -> str:
        """Network and property, unique among all."""
        return f"{self.family}/{self.network.stem}/{self.claim.name.partition('.vnnlib')[0]}"


def instances(folder: Path) -> Iterator[Instance]:
    """All that are there, family by family."""
    for listing in sorted(folder.glob("*/instances.csv")):
        with listing.open(encoding="utf-8", newline="") as lines:
            for network, claim, _ in csv.reader(lines):
                plain = listing.parent / claim
                packed = plain.with_name(f"{plain.name}.gz")
                yield Instance(listing.parent.name, listing.parent / network, plain if plain.exists() else packed)


def vnncomp(data_dir: Path, results: Path, *, seconds: float = 30.0) -> dict[str, Any]:
    """Ask all of them, `seconds` each; `results` keeps every verdict as it comes, and is gone on with."""
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    networks: dict[Path, pb.Graph] = {}
    for one in instances(data_dir / "networks"):
        if found.get(one.name, {}).get("limit") == seconds:
            continue
        if one.network not in networks:
            networks = {one.network: pb.from_onnx(one.network)}
        begun = time.perf_counter()
        verdict = pb.verify(networks[one.network], pb.read_vnnlib(one.claim), seconds=seconds)
        took = round(time.perf_counter() - begun, 2)
        found[one.name] = {"answer": verdict.answer.value, "by": verdict.by, "seconds": took, "limit": seconds}
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return summary(found)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """For each network: how many of each answer, who gave them, and the mean and longest time."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in found.items():
        groups.setdefault(name.rpartition("/")[0], []).append(row)
    result: dict[str, Any] = {}
    for group, rows in groups.items():
        times = [row["seconds"] for row in rows]
        by = Counter(row["by"].partition("(")[0].strip() for row in rows if row["answer"] != "unknown")
        result[group] = {
            **{answer: sum(row["answer"] == answer for row in rows) for answer in ("holds", "violated", "unknown")},
            "by": dict(by),
            "mean seconds": round(sum(times) / len(times), 2),
            "longest": max(times),
        }
    return result
