"""Models of packages that we do not require, where a user happens to have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pertbound as pb

TIMM = ("resnet18", "mobilenetv2_050", "vgg11", "densenet121", "efficientnet_lite0", "convnext_atto", "mixer_s32_224")
TORCHVISION = ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf")


def check_same(model: nn.Module, size: int) -> None:
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    graph = pb.from_torch(model.eval(), x)
    assert torch.allclose(graph(x), model(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    check_same(timm.create_model(name, pretrained=False, num_classes=10), 224 if name.endswith("224") else 64)


@pytest.mark.parametrize("name", TORCHVISION)
def test_models_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    check_same(getattr(models, name)(num_classes=10), 64)
