"""Replacing several calls by one: what PyTorch has no operator for, and traces as others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pertbound.frontends.program import Call, Ref

Match = Callable[[Call, dict[str, Call], Counter[str]], tuple[Call, list[str]] | None]
"""If a call ends the pattern: the new call, and the names of those that it stands for but the last. The other arguments
are all calls by name, and how often each name is used. Any error means no."""


def with_pattern(calls: Sequence[Call], match: Match) -> list[Call]:
    """The calls with each match replaced, unless something is changed in place on the way; all others untouched."""
    by_name = {call.name: call for call in calls}
    places = {call.name: place for place, call in enumerate(calls)}
    uses = Counter(name for call in calls for name in _names(list(call.arguments.values())))
    replaced: dict[str, Call] = {}
    dropped: set[str] = set()
    for call in calls:
        try:
            found = match(call, by_name, uses)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):
            found = None  # whatever it is, the operators that it is made of are read one by one
        if found is not None and not _changes_between(calls, places, found[1], call):
            replaced[call.name] = found[0]
            dropped.update(found[1])
    return [replaced.get(call.name, call) for call in calls if call.name not in dropped]


def operator_of(call: Call) -> str:
    """The operator's name without namespace and overload."""
    return (*call.target.split("."), "")[1]


def _changes_between(calls: Sequence[Call], places: dict[str, int], inner: list[str], last: Call) -> bool:
    """Is anything changed in place between the first of the pattern's calls and the last?"""
    between = calls[min(places[name] for name in inner) : places[last.name]]
    return any(operator_of(call).endswith("_") or "out" in call.arguments for call in between)


def _names(values: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, Ref):
            found.append(value.name)
        elif isinstance(value, list | tuple):
            found.extend(_names(value))
    return found
