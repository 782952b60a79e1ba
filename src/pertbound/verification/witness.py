"""Counterexamples: inputs of a box that were seen, in two ways, to fulfil a condition."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import final

import numpy as np
import torch
from torch import Tensor

from pertbound.frontends.vnnlib import Case, Conjunction
from pertbound.graph import Graph, in_float64


@final
@dataclass(frozen=True, eq=False)
class Counterexample:
    """An input (*input_shape) and the outputs (classes,) that the model computes for it, in the network's dtype.

    `decimals` are the input's entries as numbers that lie in the box exactly, and that read as the input in its dtype.
    """

    x: Tensor
    outputs: Tensor
    decimals: tuple[str, ...]

    def __str__(self) -> str:
        """In the format of the verification competitions: ((X_0 0.5) ... (Y_0 1.25) ...)."""
        inputs = [f"(X_{index} {number})" for index, number in enumerate(self.decimals)]
        outputs = [f"(Y_{index} {_shortest(value)})" for index, value in enumerate(_numbers(self.outputs))]
        return "(" + "\n ".join([*inputs, *outputs]) + ")"


def within_box(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The least and the largest numbers of the dtype that some point of the box is rounded to, (entries,) each."""
    lower, upper = ([float(end) for end in ends] for ends in (case.lower, case.upper))
    return torch.tensor(lower, dtype=torch.float64).to(dtype), torch.tensor(upper, dtype=torch.float64).to(dtype)


def confirmed(network: Graph, case: Case, candidate: Tensor) -> Counterexample | None:
    """The candidate (1, *input_shape), if it is a counterexample; None otherwise.

    It must be the rounding of a point in the box, and the outputs must fulfil a condition, exactly as they are printed:
    those of the model itself (`Graph.original`), where there is one, and of the graph in float64.
    """
    decimals: list[str] = []
    for value, low, high in zip(_numbers(candidate), case.lower, case.upper, strict=True):
        number = _in_box(value, low, high)
        if number is None:
            return None
        decimals.append(number)
    with torch.no_grad():
        precise = network.derive(in_float64).run(candidate.to(torch.float64))[0]
        outputs = (network.run(candidate) if network.original is None else network.original(candidate))[0]
    for condition in case.conditions:
        if all(_fulfils(condition, values) for values in (precise, outputs)):
            return Counterexample(candidate[0], outputs, tuple(decimals))
    return None


def _fulfils(condition: Conjunction, outputs: Tensor) -> bool:
    if not bool(torch.isfinite(outputs).all()):
        return False
    exact = [Fraction(_shortest(value)) for value in _numbers(outputs)]
    return all(inequality.holds(exact) for inequality in condition)


def _in_box(value: np.floating, low: Fraction, high: Fraction) -> str | None:
    """The number as it is printed, or the end of the box that is nearest, if that reads as the same number."""
    if not np.isfinite(value):
        return None
    text = _shortest(value)
    if low <= Fraction(text) <= high:
        return text
    end = low if Fraction(text) < low else high
    digits = _decimal(end)
    return digits if digits is not None and type(value)(float(digits)) == value else None


def _decimal(value: Fraction) -> str | None:
    """All digits of a number, None where they do not end."""
    rest, tens = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        tens = max(tens, power)
    if rest != 1 or tens > 400:
        return None
    digits = tuple(map(int, str(abs(value.numerator) * 10**tens // value.denominator)))
    return f"{Decimal((int(value < 0), digits, -tens)):f}"


def _numbers(values: Tensor) -> list[np.floating]:
    array: np.ndarray = values.detach().cpu().flatten().numpy()
    return list(array)


def _shortest(value: np.floating) -> str:
    """The shortest digits that read as the same number of that dtype."""
    return (
        np.format_float_positional(value, trim="0") if 1e-4 <= abs(value) < 1e16 or value == 0 else _scientific(value)
    )


def _scientific(value: np.floating) -> str:
    return np.format_float_scientific(value, trim="0")
