"""Layers for images, as in `stages`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from redteam.blocks import Affine, Branches, Dice, Formula, Shape, padded
from redteam.stages import Stage


def _conv(dice: Dice, shape: Shape) -> nn.Module:
    channels, high, wide = shape
    groups = dice.choice([g for g in (1, 1, 2, 3) if channels % g == 0])
    size = (dice.randint(1, min(3, high)), dice.randint(1, min(3, wide)))
    mode = dice.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
    most = min(high, wide) - 1 if mode == "reflect" else 2
    padding: int | tuple[int, int] = (dice.randint(0, min(2, most)), dice.randint(0, min(2, most)))
    dilation = dice.choice([1, 1, 2]) if min(high, wide) >= 5 else 1
    stride = (dice.choice([1, 1, 2]), dice.choice([1, 1, 2]))
    return nn.Conv2d(
        channels, groups * dice.randint(1, 2), size, stride, padding, dilation, groups, dice.chance(0.7), mode
    )


def _same_conv(dice: Dice, shape: Shape) -> nn.Module:
    return nn.Conv2d(shape[0], shape[0], dice.choice([1, 2, 3]), padding="same", groups=dice.choice([1, shape[0]]))


def _transposed(dice: Dice, shape: Shape) -> nn.Module | None:
    if max(shape[1:]) > 4:
        return None
    stride = dice.choice([1, 2])
    extra = dice.randint(0, stride - 1)
    return nn.ConvTranspose2d(
        shape[0], dice.randint(1, 2), dice.choice([1, 2, 3]), stride, 0, extra, bias=dice.chance(), dilation=1
    )


def _max_pool(dice: Dice, shape: Shape) -> nn.Module:
    dilation = dice.choice([1, 1, 2]) if min(shape[1:]) >= 4 else 1
    return nn.MaxPool2d(
        dice.choice([2, 2, (1, 2), (2, 1)]), dice.choice([1, 2, (2, 1)]), 0, dilation, ceil_mode=dice.chance()
    )


def _padded_max_pool(dice: Dice, shape: Shape) -> nn.Module:
    return nn.MaxPool2d(3, dice.choice([1, 2, 3]), 1, ceil_mode=dice.chance())


def _average(dice: Dice, shape: Shape) -> nn.Module:
    size = dice.choice([2, 3, (1, 2)])
    small = isinstance(size, tuple)
    return nn.AvgPool2d(
        size,
        dice.choice([1, 2, 3]),
        0 if small else dice.choice([0, 1]),
        dice.chance(),
        dice.chance(),
        dice.choice([None, None, 1, 2, 7]),
    )


def _lp_pool(dice: Dice, shape: Shape) -> nn.Module:
    odd = dice.chance(0.3)
    pool = nn.LPPool2d(dice.choice([1, 3]) if odd else dice.choice([2, 4]), 2, dice.choice([1, 2]))
    return nn.Sequential(nn.ReLU(), pool) if odd else pool


def _adaptive(dice: Dice, shape: Shape) -> nn.Module:
    _, high, wide = shape
    if dice.chance(0.6):
        return nn.AdaptiveAvgPool2d((dice.randint(1, high), dice.randint(1, wide)))
    sizes = [[n for n in range(1, side + 1) if side % n == 0] for side in (high, wide)]
    return nn.AdaptiveMaxPool2d((dice.choice(sizes[0]), dice.choice(sizes[1])))


def _instance_norm(dice: Dice, shape: Shape) -> nn.Module | None:
    if shape[1] * shape[2] < 2:
        return None
    layer = nn.InstanceNorm2d(
        shape[0], dice.choice([1e-5, 0.1]), affine=dice.chance(), track_running_stats=dice.chance()
    )
    if layer.running_var is not None:
        layer.running_var = torch.rand(shape[0]) * 3 + 1e-3
        layer.running_mean = torch.randn(shape[0])
    return layer


def _response(dice: Dice, shape: Shape) -> nn.Module:
    return nn.LocalResponseNorm(
        dice.choice([1, 2, 3, 5]), dice.number(0.05, 4), dice.choice([0.5, 0.75, 1.0]), dice.number(0.25, 2)
    )


def _moved(dice: Dice, shape: Shape) -> nn.Module | None:
    channels, high, wide = shape
    kinds: dict[str, nn.Module] = {
        "flipped": Formula(lambda x: x.flip(3), "flipped"),
        "turned": Formula(lambda x: x.transpose(2, 3), "turned"),
        "affine": Affine(torch.randn(channels, 1, 1), torch.randn(1, high, 1)),
        "cropped": padded((-1, 1, 0, 1), "constant", dice.number(-1, 1)),
    }
    if channels % 4 == 0:
        kinds["shuffled"] = nn.PixelShuffle(2)
    if channels % 2 == 0:
        kinds["channels"] = nn.ChannelShuffle(2)
        kinds["halves"] = Formula(lambda x: x[:, ::2] + x[:, 1::2], "sum of halves")
    if high % 2 == wide % 2 == 0:
        kinds["unshuffled"] = nn.PixelUnshuffle(2)
    if max(high, wide) < 4:
        kinds["larger"] = nn.Upsample(scale_factor=2, mode="nearest")
        kinds["reflected"] = padded((1, 0, 0, 1), "replicate", 0.0)
    return kinds[dice.choice(list(kinds))]


def _branches(dice: Dice, shape: Shape) -> nn.Module:
    channels = shape[0]

    def part() -> nn.Module:
        return nn.Conv2d(channels, channels, dice.choice([1, 3]), padding="same", bias=dice.chance())

    gate = nn.Sequential(part(), nn.Sigmoid())
    kinds: dict[str, nn.Module] = {
        "residual": Branches(torch.add, "sum", nn.Identity(), nn.Sequential(part(), nn.ReLU(), part())),
        "both": Branches(lambda a, b: torch.cat([a, b], 1), "concatenation", nn.Identity(), part()),
        "larger": Branches(torch.maximum, "larger", part(), part()),
        "gate": Branches(torch.mul, "product", nn.Identity(), gate),
        "squeeze": Branches(
            lambda x, s: x * s.reshape(*s.shape, 1, 1),
            "product with channels",
            nn.Identity(),
            nn.Sequential(
                Formula(lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1), "means"),
                nn.Linear(channels, channels),
                nn.Sigmoid(),
            ),
        ),
    }
    return kinds[dice.choice(list(kinds))]


def _pooled_gate(dice: Dice, shape: Shape) -> nn.Module:
    """A product with a bounded factor that was pooled, with any divisor."""
    channels, divisor = shape[0], dice.choice([None, 1, 3])
    pool = dice.choice([nn.AvgPool2d(2, 1, divisor_override=divisor), nn.MaxPool2d(2, 1), nn.LPPool2d(2, 2, 1)])
    limit = dice.choice([nn.Sigmoid(), nn.Tanh()])
    gate = nn.Sequential(nn.Conv2d(channels, channels, 1), limit, pool)
    return Branches(torch.mul, "product", gate, nn.Conv2d(channels, channels, 2))


IMAGES: dict[str, Stage] = {
    "conv": _conv,
    "same conv": _same_conv,
    "transposed": _transposed,
    "max pool": _max_pool,
    "padded max pool": _padded_max_pool,
    "average pool": _average,
    "lp pool": _lp_pool,
    "adaptive": _adaptive,
    "instance norm": _instance_norm,
    "response": _response,
    "moved image": _moved,
    "branches": _branches,
    "pooled gate": _pooled_gate,
}
