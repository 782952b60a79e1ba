from __future__ import annotations

import pytest
import torch
from torch import nn

from pertbound.errors import InputError
from pertbound.models import lenet


@pytest.mark.parametrize(("channels", "size", "features", "parameters"), [(1, 28, 800, 431080), (3, 32, 1250, 657080)])
def test_it_is_caffes_network(channels: int, size: int, features: int, parameters: int):
    model = lenet(channels, size)
    kinds = [nn.Conv2d, nn.MaxPool2d, nn.Conv2d, nn.MaxPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in model] == kinds
    assert model[5].in_features == features
    assert sum(weights.numel() for weights in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)
    names = {f"{k}.{kind}" for k in (0, 2, 5, 7) for kind in ("weight", "bias")}
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("size", range(16, 41, 4))
def test_any_multiple_of_four_fits(size: int):
    assert lenet(2, size)(torch.zeros(1, 2, size, size)).shape == (1, 10)


@pytest.mark.parametrize(("channels", "size"), [(0, 28), (1, 30), (1, 12), (1, -4)])
def test_what_cannot_be_pooled_evenly_is_refused(channels: int, size: int):
    with pytest.raises(InputError, match="multiple of 4 from 16 up"):
        lenet(channels, size)
