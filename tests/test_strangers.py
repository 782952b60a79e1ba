"""Run folders from strangers: whatever is in them, reading them takes bounded memory and ends in one `RunError`."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.folders import about, begun
from oracles.shards import plain
from pertbound import records, shard_files, store
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, SCHEMA, WITNESS, table


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    begun(folder / "run", done=2)
    return folder / "run"


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def refused(run: Path, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(RunError, match=said) as caught:
        list(store.read(run).witnesses.values())
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert len(str(caught.value).splitlines()) <= 2


def forged(run: Path, rows: pa.Table, made: Any = None, **options: Any) -> None:
    """Rows in the place of shard 0's, under a name that fits."""
    path = next((run / "rows").glob("00000-*"))
    old = pq.read_schema(path).metadata
    path.unlink()
    said = old[b"pertbound"] if made is None else made
    sink = pa.BufferOutputStream()
    rows = rows.replace_schema_metadata({b"pertbound": said, b"pertbound.run": old[b"pertbound.run"]})
    pq.write_table(rows, sink, **options)
    data = memoryview(sink.getvalue())
    (run / "rows" / shard_files.named(0, data, "parquet")).write_bytes(data)


def pack(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def with_witnesses(run: Path, data: bytes) -> None:
    """Witnesses in the place of shard 0's, named as they should be."""
    name = shard_files.named(0, memoryview(data), "npz")
    (run / "witnesses" / name).write_bytes(data)
    made = {"shard": 0, "witnesses": name, "run": store.run_id(about())}
    forged(run, plain(0).rows, json.dumps(made).encode())


RUN_JSON: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda _: [1], "does not describe a run"),
    "null": (lambda _: None, "does not describe a run"),
    "deep": (lambda _: "[" * 100_000, "64 levels"),
    "NaN": (lambda a: json.dumps(a | {"accuracy": float("nan")}), "NaN"),
    "twice": (lambda a: json.dumps(a)[:-1] + ', "title": "b"}', "the name 'title' twice"),
    "half a pair": (lambda a: a | {"title": "\ud800"}, "surrogates"),
    "a huge count": (lambda a: a | {"shards": a["shards"] | {"count": 10**30}}, "64 bits"),
    "a large count": (lambda a: a | {"shards": a["shards"] | {"count": 10**15}}, "no number of samples"),
    "a negative size": (lambda a: a | {"shards": a["shards"] | {"size": -1}}, "no number of samples"),
    "fewer shards": (lambda a: a | {"shards": a["shards"] | {"count": 1}}, "another run"),
    "accuracy": (lambda a: a | {"accuracy": "high"}, "accuracy"),
    "complete": (lambda a: a | {"complete": "yes"}, "complete"),
} | {
    f"{name} is {value!r}": ((lambda a, n=name, v=value: a | {n: v}), f"{name} is not")
    for name, value in [
        ("model", []), ("data", "x"), ("options", None), ("versions", 1), ("shards", [3]), ("sources", "x"),
        ("seconds", []), ("title", 1), ("norm", {}), ("guarantee", None), ("command", [1]), ("created", {}),
    ]
}  # fmt: skip


