"""Broken copies of the library that the red team must find: what is broken, and networks on which it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

import pertbound as pb
from pertbound import layers, push
from pertbound.frontends import activations, plumbing
from pertbound.frontends import torch as from_torch
from pertbound.layers import dense, linear
from pertbound.layers.piecewise import TwoPieces
from pertbound.verification.branches import Branches
from pertbound.verification.falsify import Falsifier
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


def _smaller_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectral norms are a third of what they are."""
    for module in (dense, linear, push):
        norm = module.spectral_norm_upper
        monkeypatch.setattr(module, "spectral_norm_upper", lambda matrix, norm=norm: norm(matrix) / 3)


def _smaller_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of products are declared to be a hundredth of what they can be."""
    multiply = layers.Multiply
    monkeypatch.setattr(plumbing, "Multiply", lambda shape, bounds: multiply(shape, tuple(b / 100 for b in bounds)))


def _everything_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification believes each property after one look, and its own search, which comes before, finds nothing."""
    monkeypatch.setattr(Falsifier, "round", lambda self, *_arguments, **_options: None)
    monkeypatch.setattr(Branches, "begin", lambda self, **options: True)


def _certain_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misclassified samples get the radius of their prediction."""
    certify = pb.certify

    def unlabelled(network: Any, x: Any, certificate: Any, labels: Any = None, **options: Any) -> Any:
        found = certify(network, x, certificate, **options)
        return found if labels is None else replace(found, reference=labels)

    monkeypatch.setattr(pb, "certify", unlabelled)


LIPSCHITZ, LINEAR = "lipschitz, resolved", "linear, plain boxes"
MUTANTS: dict[str, tuple[Break, str, str]] = {
    "radii times 1.3": (_claims_more, "linear", LIPSCHITZ),
    "ReLU with a slope": (_wrong_slope, "relu", LINEAR),
    "softplus without its threshold": (_no_threshold, "softplus", LINEAR),
    "no cap": (_no_cap, "linear", LIPSCHITZ),
    "labels forgotten": (_certain_of_labels, "linear", LIPSCHITZ),
    "product": (_smaller_modulus("Multiply", 0.3), "own gate", LIPSCHITZ),
    "standardize": (_smaller_modulus("Standardize", 0.2), "layer norm", LIPSCHITZ),
    "max pool": (_smaller_modulus("MaxPool", 0.2), "max pool", LIPSCHITZ),
    "norms of matrices": (_smaller_norms, "linear", LIPSCHITZ),
    "declared bounds": (_smaller_bounds, "bounded", LIPSCHITZ),
    "sorting": (_smaller_modulus("Sort", 0.2), "sorted", LIPSCHITZ),
}
"""What is broken, a kind of layer that the networks have, and the certificate that shows it."""
EVERYTHING_HOLDS = _everything_holds


def candidates(kind: str, count: int = 6) -> Iterable[Drawn]:
    """Networks with that kind of layer, one after the other."""
    return (draw(9000 + seed, only=kind, scale="plain") for seed in range(count))
