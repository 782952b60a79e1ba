"""What a check may read on behalf of a run folder that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

from pertbound.data.huggingface import PREFIX
from pertbound.errors import InputError
from pertbound.experiments.job import Sources

FORBIDDEN = tuple(Path(name) for name in ("/proc", "/sys", "/dev"))
"""Folders whose files are none: reading them may block, never end, or change something."""
NAMED = ("mnist", "cifar10")
"""Data sets that are fetched where they are absent, unless that is forbidden."""
DEPTH = 2
"""Levels of a folder of data whose entries are looked at: `data/folder.py` reads no deeper ones."""


def require_harmless(sources: Sources, *, allow_download: bool) -> None:
    """Refuse sources whose reading could block, never end, or use the network.

    The model must be a regular file, data a regular file or a folder of such, links followed. Data sets of a hub are
    refused unless downloads are allowed. Raises `InputError`.
    """
    _require_file(Path(sources.model), "the model")
    if sources.data.startswith(PREFIX):
        if not allow_download:
            raise InputError(
                f"the run's data, {sources.data!r:.200}, may come from the network; add --allow-download, or name a "
                "file with --data"
            )
        return
    path = Path(sources.data_dir or ".") if sources.data in NAMED else Path(sources.data)
    if sources.data == "digits" or not path.exists():
        return  # the reader says what there is not
    _require_tree(path, "the data") if path.is_dir() else _require_file(path, "the data")


def _require_file(path: Path, what: str) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"{what} at {str(path)!r:.200} is no regular file; a check reads nothing else")
    _require_place(path, what)


def _require_tree(folder: Path, what: str, depth: int = DEPTH) -> None:
    _require_place(folder, what)
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {what} at {folder}: {error}") from error
    for entry in entries:
        if entry.is_dir():
            if depth > 1:
                _require_tree(entry, what, depth - 1)
        elif entry.exists():
            _require_file(entry, what)


def _require_place(path: Path, what: str) -> None:
    real = path.resolve()
    if any(place == real or place in real.parents for place in FORBIDDEN):
        raise InputError(f"{what} at {str(path)!r:.200} is a file of the system; a check does not read it")
