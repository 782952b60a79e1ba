"""What is computed while a model is read: no certificate goes beyond the boundary of the exact network.

Networks of one or a few inputs whose decision boundary is known as a rational number, or to sixty digits; samples lie a
few units of float32 from it, where a constant that was rounded to float32 shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.certificates.base import Certificate

mpmath.mp.dps = 60
CHEAP: tuple[Certificate, ...] = (pb.Lipschitz(floor=0.0), pb.Interval(), pb.LinearRelaxation())
ALL: tuple[Certificate, ...] = (*CHEAP, pb.QuadraticRelaxation(steps=3), pb.BranchAndBound(seconds=0.05))


@dataclass(frozen=True)
class Edge:
    """A network whose class is 0 where weights . x > bound, else 1, in exact arithmetic; weights are small integers."""

    network: pb.Graph
    weights: tuple[int, ...]
    bound: Fraction

    def samples(self) -> Tensor:
        """Inputs near the boundary, float32, on both sides."""
        total = sum(w * w for w in self.weights)
        base = torch.tensor([[float(self.bound * w / total) for w in self.weights]])
        steps = torch.tensor([[float(sign * k)] for k in (1, 2, 3, 8, 64, 4096) for sign in (-1, 1)])
        unit = 2.0**-23 * base.abs().amax().clamp_min(1e-6)
        return (base + steps * unit * torch.tensor([self.weights], dtype=torch.float32)).contiguous()

    def distance(self, x: Tensor) -> Fraction:
        """How far above the boundary weights . x is, exactly."""
        return sum(Fraction(float(v)) * w for v, w in zip(x.flatten(), self.weights, strict=True)) - self.bound


def check_edge(edge: Edge, certificates: tuple[Certificate, ...] = CHEAP) -> int:
    """No radius reaches the boundary, and none is positive on the wrong side; how many were positive."""
    x, positive = edge.samples(), 0
    length = mpmath.sqrt(sum(w * w for w in edge.weights))
    for certificate in certificates:
        found = pb.certify(edge.network, x.reshape(-1, *edge.network.input_shape), certificate)
        for row, radius, predicted in zip(x, found.radius.tolist(), found.predicted.tolist(), strict=True):
            away = edge.distance(row)
            right = predicted == (0 if away > 0 else 1)
            true = mpmath.mpf(abs(away.numerator)) / away.denominator / length if right else mpmath.mpf(0)
            assert radius <= true, f"{certificate.name} certifies {radius!r} at {row.tolist()}, true is {float(true)!r}"
            positive += radius > 0
    return positive


def _network(body: nn.Module, inputs: tuple[int, ...], level: float) -> pb.Graph:
    """Logits (y, level, -large) for the one value y that `body` gives."""
    last = nn.Linear(1, 3)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
        last.bias.copy_(torch.tensor([0.0, level, -1e6]))
    return pb.from_torch(nn.Sequential(body, last).eval(), torch.zeros(2, *inputs))


class _Formula(nn.Module):
    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x)


def batch_norms(generator: torch.Generator, count: int = 3) -> Iterator[Edge]:
    """x + b normalised with a large mean: class 0 where x > mean - b + (level - bias) sqrt(variance + eps) / weight."""
    for size in (1e3, 10.0, 1e5)[:count]:
        first, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=1e-3)
        numbers = torch.rand(5, generator=generator)
        level = float(numbers[4])
        with torch.no_grad():
            first.weight.fill_(1.0)
            first.bias.fill_(size)
            norm.running_mean.fill_(size * float(1 + numbers[0] / 7))  # type: ignore[union-attr]
            norm.running_var.fill_(0.3 + numbers[1])  # type: ignore[union-attr, arg-type]
            norm.weight.fill_(0.5 + float(numbers[2]))
            norm.bias.fill_(float(numbers[3]))
        network = _network(nn.Sequential(first, norm), (1,), level)
        mean, variance, weight, bias = (
            mpmath.mpf(float(t))
            for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)  # type: ignore[arg-type]
        )
        level = float(torch.tensor(level))
        far = (level - bias) * mpmath.sqrt(variance + mpmath.mpf(norm.eps)) / weight
        yield Edge(network, (1,), _rational(mean - mpmath.mpf(float(first.bias)) + far))


def _rational(value: mpmath.mpf) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return Fraction(int(mantissa) * (-1) ** sign) * Fraction(2) ** int(exponent)


def preprocessings(generator: torch.Generator, count: int = 4) -> Iterator[Edge]:
    """(x / scale - mean) / std > level where x > scale (level std + mean)."""
    level = float(0.2 + torch.rand(1, generator=generator))
    network = _network(_Formula(lambda x: x * 1.0), (1,), level)
    for _ in range(count):
        mean, std = (float(v) for v in 0.2 + torch.rand(2, generator=generator, dtype=torch.float64))
        raw = pb.preprocessed(network, mean=mean, std=std, scale=255.0)
        yield Edge(raw, (1,), 255 * (Fraction(level) * Fraction(std) + Fraction(mean)))


def others(generator: torch.Generator) -> Iterator[tuple[str, Edge]]:
    """Divisions, products, hardsigmoid's sixth, and means of three."""
    level = float(0.6 + 0.2 * torch.rand(1, generator=generator))
    exact = Fraction(level)
    third = torch.tensor([3.0])
    yield "x / 3", Edge(_network(_Formula(lambda x: x / 3), (1,), level), (1,), 3 * exact)
    yield "x / tensor", Edge(_network(_Formula(lambda x: x / third), (1,), level), (1,), 3 * exact)
    yield "0.1 x", Edge(_network(_Formula(lambda x: 0.1 * x), (1,), level), (1,), exact / Fraction(0.1))
    yield "x + 0.1", Edge(_network(_Formula(lambda x: x + 0.1), (1,), level), (1,), exact - Fraction(0.1))
    yield "hardsigmoid", Edge(_network(nn.Hardsigmoid(), (1,), level), (1,), 6 * exact - 3)
    pool = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.AdaptiveAvgPool1d(3), _Formula(lambda x: x[:, 0, 1:2]))
    yield "adaptive mean", Edge(_network(pool, (5,), level), (0, 1, 1, 1, 0), 3 * exact)
