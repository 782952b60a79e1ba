"""What a folder holds before a run is written into it, and what of that may be removed.

A run's `run.json` says what it was asked, and so its `run_id`. The run's files are that `run.json`, the `layers.json`
that carries the id, and the files in `rows/` and `witnesses/` whose names hold the hash of their content and whose
content carries the id. Nothing else is ever removed or replaced, and nothing is done through a symbolic link.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pertbound.disk import kind, plain_json, read_whole, require_folder, require_replaceable
from pertbound.errors import RunError
from pertbound.shard_files import NAME, ROWS, WITNESSES, described, question, run_id, run_of, shards

ABOUT, LAYERS, LOCK = "run.json", "layers.json", ".lock"
MOST_ABOUT, MOST_LAYERS = 2**22, 2**26
"""Bytes of `run.json` and `layers.json`, at most."""
MOST_SAMPLES = 10**9
_EXPECTED = "expected run.json and rows/ as written by `pertbound certify|attack|bracket|demo|reproduce --out`"
_OBJECTS = ("model", "data", "options", "versions", "shards", "sources", "seconds")
_TEXTS = ("title", "command", "created", "norm", "guarantee")


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in that folder."""
    return any(_there(folder / name) for name in (ABOUT, "rows.parquet"))


def read_about(folder: Path) -> dict[str, Any]:
    """`run.json`. Raises `RunError` where there is none, or it does not describe a run."""
    if not _there(folder / ABOUT):
        if _there(folder / "rows.parquet"):
            raise RunError(f"{folder} was written by an earlier version of pertbound; compute it again with this one")
        if _shards(folder):
            raise RunError(
                f"{folder} has lost its run.json; the run's own command with --resume rebuilds it from the shards"
            )
    try:
        return about_from(read_whole(folder / ABOUT, MOST_ABOUT))
    except (OSError, ValueError) as error:
        remedy = (
            f"move {ABOUT} away, and the run's own command with --resume rebuilds it" if _shards(folder) else _EXPECTED
        )
        raise RunError(f"{folder} is not a run folder ({error}); {remedy}") from error
    except RunError as error:
        raise RunError(f"{folder / ABOUT} does not describe a run: {error}") from error


def require_real(folder: Path) -> None:
    """Raise `RunError` where what a run consists of is a link, or no folder or file."""
    try:
        for name in (ABOUT, LAYERS, LOCK):
            require_replaceable(folder / name)
        for name in (ROWS, WITNESSES):
            require_folder(folder / name)
    except OSError as error:
        raise RunError(f"{folder} cannot be a run folder: {error}") from error


def about_from(data: bytes) -> dict[str, Any]:
    """`run.json` from its bytes. Raises `ValueError` for what is no plain JSON, `RunError` for what is no run's."""
    about = plain_json(data)
    if not isinstance(about, dict):
        raise RunError("it is no object")
    for names, wanted, word in ((_OBJECTS, dict, "an object"), (_TEXTS, str, "a text")):
        for name in names:
            if not isinstance(about.get(name, wanted()), wanted):
                raise RunError(f"{name} is not {word}")
    for name, wanted in (("accuracy", (float, int, type(None))), ("complete", (bool,))):
        if not isinstance(about.get(name, False), wanted):
            raise RunError(f"{name} is of the wrong type")
    for name, value in about.get("shards", {}).items():
        if type(value) is not int or not 0 <= value <= MOST_SAMPLES:
            raise RunError(f"shards: {name} is no number of samples or shards")
    return about


def require_room(
    folder: Path, *, resume: bool = False, overwrite: bool = False, beside: Collection[str] = ()
) -> dict[str, Any] | None:
    """Refuse a folder into which a run must not be written; returns the `run.json` there, None where none is.

    A new run needs a folder that is absent or empty, but for files with the names `beside`. Raises `RunError` for
    another; for a run, unless `resume` or `overwrite`; for shards that have lost their `run.json`, unless `resume`; for
    what is no folder; and for links in the place of what a run consists of.
    """
    there = kind(folder)
    if there == "a symbolic link" and overwrite:
        raise RunError(f"{folder} is a symbolic link; to replace a run, name its folder itself")
    if there and not folder.is_dir():
        raise RunError(f"{folder} is {there}; --out needs a folder")
    if not there:
        return None
    require_real(folder)
    try:
        empty = {name for name in (ROWS, WITNESSES) if _there(folder / name) and not any((folder / name).iterdir())}
        if _there(folder / LOCK) and not (folder / LOCK).stat().st_size:
            empty.add(LOCK)
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise RunError(f"cannot write the run folder {folder}: {error}") from error
    if holds_run(folder):
        if not resume and not overwrite:
            raise RunError(
                f"{folder} already holds a run; name another --out, or add --resume to go on with it, or --overwrite "
                "to replace it"
            )
        return read_about(folder)
    if _shards(folder):
        if not resume:
            raise RunError(
                f"{folder} holds shards of a run that has lost its run.json; --resume with the run's own command "
                "rebuilds it, or name another --out"
            )
        return None
    if others := [name for name in names if name not in {*beside, *empty} and not _unfinished(folder / name)]:
        some = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise RunError(f"{folder} is not empty and holds no run, but {some}\nName a new or empty folder with --out")
    return None


