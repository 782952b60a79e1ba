"""A ladder of certificates under a budget of time: the best radius for each sample, and who gave it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pertbound.ascent import Ascent
from pertbound.branching import SMALL as OWN_BOXES
from pertbound.branching import Branching
from pertbound.certificates.base import Certificate
from pertbound.certificates.relaxed import MEMORY, linear_radius, relaxed
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.pace import Pace
from pertbound.problem import Certified, Problem
from pertbound.regions import Rest, Tighten, Views
from pertbound.search import best_reach

SMALL = 2048
"""Tightening boxes costs a pass for each neuron: it is done where there are at most so many entries in all nodes."""
STEPS = 5
"""Steps of the ascent between two looks at the clock."""
ROOT_STEPS, LONG = 80, 320
"""Steps of the ascent before branching, and in all where nothing can be branched on."""
NARROW, PASSES = 1024, 8
"""Boxes from curvature are for layers of at most so many entries, where there is time to compute them so often."""

FIRST_ROUND = 280
"""Forward passes for each wrong class that a first round of the ascent and its proof take, measured on convolutional
networks; small networks, which are all overhead, take more."""


@final
@dataclass(frozen=True, kw_only=True)
class Auto(Certificate):
    """The best that a budget of time buys: Lipschitz for all, then dearer methods while there is time.

    Lipschitz moduli; linear relaxation where L1 or Linf is asked about; the quadratic ascent, which stops for samples
    that no longer gain; for L2 the same on with tight boxes, where layers are narrow and seconds are many; then branch
    and bound on the widest brackets: samples whose radius is `ratio` of what is known from above (`upper` of
    `pb.certify`) are left alone. Each sample keeps the largest radius, and `Certified.methods` says whose it is.

    The budget is for each sample on average, in `seconds` or, where given, in `forward_passes`, times as long as one
    takes in a batch. Lipschitz is computed whatever it takes, and with fewer forward passes than a first round of the
    ascent usually takes it stays at that; a step that has begun is finished. Operator norms, computed once for a
    network, do not count. `pace` records what the clock decided, or repeats it.
    """

    seconds: float = 1.0
    forward_passes: float | None = None
    ratio: float = 0.99
    memory: int = MEMORY
    pace: Pace | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        budget = self.seconds if self.forward_passes is None else self.forward_passes
        if not 0 < budget < math.inf or not 0 < self.ratio <= 1:
            raise InputError(f"Auto needs a positive, finite budget and 0 < ratio <= 1, got {self}")

    @property
    def name(self) -> str:
        """auto, with its budget."""
        budget = f"{self.seconds:g} s" if self.forward_passes is None else f"{self.forward_passes:g} forward passes"
        return f"auto({budget})"

    def certify(self, problem: Problem) -> Certified:
        """The radii of one batch."""
        each, too_little = self.seconds, False
        if self.forward_passes is not None:
            each = self.forward_passes * _forward_seconds(problem.network, problem.x)
            too_little = self.forward_passes < FIRST_ROUND * (problem.network.classes - 1)
        methods: list[str] = []
        pace = self.pace or Pace()

        def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
            ladder = _Ladder(rest, problem, reference, lipschitz, upper, each * len(reference), pace)
            if not too_little:
                ladder.climb(self.ratio, self.memory)
            methods.extend(ladder.methods)
            return ladder.best

        asked: list[int] = []
        found = relaxed(problem, self.name, self.memory, work, lambda part: asked.extend(part.tolist()))
        names = ["lipschitz"] * len(found.radius)
        for row, method in zip(asked, methods, strict=True):
            names[row] = method
        return Certified(found.radius, found.reference, found.predicted, self.name, found.guarantee, tuple(names))


@dataclass
class _Ladder:
    """One piece of a batch on its way up."""

    rest: Rest
    problem: Problem
    reference: Tensor
    best: Tensor
    upper: Tensor
    seconds: float
    pace: Pace
    methods: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.seconds
        self.methods = ["lipschitz"] * len(self.best)
        self.best = self.best.clone()

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def offer(self, radius: Tensor, name: str) -> None:
        """Keep what is better than before."""
        better = radius > self.best
        self.best = torch.where(better, radius, self.best)
        self.methods = [name if new else old for new, old in zip(better.tolist(), self.methods, strict=True)]

    def climb(self, ratio: float, memory: int) -> None:
        """Up, rung by rung, while there is time."""
        graph, ball = self.rest.graph, self.problem.within
        entries = sum(value[0].numel() for value in self.rest.values.values())
        tight = Tighten(memory) if entries <= (OWN_BOXES if ball.p == 2 else SMALL) else None
        if ball.p != 2 and self.pace.decide(self.left() > 0):

            def certified(rows: Tensor, reach: Tensor) -> Tensor:
                if not self.pace.decide(self.left() >= 0):
                    return torch.zeros_like(reach)
                own = self.reference[rows]
                return linear_radius(self.rest.take(rows), ball, own, reach, tight is not None, memory)

            self.offer(best_reach(certified, self.best, upper=self.upper), "linear")
        if not self.pace.decide(self.left() > 0):
            return
        ascent = Ascent(Views(self.rest, ball, tight), self.reference, self.best)
        branches = Branching.possible(graph)
        name = "quadratic"
        first = time.monotonic()
        ascent.climb(STEPS, tolerance=0.0, upper=self.upper, planned=LONG)
        some = time.monotonic() - first
        self.rise(ascent, ROOT_STEPS, ROOT_STEPS if branches else LONG, some)
        if ball.p == 2 and tight is None and self.narrow(ascent, ratio, some, memory):
            name = "quadratic, tight boxes"
            most = ascent.done + ROOT_STEPS
            self.rise(ascent, most, most, some)
        if not branches:
            self.rise(ascent, LONG, LONG, some)
        self.offer(ascent.proved(), name)
        if branches and self.pace.decide(self.left() > some) and bool((self.best < ratio * self.upper).any()):
            branching = Branching(ascent, self.best, self.upper)
            branching.run(seconds=self.left(), ratio=ratio, steps=10, width=256, pace=self.pace)
            self.offer(branching.lower, "branch and bound")

    def rise(self, ascent: Ascent, most: int, last: int, some: float) -> None:
        """Climb to `most` steps of `last` in all, if there is time; the first steps took `some` seconds.

        The proof at the end takes about as long as twice these, when all classes climbed.
        """
        room = max(0, min(last, ascent.done + STEPS * int(self.left() / max(some, 1e-6))))
        planned = min(last, self.pace.decide(room))
        while self.pace.decide(self.left() > 2 * some) and ascent.done < most and bool(ascent.alive.any()):
            ascent.climb(STEPS, tolerance=1e-3, upper=self.upper, planned=planned)

    def narrow(self, ascent: Ascent, ratio: float, some: float, memory: int) -> bool:
        """Go on with boxes of narrow layers from curvature, where there is time for that: whether there was.

        How long they take is seen at the sample that has come farthest, where most is undecided. What the plain ones
        prove is offered before.
        """
        if not self.pace.decide(self.left() >= 20 * some):  # it takes longer than that wherever it is of use
            return False
        views = Views(self.rest, ascent.views.ball, Tighten(memory, NARROW, curved=True))
        first, farthest = time.monotonic(), ascent.aim.argmax()[None]
        views.regions(farthest, ascent.aim[farthest], torch.float32)
        each = time.monotonic() - first
        if not self.pace.decide(self.left() >= 4 * some + PASSES * each * len(self.best)):
            return False
        self.offer(ascent.proved(), "quadratic")
        ascent.views, ascent.alive = views, self.best < ratio * self.upper
        return True


def _forward_seconds(network: Graph, x: Tensor) -> float:
    """How long a plain forward pass takes for one sample of this batch: the shortest of three runs."""
    best = math.inf
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            network.run(x)
            best = min(best, time.perf_counter() - start)
    return best / len(x)
