"""The competition's fully connected networks: what CROWN proves of them is proved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import pertbound as pb
from oracles.crown import crown, dense_layers
from pertbound.verification.question import question


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-net_256x2", "mnist-net_256x4", "mnist-net_256x6"])
def test_what_crown_proves_is_proved(data_root: Path, name: str) -> None:
    folder = data_root / "networks" / "mnistfc"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    network = pb.from_onnx(folder / f"{name}.onnx")
    proved, asked = 0, 0
    with (folder / "instances.csv").open(encoding="utf-8", newline="") as lines:
        claims = [folder / claim for file, claim, _ in csv.reader(lines) if Path(file).stem == name]
    for path in claims:
        claim = pb.read_vnnlib(path)
        ask = question(network, claim.cases[0])
        low, high = (end.flatten().double().numpy() for end in (ask.box.lower, ask.box.upper))
        middle = torch.as_tensor((low + high) / 2, dtype=network.dtype).reshape(1, *network.input_shape)
        label = int(network(middle).argmax())
        rows = np.delete(np.eye(network.classes)[label] - np.eye(network.classes), label, axis=0)
        asked += 1
        if bool((crown(dense_layers(network), low, high, rows) > 0).all()):
            assert pb.verify(network, claim, seconds=60.0).answer is pb.Answer.HOLDS, path.name
            proved += 1
    assert asked == 30
    assert proved >= 5
