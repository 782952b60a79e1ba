"""Batches computed again by the code of the run, with the run's own decisions in the clock's place.

On the same machine every row comes out as it was. Elsewhere the searches, which are made in float32, end a little
beside: a certified radius is confirmed where at least as much is proved now, by the same method, if need be with more
steps than the run took.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import final

import numpy as np
import torch

from pertbound.certificates import (
    Auto,
    BranchAndBound,
    Certificate,
    Interval,
    LinearRelaxation,
    Lipschitz,
    QuadraticRelaxation,
)
from pertbound.errors import PertboundError
from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.checking.form import SIZES, Batch, Block
from pertbound.experiments.question import Question
from pertbound.experiments.work import Work
from pertbound.graph import in_float64
from pertbound.pace import Pace
from pertbound.problem import Problem
from pertbound.records import CERTIFIED, ESTIMATE

PROVED = 1e-9
"""A radius may lie above the one that is proved now by so much, relatively: the rounding of the last float64 steps
(`numerics.SLACK`)."""
FOUND = 1e-6
"""The same for Lipschitz, which inverts its bound up to a relative width of 1e-6 from either side."""
NEAR = 1.05
"""More steps are tried for radii above the one that is proved now by at most this factor."""
TRIES = 10
"""At most so many radii of a batch are tried with more steps."""
LESS = {Lipschitz: 5e-3, Interval: 5e-2, LinearRelaxation: 5e-2}
"""Methods whose radius is a function of the sample, but for the search for it, and how far that can end beside: a
radius that differs by more is a contradiction. The searches stop at widths of 1e-6 and 1e-2."""
SAME = 1e-3
"""What attacks and estimates give again may differ by so much, relatively: they compute in float32."""
PATIENCE = 10.0, 60.0
"""A batch may take so many times its budget again, and so many seconds more."""


@final
class Again:
    """The batches that are computed again, one after the other."""

    def __init__(self, work: Work, question: Question, found: Trust) -> None:
        self.work, self.question, self.found = work, question, found

    def __call__(self, batch: Batch, shown: np.ndarray) -> None:
        """Compute the batch, and compare. `shown` (blocks, samples) are rows that a kept witness has confirmed."""
        budget, size = self.question.budget or self.question.seconds, len(batch.samples)
        end = time.monotonic() + PATIENCE[0] * budget * size + PATIENCE[1]
        try:
            rows, _ = self.work.batch(batch.samples, lambda name: Pace(batch.decisions.get(name, []), end=end))
        except PertboundError as error:
            self.found.contradict(f"samples {batch.positions[0]} to {batch.positions[-1]}: computed again: {error}")
            return
        for number, block in enumerate(batch.blocks):
            now = replace(block, rows=rows.slice(number * size, size))
            good = self._proved(batch, block, now) if block.kind == CERTIFIED else self._given(batch, block, now)
            good &= self._words(batch, block, now)
            rest = np.ones(size, bool) if block.kind == CERTIFIED else ~shown[number]
            count = self.found.certificates if block.kind == CERTIFIED else self.found.others
            count.checked += int(rest.sum())
            count.confirmed += int((good & rest).sum())

    def _proved(self, batch: Batch, block: Block, now: Block) -> np.ndarray:
        """Which radii of certified rows are proved again."""
        own = self.work.within.norm_name.lower()
        said, proved = block.column(own), now.column(own)
        fixed = next((less for kind, less in LESS.items() if isinstance(block.method, kind)), None)
        less = fixed or LESS[LinearRelaxation]
        good = said <= proved * (1 + PROVED)
        near = np.flatnonzero(~good & (said <= proved * NEAR))
        for row in near[:TRIES].tolist():
            proved[row] = max(proved[row], self._with_more(batch, block, row, float(said[row])))
            good[row] = said[row] <= proved[row] * (1 + (FOUND if isinstance(block.method, Lipschitz) else PROVED))
        small = good & (proved > said * (1 + less))
        for row in np.flatnonzero(~good | small).tolist():
            name, sample = self._name(block, row), batch.positions[row]
            text = f"sample {sample}: {name} proves {proved[row]:.6g} now; the row claims {said[row]:.6g}"
            beyond = fixed is not None and not abs(said[row] - proved[row]) <= fixed * proved[row]
            (self.found.contradict if beyond else self.found.doubt)(text)
        return good & ~small

    def _with_more(self, batch: Batch, block: Block, row: int, said: float) -> float:
        """What the row's method proves of its sample alone, with more steps, or in float64."""
        place = batch.samples[row]
        problem = self.work.problem(range(place, place + 1))
        method = block.method if isinstance(block.method, Certificate) else Auto(seconds=self.question.budget or 1.0)
        if isinstance(method, Lipschitz):
            problem = Problem(problem.network.derive(in_float64), problem.x.double(), problem.labels, self.work.within)
        else:
            most = torch.full((1,), said * (1 + SAME), dtype=torch.float64, device=problem.x.device)
            problem = replace(problem, upper=most)
        try:
            return float(_longer(method).certify(problem).radius[0])
        except PertboundError:
            return 0.0

    def _given(self, batch: Batch, block: Block, now: Block) -> np.ndarray:
        """Which answers of attacks, and values of estimates, come out again."""
        good = np.array([a == b for a, b in zip(block.texts("guarantee"), now.texts("guarantee"), strict=True)])
        for name in SIZES:
            said, given = block.column(name), now.column(name)
            with np.errstate(invalid="ignore"):
                same = (said == given) | (np.isnan(said) & np.isnan(given)) | (np.abs(said - given) <= SAME * given)
            good &= same
        for row in np.flatnonzero(~good).tolist():
            which = next(n for n in SIZES if block.column(n)[row] != now.column(n)[row])
            self.found.doubt(
                f"sample {batch.positions[row]}: {self._name(block, row)} gives {which} = {now.column(which)[row]:.6g} "
                f"now, not {block.column(which)[row]:.6g}"
            )
        return good

    def _words(self, batch: Batch, block: Block, now: Block) -> np.ndarray:
        """Which rows name the method, and say the note, that come out again."""
        good = np.ones(len(block.rows), bool)
        for name in ("method", "note"):
            for row, (said, given) in enumerate(zip(block.texts(name), now.texts(name), strict=True)):
                if said != given:
                    good[row] = False
                    text = f"sample {batch.positions[row]}: the row's {name} is {said!r:.100}, and {given!r:.100} now"
                    (self.found.contradict if block.kind == ESTIMATE else self.found.doubt)(text)
        return good

    def _name(self, block: Block, row: int) -> str:
        return block.method.name if block.method is not None else str(block.texts("method")[row])


def _longer(method: Certificate) -> Certificate:
    """The same method, with more steps or time."""
    if isinstance(method, Auto | BranchAndBound):
        return replace(method, seconds=max(4 * method.seconds, 1.0), pace=None)
    if isinstance(method, QuadraticRelaxation):
        return replace(method, steps=2 * method.steps, tolerance=0.0)
    if isinstance(method, Interval | LinearRelaxation):
        return replace(method, passes=4 * method.passes)
    return method
