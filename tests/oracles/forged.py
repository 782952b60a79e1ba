"""Runs of a tiny network, and ways to forge them: every field of every file, naively or with all hashes made anew."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from oracles.onnx_models import model, node, weights, written
from pertbound import chain, store
from pertbound.experiments.job import Job, Sources, as_plain
from pertbound.experiments.layers import by_layer, certificate_for
from pertbound.experiments.provenance import about_run
from pertbound.experiments.question import Question
from pertbound.records import SCHEMA, Shard


def tiny(folder: Path) -> Path:
    """An ONNX file of a network of 4 inputs, 12 ReLUs and 3 classes."""
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v c", "y")]
    arrays = {"w": weights(4, 12), "b": weights(12, seed=1), "v": weights(12, 3, seed=2), "c": weights(3, seed=3)}
    return written(model(nodes, ["n", 4], arrays), folder, "tiny.onnx")


def points(folder: Path, network: Path, count: int = 5) -> Path:
    """Inputs in [0, 1], whose labels are the network's predictions but for the first."""
    rng = np.random.default_rng(3)
    x = rng.random((count, 4), dtype=np.float32)
    from onnx.reference import ReferenceEvaluator

    y = np.asarray(ReferenceEvaluator(onnx.load(network)).run(None, {"x": x})[0]).argmax(1)
    y[0] = (y[0] + 1) % 3
    path = folder / "points.npz"
    np.savez(path, x=x, y=y.astype(np.int64))
    return path


def computed(out: Path, sources: Sources, question: Question, *, verb: str, losses: int = 0, **sizes: int) -> Path:
    """A run as the command line makes it."""
    job = Job(sources=sources, question=question, **sizes)
    work = job.work(None)
    name = Path(sources.model).name
    title = f"{verb}: {name} on {work.data.name}"
    about = about_run(title, work, name, question.as_dict(), "pertbound by a test", as_plain(sources))
    with store.writing(out, about) as writer:
        for index in writer.missing:
            writer.put(index, work(index))
    layers = by_layer(
        work.network,
        work.data,
        store.read(out),
        losses=losses,
        certificate=certificate_for(work.methods),
        against_labels=work.against_labels,
        within=work.within,
    )
    store.write_layers(out, layers | {"asked": losses} if layers else {}, store.read_about(out))
    return out


@dataclass
class Forged:
    """A run's files, in memory, to be changed."""

    about: dict[str, Any]
    layers: dict[str, Any]
    shards: dict[int, Shard]

    @staticmethod
    def of(folder: Path) -> Forged:
        shards: dict[int, Shard] = {}
        for index, path in store.shards(folder).items():
            shard = store.part(folder, path)
            shards[index] = Shard(shard.rows, {n: shard.witnesses[n] for n in shard.witnesses}, dict(shard.made))
        return Forged(store.read_about(folder), store.read_layers(folder), shards)

    def carefully(self, out: Path) -> Path:
        """Written with all names and hashes made anew."""
        with store.writing(out, copy.deepcopy(self.about)) as writer:
            for index, shard in self.shards.items():
                derived = ("shard", "witnesses", "run", chain.DESCRIPTION)
                made = {k: v for k, v in shard.made.items() if k not in derived}
                writer.put(index, Shard(shard.rows, shard.witnesses, made))
        store.write_layers(out, {k: v for k, v in self.layers.items() if k not in ("run", chain.BOUND)}, self.about)
        return out

    def naively(self, honest: Path, out: Path) -> Path:
        """Written into a copy under the old names, with the old hashes."""
        shutil.copytree(honest, out)
        (out / "run.json").write_text(json.dumps(self.about, indent=2, sort_keys=True) + "\n")
        if self.layers:
            (out / "layers.json").write_text(json.dumps(self.layers, indent=2, sort_keys=True) + "\n")
        before = Forged.of(honest)
        for index, path in store.shards(out).items():
            old, new = before.shards[index], self.shards.get(index)
            if new is None:
                path.unlink()
                continue
            if not new.rows.equals(old.rows) or new.made != old.made:
                sink = io.BytesIO()
                pq.write_table(new.rows.replace_schema_metadata({b"pertbound": json.dumps(new.made)}), sink)
                path.write_bytes(sink.getvalue())
            if any(not np.array_equal(new.witnesses[n], old.witnesses[n]) for n in old.witnesses):
                np.savez_compressed(out / "witnesses" / str(old.made["witnesses"]), **new.witnesses)
        return out


Change = Callable[[Forged], None]


def column(name: str, kind: str, change: Callable[[Any], Any], *, shard: int = 0) -> Change:
    """Change a column of the rows of one guarantee."""

    def forge(run: Forged) -> None:
        rows = run.shards[shard].rows
        values, kinds = rows.column(name).to_pylist(), rows.column("guarantee").to_pylist()
        new = [change(v) if k == kind else v for v, k in zip(values, kinds, strict=True)]
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(name)
        rows = rows.set_column(place, field, pa.array(new, field.type))
        run.shards[shard] = Shard(rows, run.shards[shard].witnesses, run.shards[shard].made)

    return forge


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if value is None:
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.5 + 0.01
    if isinstance(value, list):
        return [other(value[0]), *value[1:]] if value else [0]
    if isinstance(value, Mapping):
        return {"x": 1}
    return f"{value} "


def every_column(kinds: tuple[str, ...]) -> Iterator[tuple[str, Change]]:
    """Every column of the schema, in the rows of every kind, and numbers that are absent or NaN."""
    for field in SCHEMA:
        for kind in kinds:
            yield f"{kind} {field.name}", column(field.name, kind, other)
            yield f"{kind} {field.name} absent", column(field.name, kind, lambda _: None)
            if pa.types.is_floating(field.type):
                yield (
                    f"{kind} {field.name} nan",
                    column(field.name, kind, lambda v: None if v is None else float("nan")),
                )
                yield f"{kind} {field.name} less", column(field.name, kind, lambda v: None if v is None else v * 0.7)


def every_leaf(tree: Mapping[str, Any], pick: Callable[[Forged], Any], place: str = "") -> Iterator[tuple[str, Change]]:
    """Every leaf of a JSON file changed, and removed."""
    for key, value in tree.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, Mapping):
            yield from every_leaf(value, lambda run, pick=pick, key=key: pick(run)[key], name)
            continue

        def forge(run: Forged, pick: Any = pick, key: str = key) -> None:
            pick(run)[key] = other(pick(run)[key]) if pick(run)[key] is not None else "something"

        def remove(run: Forged, pick: Any = pick, key: str = key) -> None:
            del pick(run)[key]

        yield name, forge
        yield f"{name} removed", remove


def every_array() -> Iterator[tuple[str, Change]]:
    """Every array of the witnesses."""
    from pertbound.experiments.checking.form import ARRAYS

    for name in ARRAYS:

        def forge(run: Forged, name: str = name) -> None:
            shard = run.shards[0]
            array = shard.witnesses[name].copy()
            array[-1] += 1 if array.dtype.kind in "iu" else np.float32(1e-3)
            run.shards[0] = Shard(shard.rows, dict(shard.witnesses) | {name: array}, shard.made)

        yield name, forge
