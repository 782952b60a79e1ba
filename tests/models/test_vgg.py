from __future__ import annotations

import math

import torch
from torch import nn

from pertbound.models import vgg16


def test_it_is_configuration_d_with_hes_initialisation(generator: torch.Generator):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = vgg16(generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(weights.numel() for weights in model.parameters()) == 138_357_544
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert [layer.out_channels for layer in convolutions] == widths
    assert sum(isinstance(layer, nn.Dropout) for layer in model) == 2
    for layer in convolutions:
        assert float(layer.weight.detach().std()) / math.sqrt(2 / (9 * layer.in_channels)) > 0.95
    model.eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 224, 224, generator=generator))
    assert outputs.shape == (1, 1000)
    assert 1e-3 < float(outputs.std()) < 1e3
