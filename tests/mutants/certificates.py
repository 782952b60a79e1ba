"""A library with one thing wrong each, and the check of `contracts/certificates.py` that must notice.

A mutant is something to be patched while the check runs; the checks themselves are in `CHECKS`, and pass as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from contracts.certificates import (
    check_below_exact,
    check_domains,
    check_evaluated,
    check_linear_classifiers,
    question,
)
from contracts.graphs import graphs
from contracts.reach import check_curves, check_limits
from contracts.relaxation import check_relaxation, kept_regions
from pertbound import ascent, branching, leaves, regions, relaxation, search
from pertbound.ascent import Ascent, Items
from pertbound.branching import Branching, Domains
from pertbound.certificates import BranchAndBound, Interval, LinearRelaxation, QuadraticRelaxation, relaxed
from pertbound.forms import Region, Regions, Signs
from pertbound.graph import Graph
from pertbound.regions import Rest, Tighten, Views
from pertbound.relaxation import Ground
from pertbound.sets import Ball, Box

Mutant = Callable[[], AbstractContextManager[object]]


# --- what must notice -------------------------------------------------------------------------------------------------


def _intervals() -> None:
    check_below_exact(Interval(), [question("max pooling", p, "box") for p in (2.0, math.inf)])
    check_below_exact(Interval(), [question("linear", p, "entries") for p in (1.0, math.inf)])


def _linear() -> None:
    for tighten in (False, True):
        kinds = [("three layers", 2.0, "free"), ("residual", math.inf, "free"), ("float64", 1.0, "free")]
        check_below_exact(LinearRelaxation(tighten=tighten), [question(*kind) for kind in kinds])


def _tightened() -> None:
    kinds = [("three layers", 2.0, "free"), ("residual", math.inf, "box"), ("leaky 3", 1.0, "entries")]
    check_below_exact(LinearRelaxation(tighten=True), [question(*kind) for kind in kinds])


def _quadratic() -> None:
    kinds = [
        ("float64", 2.0, "free"),
        ("max pooling", 2.0, "entries"),
        ("two layers", 2.0, "free"),
        ("residual", 1.0, "free"),
    ]
    check_below_exact(QuadraticRelaxation(steps=40), [question(*kind) for kind in kinds])


def _tight_quadratic() -> None:
    kinds = [("float64", 2.0, "free"), ("three layers", math.inf, "free"), ("residual", 1.0, "free")]
    check_below_exact(QuadraticRelaxation(steps=40, tighten=True), [question(*kind) for kind in kinds])


def _kept_boxes() -> None:
    for name in ("3 dense layers, ReLU", "residual, ReLU"):
        check_relaxation(graphs()[name], Ball(), torch.Generator().manual_seed(1), make=kept_regions)


def _linear_classifiers() -> None:
    check_linear_classifiers(LinearRelaxation())
    check_linear_classifiers(QuadraticRelaxation())


def _evaluated() -> None:
    check_evaluated(LinearRelaxation(), question("three layers", 2.0, "free"))
    check_evaluated(QuadraticRelaxation(steps=20), question("three layers", 2.0, "free"))


def _branch_and_bound() -> None:
    kinds = [("two layers", 2.0, "free"), ("three layers", 2.0, "box"), ("five classes", 2.0, "box")]
    check_below_exact(BranchAndBound(seconds=1.5, root_steps=20), [question(*kind) for kind in kinds])


def _domains() -> None:
    generator = torch.Generator().manual_seed(20171204)
    for kind in (("three layers", 2.0, "box"), ("two layers", 2.0, "free")):
        check_domains(question(*kind), generator)
        check_domains(question(*kind), generator, seconds=0.5, tighten=Tighten(2**24))


def _reach() -> None:
    check_curves(search.best_reach)
    check_limits(search.best_reach)


CHECKS: dict[str, Callable[[], None]] = {
    "intervals": _intervals,
    "linear": _linear,
    "tightened boxes": _tightened,
    "quadratic": _quadratic,
    "quadratic on tight boxes": _tight_quadratic,
    "kept boxes": _kept_boxes,
    "linear classifiers": _linear_classifiers,
    "evaluated": _evaluated,
    "branch and bound": _branch_and_bound,
    "domains": _domains,
    "reach": _reach,
}


_PROVED = Ground.proved


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _patched(target: object, name: str, broken: object) -> Mutant:
    return lambda: patch.object(target, name, broken)


def _everywhere(name: str, broken: object) -> Mutant:
    """In every module that imported the function."""

    def start() -> AbstractContextManager[object]:
        stack = ExitStack()
        for module in (ascent, branching, leaves, relaxation, regions, relaxed, search):
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, broken))
        return stack

    return start


def _smallest_left_out(self: Ascent, proved: Callable[[Ascent], Tensor] = Ascent.proved) -> Tensor:
    """Each sample without its worst class."""
    worst = self.root <= self.smallest(self.root)[self.sample]
    kept = (~worst).nonzero().flatten()
    if len(kept) == 0:
        return proved(self)
    every = (self.sample, self.other, self.root, self.variables)
    self.sample, self.other, self.root = self.sample[kept], self.other[kept], self.root[kept]
    self.variables = every[3].take(kept)
    try:
        return proved(self)
    finally:
        self.sample, self.other, self.root, self.variables = every


def _never_proved(self: Ascent) -> Tensor:
    """The root that float32 climbed to, with the usual thousandth."""
    return self.smallest(self.root).to(torch.float64) * 1.001


def _half_the_reach(
    self: Rest, ball: Ball, eps: Tensor, *, whole: Callable[..., Regions] = Rest.regions, **options: object
) -> Regions:
    """Regions of a ball of half the radius."""
    return whole(self, ball, eps / 2, **options)


def _class_skipped(
    reference: Tensor, classes: int, wrong: Callable[..., tuple[Tensor, Tensor]] = relaxation.wrong_classes
) -> tuple[Tensor, Tensor]:
    """The next class is never asked about."""
    samples, others = wrong(reference, classes)
    kept = others != (reference[samples] + 1) % classes
    return samples[kept], others[kept]


def _wrong_margin(
    logits: Tensor, reference: Tensor, other: Tensor, margin: Callable[..., Tensor] = relaxation.margin_at_rest
) -> Tensor:
    """Against the class that is least likely."""
    return margin(logits, reference, logits.argmin(1).where(logits.argmin(1) != reference, other))


def _one_half(
    self: Branching, domains: Domains, split: Callable[..., tuple[Domains, Domains]] = Branching._split
) -> tuple[Domains, Domains]:
    """The domains where the split activation is off are forgotten."""
    halves, stuck = split(self, domains)
    return halves.take(torch.arange(len(halves.sample) // 2)), stuck


def _other_side(region: Region, signs: Tensor | None, cut: Callable[..., Region] = regions.cut) -> Region:
    """Boxes cut on the side that the sign allows."""
    return cut(region, None if signs is None else -signs)


def _one_sided(region: Region, signs: Tensor | None, cut: Callable[..., Region] = regions.cut) -> Region:
    """Both halves are told that the activation is off."""
    return cut(region, None if signs is None else -signs.abs())


def _nearly_empty(regions_: Regions, empty: Callable[..., Tensor] = regions.empty) -> Tensor:
    """A domain is given up where a box has become small."""
    small = [
        (r.box.upper - r.box.lower < 0.2 * (r.box.upper - r.box.lower).mean()).flatten(1) for r in regions_.values()
    ]
    return empty(regions_) | torch.cat(small, 1).any(1)


def _negated_rows(items: Items, signs: Signs, part: Tensor, rows: Callable[..., leaves._Rows] = leaves._rows) -> object:
    """Signs are read the wrong way round."""
    return rows(items, {name: -sign for name, sign in signs.items()}, part)


def _farther_rows(items: Items, signs: Signs, part: Tensor, rows: Callable[..., leaves._Rows] = leaves._rows) -> object:
    """Every constraint is half as far away again."""
    found = rows(items, signs, part)
    return replace(found, offset=1.5 * found.offset)


def _signed(g: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray, p: float, reach: float) -> np.ndarray:
    """Multipliers of equations, which may be negative."""
    u = np.linalg.lstsq(np.vstack([-g.T, h[None] / reach]), np.append(np.zeros(g.shape[1]), 1.0))[0]
    return u if p == 2 else np.abs(u)


def _believed(items: Items, part: Tensor, rows: leaves._Rows) -> Tensor:
    """Wherever the solver has multipliers, the domain is excluded as far as was asked."""
    return items.reach[part].clone()


def _closed_early(
    self: Branching, leaves: Domains, *options: object, finish: Callable[..., object] = Branching._finish
) -> object:
    """Domains in which nothing is left to split are closed at the largest radius that was looked at."""
    return finish(self, replace(leaves, radius=self.reach[leaves.sample].clone()), *options)


def _parents_radius(
    self: Branching, domains: Domains, guess: Tensor, steps: int, bounded: Callable[..., Domains] = Branching._bounded
) -> Domains:
    """A domain gets the radius of the sample's best one, as if that had been its parent."""
    found = bounded(self, domains, guess, steps)
    best = torch.zeros_like(self.lower).scatter_reduce(0, found.sample, found.radius, "amax")
    return replace(found, radius=best[found.sample])


