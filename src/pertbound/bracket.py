"""The bracket: the best certificate below and the best attack above, for each sample.

Either of methods that are named, each asked about every sample, or under a budget of time (`Closing`): cheap methods
for all samples, then dearer ones, in turn from below and from above, where a second narrows most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pertbound.attacks import DDN, FMN, Attack, Ensemble, FastGradientSign, attack
from pertbound.certificates import Auto, Certificate, Lipschitz
from pertbound.certificates.base import L2, ask
from pertbound.environment import known_state
from pertbound.errors import ContradictionError, InputError, contradicts
from pertbound.graph import Graph
from pertbound.pace import Pace
from pertbound.problem import Certified, Problem, Witness, require_agreement
from pertbound.sets import Ball


@final
@dataclass(frozen=True)
class Bracket:
    """lower <= size of the smallest adversarial perturbation <= upper, per sample; (samples,) float64.

    A bracket whose lower end exceeds its upper end does not come to be: making it raises `ContradictionError`, which
    names the two methods. By `errors.contradicts`, an excess of 1e-12 relatively is rounding.

    `upper` is infinite where no attack found a witness. `lower_method` and `upper_method` name, per sample, who
    gave the value. All answers are in `certified` and `witnesses`; under a budget these are empty, and `adversarial`,
    `lower_seconds` and `upper_seconds` say what is behind a sample's two ends: the input at distance `upper` (x where
    none was found), and the time spent. `effort` says how far each side's ladder was climbed, for who resumes.
    """

    lower: Tensor
    upper: Tensor
    lower_method: tuple[str, ...]
    upper_method: tuple[str, ...]
    certified: tuple[Certified, ...]
    witnesses: tuple[Witness, ...]
    adversarial: Tensor | None = None
    lower_seconds: Tensor | None = None
    upper_seconds: Tensor | None = None
    effort: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        require_agreement(self.lower, self.lower_method, self.upper, self.upper_method)

    @property
    def violations(self) -> Tensor:
        """Where the lower end exceeds the upper end, (samples,) bool: always False, as no such bracket is made."""
        return contradicts(self.lower, self.upper)


OnStep = Callable[[Bracket], None]
"""Called with the bracket as it stands after each step."""


@known_state()
def bracket(
    network: Graph,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    certificates: Sequence[Certificate] = (Lipschitz(),),
    attacks: Sequence[Attack] = (FastGradientSign(),),
    budget: float | None = None,
    ratio: float = 0.99,
    start: Bracket | None = None,
    on_step: OnStep | None = None,
    within: Ball = L2,
    batch_size: int = 500,
    pace: Pace | None = None,
) -> Bracket:
    """Bracket the smallest adversarial perturbation of each sample of x, shape (samples, *input_shape).

    The reference class is the prediction, or `labels` where given. `within` is the norm and the box that both sides are
    about. The attacks come first, and tell the certificates where to stop. Only certificates bound from below: an
    `Estimator` such as `Published` is refused with `InputError`.

    With `budget`, seconds for each sample on average, methods are chosen instead of `certificates` and `attacks`: what
    is cheap for all, then what is dear where it narrows most, until every lower end is `ratio` of its upper end or the
    time is over (a step that has begun is finished). `on_step` sees the bracket after each step; `start` is one to go
    on from. Operator norms, computed once for a network, do not count. `pace` records what the clock decided, so that
    the same bracket can be computed again without one.

    Raises `ContradictionError` where a certificate proves more than the distance to a witness.
    """
    if budget is not None:
        closing = Closing(network, x, labels, within, start, batch_size, pace or Pace())
        closing.run(budget * len(x), ratio, on_step)
        return closing.bracket
    wrong = [type(c).__name__ for c in certificates if not isinstance(c, Certificate)]  # pyright: ignore[reportUnnecessaryIsInstance]
    wrong += [type(a).__name__ for a in attacks if not isinstance(a, Attack)]  # pyright: ignore[reportUnnecessaryIsInstance]
    if wrong or not certificates or not attacks:
        raise InputError(
            f"a bracket needs at least one attack and at least one certificate, and {', '.join(wrong) or 'nothing'} "
            "cannot bound from below; estimates are asked with pb.certify and never enter a bracket"
        )
    witnesses = tuple(attack(network, x, a, labels, within=within, batch_size=batch_size) for a in attacks)
    upper, best_upper = torch.stack([w.distance for w in witnesses]).min(0)
    seen = tuple(witnesses[int(i)].names[row] for row, i in enumerate(best_upper))
    asked = Problem(network, x, labels, within, upper, seen)
    certified = tuple(ask(asked, c, batch_size) for c in certificates)
    lower, best_lower = torch.stack([c.radius for c in certified]).max(0)
    return Bracket(
        lower,
        upper,
        tuple(certified[int(i)].method for i in best_lower),
        tuple(witnesses[int(i)].method for i in best_upper),
        certified,
        witnesses,
    )


FIRST = 0.25
"""Seconds of the first dear certificate; each further one of a sample gets twice as much."""
PART = 4
"""Each step takes at most one part in so many of the open samples."""
TRIES = 6
"""Attacks on a sample that stays open, at most: more would find the same minima again."""


def _certificate(effort: int) -> Certificate:
    """The rungs from below."""
    return Lipschitz() if effort == 0 else Auto(seconds=FIRST * 2.0 ** (effort - 1))


def _attack(effort: int, p: float) -> Attack:
    """The rungs from above: a quick attack, the ensemble, then more restarts from other points."""
    if effort == 1:
        return Ensemble()
    quick = DDN() if p == 2 else FMN()
    return quick if effort == 0 else replace(quick, restarts=2**effort, targets=4, seed=effort)


@final
@dataclass
class Closing:
    """A bracket on its way to being closed, under a budget of time."""

    network: Graph
    x: Tensor
    labels: Tensor | None
    within: Ball
    start: Bracket | None = None
    batch_size: int = 500
    pace: Pace = field(default_factory=Pace)
    """Records what the clock decided, or repeats it."""
    bracket: Bracket = field(init=False)
    _reference: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.x)
        # one class for all steps, whatever batches they compute in
        parts = Problem(self.network, self.x, self.labels, self.within).batches(self.batch_size)
        self._reference = torch.cat([part.reference(part.logits.argmax(1)) for part in parts])
        if self.start is not None:
            if len(self.start.lower) != count or self.start.effort is None:
                raise InputError(
                    f"start must be a bracket of the same {count} samples that was made under a budget, got one of "
                    f"{len(self.start.lower)} samples{'' if self.start.effort is not None else ' without a budget'}"
                )
            self.bracket = self.start
            return
        zero = torch.zeros(count, dtype=torch.float64, device="cpu")
        none = torch.zeros(count, dtype=torch.long, device="cpu")
        names, far = ("",) * count, torch.full_like(zero, torch.inf)
        effort = (none, none.clone())
        self.bracket = Bracket(zero, far, names, names, (), (), self.x.clone(), zero.clone(), zero.clone(), effort)

    def run(self, seconds: float, ratio: float, on_step: OnStep | None = None) -> None:
        """Climb both ladders until the brackets are closed or the time is over."""
        if not 0 < seconds < math.inf or not 0 < ratio <= 1:
            raise InputError(f"a bracket needs a positive, finite budget and 0 < ratio <= 1, got {seconds} and {ratio}")
        end = time.monotonic() + seconds
        spent = {False: 0.0, True: 0.0}
        while True:
            # the side that had less time so far, where anything is left to try
            below = bool(self.pace.decide(spent[True] < spent[False]))
            sides = [(side, self._chosen(side, ratio, end - time.monotonic())) for side in (below, not below)]
            side, chosen = sides[0] if len(sides[0][1]) else sides[1]
            if len(chosen) == 0:
                break
            begun = time.monotonic()
            self._step(chosen, side)
            spent[side] += time.monotonic() - begun
            if on_step is not None:
                on_step(self.bracket)

    def _chosen(self, below: bool, ratio: float, left: float) -> Tensor:
        """The open samples, all with the same next method, whose ends are farthest apart for what that method costs."""
        now = self.bracket
        assert now.effort is not None
        effort = now.effort[0 if below else 1]
        fresh = effort == 0
        if bool(fresh.any()):
            return fresh.nonzero().flatten()  # everyone once, whatever the budget
        is_open = (now.lower < ratio * now.upper) & (now.upper > 0)
        if not below:
            is_open &= effort < TRIES
        rows = is_open.nonzero().flatten()
        if len(rows) == 0 or not self.pace.decide(left > 0):
            return rows[:0]
        gap = (now.upper[rows].clamp_max(1e30) / now.lower[rows].clamp_min(1e-30)).log()
        worth = gap / 2.0 ** effort[rows]
        rows = rows[worth.argsort(descending=True)]
        same = rows[effort[rows] == effort[rows[0]]]
        most = math.ceil(len(rows) / PART)
        if below:
            affordable = max(1, int(left / (FIRST * 2.0 ** (int(effort[rows[0]]) - 1))))
            most = self.pace.decide(min(most, affordable))
        return same[:most]

    def _step(self, rows: Tensor, below: bool) -> None:
        """Ask the next method about those samples."""
        now, begun = self.bracket, time.monotonic()
        assert now.effort is not None
        assert now.adversarial is not None
        assert now.lower_seconds is not None
        assert now.upper_seconds is not None
        x, labels = self.x[rows], self._reference[rows]
        effort = now.effort[0 if below else 1].clone()
        level, size = int(effort[rows[0]]), self.batch_size
        effort[rows] += 1
        if below:
            seen = tuple(now.upper_method[row] for row in rows.tolist())
            asked = Problem(self.network, x, labels, self.within, now.upper[rows], seen)
            method = _certificate(level)
            method = replace(method, pace=self.pace) if isinstance(method, Auto) else method
            try:
                found = ask(asked, method, size)
            except ContradictionError as error:
                raise error.at(int(rows[error.sample])) from None
            lower, names = now.lower.clone(), list(now.lower_method)
            for i, row in enumerate(rows.tolist()):
                if found.radius[i] > lower[row] or not names[row]:
                    lower[row], names[row] = found.radius[i], found.names[i]
            spent = now.lower_seconds.index_add(0, rows, self._each(begun, len(rows)))
            changed = replace(now, lower=lower, lower_method=tuple(names), lower_seconds=spent)
        else:
            seen = attack(self.network, x, _attack(level, self.within.p), labels, within=self.within, batch_size=size)
            upper, names, adversarial = now.upper.clone(), list(now.upper_method), now.adversarial.clone()
            for i, row in enumerate(rows.tolist()):
                if seen.distance[i] < upper[row]:
                    upper[row], names[row], adversarial[row] = seen.distance[i], seen.names[i], seen.adversarial[i]
            spent = now.upper_seconds.index_add(0, rows, self._each(begun, len(rows)))
            # executed in this batch, the network may misclassify a sample that it tells apart in another: radius 0
            lower = torch.where(upper == 0, 0.0, now.lower)
            changed = replace(
                now, lower=lower, upper=upper, upper_method=tuple(names), adversarial=adversarial, upper_seconds=spent
            )
            changed = replace(changed, lower=torch.minimum(lower, upper))  # at most a rounding above it
        self.bracket = replace(changed, effort=(effort, now.effort[1]) if below else (now.effort[0], effort))

    @staticmethod
    def _each(begun: float, count: int) -> Tensor:
        return torch.full((count,), (time.monotonic() - begun) / count, dtype=torch.float64, device="cpu")
