"""What a run says, in plain words: the headline, the key figures, and the verdict on violations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from pertbound.records import CERTIFIED, ESTIMATE, Run
from pertbound.report.about import norm, noun, number, pixel_scale
from pertbound.report.rounding import down, duration, nearest, share, up
from pertbound.report.tables import checks, summary
from pertbound.samples import Brackets, Floats, brackets, contradictions


@final
@dataclass(frozen=True)
class Card:
    """A key figure: what it is, the number, and what else a reader must know about it."""

    name: str
    value: str
    detail: str
    mark: str = ""


@final
@dataclass(frozen=True)
class Verdict:
    """A sentence on violations; `mark` is good, bad, warn (of an estimate), or open where nothing was shown."""

    mark: str
    text: str


def headline(run: Run) -> str:
    """The run in a sentence or two, with bounds rounded down and witnesses rounded up, so that it stays true."""
    best, things = brackets(run), noun(run)
    if len(best) == 0:
        return "This run has no rows."
    count = len(best)
    if wrong := sum(check.exceeded for check in checks(run) if check.guarantee == CERTIFIED):
        radii = "one certified radius exceeds" if wrong == 1 else f"{wrong:,} certified radii exceed"
        return f"This run contradicts itself: {radii} the distance to a witness. None of its bounds can be relied on."
    where = "" if norm(run) == "L2" else f" in {norm(run)}"
    from_below, from_above = _from_below(best, things, where), _from_above(best, things, where)
    if from_below and from_above:
        sentence = f"{from_below}; {from_above}."
    elif from_below:
        sentence = f"{from_below}; no attack was run."
    elif from_above:
        sentence = f"{from_above[0].upper()}{from_above[1:]}; nothing was certified."
    else:
        sentence = f"The estimates for {count:,} {things} are no guarantees, and no attack was run."
    misclassified = int((best.upper == 0).sum())
    if misclassified and count > 1:
        they = "is misclassified as it stands" if misclassified == 1 else "are misclassified as they stand"
        sentence += f" {misclassified:,} of the {count:,} {they}."
    return sentence


def verdict(run: Run) -> list[Verdict]:
    """Did a certificate promise more than a witness shows to be true? Did an estimate?"""
    done = checks(run)
    certified = [check for check in done if check.guarantee == CERTIFIED]
    compared, exceeded = sum(c.compared for c in certified), sum(c.exceeded for c in certified)
    found: list[Verdict] = []
    if exceeded:
        which = ", ".join(f"{c.method} ({c.exceeded:,} of {c.compared:,})" for c in certified if c.exceeded)
        found.append(
            Verdict(
                "bad",
                f"Error: certified radii exceed the distance to a witness: {which}. The certificate or the attack "
                f"is wrong; do not rely on the numbers of this run. {_first(run)}",
            )
        )
    elif compared:
        found.append(
            Verdict(
                "good",
                f"No violations: {compared:,} certified radii were held against the sample's nearest witness, "
                "and none exceeds it.",
            )
        )
    else:
        found.append(Verdict("open", "Not checked: no sample has both a certified radius and a witness."))
    estimates = [check for check in done if check.guarantee == ESTIMATE and check.compared]
    for c in estimates:
        if c.exceeded:
            often = f"on {c.exceeded:,} of {c.compared:,} samples"
            text = f"The estimate {c.method} exceeds the nearest witness {often}: it is not a lower bound."
            found.append(Verdict("warn", text))
    if below := [check.method for check in estimates if not check.exceeded]:
        subject = f"The estimate {below[0]} exceeds" if len(below) == 1 else f"The estimates {_listed(below)} exceed"
        text = f"{subject} the nearest witness on no sample compared, which proves nothing about others."
        found.append(Verdict("open", text))
    return found


def _first(run: Run) -> str:
    """A contradiction, with both methods."""
    return f"The first: {str(contradictions(run)[0]).splitlines()[0]}."


def cards(run: Run) -> list[Card]:
    """The key figures of a run."""
    best, scale = brackets(run), pixel_scale(run)
    accuracy = number(run, "accuracy")
    found = [Card(noun(run), f"{len(best):,}", _found(best))]
    if accuracy is not None:
        found.append(Card("accuracy", f"{100 * accuracy:.1f} %", f"of the model on these {noun(run)}"))
    if (radius := half_reach(best.lower)) is not None:
        found.append(Card("half are certified up to", down(radius), _pixels(radius, scale, down)))
    if (distance := half_within(best.upper)) is not None:
        known = math.isfinite(distance)
        detail = _pixels(distance, scale, up) if known else "none for half of them"
        found.append(Card("half have a witness within", up(distance), detail))
    ratio = best.ratio[np.isfinite(best.ratio)]
    if len(ratio):
        found.append(Card("median witness / radius", f"{nearest(float(np.median(ratio)))} ×", "1 would be tight"))
    compared = [c for c in checks(run) if c.guarantee == CERTIFIED and c.compared]
    if compared:
        count = sum(c.exceeded for c in compared)
        found.append(
            Card(
                "violations",
                f"{count:,}",
                "a bug somewhere" if count else "as it must be",
                "bad" if count else "good",
            )
        )
    seconds = [s.seconds * s.samples for s in summary(run) if not math.isnan(s.seconds)]
    if seconds:
        found.append(Card("computing time", duration(sum(seconds)), "all methods"))
    return found


def half_reach(lower: Floats) -> float | None:
    """The largest radius that at least half of the samples are certified for; None where nothing was certified."""
    if len(lower) == 0 or np.isnan(lower).all():
        return None
    return float(np.sort(np.nan_to_num(lower, nan=0.0, posinf=np.inf))[::-1][(len(lower) + 1) // 2 - 1])


def half_within(upper: Floats) -> float | None:
    """The smallest distance within which at least half of the samples have a witness; None without attacks."""
    if len(upper) == 0 or np.isnan(upper).all():
        return None
    return float(np.sort(np.nan_to_num(upper, nan=np.inf, posinf=np.inf))[(len(upper) + 1) // 2 - 1])


def _from_below(best: Brackets, things: str, where: str) -> str:
    radius, count = half_reach(best.lower), len(best)
    if radius is None:
        return ""
    if count == 1:
        return f"No perturbation of the one {things[:-1]} smaller than {down(radius)}{where} changes its class"
    if radius == 0:
        positive = int((best.lower > 0).sum())
        return f"For {positive:,} of the {count:,} {things} a radius is certified in which the class cannot change"
    half = "half of" if count > 2 else "at least one of"
    return f"For {half} the {count:,} {things} no perturbation smaller than {down(radius)}{where} changes the class"


def _from_above(best: Brackets, things: str, where: str) -> str:
    if np.isnan(best.upper).all():
        return ""
    found, count = best.upper[np.isfinite(best.upper)], len(best)
    if len(found) == 0:
        return f"no perturbation that changes the class was found for any of the {count:,} {things}"
    reach = up(float(found.max()))
    if half_reach(best.lower):  # the sentence before has named perturbations, and how many samples there are
        subject, does, them = f"one of at most {reach}", "does", "them"
    else:
        subject, does, them = (
            f"a perturbation of at most {reach}{where}",
            "changes the class",
            f"the {count:,} {things}",
        )
    if count == 1:
        return f"{subject} {does}"
    if len(found) == count:
        return f"for every one of {them} {subject} {does}"
    rest = "remaining one" if count - len(found) == 1 else f"other {count - len(found):,}"
    return f"for {len(found):,} of {them} {subject} {does}, and for the {rest} none was found"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _found(best: Brackets) -> str:
    if np.isnan(best.upper).all():
        return "none attacked"
    found = int(np.isfinite(best.upper).sum())
    return "a witness for each" if found == len(best) else f"a witness for {found:,} ({share(found, len(best))})"


def _pixels(value: float, scale: float | None, rounded: Callable[[float], str]) -> str:
    """The same distance in the data's own units."""
    if scale is None or scale == 1:
        return "in units of the input"
    return f"{rounded(value * scale)} in pixel units"
