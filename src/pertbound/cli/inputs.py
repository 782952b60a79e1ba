"""From flags to a network, a data set and a run folder; every refusal is a `PertboundError`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from pertbound.data import CHOICES, DataSet, Images, load
from pertbound.data.inputs import Checked
from pertbound.errors import InputError, ModelFileError, RunError
from pertbound.frontends import from_onnx, from_pt2, from_torch
from pertbound.graph import Graph
from pertbound.models import load_model
from pertbound.preprocessing import Preprocessing

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


def read_network(path: Path, architecture: str | None, preprocessing: Preprocessing | None = None) -> Graph:
    """The classifier in a file, of raw inputs where a preprocessing is declared.

    `.safetensors` files need their architecture's name, `.pt2` and `.onnx` files none.
    """
    network = _read_network(path, architecture)
    return network if preprocessing is None else preprocessing.apply(network)


def _read_network(path: Path, architecture: str | None) -> Graph:
    if not path.is_file():
        raise ModelFileError(f"no model file at {path}")
    if path.suffix == ".pt2":
        if architecture is not None:
            raise InputError("--architecture is for .safetensors files; a .pt2 file holds its own graph")
        return from_pt2(path)
    if path.name.endswith((".onnx", ".onnx.gz")):
        if architecture is not None:
            raise InputError("--architecture is for .safetensors files; an .onnx file holds its own graph")
        return from_onnx(path)
    if path.suffix == ".safetensors":
        if architecture is None:
            raise InputError(f"{path} holds weights only: name their network, for example --architecture lenet")
        model, shape = load_model(path, architecture)
        return from_torch(model, torch.zeros(2, *shape))
    raise ModelFileError(
        f"{path} is neither .safetensors nor .pt2 nor .onnx. Other files, such as pickles (.pt, .pth), are never "
        "opened, because loading them can run code. Save the weights with "
        "safetensors.torch.save_file(model.state_dict(), ...), or the model with "
        "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
    )


def read_data(
    name: str, folder: Path | None, limit: int | None, network: Graph, images: Images | None = None
) -> DataSet:
    """The test data, checked against the network's input; images are decoded to as many channels as that has."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    images, wanted = images or Images(), network.input_shape
    if len(wanted) == 3 and wanted[0] in (1, 3):
        images = replace(images, channels=wanted[0])
    data = load(name, folder, limit=limit, images=images)
    shape = tuple(data.inputs.shape[1:])
    if shape != network.input_shape:
        raise InputError(
            f"{data.name} has samples of shape {shape}, but the model takes {network.input_shape}"
            + ("; --resize and --crop change the size of image files" if isinstance(data.inputs, Checked) else "")
        )
    if data.labels is not None and int(data.labels.max()) >= network.classes:
        raise InputError(
            f"{data.name} has labels up to {int(data.labels.max())}, but the model has {network.classes} classes"
        )
    return data


def require_free(out: Path, overwrite: bool) -> None:
    """Refuse a folder that already holds a run, before any work is done."""
    if (out / "rows.parquet").exists() and not overwrite:
        raise RunError(f"{out} already holds a run; name another --out, or add --overwrite to replace it")
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; --out needs a folder")


def command_line() -> str:
    """The command as it was given, for the run's record."""
    return " ".join(["pertbound", *sys.argv[1:]])
