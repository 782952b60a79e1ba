"""The architectures that a model file can be loaded as, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pertbound.errors import InputError, ModelFileError
from pertbound.models.alexnet import alexnet
from pertbound.models.checkpoint import fill, read_metadata, read_tensors
from pertbound.models.digits import digits_network
from pertbound.models.googlenet import googlenet
from pertbound.models.lenet import lenet
from pertbound.models.mlp import mlp
from pertbound.models.nin import nin
from pertbound.models.resnet import resnet18, resnet50
from pertbound.models.vgg import vgg16

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What tells two networks of one architecture apart."""

    shape: Shape
    """Of one input, without the batch."""
    classes: int | None = None
    """None for the architecture's own number."""
    width: float = 1.0
    """What the architecture's channels are multiplied by."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a network of a given layout, and how to tell the layout from its weights."""

    build: Callable[[Layout], nn.Sequential]
    """The network; `InputError` where there is none of that layout."""
    layout_of: Callable[[Mapping[str, Tensor], Shape | None], Layout | None]
    """The layout behind a file's tensors, or None where they are not of this architecture.

    The second argument is the shape that the file states: what weights cannot tell where averages follow convolutions.
    """

    def __call__(self, shape: Shape, *, classes: int | None = None, width: float = 1.0) -> nn.Sequential:
        """The network, untrained, for inputs of `shape` (without the batch)."""
        return self.build(Layout(shape=shape, classes=classes, width=width))


def load_model(path: Path, architecture: str) -> tuple[nn.Sequential, Shape]:
    """The trained network of a safetensors file, in evaluation mode, and the shape of one input.

    Classes, width and, where weights tell it, the input's shape are found from the tensors. For NIN, GoogLeNet and the
    ResNets the shape is the paper's, unless the file's metadata state another one: `{"shape": "3,64,64"}`.

    Raises `ModelFileError` when the file is absent, damaged, a pickle or of another architecture, and
    `InputError` for an unknown architecture.
    """
    chosen = ARCHITECTURES.get(architecture)
    if chosen is None:
        raise InputError(f"no architecture {architecture!r}; the choices are {', '.join(ARCHITECTURES)}")
    tensors = read_tensors(path)
    layout = chosen.layout_of(tensors, _stated_shape(path))
    if layout is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in list(tensors.items())[:8]}
        more = ", ..." if len(tensors) > 8 else ""
        raise ModelFileError(
            f"{path} is not of the architecture {architecture}: its tensors are {shapes}{more}; "
            "name the architecture that it was trained with"
        )
    try:
        with torch.device("meta"):  # the file has the weights
            model = chosen.build(layout)
    except InputError as error:
        raise ModelFileError(f"{path} is not of the architecture {architecture}: {error}") from error
    fill(model, tensors, path)
    return model, layout.shape


def load_lenet(path: Path) -> nn.Sequential:
    """The LeNet of a safetensors file, its channels and size told from the weights; as `load_model`."""
    return load_model(path, "lenet")[0]


def _stated_shape(path: Path) -> Shape | None:
    stated = read_metadata(path).get("shape")
    if stated is None:
        return None
    sides = stated.split(",")
    if not all(side.strip().isdecimal() and len(side) < 9 for side in sides):
        raise ModelFileError(f"{path} states its input's shape as {stated!r}; write it as 3,64,64")
    return tuple(int(side) for side in sides)


def _fixed(
    build: Callable[[Shape], nn.Sequential], shape_of: Callable[[Mapping[str, Tensor]], Shape | None]
) -> Architecture:
    """An architecture of ten classes and one width."""

    def built(layout: Layout) -> nn.Sequential:
        if layout.classes not in (None, 10) or layout.width != 1:
            raise InputError(f"this architecture has 10 classes and a width of 1, got {layout}")
        return build(layout.shape)

    def layout_of(tensors: Mapping[str, Tensor], _: Shape | None) -> Layout | None:
        shape = shape_of(tensors)
        return None if shape is None else Layout(shape=shape)

    return Architecture(build=built, layout_of=layout_of)


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


