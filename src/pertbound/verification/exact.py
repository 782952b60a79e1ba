"""Bounds in rational arithmetic, for conditions with strict inequalities, which a bound excludes that is exactly 0.

y > 0 has no counterexample where y <= 0 everywhere, and 0 may be attained: -ReLU never gets above 0, and reaches it. No
bound that takes roundings off shows this. Here intervals and one backward substitution of linear bounds (CROWN: Zhang
et al. 2018) are computed in fractions, for small networks of affine layers, additions and activations of two pieces.

An inequality <c, y> <= d is excluded in a box where <c, y> > d everywhere, a strict one, <c, y> < d, also where
<c, y> >= d: no input fulfils it then. A conjunction is excluded where one of its inequalities is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from pertbound.frontends.vnnlib import Case, Inequality
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Add, Conv, Dense, Diagonal, Linear
from pertbound.layers.linear import matrix_of
from pertbound.layers.piecewise import TwoPieces

MOST_ENTRIES = 2**16
"""Weights that are not 0; a bound takes about a microsecond for each."""

Numbers = list[Fraction]
Ends = tuple[Numbers, Numbers]


@final
@dataclass(frozen=True)
class _Affine:
    """y_row = the sum of value * x_column, plus `bias`."""

    entries: list[tuple[int, int, Fraction]]
    bias: Numbers


@final
@dataclass(frozen=True)
class _Kink:
    """y = z for z >= 0, left * z for z < 0, with left <= 1: convex."""

    left: Numbers


@final
class Exact:
    """One case of a property, and its network in fractions; `possible` says whether these bounds can be computed."""

    def __init__(self, network: Graph, case: Case) -> None:
        self._case = case
        self._steps: list[tuple[Node, _Affine | _Kink | None]] = []
        self._last = network.output.name
        strict = any(one.strict for condition in case.conditions for one in condition)
        self.possible = strict and not network.rounded and not _flushes() and self._read(network)

    def _read(self, network: Graph) -> bool:
        """Whether every layer is one that fractions can follow."""
        shapes: dict[str, tuple[int, ...]] = {INPUT: network.input_shape}
        zero = torch.zeros(1, *network.input_shape, dtype=network.dtype, device=network.device)
        with torch.no_grad():
            network.run(zero, lambda node, _, value: shapes.update({node.name: tuple(value.shape[1:])}))
        entries = 0
        for node in network.nodes:
            layer, step = node.layer, None
            if isinstance(layer, Dense | Conv | Diagonal) or (isinstance(layer, Linear) and layer.terms == 0):
                step = _affine(layer)
                entries += MOST_ENTRIES + 1 if step is None else len(step.entries)
            elif isinstance(layer, TwoPieces):
                step = _kink(layer, shapes[node.inputs[0]])
            if (step is None and not isinstance(layer, Add)) or entries > MOST_ENTRIES:
                return False
            self._steps.append((node, step))
        return True

    def excluded(self, lower: Sequence[Fraction], upper: Sequence[Fraction]) -> bool:
        """Whether it is proved here that no input between `lower` and `upper` fulfils a condition of the case."""
        low = [max(a, b) for a, b in zip(lower, self._case.lower, strict=True)]
        high = [min(a, b) for a, b in zip(upper, self._case.upper, strict=True)]
        if any(a > b for a, b in zip(low, high, strict=True)):
            return True
        boxes = self._intervals(low, high)
        return all(any(self._never(one, boxes) for one in condition) for condition in self._case.conditions)

    def _intervals(self, low: Numbers, high: Numbers) -> dict[str, Ends]:
        boxes: dict[str, Ends] = {INPUT: (low, high)}
        for node, step in self._steps:
            parts = [boxes[name] for name in node.inputs]
            if step is None:
                sums = [
                    [sum(values, Fraction(0)) for values in zip(*ends, strict=True)]
                    for ends in zip(*parts, strict=True)
                ]
                boxes[node.name] = (sums[0], sums[1])
                continue
            below, above = parts[0]
            if isinstance(step, _Kink):
                ends = [(_bent(s, a), _bent(s, b)) for s, a, b in zip(step.left, below, above, strict=True)]
                kinks = [a < 0 < b for a, b in zip(below, above, strict=True)]
                least = [min(a, b, Fraction(0)) if k else min(a, b) for (a, b), k in zip(ends, kinks, strict=True)]
                boxes[node.name] = (least, [max(a, b) for a, b in ends])
                continue
            lows, highs = list(step.bias), list(step.bias)
            for row, column, value in step.entries:
                first, second = (below, above) if value > 0 else (above, below)
                lows[row] += value * first[column]
                highs[row] += value * second[column]
            boxes[node.name] = (lows, highs)
        return boxes

    def _never(self, one: Inequality, boxes: dict[str, Ends]) -> bool:
        """Whether the inequality fails in all of the box: by intervals at each layer, and by lines from there down."""
        for slopes in ("fitting", "flat", "steep"):
            least = self._least(one, boxes, slopes)
            if least > one.bound or (one.strict and least == one.bound):
                return True
        return False

    def _least(self, one: Inequality, boxes: dict[str, Ends], slopes: str) -> Fraction:
        """A lower bound on <c, y>. `slopes` are those of lines below undecided activations."""
        forms: dict[str, Numbers] = {self._last: [Fraction(0)] * len(boxes[self._last][0])}
        for index, factor in one.coefficients:
            forms[self._last][index] += factor
        constant = Fraction(0)
        for node, step in reversed(self._steps):
            form = forms.pop(node.name, None)
            if form is None:
                continue
            for name in node.inputs:
                below = forms.setdefault(name, [Fraction(0)] * len(boxes[name][0]))
                if step is None:
                    forms[name] = [a + b for a, b in zip(below, form, strict=True)]
                elif isinstance(step, _Affine):
                    constant += sum((a * b for a, b in zip(form, step.bias, strict=True) if a), Fraction(0))
                    for row, column, value in step.entries:
                        if form[row]:
                            below[column] += form[row] * value
                else:
                    for i, (low, high) in enumerate(zip(*boxes[name], strict=True)):
                        slope, shift = _line(step.left[i], low, high, form[i] < 0, slopes)
                        below[i] += form[i] * slope
                        constant += form[i] * shift
        rest = forms.get(INPUT, [Fraction(0)] * len(boxes[INPUT][0]))
        return constant + sum(
            (c * (a if c > 0 else b) for c, a, b in zip(rest, *boxes[INPUT], strict=True)), Fraction(0)
        )


def _line(left: Fraction, low: Fraction, high: Fraction, above: bool, slopes: str) -> tuple[Fraction, Fraction]:
    """Slope and shift of a line above or below a convex activation of two pieces, between `low` and `high`.

    Above, the chord: a convex function lies below it. Below, any slope between both pieces' through 0.
    """
    if low >= 0 or high <= 0:
        return (Fraction(1) if low >= 0 else left), Fraction(0)
    if above:
        slope = (high - left * low) / (high - low)
        return slope, high - slope * high
    steep = slopes == "steep" or (slopes == "fitting" and high > -low)
    return (Fraction(1) if steep else left), Fraction(0)


def _bent(left: Fraction, value: Fraction) -> Fraction:
    return value if value >= 0 else left * value


def _affine(layer: Linear) -> _Affine | None:
    """The layer's weights as they are; None where they are too many. Each is one product with 1, which is exact.

    None also for scales that may be rounded quotients, as those of batch normalisation: all but powers of 2.
    """
    matrix = matrix_of((layer,))
    if isinstance(layer, Diagonal) and not bool((torch.frexp(layer.scale).mantissa.abs() == 0.5).all()):
        return None
    if matrix is None or int((matrix != 0).sum()) > MOST_ENTRIES or not bool(torch.isfinite(matrix).all()):
        return None
    rows, columns = matrix.nonzero(as_tuple=True)
    values = [Fraction(value) for value in matrix[rows, columns].tolist()]
    bias = layer.bias_in(torch.float64)
    shift = torch.zeros(1, *layer.output_shape, dtype=torch.float64) if bias is None else bias
    shifts = shift.to(torch.float64).broadcast_to(1, *layer.output_shape).flatten().tolist()
    return _Affine(list(zip(rows.tolist(), columns.tolist(), values, strict=True)), [Fraction(b) for b in shifts])


def _kink(layer: TwoPieces, shape: tuple[int, ...]) -> _Kink | None:
    """The slopes below zero; None where they differ between dtypes, or where the function is not convex."""
    single, double = (
        torch.as_tensor(layer.left(torch.zeros(1, *shape, dtype=dtype)), dtype=torch.float64)
        for dtype in (torch.float32, torch.float64)
    )
    if not torch.equal(single, double) or not bool((single <= 1).all()):
        return None
    if not torch.equal(single.to(torch.float32).to(torch.float64), single):
        return None
    slopes: Tensor = single.broadcast_to(1, *shape)
    return _Kink([Fraction(value) for value in slopes.flatten().tolist()])


def _flushes() -> bool:
    """Whether this process counts denormal numbers as 0, so that weights would not be read as they are."""
    return float(torch.full((1,), 1e-310, dtype=torch.float64, device="cpu") * 1.0) == 0.0
