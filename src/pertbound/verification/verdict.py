"""A property's verdict under a limit of time: a search for counterexamples, and certificates that there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import final

import torch

from pertbound.environment import known_state
from pertbound.errors import InputError, PropertyError
from pertbound.frontends.vnnlib import Case, Property
from pertbound.graph import Graph
from pertbound.verification.branches import Branches
from pertbound.verification.exact import Exact
from pertbound.verification.falsify import Falsifier
from pertbound.verification.question import Question, question
from pertbound.verification.splitting import Splitting
from pertbound.verification.witness import Counterexample, confirmed

FIRST_TURN = 1.0
"""Seconds that each method gets at first before it is the next one's turn; twice as many in every round."""
IMPROVING = 0.3
"""The part of the time that better boxes of the hidden layers may take, once."""
AT_ONCE = 1000
"""Conditions of one box that are asked about together: the layers that judge them have as many outputs."""
SEARCH = 0.25
"""The part of a turn that goes into the search for counterexamples, after its first round."""


class Answer(str, Enum):
    """What is known of a property."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer, a counterexample where it is violated, and how it came about.

    `HOLDS` is proven: no input in the property's boxes, real numbers included that no float is, makes the network in
    exact arithmetic fulfil a condition. `VIOLATED` was seen: the counterexample, which lies in a box, was run again.
    """

    answer: Answer
    counterexample: Counterexample | None
    by: str
    """Who proved the last case or found the counterexample; what is missing where the answer is unknown."""
    seconds: float


@known_state()
def verify(network: Graph, claim: Property, *, seconds: float = 60.0, seed: int = 0) -> Verdict:
    """Does `claim` hold for the network, or is there a counterexample?

    X_i and Y_i number the network's inputs and outputs in row-major order. For each box: one round of gradient steps;
    linear relaxation (CROWN) on plain and then on tightened boxes of the hidden layers; then in turns more rounds,
    linear relaxation on parts of the box where few inputs vary, and branch and bound. Strict inequalities, which hold
    nowhere where a bound is exactly 0, are excluded by linear relaxation in rational arithmetic, for small networks
    (`exact.py`), on the box and on its parts. `seconds` is a limit for all of it; a step that has begun is finished.

    Raises `PropertyError` where the property does not fit the network, and `InputError` for a limit that is none.
    """
    if not 0 < seconds < math.inf:
        raise InputError(f"the time limit must be positive and finite, got {seconds} seconds")
    _require_fit(network, claim)
    begun = time.monotonic()
    end, turn = begun + seconds, math.inf
    answer, example, by = Answer.HOLDS, None, "every box is empty"
    open_: list[_Case] = []
    cases = [part for case in claim.cases for part in _parts(case)]
    for number, case in enumerate(cases):
        if time.monotonic() >= end and number:
            by = f"{len(cases)} of {len(cases)} boxes are open after {seconds:g} seconds"
            return Verdict(Answer.UNKNOWN, None, by, time.monotonic() - begun)
        if not all(case.conditions):  # nothing is asked of the outputs: every point of the box will do
            middle = [float((low + high) / 2) for low, high in zip(case.lower, case.upper, strict=True)]
            x = torch.tensor(middle, dtype=torch.float64).to(network.dtype).reshape(1, *network.input_shape)
            example = confirmed(network, case, x.to(network.device))
            answer = Answer.UNKNOWN if example is None else Answer.VIOLATED
            return Verdict(answer, example, "every input of a box", time.monotonic() - begun)
        asked = question(network, case)
        exact = Exact(network, case)
        searches = Splitting(network, asked, exact=exact), Branches(network, asked)
        open_.append(_Case(asked, Falsifier(network, asked, seed), exact, *searches))
    turns: list[tuple[_Stage, ...]] = [(_first_round, _linear, _exact, _tightened), _SEARCHES, (_improved, *_SEARCHES)]
    while open_ and time.monotonic() < end:
        stages = turns.pop(0) if turns else _SEARCHES
        for case in list(open_):
            for stage in stages:
                now = time.monotonic()
                found = stage(case, end, min(end, now + turn)) if now < end else None
                if isinstance(found, Counterexample):
                    return Verdict(Answer.VIOLATED, found, "search", time.monotonic() - begun)
                if found is not None:
                    open_.remove(case)
                    by = found
                    break
        turn = FIRST_TURN if turn == math.inf else 2 * turn
    if open_:
        answer, by = Answer.UNKNOWN, f"{len(open_)} of {len(cases)} boxes are open after {seconds:g} seconds"
    return Verdict(answer, example, by, time.monotonic() - begun)


def _parts(case: Case) -> list[Case]:
    """A case, or several of the same box: of many conditions each is as good a counterexample, and layers are dense."""
    several = range(0, max(1, len(case.conditions)), AT_ONCE)
    return [replace(case, conditions=case.conditions[at : at + AT_ONCE]) for at in several]


_Stage = Callable[["_Case", float, float], Counterexample | str | None]
"""What is done with a case, given when the time is over, and when the turn is; who proved it, or a counterexample."""


@final
@dataclass(frozen=True, eq=False)
class _Case:
    question: Question
    falsifier: Falsifier
    exact: Exact
    splitting: Splitting
    branches: Branches


def _first_round(case: _Case, end: float, turn: float) -> Counterexample | str | None:
    return case.falsifier.round(turn)


def _more_rounds(case: _Case, end: float, turn: float) -> Counterexample | str | None:
    begun = time.monotonic()
    stop = begun + SEARCH * (turn - begun)
    while time.monotonic() < stop:
        found = case.falsifier.round(stop)
        if found is not None:
            return found
    return None


def _linear(case: _Case, end: float, turn: float) -> str | None:
    return "linear(plain boxes)" if case.branches.begin(tighten=False) else None


def _exact(case: _Case, end: float, turn: float) -> str | None:
    ends = case.question.case
    return "exact linear" if case.exact.possible and case.exact.excluded(ends.lower, ends.upper) else None


def _tightened(case: _Case, end: float, turn: float) -> str | None:
    return "linear" if case.branches.begin(tighten=True, end=(time.monotonic() + end) / 2) else None


def _improved(case: _Case, end: float, turn: float) -> str | None:
    now = time.monotonic()
    return "linear on climbed boxes" if case.branches.improve(now + IMPROVING * (end - now)) else None


def _split(case: _Case, end: float, turn: float) -> Counterexample | str | None:
    found = case.splitting.run(turn) if case.splitting.possible else False
    return found if isinstance(found, Counterexample) else "linear on parts of the box" if found else None


def _branched(case: _Case, end: float, turn: float) -> Counterexample | str | None:
    found = case.branches.run(turn)
    return found if isinstance(found, Counterexample) else "branch and bound" if found else None


def _require_fit(network: Graph, claim: Property) -> None:
    inputs = math.prod(network.input_shape)
    if (claim.inputs, claim.outputs) != (inputs, network.classes):
        raise PropertyError(
            f"the property is about {claim.inputs} inputs and {claim.outputs} outputs, the network has {inputs} and "
            f"{network.classes}; do they belong together?"
        )
    if getattr(network.original, "softmax", None) is True:  # an ONNX model, preprocessed or not
        for one in (one for case in claim.cases for condition in case.conditions for one in condition):
            if one.bound != 0 or sorted(factor for _, factor in one.coefficients) != [-1, 1]:
                raise PropertyError(
                    "the network ends in a softmax, which is dropped: only comparisons of two outputs mean the same "
                    "for its logits. Cut it off with onnx.utils.extract_model, and state the property for logits"
                )


_SEARCHES: tuple[_Stage, ...] = (_more_rounds, _split, _branched)
