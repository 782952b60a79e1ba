from __future__ import annotations

import torch
from torch.nn import functional

from pertbound.models.augmentation import flip, shift


def test_every_shifted_image_is_the_image_moved_with_zeros_coming_in(generator: torch.Generator):
    images = torch.rand(200, 2, 5, 4, generator=generator)
    moved = shift(images, 1, generator)
    padded = functional.pad(images, (1, 1, 1, 1))
    offsets = [(down, right) for down in range(3) for right in range(3)]
    seen = {
        next(o for o in offsets if torch.equal(padded[k, :, o[0] : o[0] + 5, o[1] : o[1] + 4], moved[k]))
        for k in range(len(images))
    }
    assert seen == set(offsets)


def test_every_flipped_image_is_the_image_or_its_mirror_image(generator: torch.Generator):
    images = torch.rand(400, 2, 3, 4, generator=generator)
    flipped = flip(images, generator)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 150 < int(same.sum()) < 250
