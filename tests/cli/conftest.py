"""Running commands in this process, and the small models and data that they are asked about."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pertbound.cli.main import run
from pertbound.data import DataSet, load
from pertbound.models import Recipe, digits_network, save_checkpoint, train


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """`pertbound ARGUMENTS`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["pertbound", *map(str, arguments)])
        capsys.readouterr()
        try:
            run()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """The digits network, trained for a second."""
    network = digits_network()
    data = load("digits", train=True)
    train(network, data, Recipe(epochs=2, batch=64, peak_rate=0.05), torch.Generator().manual_seed(0))
    return network


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture(scope="session")
def files(model: nn.Module, digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `digits.safetensors`, `digits.pt2`, `double.pt2`, `labelled.npz` and `plain.npz`."""
    folder = tmp_path_factory.mktemp("files")
    save_checkpoint(model, folder / "digits.safetensors", {})
    shapes = ({0: torch.export.Dim.AUTO},)
    for name, dtype in (("digits", torch.float32), ("double", torch.float64)):
        network = digits_network().eval().requires_grad_(False)
        network.load_state_dict(model.state_dict())
        example = torch.zeros(2, 1, 8, 8, dtype=dtype)
        program = torch.export.export(network.to(dtype), (example,), dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
    assert digits.labels is not None
    x, y = digits.inputs[:25].numpy(), digits.labels[:25].numpy()
    np.savez_compressed(folder / "labelled.npz", x=x, y=y)
    np.savez_compressed(folder / "plain.npz", x=x)
    return folder
