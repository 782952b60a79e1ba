"""Random networks over all kinds of layers, with odd parameters and odd scales."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from redteam.blocks import Dice, Shape
from redteam.image_stages import IMAGES
from redteam.stages import ACTIVATIONS, FLAT, NORMS, Stage

SCALES = ("plain",) * 6 + ("hot", "mixed", "offset", "extreme", "tiny")
"""How large the weights are: see `_scaled`."""
SAMPLES = 12
LARGEST = 100
"""Entries of a hidden value."""


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """A network in evaluation mode, its float64 copy, samples for it, and what it was made of."""

    seed: int
    model: nn.Module
    precise: nn.Module
    x: Tensor
    kinds: tuple[str, ...]
    scale: str

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.scale}: {', '.join(self.kinds)}"


def draw(seed: int, *, dims: int | None = None, only: str | None = None, scale: str | None = None) -> Drawn:
    """A network of rows of `dims` numbers, or, without, of rows or images; `only` is a kind it must have.

    The same seed gives the same network. Its float32 outputs are finite at its samples.
    """
    for attempt in range(200):
        dice = Dice(1000 * seed + attempt)
        with torch.random.fork_rng():
            torch.manual_seed(1000 * seed + attempt)
            found = _attempt(seed, dice, dims, only, scale or dice.choice(SCALES))
        if found is not None:
            return found
    raise AssertionError(f"no network for seed {seed}, {dims} inputs, {only}")


def _attempt(seed: int, dice: Dice, dims: int | None, only: str | None, scale: str) -> Drawn | None:
    tiny = scale == "tiny" and only is None
    image = not tiny and (only in IMAGES or (dims is None and only not in FLAT and dice.chance()))
    shape: Shape = (dims or dice.randint(2, 8),)
    if image:
        shape = (dice.randint(1, 3), dice.randint(3, 6), dice.randint(3, 6))
    x = torch.rand(SAMPLES, *shape) if dice.chance() else torch.randn(SAMPLES, *shape).mul(0.5).clamp(-1, 1)
    layers: list[nn.Module] = []
    kinds: list[str] = []
    if tiny:  # of layers that keep factors, so that those of `_scaled` cancel
        for _ in range(3):
            size = layers[-2].out_features if layers else shape[0]  # type: ignore[union-attr]
            layers += [nn.Linear(size, dice.randint(3, 5)), dice.choice([nn.ReLU(), nn.LeakyReLU(0.25)])]  # type: ignore[arg-type]
        kinds = ["linear", "relu"]
    elif image:
        if not _grow(dice, layers, kinds, x, {**IMAGES, **ACTIVATIONS, **NORMS}, dice.randint(1, 4), only):
            return None
        layers.append(nn.Flatten())
    elif shape[0] < 4:  # few inputs meet stages that need more entries
        layers += [nn.Linear(shape[0], dice.choice([4, 6])), nn.Tanh() if dice.chance() else nn.LeakyReLU(0.25)]
    deep = dice.randint(0, 2) if image else dice.randint(2, 5)
    if not tiny and not _grow(dice, layers, kinds, x, {**FLAT, **ACTIVATIONS, **NORMS}, deep, None if image else only):
        return None
    body = nn.Sequential(*layers).eval()
    with torch.no_grad():
        entries = body(x).shape[1]
    last = nn.Linear(entries, dice.randint(2, 4))
    model = nn.Sequential(*layers, last).eval().requires_grad_(False)
    _scaled(model, scale, dice)
    _between_classes(model, last, x, dice)
    precise = copy.deepcopy(model).double()
    with torch.no_grad():
        out, exact = model(x), precise(x.double())
    if not bool(torch.isfinite(out).all()) or not bool(torch.isfinite(exact).all()):
        return None
    if scale != "tiny" and float((out - exact).abs().max()) > 1e-3 * float(exact.abs().max()):
        return None  # float32 says nothing of the network: no program could be held to it
    return Drawn(seed, model, precise, x, tuple(kinds), scale)


def _grow(
    dice: Dice,
    layers: list[nn.Module],
    kinds: list[str],
    x: Tensor,
    stages: dict[str, Stage],
    count: int,
    only: str | None,
) -> bool:
    """Append so many stages that fit, `only` among them; False where none fits."""
    at = dice.randrange(count) if only and count else -1
    count = max(count, 1 if only else 0)
    while count > 0:
        with torch.no_grad():
            shape = tuple(nn.Sequential(*layers).eval()(x).shape[1:])
        for _ in range(20):
            named = only is not None and (at == 0 or count == 1) and only not in kinds
            # every other stage of rows is a linear map: without, hidden values do not mix
            kind = only if named and only else dice.choice(list(stages))
            stage = stages[kind](dice, shape)
            if stage is None:
                if named:
                    return False
                continue
            try:
                with torch.no_grad():
                    made = nn.Sequential(*layers, stage).eval()(x)
            except (RuntimeError, ValueError):
                continue  # a window that is larger than its input, say
            if made[0].numel() <= LARGEST and made[0].numel() >= 2 and bool(torch.isfinite(made).all()):
                layers.append(stage)
                kinds.append(kind)
                break
        else:
            return False
        if len(shape) == 1 and len(layers) < 8 and dice.chance(0.4) and made.dim() == 2:
            layers.append(nn.Linear(made.shape[1], dice.choice([4, 6])))
        count, at = count - 1, at - 1
    return only is None or only in kinds


def _weighted(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def _scaled(model: nn.Module, scale: str, dice: Dice) -> None:
    """hot: larger weights. mixed, extreme: layers that undo each other's factor. offset: large biases.

    tiny: a layer whose weights are below the smallest normal float32, and one that makes up for it.
    """
    layers = _weighted(model)
    if scale == "hot":
        for layer in layers:
            layer.weight.data *= 2.5
    if scale == "offset":
        for layer in layers[:-1]:
            if layer.bias is not None:
                layer.bias.data += dice.choice([30.0, 1e3, -3e4]) * torch.rand_like(layer.bias)
    if scale in ("mixed", "extreme") and len(layers) > 1:
        power = dice.uniform(-5, 5) if scale == "mixed" else dice.choice([-25.0, -15.0, 12.0, 15.0, 20.0])
        first = dice.randrange(len(layers) - 1)
        _multiply(layers[first], 10**power)
        _multiply(layers[first + 1], 10**-power, bias=False)
    if scale == "tiny" and len(layers) > 1:
        factors = (1e8, 1e-40, 1e32) if len(layers) > 2 else (1e-40, 1e38)
        first = dice.randrange(len(layers) + 1 - len(factors))
        for number, factor in enumerate(factors):
            _multiply(layers[first + number], factor, bias=number == 0)


def _multiply(layer: nn.Linear | nn.Conv2d, factor: float, *, bias: bool = True) -> None:
    layer.weight.data = (layer.weight.data.double() * factor).float()
    if bias and layer.bias is not None:
        layer.bias.data = (layer.bias.data.double() * factor).float()


def _between_classes(model: nn.Sequential, last: nn.Linear, x: Tensor, dice: Dice) -> None:
    """Move the last bias, so that samples lie near decision boundaries."""
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(x.double())
        spread = float((logits - logits.mean(0)).abs().max())
        if not math.isfinite(spread):
            return
        noise = dice.choice([0.1, 1.0]) * spread * torch.randn(logits.shape[1], dtype=torch.float64)
        last.bias.data = (last.bias.double() - logits.mean(0) + noise).float()
