"""Random shifts and mirrorings of a batch of images, for training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by up to `most` pixels either way on both axes; zeros come in."""
    count, channels, height, width = images.shape
    padded = functional.pad(images, (most, most, most, most))
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator, device=generator.device)
    down, right = offsets.to(images.device)
    rows = (down + torch.arange(height, device=images.device)).view(count, 1, height, 1)
    columns = (right + torch.arange(width, device=images.device)).view(count, 1, 1, width)
    sample = torch.arange(count, device=images.device).view(count, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return padded[sample, channel, rows, columns]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    coin = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return torch.where(coin.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)
