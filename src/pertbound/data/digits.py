"""Scikit-learn's digits: 1797 grey images of 8 x 8 pixels, which come with the library."""

from __future__ import annotations

from typing import Any

import torch

from pertbound.data.dataset import DataSet, pixel_units

TRAINING_IMAGES = 1437
"""How many of the 1797 images are for training; the other 360 are for testing."""
_SEED = 0


def load_digits(*, train: bool) -> DataSet:
    """The training or test digits as (N, 1, 8, 8) in [0, 1].

    The data set has no split of its own. Here it is drawn from a fixed seed; each part keeps the original
    order, and `positions` refer to it.

    >>> load_digits(train=False).inputs.shape
    torch.Size([360, 1, 8, 8])
    """
    from sklearn import datasets  # here, because it takes a second and only this data set needs it

    digits: Any = datasets.load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(_SEED))
    chosen = order[:TRAINING_IMAGES] if train else order[TRAINING_IMAGES:]
    positions = chosen.sort().values
    return DataSet(
        name="digits",
        inputs=(torch.from_numpy(digits.images).float() / 16).unsqueeze(1)[positions],
        labels=torch.from_numpy(digits.target).long()[positions],
        pixel_scale=16.0,
        positions=positions,
        notes=(),
        source="sklearn.datasets.load_digits",
        units=pixel_units(16),
    )
