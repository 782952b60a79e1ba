from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pertbound.models import initialise, lenet


def test_it_depends_on_the_generator_alone():
    one, two, other = lenet(1, 28), lenet(1, 28), lenet(1, 28)
    initialise(one, torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    initialise(two, torch.Generator().manual_seed(1))
    initialise(other, torch.Generator().manual_seed(2))
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, two.state_dict()[name])
        assert name.endswith("bias") or not torch.equal(weights, other.state_dict()[name])


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(20, 300, 5), nn.Linear(500, 300, bias=False), nn.Conv2d(8, 900, 5, groups=2)]
)
def test_the_variance_is_two_over_the_fan_in(layer: nn.Conv2d | nn.Linear, generator: torch.Generator):
    initialise(layer, generator)
    fan_in = layer.weight[0].numel()
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert layer.bias is None or not layer.bias.any()
