"""Layers with odd parameters, one function for each kind; each gives a module for samples of a shape, or None."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from redteam.blocks import Affine, Branches, Dice, Formula, Recurrent, Shape, grouped, padded, reshaped

Stage = Callable[[Dice, Shape], nn.Module | None]


def _clamp(dice: Dice, shape: Shape) -> nn.Module:
    low, high = dice.number(-1.5, -0.1), dice.number(0.1, 1.5)
    ends = dice.choice([(low, high), (low, None), (None, high), (high, high + 1)])
    return Formula(lambda x: x.clamp(*ends), f"clamped to {ends}")


def _softplus(dice: Dice, shape: Shape) -> nn.Module:
    return nn.Softplus(dice.choice([0.25, 1.0, 3.0, 20.0]), dice.choice([0.5, 1.0, 3.0, 20.0, 20.0]))


def _prelu(dice: Dice, shape: Shape) -> nn.Module:
    layer = nn.PReLU(dice.choice([1, shape[0]]))
    layer.weight.data = torch.tensor([dice.number(-1.5, 1.5) for _ in layer.weight])
    return layer


def _elu(dice: Dice, shape: Shape) -> nn.Module:
    return dice.choice([nn.ELU(dice.number(0.1, 3.0)), nn.CELU(dice.number(0.1, 3.0)), nn.SELU()])


def _hard(dice: Dice, shape: Shape) -> nn.Module:
    return dice.choice([nn.Hardtanh(dice.number(-2, -0.1), dice.number(0.1, 2)), nn.ReLU6(), nn.Hardsigmoid()])


def _threshold(dice: Dice, shape: Shape) -> nn.Module:
    value = dice.number(-1, 1)
    return nn.Threshold(value, value)


ACTIVATIONS: dict[str, Stage] = {
    "relu": lambda dice, shape: nn.ReLU(),
    "leaky relu": lambda dice, shape: nn.LeakyReLU(dice.choice([0.25, -0.5, 1.5, -2.0, 0.015625])),
    "prelu": _prelu,
    "abs": lambda dice, shape: Formula(torch.abs, "abs"),
    "clamp": _clamp,
    "hard": _hard,
    "threshold": _threshold,
    "sigmoid": lambda dice, shape: nn.Sigmoid(),
    "tanh": lambda dice, shape: nn.Tanh(),
    "softplus": _softplus,
    "log sigmoid": lambda dice, shape: nn.LogSigmoid(),
    "elu": _elu,
    "gelu": lambda dice, shape: nn.GELU(),
    "tanh gelu": lambda dice, shape: nn.GELU("tanh"),
    "silu": lambda dice, shape: nn.SiLU(),
    "mish": lambda dice, shape: nn.Mish(),
    "hardswish": lambda dice, shape: nn.Hardswish(),
    "rrelu": lambda dice, shape: nn.RReLU(0.125, 0.375),
    "square": lambda dice, shape: Formula(torch.square, "square"),
}
"""For samples of any shape."""


def _batch_norm(dice: Dice, shape: Shape) -> nn.Module:
    affine = dice.chance(0.7)
    eps = dice.choice([1e-5, 1e-3, 0.5])
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}
    layer = kinds[len(shape)](shape[0], eps=eps, affine=affine)
    spread = dice.choice([1e-6, 1e-2, 1.0, 100.0])
    layer.running_mean = torch.randn(shape[0]) * dice.choice([0.1, 1.0, 30.0])
    layer.running_var = torch.rand(shape[0]) * spread + dice.choice([0.0, spread])
    _odd(layer, dice)
    return layer


def _odd(layer: nn.Module, dice: Dice) -> None:
    """Scales of both signs, some of them 0."""
    for name in ("weight", "bias"):
        found = getattr(layer, name, None)
        if found is not None:
            found.data = torch.randn_like(found) * dice.choice([0.3, 1.0, 4.0])
            found.data.masked_fill_(torch.rand_like(found) < 0.1, 0.0)


def _layer_norm(dice: Dice, shape: Shape) -> nn.Module | None:
    if math.prod(shape) < 2:
        return None
    last = shape[-1:] if dice.chance(0.4) and shape[-1] > 1 else shape
    eps = dice.choice([1e-5, 1e-2, 1.0])
    layer: nn.Module = nn.LayerNorm(last, eps, dice.chance()) if dice.chance(0.7) else nn.RMSNorm(last, eps)
    _odd(layer, dice)
    return layer


def _group_norm(dice: Dice, shape: Shape) -> nn.Module | None:
    groups = [g for g in range(1, shape[0] + 1) if shape[0] % g == 0 and math.prod(shape) // g > 1]
    if not groups:
        return None
    layer = nn.GroupNorm(dice.choice(groups), shape[0], dice.choice([1e-5, 0.1]), dice.chance())
    _odd(layer, dice)
    return layer


NORMS: dict[str, Stage] = {"batch norm": _batch_norm, "layer norm": _layer_norm, "group norm": _group_norm}
"""For samples of any shape."""


def _linear(dice: Dice, shape: Shape) -> nn.Module:
    return nn.Linear(shape[-1], dice.randint(2, 7), bias=dice.chance(0.8))


def _same_size(dice: Dice, n: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(n, n)]
    if dice.chance():
        name = dice.choice(["relu", "tanh", "gelu", "softplus", "leaky relu"])
        found = ACTIVATIONS[name](dice, (n,))
        assert found is not None
        layers.append(found)
    return nn.Sequential(*layers)


def _gate(dice: Dice, shape: Shape) -> nn.Module:
    (n,) = shape
    gate = dice.choice([nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Identity()])
    return Branches(torch.mul, "product", _same_size(dice, n), nn.Sequential(nn.Linear(n, n), gate))


def _own_gate(dice: Dice, shape: Shape) -> nn.Module:
    (n,) = shape
    return Branches(torch.mul, "product", nn.Identity(), nn.Sequential(nn.Linear(n, n), nn.Sigmoid()))


def _bounded(dice: Dice, shape: Shape) -> nn.Module:
    """A product with a factor that is bounded, and then summed, padded, scaled, ...: its bound must follow."""
    (n,) = shape
    limits = [nn.Sigmoid(), nn.Tanh(), nn.Hardtanh(-0.5, 2.0), nn.Hardsigmoid(), nn.ReLU6()]
    changes: list[nn.Module] = [
        Formula(lambda x: x.reshape(x.shape[0], -1, 2).sum(-1), "sums of pairs"),
        Formula(lambda x: x.reshape(x.shape[0], -1, 4).sum(-1), "sums of fours"),
        padded((0, 1), "constant", dice.choice([-3.0, 5.0])),
        Affine(3 * torch.randn(4), 2 * torch.randn(4)),
        Formula(lambda x: x + 2 * x.flip(1), "sum with itself"),
        Formula(lambda x: x * x, "square"),
        nn.Sequential(reshaped(1, 4), nn.LPPool1d(2, 2, 1), nn.Flatten()),
        nn.Sequential(nn.LeakyReLU(-3.0), nn.ELU(2.0)),
    ]
    factor = nn.Sequential(nn.Linear(n, 4), dice.choice(limits), dice.choice(changes))
    with torch.no_grad():
        size = factor(torch.zeros(2, n)).shape[1]
    return Branches(torch.mul, "product", factor, nn.Linear(n, size))


def _glu(dice: Dice, shape: Shape) -> nn.Module | None:
    return nn.GLU(1) if shape[0] % 2 == 0 else None


def _sum(dice: Dice, shape: Shape) -> nn.Module:
    (n,) = shape
    factor = dice.number(-2, 2)
    kinds = {
        "sum": torch.add,
        "difference": torch.sub,
        f"sum with {factor}": lambda a, b: torch.add(a, b, alpha=factor),
        "larger": torch.maximum,
        "smaller": torch.minimum,
        "both": lambda a, b: torch.cat([a, b], 1),
    }
    name = dice.choice(list(kinds))
    first = nn.Identity() if dice.chance() else _same_size(dice, n)
    return Branches(kinds[name], name, first, _same_size(dice, n))


def _sorted(dice: Dice, shape: Shape) -> nn.Module | None:
    sizes = [n for n in (2, 3, 4) if shape[0] % n == 0]
    return grouped(dice.choice(sizes)) if sizes else None


def _rows(dice: Dice, shape: Shape) -> nn.Module | None:
    """Largest, smallest, mean or sum of pairs."""
    if shape[0] % 2 or shape[0] < 4:
        return None
    kinds = {
        "largest": lambda x: x.amax(-1),
        "smallest": lambda x: x.amin(-1),
        "mean": lambda x: x.mean(-1),
        "sum": lambda x: x.sum(-1),
    }
    name = dice.choice(list(kinds))
    return Formula(lambda x: kinds[name](x.reshape(x.shape[0], -1, 2)), f"{name} of pairs")


def _recurrent(dice: Dice, shape: Shape) -> nn.Module | None:
    steps = dice.choice([s for s in (2, 3) if shape[0] % s == 0] or [1])
    kind, both = dice.choice(["relu", "tanh", "gru", "lstm"]), dice.chance(0.3)
    whole = both or dice.chance()
    return Recurrent(kind, steps, shape[0] // steps, 2, whole=whole, both=both, layers=dice.choice([1, 1, 2]))


def _one_dimension(dice: Dice, shape: Shape) -> nn.Module | None:
    """A row as one channel: convolution, pooling."""
    (n,) = shape
    if n < 4:
        return None
    conv = nn.Conv1d(1, 2, dice.choice([2, 3]), dice.choice([1, 2]), dice.choice([0, 1]), bias=dice.chance())
    pools: list[nn.Module] = [
        nn.MaxPool1d(2, 1, dice.choice([0, 1]), ceil_mode=dice.chance()),
        nn.AvgPool1d(2, dice.choice([1, 2]), 1, ceil_mode=dice.chance(), count_include_pad=dice.chance()),
        nn.LPPool1d(2, 2, 1),
        nn.Identity(),
        nn.LocalResponseNorm(dice.choice([1, 2, 3]), dice.number(0.1, 3), 0.75, dice.number(0.5, 2)),
    ]
    return nn.Sequential(reshaped(1, n), conv, dice.choice(pools), nn.Flatten())


def _moved(dice: Dice, shape: Shape) -> nn.Module:
    scale = torch.randn(shape[0]) * dice.choice([0.5, 3.0])
    kinds = {
        "flipped": Formula(lambda x: x.flip(1), "flipped"),
        "rolled": Formula(lambda x: x.roll(1, 1), "rolled"),
        "affine": Affine(scale, torch.randn(shape[0])),
        "padded": padded((1, dice.choice([0, 2])), "constant", dice.number(-2, 2)),
        "repeated": Formula(lambda x: x.repeat(1, 2), "repeated"),
    }
    return kinds[dice.choice(list(kinds))]


FLAT: dict[str, Stage] = {
    "linear": _linear,
    "gate": _gate,
    "own gate": _own_gate,
    "bounded": _bounded,
    "glu": _glu,
    "sum": _sum,
    "sorted": _sorted,
    "rows": _rows,
    "recurrent": _recurrent,
    "one dimension": _one_dimension,
    "moved": _moved,
}
"""For samples that are rows."""
