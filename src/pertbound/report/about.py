"""What `run.json` says, read without trusting its shape: keys may be absent, and are then simply not shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

from pertbound.records import Run

_FIRST = ("created", "command", "model", "data", "options", "accuracy", "versions", "seconds")
"""The keys of `run.json` in the order in which provenance lists them; others follow."""

_ELSEWHERE = ("title", "guarantee")
_NORMS = {"L1": "L1", "L2": "L2", "Linf": "L∞"}
"""What the page says in other places."""


@final
@dataclass(frozen=True)
class Unit:
    """Multiply a distance in units of the classifier's input by `factor`, and call the result `name`."""

    factor: float
    name: str


@final
@dataclass(frozen=True)
class Fact:
    """One line of provenance."""

    key: str
    value: str


def entry(run: Run, *keys: str) -> Any:
    """The value under nested keys, or None where there is none."""
    value: Any = run.about
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, Any]", value).get(key)
    return value


def text(run: Run, *keys: str) -> str:
    """The value under nested keys as text, or an empty one."""
    value = entry(run, *keys)
    return value if isinstance(value, str) else ""


def number(run: Run, *keys: str) -> float | None:
    """The finite number under nested keys, or None."""
    value = entry(run, *keys)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def title(run: Run, otherwise: str = "A run") -> str:
    """The run's title, else its model and data, else what the caller says."""
    model, data = text(run, "model", "name"), text(run, "data", "name")
    return text(run, "title") or (f"{model} on {data}" if model and data else model or data) or otherwise


def shape(run: Run) -> tuple[int, ...]:
    """The shape of one input; empty where it is not known."""
    sizes = entry(run, "data", "input_shape")
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        return ()
    whole = [size for size in cast("Sequence[Any]", sizes) if isinstance(size, int) and size > 0]
    return tuple(whole) if len(whole) == len(cast("Sequence[Any]", sizes)) else ()


def pixel_scale(run: Run) -> float | None:
    """How many of the data's own units one unit of the classifier's input is."""
    scale = number(run, "data", "pixel_scale")
    return scale if scale is not None and scale > 0 else None


def units(run: Run) -> str:
    """What distances are in units of: the raw input, in the words of its data set, and what the model makes of it."""
    words, scale, first = text(run, "data", "units"), pixel_scale(run), text(run, "model", "preprocessing")
    taken = f", which the model takes as {first}" if first else ""
    if words:
        return f"the raw input ({words}){taken}"
    times = "" if scale in (None, 1) else f" (1 unit is {scale:g} pixel units)"
    whose = "the raw input" if first else "the classifier's input"
    return f"{whose}{times}{taken}"


def norm(run: Run) -> str:
    """The norm that distances are in, as a reader knows it: L1, L2 or L∞."""
    name = run.about.get("norm", "L2")
    return _NORMS.get(name, str(name))


def distance(run: Run) -> str:
    """What axes show."""
    return f"{norm(run)} distance, units of the input"


def domain(run: Run) -> str:
    """Which perturbations count, as the run's guarantee has it; the norm where there is none."""
    where = text(run, "guarantee").split(", for ")[0].partition(" over ")[2].replace("all of R^d", "inputs anywhere")
    return f"{norm(run)}, {where}" if where else norm(run)


def normalised_unit(run: Run) -> Unit:
    """In L2 the paper's: pixel units divided by the number of entries; the input's own where that is not known.

    In L1 that is the mean change of an entry. In L-infinity it is not divided: the largest change of an entry.
    """
    scale, sizes, name = pixel_scale(run), shape(run), norm(run)
    if scale is None or not sizes:
        return Unit(1.0, f"{name} distance in units of the input")
    if name == "L∞":
        return Unit(scale, "L∞ distance in pixel units: the largest change of an entry")
    entries = math.prod(sizes)
    meaning = ": the mean change of an entry" if name == "L1" else " (entries of an input)"
    return Unit(scale / entries, f"{name} distance in pixel units ÷ {entries}{meaning}")


def noun(run: Run) -> str:
    """What the samples are: images where their shape is one's."""
    sizes = shape(run)
    return "images" if len(sizes) == 3 and sizes[0] in (1, 3) else "samples"


def facts(run: Run) -> list[Fact]:
    """Everything in `run.json`, flattened, for the section on provenance."""
    if not isinstance(run.about, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        return []
    keys = [key for key in _FIRST if key in run.about] + [key for key in run.about if key not in _FIRST]
    return [fact for key in keys if key not in _ELSEWHERE for fact in _flatten(key, run.about[key])]


def _flatten(key: str, value: Any) -> list[Fact]:
    if value is None or value in ("", [], {}):
        return []
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value)
        return [fact for name in inner for fact in _flatten(f"{key} · {name}", inner[name])]
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        joint = " × " if key.endswith("shape") else "; "
        return [Fact(key, joint.join(str(part) for part in parts))]
    if isinstance(value, float):
        return [Fact(key, f"{value:.6g}")]
    return [Fact(key, str(value))]
