"""Stores with one thing wrong each: what stands in the place of a function, and the contract that sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contracts.folders import about
from pertbound import run_folder, shard_files, store


def clear_by_pattern(folder: Path, _about: Mapping[str, Any]) -> tuple[str, ...]:
    """Removes whatever has the right ending, as `--overwrite` once did."""
    for pattern in ("layers.json", "rows/*.parquet", "witnesses/*.npz", "rows/.*.part"):
        for path in folder.glob(pattern):
            path.unlink()
    return ()


def clear_whole_files(folder: Path, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Removes what its own name proves to be whole, whosever it is."""
    for path in (*folder.glob("rows/*"), *folder.glob("witnesses/*"), folder / "layers.json"):
        if path.name == "layers.json" or store._whole(path):
            path.unlink(missing_ok=True)
    return run_folder.clear(folder, before)


def clear_run_json_first(folder: Path, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Leaves a folder without `run.json` where it is killed."""
    (folder / "run.json").unlink()
    return run_folder.clear(folder, before)


def any_room(folder: Path, **_mode: Any) -> dict[str, Any] | None:
    """Begins a run in any folder without one."""
    return run_folder.read_about(folder) if (folder / "run.json").exists() else None


def resumed_as_new(folder: Path, **mode: Any) -> dict[str, Any] | None:
    """Takes shards that have lost their `run.json` for leftovers, and removes them, as `--resume` once did."""
    if not (folder / "run.json").exists() and mode.get("resume"):
        for path in folder.glob("rows/*.parquet"):
            path.unlink()
        return None
    return run_folder.require_room(folder, **mode)


def of_this_run(path: Path) -> str:
    """Believes of every file that it is this run's."""
    return shard_files.run_id(about())


def every_part(folder: Path, run: str) -> list[Path]:
    """Takes whatever is called a part for one of its own."""
    return [path for place in ("", "rows", "witnesses") for path in (folder / place).glob("*.part")]


MUTANTS: tuple[tuple[Any, str, Callable[..., Any], str], ...] = (
    (store, "clear", clear_by_pattern, "replaced"),
    (store, "clear", clear_by_pattern, "strange_shards"),
    (store, "clear", clear_whole_files, "strange_shards"),
    (store, "clear", clear_run_json_first, "killed_while_replacing"),
    (store, "require_room", any_room, "users_own"),
    (store, "require_room", resumed_as_new, "lost"),
    (store, "require_room", any_room, "links"),
    (store, "run_of", of_this_run, "own_leftovers"),
    (store, "unfinished", every_part, "own_leftovers"),
)
"""Where the broken function stands, its name, the function, and the contract that must see it."""
