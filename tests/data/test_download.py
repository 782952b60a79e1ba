from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pertbound.data.download import Download, fetch
from pertbound.errors import DataError

CONTENT = bytes(range(256)) * 1000


def wanted(*urls: str, **changes: Any) -> Download:
    fields: dict[str, Any] = {
        "urls": urls,
        "algorithm": "sha256",
        "checksum": hashlib.sha256(CONTENT).hexdigest(),
        "most_bytes": 1_000_000,
        "timeout": 5.0,
    }
    return Download(**{**fields, **changes})


@pytest.fixture
def good(server: Any) -> str:
    (server.folder / "good").write_bytes(CONTENT)
    (server.folder / "wrong").write_bytes(CONTENT[:-1] + b"x")
    return f"{server.url}good"


def test_a_good_file_arrives_whole_and_alone(good: str, tmp_path: Path):
    seen: list[int] = []
    fetch(wanted(good), tmp_path / "new" / "file", seen.append)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


def test_md5_is_a_checksum_too(good: str, tmp_path: Path):
    fetch(wanted(good, algorithm="md5", checksum=hashlib.md5(CONTENT).hexdigest()), tmp_path / "file")
    assert (tmp_path / "file").exists()


def test_the_next_place_is_tried_after_each_failure(server: Any, good: str, tmp_path: Path):
    fetch(wanted(f"{server.url}absent", f"{server.url}cut/off", f"{server.url}wrong", good), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == ["/absent", "/cut/off", "/wrong", "/good"]


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("absent", {}, "404"),
        ("wrong", {}, "wrong sha256"),
        ("cut/off", {}, "truncated: 10 of 1000 bytes"),
        ("good", {"most_bytes": 1000}, "larger than 1000 bytes"),
    ],
)
def test_a_failure_names_the_place_and_leaves_nothing(
    server: Any, tmp_path: Path, place: str, changes: dict[str, Any], message: str
):
    with pytest.raises(DataError, match=message) as caught:
        fetch(wanted(f"{server.url}{place}", **changes), tmp_path / "to" / "file")
    assert f"{server.url}{place}" in str(caught.value)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_failed_download_leaves_an_older_file_alone(server: Any, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"older")
    with pytest.raises(DataError):
        fetch(wanted(f"{server.url}absent"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"older"


def test_only_http_addresses_are_opened(tmp_path: Path):
    (tmp_path / "secret").write_bytes(CONTENT)
    with pytest.raises(DataError, match="not an http"):
        fetch(wanted((tmp_path / "secret").as_uri()), tmp_path / "file")


def test_an_unreachable_place_is_a_failure(server: Any, tmp_path: Path):
    with pytest.raises(DataError, match="refused"):
        fetch(wanted("http://127.0.0.1:1/file"), tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_named(good: str, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write"):
        fetch(wanted(good), tmp_path / "file" / "below")
