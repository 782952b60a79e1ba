"""Few inputs: the box is cut until linear relaxation proves every part, or the middle of one is a counterexample."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from pertbound.certificates.relaxed import MEMORY
from pertbound.graph import Graph, in_float64
from pertbound.sets import Box
from pertbound.verification.boxes import Rest, ahead, items_at_once, plain_numbers
from pertbound.verification.exact import Exact
from pertbound.verification.question import Question
from pertbound.verification.witness import Counterexample, confirmed

MOST_SIDES = 8
"""More inputs than so many that can vary are not cut: every cut of all of them would make 2^8 boxes of one."""
MOST_BOXES = 2**16
MOST_EXACT = 32
"""Parts that are tried in rational arithmetic in each round."""


@final
class Splitting:
    """The parts of one question's box that are still open, (parts, *input_shape) float64."""

    def __init__(self, network: Graph, question: Question, memory: int = MEMORY, exact: Exact | None = None) -> None:
        self._network, self._question, self._memory, self._exact = network, question, memory, exact
        self._graph = question.graph
        self.open = question.box

    @property
    def possible(self) -> bool:
        """Whether few enough inputs can vary."""
        return int((self._question.box.upper > self._question.box.lower).sum()) <= MOST_SIDES

    def run(self, end: float) -> Counterexample | bool:
        """Cut until `time.monotonic() > end`: a counterexample, or whether no part is left open. May go on later."""
        with plain_numbers():
            while len(self.open.lower) and len(self.open.lower) <= MOST_BOXES:
                found = self._counterexample()
                if found is not None:
                    return found
                left = ~self._proved(end)
                self._exclude(left, end)
                self.open = Box(self.open.lower[left], self.open.upper[left])
                if len(self.open.lower):
                    self.open = self._halves()
                if time.monotonic() > end:
                    break
        return len(self.open.lower) == 0

    def _middles(self) -> Tensor:
        low, high = self.open.lower, self.open.upper
        return (low / 2 + high / 2).clamp(low, high)

    def _counterexample(self) -> Counterexample | None:
        best = self._graph.derive(in_float64).run(self._middles())[:, 1:].amax(1)
        row = int(best.argmax())
        if not float(best[row]) >= 0:
            return None
        point = self._middles()[row].to(self._network.dtype).reshape(1, *self._network.input_shape)
        return confirmed(self._network, self._question.case, point)

    def _proved(self, end: float) -> Tensor:
        """In which of the parts class 0 is ahead of all others everywhere, (parts,) bool."""
        size = max(1, items_at_once(Rest.of(self._graph, self._question.x).regions(self._question.box), self._memory))
        found: list[Tensor] = []
        rows = torch.arange(len(self.open.lower), device=self.open.lower.device)
        for some in rows.split(max(1, size // self._graph.classes)):
            box = Box(self.open.lower[some], self.open.upper[some])
            rest = Rest.of(self._graph, self._middles()[some])
            regions = rest.regions(box, self._memory, end=end)
            proved = torch.ones(len(some), dtype=torch.bool, device=some.device)
            for other in range(1, self._graph.classes):
                _, value = ahead(self._graph, rest.logits, torch.full_like(some, other), regions)
                proved &= value > 0
            found.append(proved)
        return torch.cat(found)

    def _exclude(self, left: Tensor, end: float) -> None:
        """Clear `left` (parts,) where rational arithmetic excludes strict inequalities, of `MOST_EXACT` parts at most.

        The parts at which a bound is attained are few, and stay open for ever otherwise.
        """
        if self._exact is None or not self._exact.possible:
            return
        for i in left.nonzero().flatten()[:MOST_EXACT].tolist():
            if time.monotonic() > end:
                return
            lower, upper = (
                [Fraction(v) for v in part[i].flatten().tolist()] for part in (self.open.lower, self.open.upper)
            )
            left[i] = not self._exact.excluded(lower, upper)

    def _halves(self) -> Box:
        """Both halves of each part, cut across its own entry: they share the middle, so nothing is left out.

        The entry is the one whose side, times the steepness of the worst condition along it, is largest.
        """
        with torch.enable_grad():
            x = self._middles().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._graph.derive(in_float64).run(x)[:, 1:].amax(1).sum(), x)
        low, high, middle = (part.flatten(1) for part in (self.open.lower, self.open.upper, self._middles()))
        worth = slope.abs().flatten(1) * (high - low)
        entry = torch.where(worth.amax(1) > 0, worth.argmax(1), (high - low).argmax(1))[:, None]
        cut = middle.gather(1, entry)
        lower = torch.cat([low, low.scatter(1, entry, cut)]).reshape(-1, *self.open.lower.shape[1:])
        upper = torch.cat([high.scatter(1, entry, cut), high]).reshape(lower.shape)
        return Box(lower, upper)
