"""From flags to what they mean; every refusal is a `PertboundError`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from pertbound.cli.screen import copyable
from pertbound.data import CHOICES, Images
from pertbound.errors import InputError
from pertbound.preprocessing import Preprocessing
from pertbound.store import require_room

Data = Annotated[str, typer.Option("--data", help=f"What to measure on: {CHOICES}.")]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean", help="The model takes (x / scale - mean) / std: one number, or one per channel: 0.5,0.4,0.4."
    ),
]
Std = Annotated[str | None, typer.Option("--std", help="See --mean; what all is in units of is x, the raw input.")]
Scale = Annotated[float | None, typer.Option("--scale", help="See --mean; 255 where the data are bytes as they are.")]
Resize = Annotated[
    str | None, typer.Option("--resize", help="For image files: the length of the shorter side, or HEIGHTxWIDTH.")
]
Crop = Annotated[
    str | None, typer.Option("--crop", help="For image files: what is cut out of the middle, SIDE or HEIGHTxWIDTH.")
]


def read_preprocessing(mean: str | None, std: str | None, scale: float | None) -> Preprocessing:
    """What `--mean --std --scale` declare; nothing where none is given."""
    return Preprocessing(
        mean=_numbers("--mean", mean, 0.0), std=_numbers("--std", std, 1.0), scale=1.0 if scale is None else scale
    )


def read_images(resize: str | None, crop: str | None) -> Images:
    """What `--resize --crop` ask for."""
    return Images(resize=_size("--resize", resize), crop=_size("--crop", crop))


def _numbers(flag: str, text: str | None, otherwise: float) -> float | tuple[float, ...]:
    if text is None:
        return otherwise
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{flag} takes numbers with commas between them, such as 0.5 or 0.5,0.4,0.4; got {text!r}"
        ) from error


def _size(flag: str, text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and len(side) < 9 for side in sides):
        raise InputError(f"{flag} takes a number of pixels, or HEIGHTxWIDTH, such as 224 or 224x160; got {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def require_free(out: Path, overwrite: bool, resume: bool = False, *, beside: Collection[str] = ()) -> None:
    """Refuse, before any work is done, a folder into which the run must not be written (`store.require_room`)."""
    if resume and overwrite:
        raise InputError("--resume goes on with a run and --overwrite replaces it: give one of them")
    require_room(out, resume=resume, overwrite=overwrite, beside=beside)


def command_line() -> str:
    """The command as it was given, for the run's record: a shell reads it as it was read."""
    return copyable(["pertbound", *sys.argv[1:]])
