"""A local file server, and writers of small files in the formats that are read."""

from __future__ import annotations

import functools
import http.server
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Server:
    """Serves the files of `folder`; a path that begins with `/cut/` announces more bytes than come."""

    folder: Path
    url: str
    requests: list[str]


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, requests: list[str], **options: Any) -> None:
        self.seen = requests
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if not self.path.startswith("/cut/"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"a" * 10)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    requests: list[str] = []
    handler = functools.partial(Handler, directory=str(folder), requests=requests)
    with Quiet(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Server(folder, f"http://127.0.0.1:{running.server_port}/", requests)
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def idx() -> Callable[[np.ndarray], bytes]:
    """The bytes of an IDX file of unsigned bytes."""

    def encode(array: np.ndarray) -> bytes:
        return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()

    return encode
