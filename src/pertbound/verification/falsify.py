"""The search for counterexamples: projected gradient ascent on what each condition lacks, within the box."""

from __future__ import annotations

import time
from typing import final

import torch
from torch import Tensor

from pertbound.graph import Graph
from pertbound.verification.question import Question
from pertbound.verification.witness import Counterexample, confirmed, within_box

STEPS = 40
"""Steps of a round; the first moves each entry by a quarter of its side of the box, the last by a hundredth of that."""
TARGETS = 10
"""Conditions that are nearest to being fulfilled, which a round is aimed at."""
STARTS = 4
"""Random starts of a round for each of them; a round after the first."""


@final
class Falsifier:
    """Rounds of the search in one question's box; the same `seed` gives the same rounds."""

    def __init__(self, network: Graph, question: Question, seed: int = 0) -> None:
        self._network, self._question = network, question
        self._graph = question.graph
        shape = self._graph.input_shape
        low, high = within_box(question.case, network.dtype)
        self._low, self._high = (end.reshape(1, *shape).to(network.device) for end in (low, high))
        self._side = self._high - self._low
        self._generator = torch.Generator().manual_seed(seed)
        self.rounds = 0

    def round(self, end: float) -> Counterexample | None:
        """One more round, which `time.monotonic() > end` stops; the counterexample that it found, if it did.

        The first begins in the middle of the box, all others at random, every second of them at corners.
        """
        with torch.inference_mode(False):
            middle = (self._low + self._side / 2).clamp(self._low, self._high)
            with torch.no_grad():
                logits = self._graph.run(middle)[:, 1:]
            found = self._try(middle, logits)
            if found is not None:
                return found
            targets = logits[0].topk(min(TARGETS, logits.shape[1])).indices
            starts = middle
            if self.rounds:
                parts = torch.rand(STARTS, *middle.shape[1:], generator=self._generator).to(middle)
                starts = self._low + (parts.round() if self.rounds % 2 == 0 else parts) * self._side
            self.rounds += 1
            z = starts.repeat_interleave(len(targets), 0).clamp(self._low, self._high)
            return self._ascend(z, targets.repeat(len(starts)), end)

    def _ascend(self, z: Tensor, target: Tensor, end: float) -> Counterexample | None:
        """Steps along the sign of the gradient, with momentum; every point on the way is tried."""
        direction = torch.zeros_like(z)
        for step in range(STEPS):
            if time.monotonic() > end:
                break
            with torch.enable_grad():
                z = z.detach().requires_grad_(True)
                logits = self._graph.run(z)[:, 1:]
                (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), z)
            found = self._try(z.detach(), logits.detach())
            if found is not None:
                return found
            size = gradient.abs().flatten(1).mean(1).clamp_min(1e-30)
            direction = 0.75 * direction + gradient / size.reshape(-1, *(1 for _ in z.shape[1:]))
            length = 0.25 * 0.01 ** (step / (STEPS - 1))
            z = (z.detach() + length * self._side * direction.sign()).clamp(self._low, self._high)
        with torch.no_grad():
            return self._try(z.detach(), self._graph.run(z))

    def _try(self, z: Tensor, logits: Tensor) -> Counterexample | None:
        """The best of the points that seem to fulfil a condition, if it does when it is run again."""
        best = logits.amax(1)
        row = int(best.nan_to_num(nan=-torch.inf).argmax())
        if not float(best[row]) >= 0:
            return None
        return confirmed(self._network, self._question.case, z[row : row + 1].reshape(1, *self._network.input_shape))
