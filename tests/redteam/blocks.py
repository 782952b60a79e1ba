"""What networks are drawn from that PyTorch has no module for, and the dice they are drawn with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, ...]


class Dice(random.Random):
    """Numbers with few binary digits, which mean the same in float32 and float64."""

    def number(self, low: float, high: float) -> float:
        """A multiple of 1/64."""
        return self.randint(round(low * 64), round(high * 64)) / 64

    def chance(self, share: float = 0.5) -> bool:
        """True so often."""
        return self.random() < share


class Formula(nn.Module):
    """A function of tensors alone."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function, self.name = function, name

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class Branches(nn.Module):
    """Several networks of the same input, and what is made of their outputs."""

    def __init__(self, join: Callable[..., Tensor], name: str, *parts: nn.Module) -> None:
        super().__init__()
        self.join, self.name, self.parts = join, name, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*(part(x) for part in self.parts))

    def extra_repr(self) -> str:
        return self.name


class Affine(nn.Module):
    """scale * x + shift with stored tensors."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


class Recurrent(nn.Module):
    """The last outputs, or all, of a recurrent layer over rows of the input."""

    def __init__(self, kind: str, steps: int, size: int, hidden: int, *, whole: bool, both: bool, layers: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"batch_first": True, "bidirectional": both, "num_layers": layers}
        kinds = {"relu": nn.RNN, "tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        if kind in ("relu", "tanh"):
            options["nonlinearity"] = kind
        self.layer, self.shape, self.whole = kinds[kind](size, hidden, **options), (steps, size), whole

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x.reshape(x.shape[0], *self.shape))[0]
        return found.flatten(1) if self.whole else found[:, -1]


def as_rows(x: Tensor, size: int) -> Tensor:
    """(batch, rows, size)."""
    return x.reshape(x.shape[0], -1, size)


def grouped(size: int) -> Formula:
    """GroupSort: groups of `size` neighbours in increasing order."""
    return Formula(lambda x: as_rows(x, size).sort(-1)[0].flatten(1), f"sorted in groups of {size}")


def reshaped(*shape: int) -> Formula:
    """Samples of another shape."""
    return Formula(lambda x: x.reshape(x.shape[0], *shape), f"as {shape}")


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One beside the other."""
    return torch.cat(list(parts), 1)


def padded(pads: tuple[int, ...], mode: str, value: float) -> Formula:
    """Numbers around the last dimensions, or entries taken away."""
    if mode == "constant":
        return Formula(lambda x: functional.pad(x, pads, value=value), f"padded {pads} with {value:g}")
    return Formula(lambda x: functional.pad(x, pads, mode=mode), f"padded {pads}, {mode}")
