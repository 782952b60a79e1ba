"""Random weights from an explicit generator, so that a model depends on nothing global."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and linear layer anew, in place; biases become 0.

    He's initialisation: independent normal entries of variance 2 / fan-in, which keeps the size of the
    signals through ReLU layers. Entries are drawn on the generator's device, in the order of
    `model.modules()`, and are then moved to the model's: a CPU generator gives the same model everywhere.
    Batch normalisation becomes the identity, but for its eps: scale and variance 1, shift and mean 0.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers" (ICCV 2015), equation 10.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            scale = math.sqrt(2.0 / weight[0].numel())
            drawn = torch.randn(weight.shape, generator=generator, device=generator.device, dtype=torch.float32)
            weight.copy_(drawn.mul_(scale))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def built(layers: Callable[[], M], generator: torch.Generator | None) -> M:
    """The module that `layers` makes, `initialise`d from `generator` without drawing any weight twice.

    Without a generator it is as PyTorch makes it: weights from its global generator, or none yet under
    `torch.device("meta")`.
    """
    if generator is None:
        return layers()
    with torch.device("meta"):
        model = layers()
    model.to_empty(device="cpu")
    initialise(model, generator)
    return model
