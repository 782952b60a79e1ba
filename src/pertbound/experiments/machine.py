"""What a run was computed with: the program, the libraries, the machine. Nothing here changes what a run claims."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import pertbound

LIBRARIES = ("numpy", "onnxruntime")
"""Other packages whose version a run keeps, where they are installed."""


def versions() -> dict[str, Any]:
    """The program, by version and source, and the libraries that compute."""
    found = {
        "pertbound": metadata.version("pertbound"),
        "source": source(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The operating system, the processor, how many cores there are, and how many threads torch uses."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def source() -> str:
    """Which source of this package runs: the commit of its checkout, or a hash over the files of the installed package.

    `commit` and what `git describe` says, which ends in `-dirty` where files differ from that commit; else `files` and
    a SHA-256 over the names and the bytes of all modules.
    """
    folder = Path(pertbound.__file__).parent
    root = folder.parent.parent
    if (root / ".git").exists() and (root / "pyproject.toml").is_file():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return f"commit {said.stdout.strip()}"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"files {digest.hexdigest()}"


def _processor() -> str:
    """The processor's model, as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
