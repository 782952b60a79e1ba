"""One box, no radius to find: linear relaxation whose lines climb, and splits of ReLUs by their sign.

A *domain* is a condition of the question together with signs that inputs of some activations are given. It is closed
when the lower bound on what the condition lacks is positive in all of the box, or when no input has these signs. Bounds
come of backward substitution on boxes that linear relaxation has tightened once for all domains, and that signs and
intervals shrink further. Lines climb, with a multiplier for every sign (`lines.py`), and float64 proves what they
reached. The input at which a bound is least is tried as a counterexample.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from pertbound.certificates.relaxed import MEMORY
from pertbound.forms import Region, Regions
from pertbound.graph import INPUT, Graph
from pertbound.layers.piecewise import TwoPieces
from pertbound.regions import take
from pertbound.relaxation import Ground
from pertbound.sets import Box
from pertbound.verification.boxes import Rest, ahead, items_at_once, plain_numbers
from pertbound.verification.lines import Lines, Raw
from pertbound.verification.question import Question
from pertbound.verification.witness import Counterexample, confirmed

ROOT_STEPS, STEPS, LAST_STEPS = 40, 8, 100
"""Steps of the climb before any split, after each, and where nothing is left to split."""
BOX_STEPS = 20
"""Steps of the climb for each entry of a box, where boxes are improved."""
FIRST, WIDTH = 16, 256
"""Domains that are split together at first and at most; fewer where memory is short, or where it takes long."""
SHARE = 0.05
"""The part of the time that a round of splits should take."""


@final
@dataclass(frozen=True, eq=False)
class Domains:
    """Rows of everything belong together."""

    other: Tensor
    """The condition, as a class of the question's graph."""
    signs: dict[str, Tensor]
    """By the node that an activation reads: -1, 0 (open) or 1 for each entry, int8."""
    raw: Raw
    entry: Tensor
    """Which entry of all signs, one node after the other, is split next; -1 where none is left."""

    def take(self, rows: Tensor) -> Domains:
        """Those of some rows."""
        signs = {name: part[rows] for name, part in self.signs.items()}
        return Domains(self.other[rows], signs, {key: part[rows] for key, part in self.raw.items()}, self.entry[rows])

    @staticmethod
    def joined(parts: list[Domains]) -> Domains:
        """All of them, one after the other."""
        first = parts[0]
        signs = {name: torch.cat([part.signs[name] for part in parts]) for name in first.signs}
        raw = {key: torch.cat([part.raw[key] for part in parts]) for key in first.raw}
        return Domains(torch.cat([part.other for part in parts]), signs, raw, torch.cat([part.entry for part in parts]))