def _reach_itself(
    certified: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    best_reach: Callable[..., Tensor] = search.best_reach,
    **options: object,
) -> Tensor:
    """What was tried, where anything at all was proved, instead of what was proved."""

    def generous(rows: Tensor, reach: Tensor) -> Tensor:
        found = certified(rows, reach)
        return torch.where(found > 0.3 * reach, reach, found)

    return best_reach(generous, start, **options)


def _too_far(
    certified: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    best_reach: Callable[..., Tensor] = search.best_reach,
    **options: object,
) -> Tensor:
    """More than the reach where that is what a certificate says, and beyond `upper`."""
    options.pop("upper", None)
    return best_reach(certified, start, **options)


def _flipped_boxes(
    graph: Graph,
    name: str,
    of: Regions,
    entries: Tensor,
    ball: Ball,
    eps: Tensor,
    tighten: Tighten,
    tightened: Callable[..., Box] = regions.tightened,
) -> Box:
    """What is gained is put on the other side of the value."""
    box, region = tightened(graph, name, of, entries, ball, eps, tighten), of[name]
    lower = torch.where(box.lower > region.box.lower, 2 * region.value - box.lower, box.lower)
    upper = torch.where(box.upper < region.box.upper, 2 * region.value - box.upper, box.upper)
    return Box(lower, upper)