def _mlp_shape(tensors: Mapping[str, Tensor]) -> Shape | None:
    first = tensors.get("1.weight")
    return _MNIST_SHAPE if first is not None and tuple(first.shape) == (50, math.prod(_MNIST_SHAPE)) else None


@dataclass(frozen=True, kw_only=True)
class _Flat:
    """The dense layer behind the last feature maps, of `channels` at width 1 and side (size - `offset`) / 32."""

    name: str
    channels: int
    offset: int = 0

    def size(self, tensors: Mapping[str, Tensor], width: float) -> int | None:
        """The side of the images that its number of inputs stands for."""
        weight = tensors.get(self.name)
        if weight is None or weight.ndim != 2:
            return None
        positions = weight.shape[1] / (self.channels * width)
        side = math.isqrt(int(positions))
        return 32 * side + self.offset if side >= 1 and side * side == positions else None


def _named(
    make: Callable[..., nn.Sequential],
    *,
    shape: Shape,
    first: str,
    channels: int,
    last: str,
    classes: int = 1000,
    flat: _Flat | None = None,
) -> Architecture:
    """An architecture for colour images.

    `first` is the weight of the convolution on the image, of `channels` at width 1, and `last` the one whose rows are
    the classes. `shape` is the paper's. Where there is no dense layer `flat` any size from 32 up will do.
    """

    def build(layout: Layout) -> nn.Sequential:
        dims, sides = layout.shape[:1], layout.shape[1:]
        if dims != (3,) or len(sides) != 2 or min(sides) < 32 or (flat is not None and sides[0] != sides[1]):
            wanted = "(3, size, size)" if flat is not None else "(3, height, width) from 32 up"
            raise InputError(f"{make.__name__} takes inputs of shape {wanted}, such as {shape}; got {layout.shape}")
        size: dict[str, int] = {} if flat is None else {"size": sides[0]}
        return make(classes=classes if layout.classes is None else layout.classes, width=layout.width, **size)

    def layout_of(tensors: Mapping[str, Tensor], stated: Shape | None) -> Layout | None:
        one, end = tensors.get(first), tensors.get(last)
        if one is None or end is None or one.ndim != 4 or one.shape[0] < 1 or end.ndim < 2:
            return None
        width = one.shape[0] / channels
        found = stated or shape
        if flat is not None:
            size = flat.size(tensors, width)
            if size is None:
                return None
            found = (3, size, size)
        return Layout(shape=found, classes=end.shape[0], width=width)

    return Architecture(build=build, layout_of=layout_of)


ARCHITECTURES: Mapping[str, Architecture] = {
    "lenet": _fixed(_build_lenet, _lenet_shape),
    "digits": _fixed(_build_digits, _digits_shape),
    "mlp": _fixed(mlp, _mlp_shape),
    "nin": _named(nin, shape=(3, 32, 32), first="0.weight", channels=192, last="20.weight", classes=10),
    "alexnet": _named(
        alexnet,
        shape=(3, 227, 227),
        first="features.0.weight",
        channels=96,
        last="classifier.6.weight",
        flat=_Flat(name="classifier.1.weight", channels=256, offset=35),
    ),
    "vgg16": _named(
        vgg16,
        shape=(3, 224, 224),
        first="features.0.weight",
        channels=64,
        last="classifier.6.weight",
        flat=_Flat(name="classifier.0.weight", channels=512),
    ),
    "googlenet": _named(googlenet, shape=(3, 224, 224), first="conv1.0.weight", channels=64, last="linear.weight"),
    "resnet18": _named(resnet18, shape=(3, 224, 224), first="conv1.weight", channels=64, last="fc.weight"),
    "resnet50": _named(resnet50, shape=(3, 224, 224), first="conv1.weight", channels=64, last="fc.weight"),
}
"""The architectures by name."""