@final
class Branches:
    """The domains of one question that are still open."""

    def __init__(self, network: Graph, question: Question, memory: int = MEMORY) -> None:
        self._network, self._question, self._memory = network, question, memory
        self._graph = question.graph
        self._lines = Lines(question.graph)
        self._rest: Rest | None = None
        self._root: Regions = {}
        self._open: list[Domains] = []
        self._stuck = self._begun = False
        """Whether a domain is left in which nothing can be split, and whether the search has begun."""
        reads = {node.name: node.inputs[0] for node in self._graph.nodes if isinstance(node.layer, TwoPieces)}
        self._reads = {name: source for name, source in reads.items() if source != INPUT}

    def begin(self, *, tighten: bool, end: float = math.inf) -> bool:
        """Linear relaxation of every condition, on plain or on tightened boxes (CROWN); whether that closes all.

        Boxes are tightened until `time.monotonic() > end`.
        """
        with plain_numbers():
            self._rest = self._rest or Rest.of(self._graph, self._question.x)
            self._root = self._rest.regions(self._question.box, self._memory if tighten else None, end=end)
            self._restart()
        return not self._open

    def improve(self, end: float) -> bool:
        """The same on boxes whose bounds have climbed, each with lines of its own, intersected with those before."""
        with plain_numbers():
            assert self._rest is not None
            found = self._rest.regions(self._question.box, self._memory, end=end, steps=BOX_STEPS)
            self._root = {name: _both(region, self._root[name]) for name, region in found.items()}
            self._restart()
        return not self._open

    def _restart(self) -> None:
        """One domain for each condition that linear relaxation does not exclude."""
        assert self._rest is not None
        self._open, self._stuck, self._begun = [], False, False
        other = torch.arange(1, self._graph.classes, device=self._rest.logits.device)
        signs = {
            name: torch.zeros(len(other), *self._root[name].value.shape[1:], dtype=torch.int8, device=other.device)
            for name in dict.fromkeys(self._reads.values())
        }
        start = Domains(other, signs, {}, -torch.ones_like(other))
        for rows in numbered(other).split(items_at_once(self._root, self._memory)):
            part = start.take(rows)
            exact = self._regions(part)
            left = ~(self._value(part, exact)[1] > 0)
            if bool(left.any()):
                part = part.take(left)
                raw = self._lines.start(take(exact, left), self._graph.output.name, part.signs)
                self._open.append(replace(part, raw=raw))

    def run(self, end: float) -> Counterexample | bool:
        """Climb and split until `time.monotonic() > end`: a counterexample, or whether no domain is left.

        May be asked to go on.
        """
        begun, few = time.monotonic(), FIRST
        with plain_numbers():
            waiting, self._open = ([], self._open) if self._begun else (self._open, [])
            self._begun = True
            for domains in waiting:
                found = self._bound(domains, ROOT_STEPS, end)
                if found is not None:
                    return found
            while self._open and (now := time.monotonic()) < end:
                halves = self._split(self._last(max(1, min(few, items_at_once(self._root, self._memory) // 2))))
                found = self._bound(halves, STEPS, end)
                if found is not None:
                    return found
                share = (time.monotonic() - now) / max(end - begun, 1e-9)
                few = max(1, few // 2) if share > 2 * SHARE else min(WIDTH, 2 * few) if share < SHARE else few
        return not self._open and not self._stuck

    def _last(self, count: int) -> Domains:
        """The domains that were opened last, at most so many: going down first keeps few of them open."""
        parts: list[Domains] = []
        while self._open and count > 0:
            last = self._open.pop()
            size = len(last.other)
            if size > count:
                rows = numbered(last.other)
                self._open.append(last.take(rows[: size - count]))
                last = last.take(rows[size - count :])
            parts.append(last)
            count -= len(last.other)
        return Domains.joined(parts)

    def _bound(self, domains: Domains, steps: int, end: float) -> Counterexample | None:
        """Close what can be closed, and open the rest; a counterexample, if one was met."""
        domains, exact = self._possible(domains, self._regions(domains))
        for more in (steps, LAST_STEPS):
            if len(domains.other) == 0:
                break
            domains = self._climbed(domains, exact, more, end)
            left = ~(self._value(domains, exact)[1] > 0)
            domains, exact = domains.take(left), take(exact, left)
            if len(domains.other) == 0:
                break
            found, entry = self._look(domains, exact)
            if found is not None:
                return found
            domains, none = replace(domains, entry=entry), entry < 0
            if bool((~none).any()):
                self._open.append(domains.take(~none))
            domains, exact = domains.take(none), take(exact, none)
        self._stuck |= len(domains.other) > 0
        return None

    def _regions(self, domains: Domains) -> Regions:
        """The tightened regions, cut to the signs, and what intervals make of that further on; float64."""
        rows = torch.zeros_like(domains.other)
        found = {INPUT: self._root[INPUT].take(rows)}
        cut = any(bool(part.any()) for part in domains.signs.values())
        for node in self._graph.nodes:
            region = self._root[node.name].take(rows)
            lower, upper = region.box.lower, region.box.upper
            if cut:
                box = node.layer.interval(*(found[name].box for name in node.inputs))
                lower, upper = torch.maximum(lower, box.lower), torch.minimum(upper, box.upper)
                signs = domains.signs.get(node.name)
                if signs is not None:
                    lower = torch.where(signs > 0, lower.clamp_min(0.0), lower)
                    upper = torch.where(signs < 0, upper.clamp_max(0.0), upper)
            found[node.name] = Region(region.value, Box(lower, upper), region.radius, region.noise)
        return found

    def _possible(self, domains: Domains, regions: Regions) -> tuple[Domains, Regions]:
        """Without those that no input belongs to: where a box is empty."""
        crossed = torch.zeros_like(domains.other, dtype=torch.bool)
        for region in regions.values():
            crossed |= (region.box.lower > region.box.upper).flatten(1).any(1)
        if not bool(crossed.any()):
            return domains, regions
        rows = (~crossed).nonzero().flatten()
        return domains.take(rows), take(regions, rows)

    def _value(self, domains: Domains, regions: Regions) -> tuple[Ground, Tensor]:
        """Lower bounds on what the conditions lack, (domains,), and what is left of them at the input."""
        assert self._rest is not None
        logits = self._rest.logits.expand(len(domains.other), -1)
        return ahead(self._graph, logits, domains.other, regions, self._lines.choose(domains.raw, domains.signs))

    def _climbed(self, domains: Domains, exact: Regions, steps: int, end: float) -> Domains:
        regions = {name: region.to(torch.float32) for name, region in exact.items()}

        def value(raw: Raw) -> Tensor:
            return self._value(replace(domains, raw=raw), regions)[1]

        return replace(domains, raw=self._lines.climb(value, domains.raw, steps, end, enough=True))

    def _look(self, domains: Domains, exact: Regions) -> tuple[Counterexample | None, Tensor]:
        """Run the inputs at which the bounds are least: a counterexample among them, and which entry to split.

        Entries are counted over all signs, one node after the other; the one that the bound loses most at that input is
        split, -1 where none is left. (domains,)
        """
        regions = {name: region.to(torch.float32) for name, region in exact.items()}
        ground, _ = self._value(domains, regions)
        box = regions[INPUT].box
        point = torch.where(ground.form.linear > 0, box.lower, box.upper).to(self._graph.dtype)
        values: dict[str, Tensor] = {}
        logits = self._graph.run(point, lambda node, _, value: values.update({node.name: value}))
        reached = logits.gather(1, domains.other[:, None]).squeeze(1)
        row = int(reached.argmax())
        if float(reached[row]) >= 0:
            found = confirmed(self._network, self._question.case, point[row].reshape(1, *self._network.input_shape))
            if found is not None:
                return found, torch.zeros_like(domains.other)
        scores: list[Tensor] = []
        for source in domains.signs:
            score = torch.zeros(len(point), math.prod(self._root[source].value.shape[1:]), device=point.device)
            for name in (name for name, read in self._reads.items() if read == source and name in ground.forms):
                layer, form, region = self._graph.node(name).layer, ground.forms[name], regions[source]
                assert isinstance(layer, TwoPieces)
                line, _ = layer.lines(form, ground.duals[name])
                at = values[source].to(torch.float32)
                loose = layer.looseness(form, line, None, region, regions[name].value, at).flatten(1)
                free = layer.undecided(region.box).flatten(1)
                score = torch.maximum(score, torch.where(free, loose.clamp_min(1e-30), 0.0))
            scores.append(score)
        if not scores:
            return None, -torch.ones_like(domains.other)
        most, entry = torch.cat(scores, 1).max(1)
        return None, torch.where(most > 0, entry, -1)

    def _split(self, domains: Domains) -> Domains:
        """Both halves of each domain."""
        rows = numbered(domains.entry)
        both = torch.cat([rows, rows])
        halves = domains.take(both)
        side = torch.cat([torch.ones_like(rows), -torch.ones_like(rows)]).to(torch.int8)
        at = halves.entry
        for part in halves.signs.values():
            size = math.prod(part.shape[1:])
            here = ((at >= 0) & (at < size)).nonzero().flatten()
            part.view(len(side), size)[here, at[here]] = side[here]
            at = torch.where(at < size, -1, at - size)
        return halves


def _both(some: Region, others: Region) -> Region:
    """What both say."""
    lower, upper = torch.maximum(some.box.lower, others.box.lower), torch.minimum(some.box.upper, others.box.upper)
    return replace(some, box=Box(lower, upper), radius=torch.minimum(some.radius, others.radius))


def numbered(like: Tensor) -> Tensor:
    """0, 1, 2, ... for the rows of `like`, on its device."""
    return torch.arange(len(like), device=like.device)
