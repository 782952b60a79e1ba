"""Ranges of values: what one rule finds for some networks, and the certificates behind a gate that read them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.frontends.ranges import Range, range_of
from pertbound.layers import (
    AveragePool,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    LocalResponse,
    MaxPool,
    Multiply,
    ReLU,
    Select,
    Shape,
    Sigmoid,
    Softplus,
    Standardize,
)

UNIT, ABOVE, LINE = Range(0.0, 1.0), Range(0.0), Range()

CASES: list[tuple[Layer, Shape, Range, Range]] = [
    # of which layer, for samples of which shape and range, up to rounding
    (Sigmoid((3,)), (3,), LINE, UNIT),
    (ReLU((3,)), (3,), Range(-2.0, 5.0), Range(0.0, 5.0)),
    (LeakyReLU((3,), -0.5), (3,), LINE, ABOVE),
    (Softplus((3,), 2.0, 20.0), (3,), Range(-math.inf, -1.0), Range(0.0, math.log1p(math.exp(-2.0)) / 2)),
    (AveragePool((1, 4), (2,), (2,), (0,), False, True, None), (1, 4), UNIT, UNIT),
    (AveragePool((1, 4, 4), (2, 2), (2, 2), (0, 0), False, True, 1), (1, 4, 4), UNIT, Range(0.0, 4.0)),
    (AveragePool((1, 4), (3,), (2,), (1,), False, True, None), (1, 4), ABOVE, ABOVE),
    (Select((2,), torch.tensor([0, -1])), (2,), Range(-3.0, -1.0), Range(-3.0, 0.0)),
    (MaxPool((1, 4), (2,), (2,), (1,), (1,), False), (1, 4), Range(-3.0, -1.0), Range(-3.0, -1.0)),
    (Diagonal((2,), torch.tensor([2.0, -1.0]), torch.tensor([0.0, 0.5])), (2,), UNIT, Range(-0.5, 2.0)),
    (Diagonal((2,), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 0.5])), (2,), ABOVE, ABOVE),
    (Dense((2,), torch.tensor([[1.0, -1.0]]), torch.tensor([0.5])), (2,), UNIT, Range(-0.5, 1.5)),
    (Dense((2,), torch.tensor([[1.0, 2.0]]), None), (2,), ABOVE, ABOVE),
    (LocalResponse((4, 2), 3, 1.0, 0.75, 1.0), (4, 2), Range(0.0, 1.0), Range(0.0, (4 / 3) ** -0.75)),
    (Standardize((1, 5), 1e-5), (1, 5), LINE, Range(-2.0, 2.0)),
]


@pytest.mark.parametrize(("layer", "shape", "given", "wanted"), CASES, ids=lambda v: type(v).__name__)
def test_ranges(layer: Layer, shape: Shape, given: Range, wanted: Range) -> None:
    found = range_of(layer, [shape], [given])
    assert found.nonnegative == wanted.nonnegative
    for got, end in ((found.low, wanted.low), (-found.high, -wanted.high)):
        assert got <= end or got == pytest.approx(end, abs=1e-300)
        assert got == pytest.approx(end, rel=1e-5, abs=1e-30)


def test_products_know_their_factors() -> None:
    found = range_of(Multiply((2,)), [(2,)] * 2, [UNIT, Range(-3.0, 2.0)])
    assert (found.low, found.high) == pytest.approx((-3.0, 2.0))
    assert range_of(Multiply((2,)), [(2,)] * 2, [UNIT, ABOVE]).nonnegative


class Gated(nn.Module):
    """The sum of k gates, times tanh of the last input; the second class wins above nine tenths of k."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.pool, self.last = k, nn.AvgPool2d((1, k), divisor_override=1), nn.Linear(1, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.last.bias.copy_(torch.tensor([0.9 * k, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        total = self.pool(torch.sigmoid(10 * x[..., : self.k]))
        return self.last((total * torch.tanh(x[..., self.k :])).flatten(1))


@pytest.mark.parametrize("method", [pb.Lipschitz(), pb.Interval(), pb.LinearRelaxation()], ids=lambda m: m.name)
def test_a_gate_behind_a_sum_is_not_bounded_by_one(method: pb.Lipschitz) -> None:
    x = torch.ones(1, 1, 1, 17)
    x[..., -1] = 0.0
    distance = math.atanh(0.9 * (1 + math.exp(-10.0)))
    assert 0.1 < float(pb.certify(pb.from_torch(Gated(16), x), x, method).radius) <= distance
