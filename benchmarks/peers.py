"""The networks, samples and figures of other tools that certificates are compared with (see --data-dir)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import pertbound as pb
from pertbound.data import load

SDP_CROWN = ("mnist_mlp", "mnist_convsmall", "cifar10_cnn_a")
LENET = ("lenet_mnist", "lenet_cifar10")


@dataclass(frozen=True)
class Peer:
    """A network in pixel units, the samples that others were run on, and what they found (keys as in the files)."""

    name: str
    model: nn.Module
    network: pb.Graph
    x: Tensor
    found: dict[str, Any]

    def of(self, key: str) -> Tensor:
        """The radii that a tool reached, for the first samples or those that it was run on; NaN elsewhere."""
        values = torch.full((len(self.x),), torch.nan, dtype=torch.float64)
        found = self.found.get(key, [])
        if isinstance(found, list):
            values[: len(found)] = torch.tensor(found, dtype=torch.float64)
            return values
        for position, index in enumerate(self.found["indices"]):
            value = found.get(str(index))
            if value is not None:
                values[position] = value["radius"] if isinstance(value, dict) else value
        return values


def peer(name: str, data_dir: Path, peers_dir: Path) -> Peer:
    """One of `SDP_CROWN` or `LENET`."""
    found = json.loads((peers_dir / f"{name}.json").read_text(encoding="utf-8"))
    model, x = _lenet(name, data_dir) if name in LENET else _sdp_crown(name, data_dir)
    x = x[found["indices"]]
    model = model.eval().requires_grad_(False)
    return Peer(name, model, pb.from_torch(model, x[:2]), x, found)


def _lenet(name: str, data_dir: Path) -> tuple[nn.Module, Tensor]:
    dataset = name.removeprefix("lenet_")
    weights = load_file(data_dir / "lenet" / f"{dataset}.safetensors")
    channels, features = weights["0.weight"].shape[1], weights["5.weight"].shape[1]
    model = nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
    model.load_state_dict(weights)
    return model, load(dataset, data_dir).inputs[:]


def _sdp_crown(name: str, data_dir: Path) -> tuple[nn.Module, Tensor]:
    folder = data_dir / "sdp_crown"
    spec = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    weights = load_file(folder / f"{name}.safetensors")
    layers: list[nn.Module] = []
    for layer in spec["layers"]:
        match layer["type"]:
            case "conv2d":
                sizes = layer["in_channels"], layer["out_channels"], layer["kernel"], layer["stride"]
                layers.append(nn.Conv2d(*sizes, padding=layer["padding"]))
            case "linear":
                layers.append(nn.Linear(layer["in_features"], layer["out_features"]))
            case "relu":
                layers.append(nn.ReLU())
            case _:
                layers.append(nn.Flatten())
    model = nn.Sequential(*layers)
    model.load_state_dict(weights)
    samples = np.load(folder / spec["dataset"] / "X_sdp.npy")
    x = torch.from_numpy(samples).permute(0, 3, 1, 2).contiguous()
    if spec["normalisation"] is None:
        return model, x
    return nn.Sequential(_Normalise(spec["normalisation"]["mean"], spec["normalisation"]["std"]), model), x


class _Normalise(nn.Module):
    """(x - mean) / std for each channel, so that radii are in pixels."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean).reshape(-1, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels."""
        return (x - self.mean) / self.std
