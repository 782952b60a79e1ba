"""What cannot be meant ends with exit code 2, one clear message, and nothing written."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

ASKING = ["certify", "attack", "bracket"]
COMMANDS = [*ASKING, "demo", "reproduce", "report"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: Any, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert "Example: pertbound " + command in re.sub(r"\s+", " ", done.out)
    assert "--out" in done.out
    assert done.err == ""


def contents(folder: Path) -> dict[str, bytes]:
    """The files in it and below, by their names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_program_lists_its_commands(cli: Any) -> None:
    for arguments in (("--help",), ()):
        done = cli(*arguments)
        assert all(command in done.out + done.err for command in COMMANDS)
    assert cli("--help").code == 0


@pytest.fixture
def refused(cli: Any, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused, and returns its message."""

    def call(*arguments: object, out: Path | None = tmp_path / "out") -> str:
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        done = cli(*arguments, *(() if out is None else ("--out", out)))
        assert done.code == 2, done
        assert "Traceback" not in done.err + done.out
        assert len(re.findall(r"(?i)\berror\b:", done.err)) == 1
        assert done.out == ""
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
        return done.err

    return call


Refused = Callable[..., str]


def asked(files: Path, **changes: object) -> list[object]:
    """The options of a command that works, with some changed, or left out where None."""
    options: dict[str, object] = {
        "--model": files / "digits.safetensors", "--architecture": "digits", "--data": "digits", "--limit": 3,
    }  # fmt: skip
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [part for name, value in options.items() if value is not None for part in (name, value)]


@pytest.mark.parametrize("command", ASKING)
def test_an_absent_model_is_refused(refused: Refused, files: Path, command: str) -> None:
    assert "no model file at" in refused(command, *asked(files, model="nowhere.safetensors"))
    assert "no model file" in refused(command, *asked(files, model=files))


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("command", ASKING)
@pytest.mark.parametrize(
    "name", ["net.pt", "net.pth", "net.ckpt", "net.bin", "net.pkl", "net", "net.safetensors", "net.pt2", "net.PT2"]
)
@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_pickles_are_never_opened(
    refused: Refused, files: Path, tmp_path: Path, command: str, name: str, kind: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    if kind == "torch":
        torch.save({"weight": torch.rand(3), "bomb": Bomb(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    architecture = None if name.endswith(".pt2") else "digits"
    message = refused(command, *asked(files, model=path, architecture=architecture))
    assert "ModelFileError" in message
    if not name.endswith((".safetensors", ".pt2")):
        assert "never opened" in message
        assert "safetensors" in message
    assert not marker.exists()
    data = path.read_bytes()  # and had anybody opened it:
    torch.load(io.BytesIO(data), weights_only=False) if kind == "torch" else pickle.loads(data)
    assert marker.exists()


def test_a_pickle_as_data_is_not_opened(refused: Refused, files: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    objects = np.empty(2, dtype=object)
    objects[:] = [Bomb(marker), Bomb(marker)]
    np.savez(tmp_path / "data.npz", x=objects)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb(marker)))
    for name in ("data.npz", "raw.npz"):
        assert "DataError" in refused("certify", *asked(files, data=tmp_path / name))
    assert not marker.exists()


def test_weights_without_their_network_are_refused(refused: Refused, files: Path) -> None:
    assert "--architecture lenet" in refused("certify", *asked(files, architecture=None))


@pytest.mark.parametrize("command", ASKING)
def test_weights_of_another_network_are_refused(refused: Refused, files: Path, command: str) -> None:
    message = refused(command, *asked(files, architecture="lenet"))
    assert "not of the architecture lenet" in message
    assert "0.weight" in message


@pytest.mark.parametrize("architecture", ["lenet5", "LENET", "", "vgg"])
def test_unknown_architectures_are_refused(refused: Refused, files: Path, architecture: str) -> None:
    message = refused("certify", *asked(files, architecture=architecture))
    assert "lenet, digits" in message


def test_an_architecture_for_a_file_with_its_own_graph_is_refused(refused: Refused, files: Path) -> None:
    assert ".pt2 file holds its own graph" in refused("certify", *asked(files, model=files / "digits.pt2"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(refused: Refused, files: Path, tmp_path: Path, bad: float) -> None:
    weights = load_file(files / "digits.safetensors")
    weights["2.bias"][3] = bad
    save_file(weights, tmp_path / "bad.safetensors")
    message = refused("bracket", *asked(files, model=tmp_path / "bad.safetensors"))
    assert "2.bias" in message
    assert "NaN" in message


def test_weights_of_another_dtype_are_refused(refused: Refused, files: Path, tmp_path: Path) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(files / "digits.safetensors").items()}
    save_file(weights, tmp_path / "half.safetensors")
    assert "float16" in refused("certify", *asked(files, model=tmp_path / "half.safetensors"))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped"])
@pytest.mark.parametrize("ending", ["safetensors", "pt2"])
def test_damaged_models_are_refused(refused: Refused, files: Path, tmp_path: Path, damage: str, ending: str) -> None:
    data = (files / f"digits.{ending}").read_bytes()
    damaged = {"empty": b"", "cut": data[: len(data) // 2], "text": b"weights\n" * 40, "flipped": data[::-1]}[damage]
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(damaged)
    architecture = "digits" if ending == "safetensors" else None
    message = refused("certify", *asked(files, model=path, architecture=architecture))
    assert "ModelFileError" in message
    assert str(path) in message


class _Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumprod(x, 1)


def test_exported_programs_without_a_bound_are_refused(refused: Refused, files: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), _Products()).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 8, 8),)), tmp_path / "products.pt2")
    message = refused("certify", *asked(files, model=tmp_path / "products.pt2", architecture=None))
    assert "UnsupportedLayerError" in message
    assert "cumprod" in message


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digit", "MNIST", "", "imagenet", "x.npy", "digits.csv"])
def test_unknown_data_are_refused_with_the_choices(refused: Refused, files: Path, name: str) -> None:
    assert "mnist, cifar10, digits" in refused("certify", *asked(files, data=name))


DATA: list[tuple[str, dict[str, Any], str]] = [
    ("no x", {"a": np.zeros((3, 1, 8, 8), np.float32)}, "no array x"),
    ("nothing", {}, "no array x"),
    ("NaN", {"x": np.full((3, 1, 8, 8), np.nan, np.float32)}, "NaN"),
    ("infinity", {"x": np.full((3, 1, 8, 8), np.inf)}, "infinity"),
    ("overflow", {"x": np.full((3, 1, 8, 8), 1e300)}, "infinity"),
    ("empty", {"x": np.zeros((0, 1, 8, 8), np.float32)}, "empty"),
    ("no entries", {"x": np.zeros((3, 0), np.float32)}, "empty"),
    ("shape", {"x": np.zeros((3, 1, 8, 7), np.float32)}, r"\(1, 8, 7\), but the model takes \(1, 8, 8\)"),
    ("flat", {"x": np.zeros((3, 64), np.float32)}, r"\(64,\)"),
    ("a number", {"x": np.float32(3)}, "shape"),
    ("integers", {"x": np.zeros((3, 1, 8, 8), np.int64)}, "int64"),
    ("complex", {"x": np.zeros((3, 1, 8, 8), np.complex64)}, "complex64"),
    ("text", {"x": np.array(["a", "b"])}, "x in"),
    ("short y", {"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.zeros(2, np.int64)}, "labels"),
    ("negative y", {"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.array([0, -1, 2])}, "-1"),
    ("large y", {"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.array([0, 10, 2])}, "10"),
    ("floating y", {"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.zeros(3)}, "float64"),
    ("two-dimensional y", {"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.zeros((3, 1), np.int64)}, "labels"),
]


@pytest.mark.parametrize(("arrays", "message"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
def test_arrays_that_do_not_fit_are_refused(
    refused: Refused, files: Path, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    for command in ASKING:
        assert re.search(message, refused(command, *asked(files, data=tmp_path / "data.npz")))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"text"])
def test_files_that_are_no_arrays_are_refused(refused: Refused, files: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    assert "data.npz" in refused("certify", *asked(files, data=tmp_path / "data.npz"))
    assert "nowhere.npz" in refused("certify", *asked(files, data="nowhere.npz"))


def test_a_damaged_member_is_refused(refused: Refused, files: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + b"junk" * 30)
    assert "DataError" in refused("certify", *asked(files, data=tmp_path / "data.npz"))


def test_data_of_another_shape_than_the_model_are_refused(refused: Refused, files: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 4, 4),)), tmp_path / "small.pt2")
    message = refused("bracket", *asked(files, model=tmp_path / "small.pt2", architecture=None))
    assert "(1, 8, 8), but the model takes (1, 4, 4)" in message


def test_labels_beyond_the_classes_are_refused(refused: Refused, files: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 8, 8),)), tmp_path / "three.pt2")
    message = refused("certify", *asked(files, model=tmp_path / "three.pt2", architecture=None, limit=None))
    assert "3 classes" in message


def test_labels_that_the_data_do_not_have_are_refused(refused: Refused, files: Path) -> None:
    for command in ASKING:
        message = refused(command, *asked(files, data=files / "plain.npz"), "--labels")
        assert "no labels" in message


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ASKING)
@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_1_are_refused(refused: Refused, files: Path, command: str, limit: int) -> None:
    assert "--limit must be at least 1" in refused(command, *asked(files, limit=limit))


@pytest.mark.parametrize("command", ["attack", "bracket"])
@pytest.mark.parametrize("box", [("1", "0"), ("0.5", "0.5"), ("nan", "1"), ("0", "nan"), ("zero", "one"), ("0",)])
def test_boxes_that_are_no_range_are_refused(refused: Refused, files: Path, command: str, box: tuple[str]) -> None:
    refused(command, *asked(files), "--box", *box)


@pytest.mark.parametrize("command", ["attack", "bracket"])
def test_attacks_of_no_known_name_are_refused(refused: Refused, files: Path, command: str) -> None:
    assert "ddn" in refused(command, *asked(files), "--attack", "magic")


@pytest.mark.parametrize("command", ["attack", "bracket"])
@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf", "much"])
def test_steps_of_no_size_are_refused(refused: Refused, files: Path, command: str, epsilon: str) -> None:
    refused(command, *asked(files), "--max-epsilon", epsilon)


@pytest.mark.parametrize(
    "options",
    [
        ("--sharpness", "0"), ("--sharpness", "-2"), ("--sharpness", "nan"), ("--sharpness", "inf"),
        ("--method", "crown"), ("--batch-size", "0"), ("--batch-size", "many"), ("--limit", "1.5"),
        ("--no-such-flag",), ("extra",), ("--attack", "ddn"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(refused: Refused, files: Path, options: tuple[str, ...]) -> None:
    refused("certify", *asked(files), *options)


@pytest.mark.parametrize("missing", ["model", "data"])
def test_required_options_are_asked_for(refused: Refused, files: Path, missing: str) -> None:
    assert f"--{missing}" in refused("certify", *asked(files, **{missing: None}))


def test_unknown_commands_are_refused(refused: Refused) -> None:
    refused("certifi", out=None)


# --- the run folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ASKING)
def test_an_out_that_is_a_file_is_refused(refused: Refused, files: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "is a file" in refused(command, *asked(files), out=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
    refused(command, *asked(files), "--overwrite", out=tmp_path / "taken")
    assert "taken" in refused(command, *asked(files), out=tmp_path / "taken" / "below")


def test_a_finished_run_is_not_replaced_unless_wanted(cli: Any, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("attack", *asked(files), "--out", out).code == 0
    before = contents(out)
    assert len(before) == 4, "a lock, run.json, rows and witnesses"
    done = cli("attack", *asked(files), "--out", out)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert contents(out) == before
    assert cli("certify", *asked(files), "--out", out, "--overwrite").code == 0
    assert not set(contents(out)) & (set(before) - {"run.json", ".lock"}), "those of the run that was replaced"


def test_demo_and_reproduce_refuse_early(refused: Refused, files: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    assert "is a file" in refused("demo", out=taken)
    assert "is a file" in refused("reproduce", "peck2017", "--dataset", "mnist", out=taken)
    assert "--limit" in refused("reproduce", "peck2017", "--dataset", "mnist", "--limit", 0)
    refused("reproduce", "peck2018", "--dataset", "mnist")
    refused("reproduce", "peck2017", "--dataset", "svhn")
    refused("reproduce", "peck2017")
    refused("demo", "--seed", "one")


@pytest.mark.parametrize("seed", ["99999999999999999999", str(-(2**70))])
def test_seeds_that_no_generator_takes_are_refused(refused: Refused, seed: str) -> None:
    refused("demo", "--seed", seed)


def test_what_is_no_run_is_not_reported(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "not a run folder" in refused("report", tmp_path / "empty")
    assert "not a run folder" in refused("report", tmp_path / "absent", out=None)
    refused("report", out=None)


def test_a_damaged_run_is_not_reported(cli: Any, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("attack", *asked(files), "--out", out).code == 0
    for name in contents(out):
        if name == ".lock":
            continue
        kept = (out / name).read_bytes()
        for damaged in (b"", b"junk", kept[: len(kept) // 2]):
            (out / name).write_bytes(damaged)
            done = cli("report", out, "--out", tmp_path / "page")
            assert done.code == 2, (name, damaged[:4])
            assert "RunError" in done.err
            assert not (tmp_path / "page" / "index.html").exists()
        (out / name).write_bytes(kept)


def test_exit_codes_reach_the_shell(files: Path, tmp_path: Path) -> None:
    """Once through a real process: nothing but the message on stderr."""
    source = "from pertbound.cli.main import run; run()"
    arguments = ["certify", *map(str, asked(files, data="digit")), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: DataError: no data set 'digit'")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
