"""Broken copies of the library that the red team must find: what is broken, and networks on which it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

import pertbound as pb
from pertbound import layers
from pertbound.frontends import activations
from pertbound.frontends import torch as from_torch
from pertbound.layers.piecewise import TwoPieces
from pertbound.verification.branches import Branches
from redteam.networks import Drawn, draw

Break = Callable[[pytest.MonkeyPatch], None]


def _claims_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lipschitz certificate says 1.3 times what it proved."""
    certify = pb.Lipschitz.certify

    def more(self: pb.Lipschitz, problem: Any) -> pb.Certified:
        found = certify(self, problem)
        return replace(found, radius=1.3 * found.radius)

    monkeypatch.setattr(pb.Lipschitz, "certify", more)


def _wrong_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """ReLUs are relaxed as if negative inputs came out with a slope of 0.3."""
    monkeypatch.setattr(TwoPieces, "left", lambda self, like: 0.3)  # others have their own


def _no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Softplus is read without its threshold."""
    softplus = layers.Softplus
    monkeypatch.setattr(activations, "Softplus", lambda shape, beta, threshold: softplus(shape, beta, 500.0))
    _agrees(monkeypatch)


def _agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_torch, "require_agreement", lambda *a: None)


def _no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known from above does not bound what is certified."""
    certify = pb.certify

    def uncapped(*arguments: Any, upper: Any = None, **options: Any) -> Any:
        found = certify(*arguments, **options)
        if upper is None:
            return found
        return replace(found, radius=torch.where(torch.isfinite(upper), 1.01 * upper, found.radius))

    monkeypatch.setattr(pb, "certify", uncapped)


def _smaller_modulus(kind: str, factor: float) -> Break:
    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        owner = getattr(layers, kind)
        modulus = owner.modulus

        def smaller(self: Any, *radii: Any, **options: Any) -> Any:
            return factor * modulus(self, *radii, **options)

        monkeypatch.setattr(owner, "modulus", smaller)

    return broken


def _everything_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification believes each property after one look."""
    monkeypatch.setattr(Branches, "begin", lambda self, **options: True)


def _certain_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misclassified samples get the radius of their prediction."""
    certify = pb.certify

    def unlabelled(network: Any, x: Any, certificate: Any, labels: Any = None, **options: Any) -> Any:
        found = certify(network, x, certificate, **options)
        return found if labels is None else replace(found, reference=labels)

    monkeypatch.setattr(pb, "certify", unlabelled)


MUTANTS: dict[str, tuple[Break, str]] = {
    "radii times 1.3": (_claims_more, "linear"),
    "ReLU with a slope": (_wrong_slope, "relu"),
    "softplus without its threshold": (_no_threshold, "softplus"),
    "no cap": (_no_cap, "linear"),
    "labels forgotten": (_certain_of_labels, "linear"),
    "product": (_smaller_modulus("Multiply", 0.3), "own gate"),
    "standardize": (_smaller_modulus("Standardize", 0.2), "layer norm"),
    "max pool": (_smaller_modulus("MaxPool", 0.2), "max pool"),
    "average pool": (_smaller_modulus("AveragePool", 0.2), "average pool"),
    "convolution": (_smaller_modulus("Conv", 0.2), "conv"),
    "batch norm": (_smaller_modulus("Diagonal", 0.2), "batch norm"),
    "sorting": (_smaller_modulus("Sort", 0.2), "sorted"),
}
"""What is broken, and a kind of layer that the networks have."""
EVERYTHING_HOLDS = _everything_holds


def candidates(kind: str, count: int = 6) -> Iterable[Drawn]:
    """Networks with that kind of layer, one after the other."""
    return (draw(9000 + seed, only=kind, scale="plain") for seed in range(count))
