"""The architectures that a model file can be loaded as, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pertbound.errors import InputError, ModelFileError
from pertbound.models.checkpoint import fill, read_tensors
from pertbound.models.digits import digits_network
from pertbound.models.lenet import lenet
from pertbound.models.mlp import mlp

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a network for inputs of a given shape, and how to tell that shape from its weights."""

    build: Callable[[Shape], nn.Sequential]
    """The network for inputs of a shape; `InputError` where there is none."""
    shape_of: Callable[[Mapping[str, Tensor]], Shape | None]
    """The input shape behind a file's tensors, or None where they are not of this architecture."""

    def __call__(self, shape: Shape) -> nn.Sequential:
        """The network, untrained, for inputs of `shape` (without the batch)."""
        return self.build(shape)


def load_model(path: Path, architecture: str) -> tuple[nn.Sequential, Shape]:
    """The trained network of a safetensors file, in evaluation mode, and the shape of one input.

    Raises `ModelFileError` when the file is absent, damaged, a pickle or of another architecture, and
    `InputError` for an unknown architecture.
    """
    chosen = ARCHITECTURES.get(architecture)
    if chosen is None:
        raise InputError(f"no architecture {architecture!r}; the choices are {', '.join(ARCHITECTURES)}")
    tensors = read_tensors(path)
    shape = chosen.shape_of(tensors)
    if shape is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ModelFileError(
            f"{path} is not of the architecture {architecture}: its tensors are {shapes}; "
            "name the architecture that it was trained with"
        )
    model = chosen(shape)
    fill(model, tensors, path)
    return model, shape


def load_lenet(path: Path) -> nn.Sequential:
    """The LeNet of a safetensors file, its channels and size told from the weights; as `load_model`."""
    return load_model(path, "lenet")[0]


def _build_lenet(shape: Shape) -> nn.Sequential:
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(f"LeNet takes inputs of shape (channels, size, size), got {shape}")
    return lenet(shape[0], shape[1])


def _lenet_shape(tensors: Mapping[str, Tensor]) -> Shape | None:
    first, linear = tensors.get("0.weight"), tensors.get("5.weight")
    if first is None or linear is None or first.ndim != 4 or first.shape[1] < 1 or linear.ndim != 2:
        return None
    side = math.isqrt(linear.shape[1] // 50)
    if side < 1 or side * side * 50 != linear.shape[1]:
        return None
    return (first.shape[1], 4 * side + 12, 4 * side + 12)


_DIGITS_SHAPE: Shape = (1, 8, 8)


def _build_digits(shape: Shape) -> nn.Sequential:
    if shape != _DIGITS_SHAPE:
        raise InputError(f"the digits network takes inputs of shape {_DIGITS_SHAPE}, got {shape}")
    return digits_network()


def _digits_shape(tensors: Mapping[str, Tensor]) -> Shape | None:
    return _DIGITS_SHAPE


_MNIST_SHAPE: Shape = (1, 28, 28)


def _build_mlp(shape: Shape) -> nn.Sequential:
    return mlp(shape)


def _mlp_shape(tensors: Mapping[str, Tensor]) -> Shape | None:
    first = tensors.get("1.weight")
    return _MNIST_SHAPE if first is not None and tuple(first.shape) == (50, math.prod(_MNIST_SHAPE)) else None


ARCHITECTURES: Mapping[str, Architecture] = {
    "lenet": Architecture(build=_build_lenet, shape_of=_lenet_shape),
    "digits": Architecture(build=_build_digits, shape_of=_digits_shape),
    "mlp": Architecture(build=_build_mlp, shape_of=_mlp_shape),
}
"""The architectures by name."""
