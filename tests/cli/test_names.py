"""Names that no file can have, files that cannot be read, and nasty values of every option: a message and exit code 2.

The options are those that typer knows of, so that new ones are tried as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pertbound.cli import command as module
from pertbound.cli import main
from pertbound.errors import InputError

CODES = {0, 1, 2, 3, 4, 130}
"""Those that are documented; 70, an unexpected error, must not come of any value."""
LONG = "a" * 5000
NAMES = {
    "long": LONG,
    "deep": "/".join(["a" * 200] * 30),
    "zero": "a\0b",
    "not UTF-8": os.fsdecode(b"a\xff\xfe"),
    "loop": "loop/x",
}


def told(done: Any) -> None:
    """Exit code 2 and two lines at most."""
    assert done.code == 2, done
    assert "Traceback" not in done.err + done.out
    assert done.out == ""
    assert len(done.err.strip().splitlines()) <= (4 if done.err.startswith("Usage:") else 2), "typer's own say how"
    assert all(ord(letter) >= 32 or letter == "\n" for letter in done.err)


@pytest.fixture
def loop(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("option", ["--model", "--data", "--out", "--data-dir"])
def test_names_that_no_file_can_have(cli, option: str, name: str) -> None:  # type: ignore[no-untyped-def]
    given = {"--model": "digits.onnx", "--data": "digits"} | {option: name}
    done = cli("certify", *(part for pair in given.items() for part in pair))
    told(done)
    assert option in done.err


def test_the_look_at_names_is_what_refuses_them(cli, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Without it, what is raised is another error, or none of ours."""
    monkeypatch.setattr(module, "_require_name", lambda *arguments: None)
    with pytest.raises(BaseException) as caught:
        main.app(["certify", "--model", LONG, "--data", "digits"], standalone_mode=False)
    assert not isinstance(caught.value, InputError)


def test_folders_and_files_in_each_other_s_place(cli, files: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("x.npz", "x.npy", "x.bin", "t10k-images-idx3-ubyte", "x.onnx", "x.pt2", "x.safetensors", "x.vnnlib"):
        (tmp_path / name).mkdir()
    model = ("--model", files / "digits.safetensors", "--architecture", "digits")
    for data in ("x.npz", "x.npy", "x.bin", "t10k-images-idx3-ubyte", "/dev/null", files / "plain.npz" / "x"):
        told(cli("attack", *model, "--data", data))
    for name in ("x.onnx", "x.pt2", "x.safetensors", "/dev/null", files / "plain.npz" / "x"):
        told(cli("attack", "--model", name, "--data", "digits"))
        told(cli("verify", name, "x.vnnlib"))


@pytest.mark.parametrize("ending", [".npz", ".npy", ".bin", ".bin.gz"])
def test_files_that_must_not_be_read(cli, files: Path, tmp_path: Path, ending: str, monkeypatch: Any) -> None:  # type: ignore[no-untyped-def]
    """Root may read all files, so the refusal is put in place of opening them."""
    path = tmp_path / f"mine{ending}"
    path.write_bytes(bytes(3073))
    import builtins
    import io

    inner, file_io = io.open, io.FileIO

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return inner(file, *arguments, **options)

    class Refusing(file_io):
        def __init__(self, file: Any, *arguments: Any, **options: Any) -> None:
            if str(file) == str(path):
                raise PermissionError(13, "Permission denied", str(file))
            super().__init__(file, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "FileIO", Refusing)
    model = ("--model", files / "digits.safetensors", "--architecture", "digits")
    done = cli("attack", *model, "--data", path)
    told(done)
    assert "Permission denied" in done.err


@pytest.mark.parametrize(
    "device", ["meta", "cuda:99", "cuda:-1", "", "gpu", "cpu:x", "privateuseone", "[/red]", "\x1b"]
)
def test_devices_that_there_are_not(cli, files: Path, device: str) -> None:  # type: ignore[no-untyped-def]
    model = ("--model", files / "digits.safetensors", "--architecture", "digits", "--data", files / "plain.npz")
    done = cli("certify", *model, "--limit", 1, "--device", device)
    told(done)
    assert "no device" in done.err


# --- every option of every command ----------------------------------------------------------------------------------

VALUES = ["", "-1", "0", "1e400", "nan", "[/red]", ":smile:", "\x1b[2J", "a\0b", os.fsdecode(b"\xff"), LONG, "/",
          "..", "9" * 400, "٣", "--", "$(reboot)", "127.0.0.1", "127.0.0.1:99999", "1_0"]  # fmt: skip
QUICK = ["[/red]", LONG]


def options() -> Iterator[tuple[str, Any]]:
    for name, one in typer.main.get_command(main.app).commands.items():  # type: ignore[attr-defined]
        for parameter in one.params:
            yield name, parameter


OPTIONS = [pytest.param(name, one, id=f"{name}-{one.name}") for name, one in options() if one.name != "help"]


def asked(files: Path, command: str) -> dict[str, list[str]]:
    """What a command needs, for the smallest question that it answers."""
    if command in ("certify", "attack", "bracket"):
        given = {"--model": files / "digits.safetensors", "--architecture": "digits", "--data": files / "plain.npz"}
        return {name: [str(value)] for name, value in given.items()} | {"--limit": ["1"]}
    arguments = {
        "verify": [files / "digits.pt2", "absent.vnnlib"],
        "query": ["absent", "SELECT 1"],
        "reproduce": ["peck2017"],
        "report": ["absent"],
        "compare": ["absent", "absent"],
        "check": ["absent"],
    }
    more = {"--dataset": ["mnist"]} if command == "reproduce" else {}
    return {"": [str(value) for value in arguments.get(command, [])], **more}


def tried(cli: Any, files: Path, command: str, parameter: Any, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*arguments: Any, **named: Any) -> None:
        raise InputError("far enough")

    for place in ("pertbound.cli.studies.run_demo", "pertbound.cli.studies.load", "pertbound.engine.ray._ray"):
        monkeypatch.setattr(place, reached)
    given = asked(files, command)
    if parameter.param_type_name == "argument":
        place = [one.name for one in typer.main.get_command(main.app).commands[command].params].index(parameter.name)  # type: ignore[attr-defined]
        given[""][min(place, len(given[""]) - 1)] = value
    elif parameter.is_flag:
        given[max(parameter.opts, key=len)] = []
    else:
        given[max(parameter.opts, key=len)] = [value] * parameter.nargs
    line = [part for name, values in given.items() if name for part in (name, *values)]
    done = cli(command, *line, "--", *given.get("", []))
    assert done.code in CODES, (line, done)
    assert "Traceback" not in done.err + done.out, (line, done)
    assert not any(ord(letter) < 32 and letter != "\n" for letter in done.err), (line, done)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize(("command", "parameter"), OPTIONS)
def test_nasty_values_of_every_option(
    cli: Any, files: Path, command: str, parameter: Any, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(cli, files, command, parameter, value, monkeypatch)


@pytest.mark.parametrize("value", QUICK, ids=range(len(QUICK)))
@pytest.mark.parametrize(("command", "parameter"), [p for p in OPTIONS if p.values[0] in ("demo", "verify")])
def test_nasty_values_of_some_options(
    cli: Any, files: Path, command: str, parameter: Any, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(cli, files, command, parameter, value, monkeypatch)