def rebuilt(folder: Path, asked: Mapping[str, Any]) -> bytes:
    """The lost `run.json` of a folder of shards, as they repeat it. Raises `RunError` unless it is what is asked."""
    found: bytes | None = None
    for path in _shards(folder).values():
        with suppress(RunError):
            _, found = described(path)
            break
    if found is None:
        raise RunError(f"{folder} has lost its run.json, and no shard is whole: name another --out")
    try:
        require_same(folder, about_from(found), asked)
    except ValueError as error:
        raise RunError(f"{folder} has lost its run.json, and what its shards say of it is damaged: {error}") from error
    return found


def require_same(folder: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was asked something else."""
    one, other = question(begun), question(asked)
    keys = [key for key in dict.fromkeys((*one, *other)) if one.get(key) != other.get(key)]
    if keys:
        said = "; ".join(f"{key} was {one.get(key)!r} and is now {other.get(key)!r}" for key in keys)
        raise RunError(f"{folder} holds another run, which cannot be gone on with: {said}")


def clear(folder: Path, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Remove the files of the run that `about` describes, but for its `run.json`; returns the names of what is left.

    Raises `RunError`, and removes nothing, where files of other runs stand in places that the new run would read.
    """
    run = run_id(about)
    there = list(_read_places(folder))
    mine = [path for path in there if _is_of(path, run)]
    if others := [path for path in there if path not in mine]:
        raise RunError(
            f"{others[0]} is not a file of the run in {folder}, or is damaged; nothing was removed\n"
            "Move it elsewhere, or name another --out"
        )
    mine += [path for path in (folder / WITNESSES).glob("*.npz") if _is_of(path, run)]
    for path in (*mine, *unfinished(folder, run)):
        path.unlink()
    for name in (ROWS, WITNESSES):
        with suppress(OSError):
            (folder / name).rmdir()  # which refuses where anything is left
    left = [path.name for path in folder.iterdir() if path.name not in (ABOUT, LOCK, ROWS, WITNESSES)]
    for name in (ROWS, WITNESSES):
        left += [f"{name}/{path.name}" for path in (folder / name).glob("*")]
    return tuple(sorted(left))


def unfinished(folder: Path, run: str) -> Iterator[Path]:
    """The files that a writer of this run had begun, and did not rename: their names hold the run's mark."""
    for place in (folder, folder / ROWS, folder / WITNESSES):
        for path in place.glob(f".*.{mark(run)}.part"):
            if kind(path) == "a file" and _unfinished(path):
                yield path


def mark(run: str) -> str:
    """What is in the names of a run's unfinished files."""
    return run[:16]


def _read_places(folder: Path) -> Iterator[Path]:
    """Every file that a new run in this folder would read or replace, whoever wrote it, but `run.json`."""
    if _there(folder / LAYERS):
        yield folder / LAYERS
    yield from (path for path in (folder / ROWS).glob("*.parquet") if NAME.fullmatch(path.name))


def _is_of(path: Path, run: str) -> bool:
    if kind(path) != "a file":
        return False
    if path.name != LAYERS:
        return run_of(path) == run
    try:
        layers = plain_json(read_whole(path, MOST_LAYERS))
    except (OSError, ValueError):
        return False
    return isinstance(layers, dict) and layers.get("run") == run


def _unfinished(path: Path) -> bool:
    """Whether a name is one of those under which `store` begins files."""
    name, _, end = path.name.removeprefix(".").removesuffix(".part").rpartition(".")
    known = name in (ABOUT, LAYERS) or NAME.fullmatch(name) is not None
    whole = path.name.startswith(".") and path.name.endswith(".part")
    return whole and known and len(end) == 16 and set(end) <= set("0123456789abcdef")


def _there(path: Path) -> bool:
    try:
        return kind(path) != ""
    except OSError:
        return False


def _shards(folder: Path) -> dict[int, Path]:
    return shards(folder) if (folder / ROWS).is_dir() else {}
