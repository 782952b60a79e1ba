"""Random VNN-LIB properties: verdicts held against a search of the red team's own, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import pertbound as pb
from pertbound.frontends.vnnlib import parse_vnnlib
from redteam.attack import EXACT
from redteam.blocks import Dice
from redteam.networks import Drawn
from redteam.rounding import margin_and_error
from redteam.tally import Tally

Row = tuple[tuple[float, ...], float]
"""Factors of the outputs and a bound: fulfilled where <factors, y> <= bound."""


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A box, and conjunctions of which one makes an input of the box a counterexample."""

    low: Tensor
    high: Tensor
    conditions: tuple[tuple[Row, ...], ...]

    def text(self) -> str:
        """In VNN-LIB."""
        n, outputs = self.low.numel(), len(self.conditions[0][0][0])
        lines = [f"(declare-const X_{i} Real)" for i in range(n)]
        lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
        ends = zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True)
        lines += [f"(assert (>= X_{i} {a:.40f}))(assert (<= X_{i} {b:.40f}))" for i, (a, b) in enumerate(ends)]
        cases = [f"(and {' '.join(map(_inequality, rows))})" for rows in self.conditions]
        return "\n".join([*lines, f"(assert (or {' '.join(cases)}))"])

    def excess(self, outputs: Tensor) -> Tensor:
        """By how much the best condition is fulfilled, (batch,)."""
        found: list[Tensor] = []
        for rows in self.conditions:
            spare = [bound - outputs @ outputs.new_tensor(factors) for factors, bound in rows]
            found.append(torch.stack(spare).amin(0))
        return torch.stack(found).amax(0)


def _inequality(row: Row) -> str:
    factors, bound = row
    terms = [f"(* {factor:.10f} Y_{i})" for i, factor in enumerate(factors) if factor]
    return f"(<= {terms[0] if len(terms) == 1 else '(+ ' + ' '.join(terms) + ')'} {bound:.40f})"


def draw_property(drawn: Drawn, dice: Dice) -> Asked:
    """A box around a sample, and conditions near what the outputs are there."""
    x = drawn.x[0].double()
    size = dice.choice([0.02, 0.1, 0.4, 1.0])
    spread = torch.tensor([dice.number(0, 1) for _ in range(x.numel())], dtype=EXACT).reshape(x.shape)
    low, high = (x - size * spread).float().double(), (x + size * spread).float().double()
    with torch.no_grad():
        around = low + torch.rand(200, *x.shape, dtype=EXACT, generator=torch.Generator().manual_seed(drawn.seed)) * (
            high - low
        )
        y = drawn.precise(around)
    conditions: list[tuple[Row, ...]] = []
    for _ in range(dice.choice([1, 1, 2, 3])):
        rows: list[Row] = []
        for _ in range(dice.choice([1, 1, 2])):
            factors = tuple(float(dice.choice([-2, -1, 0, 1, 3])) for _ in range(y.shape[1]))
            factors = factors if any(factors) else (1.0, *factors[1:])
            values = y @ y.new_tensor(factors)
            spare = float(values.amax() - values.amin())
            rows.append((factors, float(values.amin()) - dice.choice([-0.3, -0.02, 0.02, 0.1, 0.5]) * spare))
        conditions.append(tuple(rows))
    return Asked(low, high, tuple(conditions))


class _Spare(torch.nn.Module):
    """A network with two outputs, of which the second is how much one condition has to spare."""

    def __init__(self, model: torch.nn.Module, row: Row) -> None:
        super().__init__()
        self.model, self.row = model, row

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2)."""
        outputs = self.model(x)
        spare = torch.sub(self.row[1], torch.nn.functional.linear(outputs, outputs.new_tensor([self.row[0]])))
        return torch.cat([torch.zeros_like(spare), spare], 1)


def truly(drawn: Drawn, asked: Asked, z: Tensor, sign: float = 1.0, unit: float = 1.0) -> bool:
    """Whether some condition is fulfilled at z (*shape) beyond rounding; or, for sign -1, none is within it.

    `unit` is how much larger the roundings are than float64's.
    """
    results: list[bool] = []
    for rows in asked.conditions:
        pairs = [margin_and_error(_Spare(drawn.precise, row), z[None], 0) for row in rows]
        results.append(all(spare > sign * unit * error for spare, error in pairs))
    return any(results)


def search(drawn: Drawn, asked: Asked, seed: int, starts: int = 60, steps: int = 40) -> Tensor:
    """The point of the box that fulfils a condition best, as far as gradient steps from many starts find it."""
    generator = torch.Generator().manual_seed(seed)
    wide = asked.high - asked.low
    z = asked.low + torch.rand(starts, *asked.low.shape, dtype=EXACT, generator=generator) * wide
    corner = torch.rand(z.shape, dtype=EXACT, generator=generator) < 0.5
    z[: starts // 3] = torch.where(corner, asked.low, asked.high)[: starts // 3]
    best, most = z[0], -torch.inf
    for step in range(steps):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            spare = asked.excess(drawn.precise(z))
            (gradient,) = torch.autograd.grad(spare.sum(), z)
        if float(spare.max()) > most:
            most, best = float(spare.max()), z[int(spare.argmax())].detach()
        pace = 0.5 * (1 - step / steps) ** 2 + 0.003
        z = (z.detach() + pace * wide * torch.nan_to_num(gradient).sign()).clamp(asked.low, asked.high)
    return best


def check_property(drawn: Drawn, asked: Asked, graph: pb.Graph, tally: Tally, seconds: float) -> None:
    """`holds` is not contradicted by any point found; what `violated` shows is a counterexample."""
    said = f"{drawn}; {asked.conditions}, box {asked.low.tolist()} to {asked.high.tolist()}"
    try:
        verdict = pb.verify(graph, parse_vnnlib(asked.text()), seconds=seconds)
    except Exception as error:  # noqa: BLE001 a traceback is a fault
        tally.fault(f"{said}: verify raises {type(error).__name__}: {str(error)[:200]}")
        return
    tally[f"properties: {verdict.answer.value}"] += 1
    found = search(drawn, asked, drawn.seed)
    tally["property searches"] += 1
    if verdict.answer is pb.Answer.HOLDS and truly(drawn, asked, found):
        tally.fault(f"{said}: 'holds' ({verdict.by}), but {found.tolist()} is a counterexample")
    if verdict.answer is pb.Answer.VIOLATED:
        assert verdict.counterexample is not None
        x = verdict.counterexample.x.double()
        inside = bool(((x >= asked.low) & (x <= asked.high)).all())  # the ends are float32 numbers
        if not inside or not truly(drawn, asked, x, -1.0):
            tally.fault(f"{said}: 'violated', but {x.tolist()} is no counterexample")
