"""Training a small image classifier from scratch, and measuring its accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pertbound.errors import InputError
from pertbound.models.augmentation import flip, shift
from pertbound.models.initialise import initialise


class Sliced(Protocol):
    """Inputs (N, *shape), a tensor or read slice by slice."""

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


class Labelled(Protocol):
    """What training reads of a data set: inputs (N, *shape) and one class per input."""

    @property
    def inputs(self) -> Sliced: ...  # noqa: D102
    @property
    def labels(self) -> Tensor | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: stochastic gradient descent with momentum and a one-cycle schedule of the rate."""

    epochs: int
    batch: int = 128
    peak_rate: float
    """The largest learning rate, reached after three tenths of the steps."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 0
    """Each training image is moved by up to this many pixels on both axes."""
    flip: bool = False
    """Each training image is mirrored with probability one half: for photographs, not for digits."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.shift < 0 or not self.peak_rate > 0:
            raise InputError(
                "a recipe takes at least 1 epoch, a batch of at least 1, a shift of at least 0 and a "
                f"positive peak rate, got {self}"
            )


MNIST_LENET = Recipe(epochs=6, peak_rate=0.05, shift=1)
"""LeNet on MNIST: about 99.4 % of the test images."""
CIFAR10_LENET = Recipe(epochs=12, peak_rate=0.02, shift=2, flip=True)
"""LeNet on CIFAR-10: about 75 % of the test images."""
MNIST_MLP = Recipe(epochs=10, peak_rate=0.1)
"""The network 784-50-50-10 on MNIST: about 97 % of the test images."""
DIGITS = Recipe(epochs=20, batch=64, peak_rate=0.05)
"""The small network on the 8 x 8 digits: about 98 % of the test images."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state after an epoch."""

    epoch: int
    """How many epochs are done."""
    epochs: int
    loss: float
    """Mean cross-entropy over the epoch's batches, as they were seen."""
    seconds: float
    """Time since training began."""


def train(
    model: nn.Module,
    data: Labelled,
    recipe: Recipe,
    generator: torch.Generator,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train `model` in place from fresh random weights; it is left in evaluation mode.

    Weights, order and augmentation all come from `generator`, so equal seeds give equal models on equal
    machines. Batches are moved to the model's device. The last, smaller batch of an epoch is left out.
    Raises `InputError` without labels, or when the loss stops being finite.
    """
    labels = _labels(data)
    initialise(model, generator)
    device = next(model.parameters()).device
    batch = min(recipe.batch, len(labels))
    steps = len(labels) // batch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.peak_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.epochs * steps + 1, cycle_momentum=False
    )
    start = time.perf_counter()
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator, device=generator.device).cpu()
        total = torch.zeros((), device=device)
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            images = _augmented(data.inputs[chosen].to(device), recipe, generator)
            loss = functional.cross_entropy(model(images), labels[chosen].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean = float(total) / steps
        if not mean < float("inf"):
            raise InputError(
                f"training diverged: the loss was {mean} in epoch {epoch + 1}; lower the recipe's peak_rate "
                f"({recipe.peak_rate})"
            )
        if on_progress is not None:
            seconds = time.perf_counter() - start
            on_progress(Progress(epoch=epoch + 1, epochs=recipe.epochs, loss=mean, seconds=seconds))
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Labelled, batch: int = 1000) -> float:
    """The fraction of inputs that `model`, in evaluation mode, gives their label's class.

    The model's mode is put back afterwards. Raises `InputError` without labels.
    """
    labels = _labels(data)
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    right = 0
    for start in range(0, len(labels), batch):
        images, wanted = data.inputs[start : start + batch], labels[start : start + batch]
        right += int((model(images.to(device)).argmax(1).cpu() == wanted).sum())
    model.train(mode)
    return right / len(labels)


def _labels(data: Labelled) -> Tensor:
    if data.labels is None:
        raise InputError("the data set has no labels, and neither training nor accuracy is defined without them")
    return data.labels


def _augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    if recipe.shift:
        images = shift(images, recipe.shift, generator)
    return flip(images, generator) if recipe.flip else images
