"""The experiment of Peck, Roels, Goossens and Saeys (NIPS 2017), section 5, on the full test sets.

LeNet as in Caffe on MNIST and CIFAR-10: the fast gradient sign attack with a search for the smallest step up to 100 on
the pixel scale 0 to 255 (Table 1, Figure 2), the paper's bound (Table 2, Figure 3) beside the certified one, and the
log-ratio of each sample's witness and bound (Figure 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from pertbound.attacks import FastGradientSign
from pertbound.certificates import CurvatureFree, Lipschitz, Published, Softened
from pertbound.data import DataSet, load
from pertbound.errors import InputError, ModelFileError
from pertbound.experiments.provenance import about_run
from pertbound.experiments.work import Method, OnProgress, Work
from pertbound.frontends import from_torch
from pertbound.models import (
    CIFAR10_LENET,
    MNIST_LENET,
    Progress,
    Recipe,
    accuracy,
    lenet,
    load_model,
    save_checkpoint,
    train,
)


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """One of the paper's two data sets, and what its LeNet must reach."""

    dataset: str
    paper_name: str
    recipe: Recipe
    accuracy: float
    """The test accuracy that the network must have for the comparison to mean anything."""


SETTINGS = {
    "mnist": Setting(dataset="mnist", paper_name="MNIST", recipe=MNIST_LENET, accuracy=0.989),
    "cifar10": Setting(dataset="cifar10", paper_name="CIFAR-10", recipe=CIFAR10_LENET, accuracy=0.60),
}
"""The two settings, by the data set's name."""

CHECKPOINT = "lenet.safetensors"
"""The name under which a run keeps the network that it trained."""

KEPT_WITNESSES = 500
"""Inputs kept with the run for its pictures; every witness's distances are in the rows."""


def methods() -> tuple[Method, ...]:
    """The attack and the bounds of the experiment, in the order of the rows."""
    return (
        FastGradientSign(max_epsilon=100 / 255),
        Lipschitz(),
        Published(relu=Softened()),
        Published(relu=CurvatureFree()),
    )


def network_for(
    setting: Setting,
    folder: Path | None,
    out: Path,
    checkpoint: Path | None,
    *,
    seed: int = 0,
    on_epoch: Callable[[Progress], None] | None = None,
) -> tuple[nn.Module, Path]:
    """The trained LeNet, and the file that holds it.

    It is read from `checkpoint`, else from an earlier run's file in `out`, else trained from `seed` and saved there.
    """
    path = checkpoint or out / CHECKPOINT
    if checkpoint is not None or path.exists():
        model, shape = load_model(path, "lenet")
        expected = (1, 28, 28) if setting.dataset == "mnist" else (3, 32, 32)
        if shape != expected:
            raise ModelFileError(f"{path} is a LeNet for inputs of {shape}; {setting.paper_name} needs {expected}")
        return model, path
    data = load(setting.dataset, folder, train=True)
    model = lenet(data.inputs.shape[1], data.inputs.shape[2])
    train(model, data, setting.recipe, torch.Generator().manual_seed(seed), on_epoch)
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, path, {"dataset": setting.dataset, "seed": str(seed), "recipe": str(setting.recipe)})
    return model, path


def check_accuracy(setting: Setting, model: nn.Module, data: DataSet) -> float:
    """The test accuracy. Raises `InputError` when it is too low for the experiment, on at least 1,000 samples."""
    reached = accuracy(model, data)
    if len(data) >= 1000 and reached < setting.accuracy:
        raise InputError(
            f"this LeNet has an accuracy of {reached:.2%} on {len(data)} test images of {setting.paper_name}; the "
            f"experiment needs {setting.accuracy:.1%}. Delete its file to train again, or name another --checkpoint"
        )
    return reached


def work_for(model: nn.Module, data: DataSet, *, batch_size: int = 500, on_progress: OnProgress | None = None) -> Work:
    """All that is measured on `data`."""
    return Work(
        network=from_torch(model, data.inputs[:2]),
        data=data,
        methods=methods(),
        batch_size=batch_size,
        shard_size=batch_size,
        keep_witnesses=KEPT_WITNESSES,
        on_progress=on_progress,
    )


def about(setting: Setting, work: Work, command: str) -> dict[str, Any]:
    """What the run says of itself."""
    return about_run(
        f"Peck et al. (2017), section 5: LeNet on {setting.paper_name}",
        work,
        "LeNet as in Caffe",
        {"attack": "smallest fast gradient sign step up to 100 on the scale 0 to 255, not clipped"},
        command,
    )
