"""What is done to a raw input before the classifier sees it, as its first layer: radii are those of raw inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from typing import Any, final

import torch
from torch import Tensor

from pertbound.errors import InputError
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Diagonal
from pertbound.rational import nearest

NAME = "preprocessing"
"""What the layer is called in the graph, where nothing else is."""

_DECLARED = "declared: "

Numbers = float | Sequence[float]


@final
@dataclass(frozen=True)
class Preprocessing:
    """x -> (x / scale - mean) / std; mean and std are one number, or one for each entry of the input's first dimension.

    Raises `InputError` unless all are finite, and `std` and `scale` positive.

    >>> Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=255).words()
    '(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)'
    """

    mean: Numbers = 0.0
    std: Numbers = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std", "scale"):
            values = _numbers(name, getattr(self, name))
            if not all(math.isfinite(value) for value in values):
                raise InputError(f"{name} must be finite, got {getattr(self, name)}")
            if name != "mean" and not all(value > 0 for value in values):
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
            if name == "scale" and len(values) != 1:
                raise InputError(f"scale must be one number, got {self.scale}; numbers for each channel go into std")
            object.__setattr__(self, name, values[0] if len(values) == 1 else values)

    @property
    def nothing(self) -> bool:
        """Whether every input stays as it is."""
        return self == Preprocessing()

    def words(self) -> str:
        """The formula with its numbers."""
        x = "x" if self.scale == 1 else f"x / {self.scale:.12g}"
        if self.mean != 0:
            x = f"{x} - {_said(self.mean)}"
        if self.std == 1:
            return x
        return f"{x if x == 'x' else f'({x})'} / {_said(self.std)}"

    def __call__(self, x: Tensor) -> Tensor:
        """The formula, computed as it stands, in the dtype of x; (batch, *shape) to the same."""
        mean, std = self._over(tuple(x.shape[1:]), x)
        return (x / self.scale - mean) / std

    def apply(self, network: Graph) -> Graph:
        """The classifier of raw inputs: this first, then `network`; `network` itself where nothing is done.

        The layer is a `Diagonal`: x times 1 / (scale std), minus mean / std, both float64 numbers next to what is exact
        for the declared float64 numbers. So certificates, attacks and boxes are about raw inputs, and the layer's norm,
        its rounding and its bounds are part of what is proven. A model that witnesses are run through
        (`Graph.original`) gets what the formula gives, computed as it stands.

        Raises `InputError` when the numbers do not fit the input's shape, or overflow in the network's dtype.
        """
        if self.nothing:
            return network
        shape, exact = network.input_shape, torch.zeros(1, dtype=torch.float64, device=network.device)
        mean, std = self._over(shape, exact)
        factor = _nearest(lambda _, s: 1 / (Fraction(self.scale) * s), mean, std)
        shift = _nearest(lambda m, s: -m / s, mean, std)
        computed = [part.to(network.dtype) for part in (factor, shift)]
        if not (all(bool(torch.isfinite(part).all()) for part in computed) and bool((computed[0] > 0).all())):
            raise InputError(
                f"{self.words()} overflows or underflows in {network.dtype}, in which the network computes"
            )
        names = {node.name for node in network.nodes}
        name = next(free for k in range(len(names) + 1) if (free := NAME + "_" * k) not in names)
        layer = Node(name, Diagonal(shape, factor, shift), (INPUT,), f"{_DECLARED}{self.words()}")
        rest = [replace(n, inputs=tuple(name if read == INPUT else read for read in n.inputs)) for n in network.nodes]
        original = None if network.original is None else Composed(self, network.original)
        return Graph([layer, *rest], shape, dtype=network.dtype, original=original, rounded=network.rounded)

    def _over(self, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        """mean and std as they broadcast over a sample, of the dtype and on the device of `like`."""
        found: list[Tensor] = []
        for name, value in (("mean", self.mean), ("std", self.std)):
            values = _numbers(name, value)
            if len(values) not in (1, shape[0] if shape else 1):
                each = f", or {shape[0]}: one for each entry of its first dimension" if shape[0] > 1 else ""
                raise InputError(f"{name} has {len(values)} numbers, and an input of shape {shape} takes 1{each}")
            ones = (1,) * (len(shape) - 1)
            found.append(torch.tensor(values, dtype=torch.float64).reshape(len(values), *ones).to(like))
        return found[0], found[1]


@final
@dataclass(frozen=True, eq=False)
class Composed:
    """A model of preprocessed inputs as one of raw inputs."""

    preprocessing: Preprocessing
    model: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """The model's outputs for raw inputs."""
        return self.model(self.preprocessing(x))

    @property
    def softmax(self) -> bool:
        """Whether the model says that its outputs are probabilities, while those of its graph are logits."""
        return bool(getattr(self.model, "softmax", False))


def preprocessed(network: Graph, *, mean: Numbers = 0.0, std: Numbers = 1.0, scale: float = 1.0) -> Graph:
    """The classifier of raw inputs x that gives `network` (x / scale - mean) / std.

    `mean` and `std` are one number, or one for each channel (each entry of the input's first dimension). Radii,
    distances and boxes are then in units of the raw input: with `scale=255`, `std=0.5`, a radius is 127.5 times what
    it is for `network`. Raises `InputError` for numbers that are not finite, not positive, or do not fit the input.
    """
    return Preprocessing(mean, std, scale).apply(network)


def declared(network: Graph) -> str:
    """The words of the preprocessing that a graph begins with, the first first; empty where none was declared."""
    places = (node.where for node in takewhile(lambda node: node.where.startswith(_DECLARED), network.nodes))
    return ", then ".join(place.removeprefix(_DECLARED) for place in places)


def _nearest(formula: Callable[[Fraction, Fraction], Fraction], mean: Tensor, std: Tensor) -> Tensor:
    """The float64 numbers next to those of an exact formula of mean and std, broadcast over each other."""
    mean, std = torch.broadcast_tensors(mean, std)
    pairs = zip(mean.flatten().tolist(), std.flatten().tolist(), strict=True)
    found = [nearest(formula(Fraction(m), Fraction(s))) for m, s in pairs]
    return torch.tensor(found, dtype=torch.float64, device=mean.device).reshape(mean.shape)


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        values = tuple(float(each) for each in (value if isinstance(value, tuple | list) else (value,)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be a number, or one for each channel, got {value!r}") from error
    if not values or isinstance(value, str):
        raise InputError(f"{name} must be a number, or one for each channel, got {value!r}")
    return values


def _said(value: Numbers) -> str:
    if isinstance(value, Sequence):
        return f"({', '.join(f'{each:.12g}' for each in value)})"
    return f"{value:.12g}" if value >= 0 else f"({value:.12g})"
