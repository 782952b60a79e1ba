"""Files that are damaged or made to hurt: an error on purpose, soon, and nothing is read outside of the folder."""

from __future__ import annotations

import gzip
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pertbound as pb
from clocks import processor_seconds
from oracles.mutations import mutated_bytes, mutated_fields
from oracles.onnx_models import convnet, mlp, model, node, rearranged, weights, written
from pertbound import unpacking

SECONDS = 30.0
"""Of the processor; no file may take longer. They take about five at most."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[set[str]]:
    """Paths that this process opens during the test, but for Python's own files."""
    found: set[str] = set()
    listening = [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening[0] and event == "open" and isinstance(arguments[0], str | os.PathLike):
            found.add(os.fspath(arguments[0]))

    sys.addaudithook(hear)
    yield found
    listening[0] = False


def refused(path: Path, message: str, kind: type[pb.PertboundError] = pb.ModelFileError) -> None:
    with processor_seconds(SECONDS), pytest.raises(kind, match=message) as caught:
        pb.from_onnx(path)
    assert type(caught.value) is kind
    assert all(32 <= ord(letter) < 127 for letter in str(caught.value)), "a terminal would obey this"


def apart(folder: Path, **entries: str) -> Path:
    """The small network with its first weight in weights.bin, its external data changed."""
    source = mlp()
    (folder / "weights.bin").write_bytes(source.graph.initializer[0].raw_data)
    tensor = source.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return written(source, folder)


def test_external_data_are_read_from_the_folder_only(tmp_path: Path, opened: set[str]) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret.bin"
    (folder / "inner").mkdir(parents=True)
    secret.write_bytes(bytes(80))
    pb.from_onnx(apart(folder))
    pb.from_onnx(apart(folder, location="inner/../weights.bin"))
    (folder / "link.bin").symlink_to(secret)
    (folder / "inner" / "loop").symlink_to(folder / "inner" / "loop")
    (folder / "away").symlink_to(tmp_path)
    opened.clear()
    places = [str(secret), "../secret.bin", "inner/../../secret.bin", "link.bin", "away/secret.bin", "/etc/passwd"]
    for place in [*places, "", ".", "..\\secret.bin", "C:\\secret.bin", "C:secret.bin"]:
        refused(apart(folder, location=place), "outside the model's folder")
    for place in ("absent.bin", "inner", "inner/loop", "weights.bin/more"):
        refused(apart(folder, location=place), r"where no file is|damaged")
    refused(apart(folder, location="a\0b"), "damaged|outside")
    os.mkfifo(folder / "pipe")
    refused(apart(folder, location="pipe"), "where no file is")
    assert not any("secret" in path or "passwd" in path or "pipe" in path for path in opened)


def test_external_data_keep_to_their_file(tmp_path: Path) -> None:
    for entries in ({"length": "81"}, {"offset": "-1"}, {"length": "-1"}, {"offset": str(2**70)}):
        refused(apart(tmp_path, **entries), "but the file has 80")
    for entries in ({"length": "79"}, {"offset": "1"}):
        refused(apart(tmp_path, **entries), "does not hold 20 entries")
    for entries in ({"offset": "x"}, {"length": ""}, {"offset": "9" * 5000}):
        refused(apart(tmp_path, **entries), "damaged")
    assert pb.from_onnx(apart(tmp_path, offset="0", length="80", checksum="none")).classes == 3


def test_one_file_is_not_many_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file named by many tensors would otherwise fill the memory."""
    monkeypatch.setattr("pertbound.frontends.onnx_file._SPARE", 0)
    source = mlp()
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    del source.graph.initializer[:]
    for name, shape in (("w", (5, 4)), ("b", (5,)), ("v", (3, 5)), ("c", (3,))):
        tensor = source.graph.initializer.add(name=name, dims=shape, data_type=1, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.bin")
        tensor.external_data.add(key="length", value=str(4 * int(np.prod(shape))))
    refused(written(source, tmp_path), "larger than their files")


def test_links_to_the_model_itself_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(written(mlp(), tmp_path))
    assert pb.from_onnx(tmp_path / "link.onnx").classes == 3


def test_files_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", "no such file")
    refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "is not a file")
    refused(Path("a\0b.onnx"), "no such file|cannot be read") if sys.version_info >= (3, 13) else None
    for data in (b"", b"\x08\x07", b"not a model", b"\x80" * 50, b"\0" * 50):
        (tmp_path / "net.onnx").write_bytes(data)
        refused(tmp_path / "net.onnx", "damaged, or no ONNX file|holds no nodes")


def test_gzip_that_is_cut_or_inflates_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, path = gzip.compress(mlp().SerializeToString()), tmp_path / "net.onnx.gz"
    for data, message in (
        (packed[:-20], "ends within"), (packed[:5], "ends within"), (b"", "holds no nodes"), (b"no gzip", "no gzip"),
        (packed + b"rest", "no gzip file"), (packed[:30] + b"\xff" + packed[31:], "no gzip file|damaged"),
    ):  # fmt: skip
        path.write_bytes(data)
        refused(path, message)
    path.write_bytes(packed + packed)  # two members: their protocol buffers run into one, with every name twice
    refused(path, "operator set", pb.ConversionError)
    monkeypatch.setattr(unpacking, "allowed", lambda packed, most: 10_000)
    path.write_bytes(gzip.compress(bytes(10**8)))
    refused(path, "inflates to more than")


def test_cycles_and_names_that_do_not_fit(tmp_path: Path) -> None:
    cases: list[tuple[list[onnx.NodeProto], str]] = [
        ([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "a", "y")], "cycle through node 'the"),
        ([node("Relu", "y", "y")], "cycle"),
        ([node("Relu", "x", "a"), node("Neg", "x", "a"), node("Relu", "a", "y")], "computes 'a' twice"),
        ([node("Relu", "x", "x")], "computes 'x', which is given|reads 'y'"),
        ([node("Relu", "nothing", "y")], "reads 'nothing', which nothing computes"),
        ([node("Relu", "x", "z")], "reads 'y', which nothing computes"),
        ([helper.make_node("Relu", [], ["y"])], "depend on the network's input"),
        ([helper.make_node("Relu", ["x"], [])], "reads 'y'"),
    ]
    for nodes, message in cases:
        kind = pb.UnsupportedLayerError if "depend" in message else pb.ModelFileError
        refused(written(model(nodes, ("N", 4)), tmp_path), message, kind)
    shuffled = convnet()
    nodes = list(shuffled.graph.node)[::-1]
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)  # any order will do
    assert pb.from_onnx(written(shuffled, tmp_path)).classes == 3


def test_stored_tensors_that_claim_too_much(tmp_path: Path) -> None:
    for change, message in (
        (lambda t: t.dims.__setitem__(0, 2**40), "claims the shape|does not hold"),
        (lambda t: t.dims.__setitem__(0, -5), "claims the shape"),
        (lambda t: t.dims.extend([1] * 100), "claims the shape"),
        (lambda t: t.dims.append(2), "does not hold 40 entries"),
        (lambda t: setattr(t, "raw_data", b"123"), "does not hold 20 entries"),
        (lambda t: t.ClearField("raw_data"), "does not hold 20 entries"),
        (lambda t: setattr(t, "data_type", 8), "string"),
        (lambda t: setattr(t, "data_type", 10), "float16"),
        (lambda t: setattr(t, "data_type", 77), "element type 77"),
    ):
        source = mlp()
        change(source.graph.initializer[0])
        kind = (
            pb.ConversionError if "float16" in message or "string" in message or "77" in message else pb.ModelFileError
        )
        refused(written(source, tmp_path), message, kind)
    source = mlp()
    source.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(5, 4) * np.nan, "w"))
    refused(written(source, tmp_path), "NaN", pb.UnsupportedLayerError)


def _large(kind: str, *sizes: int, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: model([node(kind, "s", "c", **attributes), node("Mul", "x c", "y")], (1, 4), {"s": np.array(sizes)})


def _doubled() -> onnx.ModelProto:
    nodes = [node("Concat", f"{a} {a}", b, axis=1) for a, b in pairwise(["x", *map(str, range(40)), "y"])]
    return model(nodes, (1, 4))


def _squared() -> onnx.ModelProto:
    arrays = {"c": np.ones((1, 1), np.float32), "shape": np.array([30_000, 30_000])}
    return model([node("Expand", "c shape", "d"), node("Add", "x d", "y")], (1, 2, 1), arrays)


def _slow() -> onnx.ModelProto:
    """2^41 multiplications from a file of 4 MB."""
    return model(
        [node("Conv", "x w", "y", auto_pad="SAME_UPPER")],
        (1, 1, 1448, 1448),
        {"w": np.ones((1, 1, 999, 999), np.float32)},
    )


def _long() -> onnx.ModelProto:
    names = ["x", *map(str, range(40_000)), "y"]
    return model([node("Relu", a, b) for a, b in pairwise(names)], (1, 2**20))


LARGE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "constant": (_large("ConstantOfShape", 2**40), "larger than"),
    "constant of all": (_large("ConstantOfShape", 2**20, 2**20), "larger than"),
    "negative constant": (_large("ConstantOfShape", -4), "larger than"),
    "expanded": (_squared, "larger than"),
    "doubled": (_doubled, "numbers a sample|multiplications"),
    "slow": (_slow, "multiplications"),
    "long": (_long, "multiplications"),
    "input": (lambda: model([node("Relu", "x", "y")], (1, 2**33)), "numbers a sample"),
    "padding": (lambda: model([node("Conv", "x w", "y", pads=[2**20] * 4)], (1, 1, 2, 2), {"w": weights(1, 1, 2, 2)}),
                "numbers a sample"),
    "window": (lambda: model([node("AveragePool", "x", "y", kernel_shape=[2**30] * 2)], (1, 1, 4, 4)), "larger than"),
    "gap": (lambda: model([node("Conv", "x w", "y", dilations=[2**30] * 2, pads=[0, 1, 2, 0])], (1, 1, 4, 4),
                          {"w": weights(1, 1, 2, 2)}), "multiplications|cannot run|arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_small_files_that_ask_for_all_memory_or_time(name: str, tmp_path: Path) -> None:
    make, message = LARGE[name]
    path = written(make(), tmp_path)
    with processor_seconds(SECONDS), pytest.raises(pb.ConversionError, match=message):
        pb.from_onnx(path)


def test_nested_messages_end(tmp_path: Path) -> None:
    """A graph in an attribute of a node in a graph ...: fields 1, 5 and 6, inside of the model's field 7."""
    for depth in (10, 1000, 20_000):
        data = b""
        for _ in range(depth):
            for field in (6, 5, 1):
                size, rest = b"", len(data)
                while rest >= 128:
                    size, rest = size + bytes([rest % 128 + 128]), rest // 128
                data = bytes([field * 8 + 2]) + size + bytes([rest]) + data
        (tmp_path / "net.onnx").write_bytes(b":" + data[1:])
        with processor_seconds(SECONDS), pytest.raises(pb.PertboundError):
            pb.from_onnx(tmp_path / "net.onnx")


def test_names_that_are_no_text_or_that_a_terminal_obeys(tmp_path: Path) -> None:
    data = mlp().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(data.replace(b"Relu", b"R\x80lu"))
    refused(tmp_path / "net.onnx", "no text")
    (tmp_path / "net.onnx").write_bytes(data.replace(b"Relu", b"R\x1b[m"))
    refused(tmp_path / "net.onnx", "has no bound", pb.UnsupportedLayerError)


def _fuzzed(seeds: range, folder: Path) -> Counter[str]:
    """How mutated models end: loaded, or by which error. Anything else fails."""
    onnx.save(mlp(), folder / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
    external = onnx.load(folder / "apart.onnx", load_external_data=False)
    sources = [mlp(), convnet(9), convnet(18), rearranged(), external]
    found: Counter[str] = Counter()
    for seed in seeds:
        dice = random.Random(seed)
        source, path = dice.choice(sources), folder / "net.onnx"
        by_bytes = dice.random() < 0.35
        path.write_bytes(mutated_bytes(source.SerializeToString(), dice) if by_bytes else mutated_fields(source, dice))
        kind, said = "loaded", str(path)
        with processor_seconds(SECONDS):
            try:
                pb.from_onnx(path)
            except pb.PertboundError as error:
                kind, said = type(error).__name__, str(error)
        found[kind] += 1
        assert str(path) in said, seed
        assert all(32 <= ord(letter) < 127 for letter in said), seed
    return found


def test_mutated_models_load_or_are_refused(
    tmp_path: Path, opened: set[str], capfd: pytest.CaptureFixture[str]
) -> None:
    found = _fuzzed(range(400), tmp_path)
    assert found["loaded"] > 20, "the mutations are so wild that nothing is reached"
    assert found["ConversionError"] > 20
    assert found["ModelFileError"] > 20
    assert not any("passwd" in path or "secret" in path for path in opened)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_many_mutated_models_load_or_are_refused(tmp_path: Path) -> None:
    found = _fuzzed(range(1000, 11_000), tmp_path)
    assert found["loaded"] > 500