def _stale_boxes(
    self: Views,
    kept: Any,
    stale: Tensor,
    rows: Tensor,
    eps: Tensor,
    dtype: torch.dtype,
    renew: Callable[..., None] = Views._renew,
) -> None:
    """Tightened boxes are kept when the radius has grown."""
    if not kept.boxes:
        renew(self, kept, stale, rows, eps, dtype)


def _any_item(self: Ground, margin: Tensor, ball: Ball, x: Tensor, reach: Tensor, groups: Tensor) -> Tensor:
    """One item of a group is enough."""
    own = _PROVED(self, margin, ball, x, reach[groups], torch.arange(len(groups)))
    return torch.zeros_like(reach).scatter_reduce(0, groups, own, "amax")


def _upper_end(self: Ground, margin: Tensor, ball: Ball, x: Tensor, reach: Tensor, groups: Tensor) -> Tensor:
    """The end of the last bracket that failed."""
    return torch.minimum(_PROVED(self, margin, ball, x, reach, groups) * (1 + 2e-5), reach)


def _straight(self: Ground, ball: Ball, x: Tensor, eps: Tensor, lower: Callable[..., Tensor] = Ground.lower) -> Tensor:
    """Curvature that is left at the input is not paid for."""
    return lower(replace(self, form=replace(self.form, curvature=None)), ball, x, eps)


def _without_box(
    self: Ground, ball: Ball, x: Tensor, eps: Tensor, lower: Callable[..., Tensor] = Ground.lower
) -> Tensor:
    """The L2 ball in place of every other."""
    return lower(self, Ball(box=ball.box), x, eps)


MUTANTS: dict[str, tuple[Mutant, str]] = {
    "the worst class left out of the proof": (_patched(Ascent, "proved", _smallest_left_out), "quadratic"),
    "the root of float32 returned": (_patched(Ascent, "proved", _never_proved), "linear classifiers"),
    "regions for half the reach": (_patched(Rest, "regions", _half_the_reach), "linear"),
    "regions for half the reach, intervals": (_patched(Rest, "regions", _half_the_reach), "intervals"),
    "a class skipped": (_everywhere("wrong_classes", _class_skipped), "linear"),
    "a class skipped, ascents": (_everywhere("wrong_classes", _class_skipped), "quadratic"),
    "the margin of another class": (_everywhere("margin_at_rest", _wrong_margin), "linear classifiers"),
    "one half of a split forgotten": (_patched(Branching, "_split", _one_half), "domains"),
    "signs applied to the other side": (_everywhere("cut", _other_side), "domains"),
    "signs applied to one side": (_everywhere("cut", _one_sided), "domains"),
    "signs applied to one side, radii": (_everywhere("cut", _one_sided), "branch and bound"),
    "boxes that nearly cross are empty": (_everywhere("empty", _nearly_empty), "domains"),
    "rows of the signs negated": (_patched(leaves, "_rows", _negated_rows), "branch and bound"),
    "rows farther away than they are": (_patched(leaves, "_rows", _farther_rows), "branch and bound"),
    "multipliers of either sign": (_patched(leaves, "_multipliers", _signed), "branch and bound"),
    "what the solver says, unproved": (_patched(leaves, "_proved", _believed), "branch and bound"),
    "leaves closed too far away": (_patched(Branching, "_finish", _closed_early), "branch and bound"),
    "a larger domain's radius": (_patched(Branching, "_bounded", _parents_radius), "domains"),
    "the reach instead of what is proved": (_everywhere("best_reach", _reach_itself), "linear"),
    "the reach instead of what is proved, curves": (_everywhere("best_reach", _reach_itself), "reach"),
    "the reach without its limit": (_everywhere("best_reach", _too_far), "reach"),
    "tightened boxes flipped": (_patched(regions, "tightened", _flipped_boxes), "tightened boxes"),
    "tightened boxes flipped, with curvature": (
        _patched(regions, "tightened", _flipped_boxes),
        "quadratic on tight boxes",
    ),
    "tightened boxes kept too long": (_patched(Views, "_renew", _stale_boxes), "kept boxes"),
    "any item of a group": (_patched(Ground, "proved", _any_item), "linear classifiers"),
    "the upper end of the bisection": (_patched(Ground, "proved", _upper_end), "evaluated"),
    "curvature for nothing": (_patched(Ground, "lower", _straight), "quadratic"),
    "curvature for nothing, seen from outside": (_patched(Ground, "lower", _straight), "evaluated"),
    "another norm's ball": (_patched(Ground, "lower", _without_box), "linear classifiers"),
}
