"""A check confirms honest runs, and believes no forged one."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from contracts.catalogue import catalogue
from oracles.forged import Change, Forged, column, computed, every_array, every_column, every_leaf, points, tiny
from pertbound import store
from pertbound.errors import InputError, PertboundError
from pertbound.experiments.check import check
from pertbound.experiments.checking.described import INFORMATIVE
from pertbound.experiments.checking.findings import Verdict
from pertbound.experiments.job import Sources
from pertbound.experiments.provenance import weights_sha256
from pertbound.experiments.question import Question
from pertbound.graph import INPUT, Graph, Node
from pertbound.records import Shard

BOX = (0.0, 1.0)
TOLD_ONLY = ("seconds",)
"""Columns of rows from which nothing can be computed."""
MADE_ONLY = ("device", "threads", "once")
"""The same of how a shard was made."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("tiny")
    network = tiny(folder)
    return Sources(model=str(network), data=str(points(folder, network)))


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The same network for all checks, whose scales are balanced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sources, "network", functools.cache(Sources.network))
        yield


@pytest.fixture(scope="module")
def simple(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick bracket against labels, in two shards, with an estimate."""
    question = Question(attacks=("fgs",), methods=("lipschitz", "published"), labels=True, max_epsilon=1.0)
    out = tmp_path_factory.mktemp("runs") / "simple"
    return computed(out, sources, question, verb="Bracketed", shard_size=3)


@pytest.fixture(scope="module")
def honest(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bracket against labels in a box, with two shards and layers."""
    question = Question(
        attacks=("deepfool", "fgs"), methods=("lipschitz", "quadratic"), steps=5, box=BOX, labels=True, max_epsilon=0.05
    )
    out = tmp_path_factory.mktemp("runs") / "honest"
    return computed(out, sources, question, verb="Bracketed", losses=2, shard_size=3)


@pytest.fixture(scope="module")
def published(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    question = Question(methods=("published",))
    return computed(tmp_path_factory.mktemp("runs") / "published", sources, question, verb="Certified")


@pytest.fixture(scope="module")
def budget(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So small a budget that every sample gets the first rung of each side only: wide brackets."""
    out = tmp_path_factory.mktemp("runs") / "budget"
    return computed(out, sources, Question(budget=1e-6), verb="Bracketed")


def verdict(folder: Path, samples: int | None = None) -> Verdict:
    """Of a check; a refusal to read the run counts as a contradiction."""
    try:
        return check(folder, samples=samples).verdict
    except PertboundError:
        return Verdict.CONTRADICTED


def forge(honest: Path, out: Path, change: Change) -> Path:
    run = Forged.of(honest)
    change(run)
    return run.carefully(out)


@pytest.mark.parametrize("run", ["simple", pytest.param("honest", marks=pytest.mark.slow)])
def test_honest_runs_are_confirmed(run: str, request: pytest.FixtureRequest) -> None:
    found = check(request.getfixturevalue(run), samples=None)
    assert found.verdict is Verdict.CONFIRMED, (found.contradictions, found.doubts)
    assert found.certificates.confirmed == found.certificates.in_run == (5 if run == "simple" else 10)
    assert found.witnesses.confirmed == found.witnesses.in_run > 0
    assert found.others.confirmed == found.others.checked > 0


def _swapped(run: Forged) -> None:
    """Half of the samples are dropped."""
    shard = run.shards[0]
    run.shards[0] = Shard(shard.rows.slice(0, len(shard.rows) // 2), shard.witnesses, shard.made)


def _renamed(name: str | None) -> Change:
    bolder = column("l2", "certified", lambda r: r * 1.5)

    def change(run: Forged) -> None:
        bolder(run)
        column("method", "certified", lambda _: name)(run)

    return change


def _to_predictions(run: Forged) -> None:
    """Labels become predictions, and reference classes with them."""
    for index, shard in run.shards.items():
        rows = shard.rows
        for name in ("label", "reference"):
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(name), rows.column("predicted"))
        run.shards[index] = Shard(rows, shard.witnesses, shard.made)


STORIES: dict[str, Change] = {
    "half of the samples dropped": _swapped,
    "a shard dropped": lambda run: run.shards.pop(1) and None,
    "radii times 1.5": column("l2", "certified", lambda r: r * 1.5),
    "renamed": _renamed("branch and bound(9 s)"),
    "renamed to auto": _renamed("auto(1 s)"),
    "no method": _renamed(None),
    "an invented method": column("method", "certified", lambda _: "oracle"),
    "labels are predictions": _to_predictions,
    "an estimate called certified": column("guarantee", "witness", lambda _: "certified"),
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("run", ["simple", pytest.param("honest", marks=pytest.mark.slow)])
def test_what_was_believed_once(run: str, story: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    out = forge(request.getfixturevalue(run), tmp_path / "run", STORIES[story])
    assert verdict(out) is not Verdict.CONFIRMED


@pytest.mark.slow
@pytest.mark.parametrize("careful", [False, True])
def test_every_column_is_protected(honest: Path, published: Path, tmp_path: Path, careful: bool) -> None:
    believed: list[str] = []
    runs = {"bracket": (honest, ("certified", "witness", "none")), "published": (published, ("estimate",))}
    for run, (folder, kinds) in runs.items():
        for number, (name, change) in enumerate(every_column(kinds)):
            forged, before = Forged.of(folder), Forged.of(folder)
            change(forged)
            if all(forged.shards[i].rows.equals(before.shards[i].rows) for i in before.shards):
                continue  # nothing of that kind is there to be changed
            out = tmp_path / f"{run}-{number}"
            written = forged.carefully(out) if careful else forged.naively(folder, out)
            if verdict(written, None if careful else 0) is Verdict.CONFIRMED:
                believed.append(f"{run}: {name}")
    told = {
        f"{run}: {kind} {c}{end}"
        for run, (_, kinds) in runs.items()
        for kind in kinds
        for c in TOLD_ONLY
        for end in ("", " less")
    }
    assert set(believed) <= (told if careful else set()), believed


@pytest.mark.slow
@pytest.mark.parametrize("careful", [False, True])
def test_every_field_of_the_json_files_is_protected(honest: Path, tmp_path: Path, careful: bool) -> None:
    run = Forged.of(honest)
    tables = {
        "run.json": every_leaf(run.about, lambda r: r.about),
        "layers.json": every_leaf(run.layers, lambda r: r.layers),
        "witnesses": every_array(),
    }
    believed: list[str] = []
    for table, changes in tables.items():
        for number, (name, change) in enumerate(changes):
            if careful and table == "layers.json" and name.split(" ")[0].startswith(("bound", "run")):
                continue  # which are made anew
            forged = copy.deepcopy(run)
            change(forged)
            out = tmp_path / f"{table}-{number}"
            try:
                written = forged.carefully(out) if careful else forged.naively(honest, out)
            except (KeyError, PertboundError):
                continue  # it cannot even be written
            if verdict(written, None if careful else 0) is Verdict.CONFIRMED:
                believed.append(f"{table}: {name}")
    told = [name for name in believed if name.removeprefix("run.json: ").startswith(INFORMATIVE)]
    # how rows were computed, or an option that no row of this run depends on: not what they claim
    shape = [f"run.json: {n}" for n in ("options.batch_size", "shards.size", "options.max_epsilon", "options.seconds")]
    rest = [name for name in believed if name not in told and name not in shape]
    assert not rest
    assert careful or not believed


@pytest.mark.slow
def test_every_field_of_how_shards_were_made_is_protected(budget: Path, tmp_path: Path) -> None:
    run = Forged.of(budget)
    for number, (name, change) in enumerate(every_leaf(dict(run.shards[0].made), lambda r: r.shards[0].made)):
        forged = copy.deepcopy(run)
        change(forged)
        assert verdict(forged.naively(budget, tmp_path / f"naive-{number}"), 0) is not Verdict.CONFIRMED, name
        if name.partition(" ")[0] not in (*MADE_ONLY, "shard", "witnesses", "run", "description"):  # made anew
            careful = forged.carefully(tmp_path / f"careful-{number}")
            assert check(careful, samples=None).verdict is not Verdict.CONFIRMED or "decisions" in name, name


@pytest.mark.slow
def test_radii_moved_towards_witnesses(budget: Path, tmp_path: Path) -> None:
    assert verdict(budget) is Verdict.CONFIRMED

    def change(run: Forged) -> None:
        rows = run.shards[0].rows
        sizes = rows.column("l2").to_pylist()
        half = len(sizes) // 2
        moved = [low + 0.9 * (high - low) for low, high in zip(sizes[:half], sizes[half:], strict=True)]
        at = iter(moved)
        column("l2", "certified", lambda _: next(at))(run)

    out = forge(budget, tmp_path / "run", change)
    found = check(out, samples=None)
    assert found.verdict is not Verdict.CONFIRMED
    assert found.certificates.confirmed < found.certificates.checked


GRID: list[dict[str, Any]] = [
    {"methods": ("lipschitz",)},
    {"methods": ("lipschitz", "interval", "linear", "quadratic"), "norm": "linf", "box": BOX, "steps": 9},
    {"methods": ("published", "published-curvature-free")},
    {"methods": ("auto",), "seconds": 0.05, "labels": True},
    {"methods": ("branch-and-bound",), "seconds": 0.05, "attacks": ("ddn",)},
    {"methods": ("auto",), "seconds": 0.05, "norm": "l1", "attacks": ("fmn",)},
    {"attacks": ("fgs",)},
    {"attacks": ("fgs", "deepfool", "pgd"), "labels": True, "box": BOX},
    {"attacks": ("ensemble",), "norm": "linf"},
    {"methods": ("lipschitz",), "attacks": ("fgs", "ddn"), "labels": True, "norm": "l1", "box": BOX},
    {"budget": 0.05},
    {"budget": 0.05, "norm": "linf", "box": BOX, "labels": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 500])
@pytest.mark.parametrize("number", range(len(GRID)))
def test_default_uses_are_confirmed(sources: Sources, tmp_path: Path, number: int, batch_size: int) -> None:
    question = Question(**GRID[number])
    both = question.budget is not None or (question.methods and question.attacks)
    verb = "Bracketed" if both else "Certified" if question.methods else "Attacked"
    out = computed(tmp_path / "run", sources, question, verb=verb, batch_size=batch_size, shard_size=3)
    found = check(out, samples=None)
    assert found.verdict is Verdict.CONFIRMED, (found.contradictions, found.doubts)
    for count in (found.certificates, found.witnesses, found.samples):
        assert count.confirmed == count.checked == count.in_run
    assert found.others.confirmed == found.others.checked


def test_hashes_tell_all_layers_apart() -> None:
    """Every field of every layer of the catalogue, changed a little, changes the hash."""
    for name, case in catalogue().items():
        layer = case.layer
        before = _hash_of(layer, len(case.shapes))
        for field in dataclasses.fields(layer):  # type: ignore[arg-type]
            value = getattr(layer, field.name)
            for changed in _changes(value):
                other = copy.copy(layer)
                object.__setattr__(other, field.name, changed)
                assert _hash_of(other, len(case.shapes)) != before, (name, field.name)


def _hash_of(layer: Any, inputs: int) -> str:
    graph = object.__new__(Graph)  # the hash reads what a graph is made of, which need not compute
    graph.nodes = (Node("one", layer, (INPUT,) * inputs),)
    graph.input_shape, graph.dtype, graph.rounded = (1,), torch.float32, False
    return weights_sha256(graph)


def _changes(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        if not value.numel():
            return []
        flat = value.clone().reshape(-1)
        if flat.dtype == torch.bool:
            flat[-1] = ~flat[-1]
        elif flat.is_floating_point():
            flat[-1] = torch.nextafter(flat[-1], torch.full_like(flat[-1], torch.inf))
        else:
            flat[-1] += 1
        return [flat.reshape(value.shape), value.reshape(1, *value.shape)]
    if isinstance(value, tuple):
        return [(*value, 1), *((*value[:-1], last) for last in (_changes(value[-1]) if value else []))]
    if value is None:
        return [1]
    if isinstance(value, bool):
        return [not value]
    return [value + 1, value + 1e-9] if math.isfinite(value) else [0.0]


def test_the_network_is_not_asked(simple: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, **_: asked.append(str(url)))
    for data in ("mnist", "hf:somebody/something"):

        def change(run: Forged, data: str = data) -> None:
            run.about["sources"] |= {"data": data, "data_dir": str(tmp_path / "nowhere")}

        with pytest.raises(PertboundError):
            check(forge(simple, tmp_path / data.replace("/", "-"), change))
    assert not asked
    assert not (tmp_path / "nowhere").exists()


def test_no_pipes_and_no_devices_are_read(simple: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "x.npz"
    os.mkfifo(pipe)
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "labels.csv")
    for key, place in (("model", pipe), ("data", pipe), ("data", folder), ("data", "/dev/zero"), ("data", "/proc")):

        def change(run: Forged, key: str = key, place: object = place) -> None:
            run.about["sources"][key] = str(place)

        with pytest.raises(InputError, match=r"regular file|file of the system"):
            check(forge(simple, tmp_path / f"{key}-{place}".replace("/", "-"), change))


def test_a_run_says_what_computed_it(simple: Path) -> None:
    about = store.read_about(simple)
    assert about["versions"]["numpy"] == np.__version__
    assert about["versions"]["source"].split()[0] in ("commit", "files")
    assert set(about["machine"]) == {"system", "processor", "cores", "threads"}
