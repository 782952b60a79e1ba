"""From the words that name a model and a data set to both; every refusal is a `PertboundError`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pertbound.data import DataSet, Images, load
from pertbound.data.inputs import Checked
from pertbound.errors import InputError, ModelFileError
from pertbound.frontends import from_onnx, from_pt2, from_torch
from pertbound.graph import Graph
from pertbound.models import load_model
from pertbound.preprocessing import Preprocessing


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
    name: str,
    folder: Path | None,
    limit: int | None,
    network: Graph,
    images: Images | None = None,
    *,
    download: bool = True,
) -> DataSet:
    """The test data, checked against the network's input; images are decoded to as many channels as that has.

    What is not there is fetched where `download` allows it.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    images, wanted = images or Images(), network.input_shape
    if len(wanted) == 3 and wanted[0] in (1, 3):
        images = replace(images, channels=wanted[0])
    data = load(name, folder, limit=limit, images=images, download=download)
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
