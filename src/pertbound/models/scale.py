"""Thinner copies of an architecture: the same layers with fewer channels."""

from __future__ import annotations

from pertbound.errors import InputError


def channels(count: int, width: float) -> int:
    """`count` times `width`, which must be a whole number of at least 1. Raises `InputError` otherwise."""
    scaled = count * width
    if not (scaled >= 1 and scaled == int(scaled)):
        raise InputError(
            f"a layer of {count} channels times a width of {width} has {scaled} channels; take a width that makes "
            "every layer's a whole number, such as 1, 0.5, 0.25 or 0.125"
        )
    return int(scaled)