@pytest.mark.parametrize("case", RUN_JSON)
def test_run_json(run: Path, case: str) -> None:
    change, said = RUN_JSON[case]
    changed = change(json.loads((run / "run.json").read_text()))
    (run / "run.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    refused(run, said)
    for mode in ({"resume": True}, {"overwrite": True}):
        if case != "fewer shards" or "resume" in mode:
            with pytest.raises(RunError), store.writing(run, about(), **mode):
                pass


@pytest.mark.parametrize("name", ["run.json", "layers.json", "rows", "witnesses", "a shard", "a witness"])
@pytest.mark.parametrize("what", ["a named pipe", "a symbolic link", "a large file"])
def test_what_is_no_file_of_a_run(run: Path, tmp_path: Path, name: str, what: str) -> None:
    kind = {"a shard": "rows", "a witness": "witnesses"}.get(name)
    path = run / name if kind is None else next((run / kind).glob("00000-*"))
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    if what == "a named pipe":
        os.mkfifo(path)
    elif what == "a symbolic link":
        path.symlink_to(elsewhere)
    else:
        with path.open("wb") as stream:
            stream.truncate(2**40)
    refused(
        run, "a file" if what == "a large file" and name in ("rows", "witnesses") else what.removeprefix("a large ")
    )


NAMED = [
    "../../x.npz",
    "/etc/x.npz",
    "00001-0123456789abcdef.npz",
    "00000-0123456789abcdef.parquet",
    "x.npz",
    3,
    [],
    "",
]


@pytest.mark.parametrize("name", NAMED)
def test_names_of_witnesses_stay_in_the_folder(run: Path, name: Any) -> None:
    forged(run, plain(0).rows, json.dumps({"shard": 0, "witnesses": name, "run": store.run_id(about())}).encode())
    refused(run, "no file of them")


@pytest.mark.parametrize(
    "made",
    [
        b"", b"[]", b"[" * 100_000, b"{}", b'{"shard": 1}', b'{"shard": 0}', b'{"shard": 0, "run": 1}', b"\xff",
        b'{"shard": 0, "run": "r", "once": "x"}', b'{"shard": 0, "run": "r", "once": -1}', b'{"shard": 0, "run": "r"}',
    ],
)  # fmt: skip
def test_what_a_shard_says_of_itself(run: Path, made: bytes) -> None:
    forged(run, plain(0).rows, made)
    refused(run, "does not hold a run's rows|another run")


def _column(name: str, kind: pa.DataType, value: Any) -> pa.Table:
    rows = plain(0).rows
    return rows.set_column(rows.schema.get_field_index(name), name, pa.array([value] * 3, kind))


ROWS: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "a column less": (lambda: plain(0).rows.drop_columns(["note"]), "columns"),
    "a column more": (lambda: plain(0).rows.append_column("x", pa.array([1, 2, 3])), "columns"),
    "another name": (lambda: plain(0).rows.rename_columns([*SCHEMA.names[:-1], "remark"]), "columns"),
    "another order": (lambda: plain(0).rows.select(SCHEMA.names[::-1]), "columns"),
    "text for numbers": (lambda: _column("l2", pa.string(), "1"), "columns"),
    "lists": (lambda: _column("l2", pa.list_(pa.float64()), [1.0]), "columns"),
    "structs": (lambda: _column("sample", pa.struct([("a", pa.int64())]), {"a": 1}), "columns"),
    "bytes": (lambda: _column("method", pa.binary(), b"\xff"), "columns"),
    "nothing": (lambda: _column("l2", pa.null(), None), "columns"),
    "32 bits": (lambda: _column("l2", pa.float32(), 1.0), "columns"),
    "no sample": (lambda: _column("sample", pa.int64(), None), "have no sample"),
    "no method": (lambda: _column("method", pa.string(), None), "have no method"),
    "no guarantee": (lambda: _column("guarantee", pa.string(), None), "have no guarantee"),
    "another guarantee": (lambda: _column("guarantee", pa.string(), "sure"), "unknown guarantees"),
    "negative samples": (lambda: _column("sample", pa.int64(), -1), "has the sample -1"),
    "negative classes": (lambda: _column("label", pa.int32(), -1), "has the label -1"),
    "negative radii": (lambda: _column("l2", pa.float64(), -1e-9), "has the l2 -1e-09"),
    "NaN": (lambda: _column("linf", pa.float64(), float("nan")), "has the linf nan"),
    "infinite seconds": (lambda: _column("seconds", pa.float64(), float("inf")), "has the seconds inf"),
    "infinite witnesses": (
        lambda: table({"sample": [0], "method": ["m"], "guarantee": [WITNESS], "l2": [float("inf")]}), "has the l2 inf",
    ),
    "a sample twice": (lambda: _column("sample", pa.int64(), 2), "m tells twice about sample 2"),
    "another shard's": (lambda: table({"sample": [3], "method": ["x"], "guarantee": [CERTIFIED]}), "some twice"),
    "more samples than a shard has": (
        lambda: table({"sample": range(4), "method": ["m"] * 4, "guarantee": [CERTIFIED] * 4}), "more than run.json",
    ),
    "two kinds": (
        lambda: table({"sample": [0, 1], "method": ["m"] * 2, "guarantee": [CERTIFIED, WITNESS]}), "of two kinds",
    ),
    "many methods": (
        lambda: table({"sample": [0] * 250, "method": map(str, range(250)), "guarantee": [CERTIFIED] * 250}),
        "251 methods",
    ),
    "long text": (lambda: _column("note", pa.string(), "x" * 20_000), "20,000 bytes of text"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows(run: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_METHODS", 200)
    make, said = ROWS[case]
    forged(run, make())
    refused(run, said)


def test_bombs_of_rows_are_not_unpacked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty million rows in few bytes; text that is short only while it is packed; pages that unpack to much."""
    count = 200_000
    columns = {"sample": np.zeros(count, np.int64), "method": ["m"] * count, "guarantee": [CERTIFIED] * count}
    many = table(columns)
    forged(run, many)
    refused(run, "it says that it holds 200,000 rows, where at most 3,000 belong")
    (run / "run.json").write_text(json.dumps(about() | {"shards": {"count": 3}}))
    monkeypatch.setattr(store, "MOST_ROWS", count - 1)
    refused(run, "rows, where at most 199,999 belong")
    monkeypatch.undo()
    monkeypatch.setattr(shard_files, "MOST_BYTES", 2**20)
    refused(run, r"its text would need|would need more than 1,048,576 bytes")
    wide = table(columns | {"l2": np.random.default_rng(0).random(count)})
    forged(run, wide, use_dictionary=False)
    refused(run, "has .* bytes; such a file has at most|would need more than")


GOOD = {
    "sample": np.arange(2),
    "original": np.zeros((2, 1)),
    "adversarial": np.ones((2, 1)),
    "new_class": np.ones(2, int),
}


def test_honest_witnesses_are_read(run: Path) -> None:
    with_witnesses(run, pack(GOOD))
    assert store.read(run).witnesses["sample"].tolist() == [0, 1, 3, 4]


WITNESSES: dict[str, dict[str, Any]] = {
    "text": {"original": np.full((2, 1), "x"), "adversarial": np.full((2, 1), "x")},
    "objects": {"original": np.array([[{}], [None]], object)},
    "records": {"sample": np.zeros(2, [("a", "i4")])},
    "complex numbers": {"original": np.zeros((2, 1), complex), "adversarial": np.zeros((2, 1), complex)},
    "fractions of samples": {"sample": np.array([0.0, 1.0])},
    "negative samples": {"sample": np.array([-1, 0])},
    "a sample twice": {"sample": np.array([1, 1])},
    "samples without rows": {"sample": np.array([0, 7])},
    "samples in rows and columns": {"sample": np.zeros((2, 1), int)},
    "other lengths": {"adversarial": np.ones((3, 1))},
    "other shapes": {"adversarial": np.ones((2, 2))},
    "a number": {"original": np.float64(1), "adversarial": np.float64(1)},
    "NaN": {"adversarial": np.array([[np.nan], [1.0]])},
    "infinity": {"original": np.array([[np.inf], [1.0]])},
    "other arrays": {"more": np.ones(2)},
}


@pytest.mark.parametrize("case", WITNESSES)
def test_witnesses(run: Path, case: str) -> None:
    with_witnesses(run, pack(GOOD | WITNESSES[case]))
    refused(run, "does not hold witnesses")


def _archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _headed(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + body


def test_bombs_of_witnesses_are_not_unpacked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers that promise more than is there, what unpacks to more than was promised, and archives that are none."""
    described = "{'descr': '%s', 'fortran_order': False, 'shape': %s}\n"
    sample = _headed(described % ("<i8", "(2,)"), np.arange(2).tobytes())
    pixels = _headed(described % ("<f8", "(2, 1)"), np.zeros(2).tobytes())
    zeros = b"\0" * 2**20
    for original in (
        _headed(described % ("<f8", "(2, 1000000000)")),
        _headed(described % ("<f8", "(2, 1)"), zeros),
        _headed(described % ("<f8", "(True, 1)"), zeros[:8]),
        _headed(described % ("<f8", "(-2, -1)"), zeros[:16]),
        _headed(described % ("|O", "(2, 1)"), zeros[:16]),
        _headed("(" * 900),
        b"\x93NUMPY\x02\x00" + pixels[8:],
        b"words",
        b"",
    ):
        with_witnesses(run, _archive({"sample.npy": sample, "original.npy": original, "adversarial.npy": pixels}))
        refused(run, "does not hold witnesses")
    with_witnesses(run, _archive({"../sample.npy": sample, "original.npy": pixels, "adversarial.npy": pixels}))
    refused(run, "it has the arrays")
    for damaged in (b"", b"PK\5\6" + b"\0" * 18, pack(GOOD)[:-30], pack(GOOD).replace(b"sample.npy", b"simple.npy")):
        with_witnesses(run, damaged)
        refused(run, "does not hold witnesses")
    monkeypatch.setattr(shard_files, "MOST_WITNESSES", 2**20)
    large = {name: np.zeros((2, 10**5)) for name in ("original", "adversarial")}
    with_witnesses(run, _archive({}))
    with_witnesses(run, pack(GOOD | large))
    refused(run, "cannot read|at most 1,048,576|does not hold witnesses")


@pytest.mark.parametrize("text", ["[1]", "{", '{"run": 1}', "[" * 100_000, '{"losses": NaN}', '{"a": 1, "a": 2}'])
def test_layers(run: Path, text: str) -> None:
    (run / "layers.json").write_text(text)
    refused(run, r"layers.json")
