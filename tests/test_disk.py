"""Whole files: what may be replaced, and what is read of a stranger's."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pertbound import disk

NO_FILES = ("a folder", "a symbolic link", "a named pipe", "a socket", "a device")


def make(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that is no regular file. A device is only said to be one: no test touches a real one."""
    if what == "a folder":
        path.mkdir()
    elif what == "a symbolic link":
        (path.parent / "target").write_text("mine")
        path.symlink_to(path.parent / "target")
    elif what == "a named pipe":
        os.mkfifo(path)
    elif what == "a socket":
        with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as made:
            made.bind(f"{short}/s")  # such names are short
            Path(f"{short}/s").rename(path)
    else:
        path.write_text("mine")
        real = Path.lstat

        def lstat(self: Path) -> os.stat_result:
            found = real(self)
            changed = stat.S_IFCHR | stat.S_IMODE(found.st_mode) if self == path else found.st_mode
            return os.stat_result((changed, *found[1:]))

        monkeypatch.setattr(Path, "lstat", lstat)


@pytest.mark.parametrize("what", NO_FILES)
def test_only_regular_files_are_replaced_or_read(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "place"
    make(path, what, monkeypatch)
    before = os.lstat(path)
    assert disk.kind(path) == what
    with pytest.raises(OSError, match=f"is {what}, and only a regular file is replaced; name another file"):
        disk.write_whole(path, lambda to: to.write_text("new"))
    with pytest.raises(OSError, match=f"is {what}; only regular files are read"):
        disk.read_whole(path, 10)
    after = os.lstat(path)
    assert (after.st_mode, after.st_ino, after.st_size) == (before.st_mode, before.st_ino, before.st_size)
    assert {name.name for name in tmp_path.iterdir()} <= {"place", "target"}, "nothing begun is left"
    if what == "a symbolic link":
        assert (tmp_path / "target").read_text() == "mine"


def test_what_appears_while_it_is_written_is_not_replaced_either(tmp_path: Path) -> None:
    def write(to: Path) -> None:
        to.write_text("new")
        os.mkfifo(tmp_path / "place")

    with pytest.raises(OSError, match="a named pipe"):
        disk.write_whole(tmp_path / "place", write)
    assert disk.kind(tmp_path / "place") == "a named pipe"


def test_the_other_name_is_nobody_elses(tmp_path: Path) -> None:
    """`.place.part` was once that name, and what a user had there was lost."""
    (tmp_path / "mine").write_text("mine")
    for name in (".place.part", ".place.0.part"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    disk.write_whole(tmp_path / "place", lambda to: to.write_text("new"))
    with pytest.raises(FileExistsError):
        disk.write_whole(tmp_path / "place", lambda to: to.write_text("new"), mark="0")
    assert (tmp_path / "mine").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_is_as_large_as_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert disk.read_whole(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes; such a file has at most 4"):
        disk.read_whole(tmp_path / "file", 4)
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(2**42)
    with pytest.raises(OSError, match="such a file has at most"):
        disk.read_whole(tmp_path / "hole", 2**30)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "more than 64 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 64 levels"),
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ("[NaN]", "NaN"), ("[-Infinity]", "-Infinity"), ("[1e999]", "no finite number"),
        ("[1" + "0" * 30 + "]", "no integer of 64 bits"), ("[" + "9" * 100_000 + "]", "no integer of 64 bits"),
        ('{"a": 1, "a": 2}', "name 'a' twice"), ('[{"b": {"c": 1, "c": 1}}]', "twice"),
        ('["\\ud800"]', "surrogates not allowed"), ('{"\\udfff": 1}', "surrogates not allowed"),
        ("", "Expecting value"), ("\x00", "Expecting value"), ("{", "Expecting property name"),
    ],
)  # fmt: skip
def test_json_that_is_not_plain_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        disk.plain_json(text.encode())


@pytest.mark.parametrize("value", [{}, [], None, 1.5, "text", {"a": [1, {"b": -(2**63)}]}, ["\U0001f600"]])
def test_plain_json_is_read(value: Any) -> None:
    import json

    assert disk.plain_json(json.dumps(value).encode()) == value
    assert disk.plain_json(b"[" * 63 + b"]" * 63)
    for damaged in (b"\xff\xfe", b'"\xff"'):
        with pytest.raises(ValueError):
            disk.plain_json(damaged)
