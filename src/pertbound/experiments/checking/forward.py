"""Predictions and witnesses, by running the graph and the original model in the batches of the run.

What rounding can explain is bounded by the layers' own noise (`Layer.noise`, composed by `Push`), not by a fixed
number. Let N bound how far the difference of two computed logits can be from the exact difference. Two computations of
the same logits, in batches of other shapes or on other machines, then differ by at most 2 N. So:

- another prediction than the row's is a contradiction where its logit leads by more than 2 N, and a doubt otherwise;
- a witness is confirmed where the graph and the original model misclassify it, strictly, in the batch of the run or
  by itself; it is contradicted where the reference class leads by more than 2 N, and not confirmed in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor

from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.checking.form import SIZES, Batch
from pertbound.experiments.work import Work
from pertbound.problem import Problem, strictly_misclassified
from pertbound.push import Push
from pertbound.records import CERTIFIED, WITNESS
from pertbound.sets import Ball

ROUNDING = 1e-9
"""Relative. Distances are sums of fewer than 10^6 float64 terms of one sign, computed from the same float32 inputs:
each loses less than 10^6 2^-53 = 1.2e-10, and what rows keep was rounded up by at most twice as much."""


@final
class Forward:
    """The pass over one batch after the other."""

    def __init__(self, work: Work, found: Trust) -> None:
        self.work, self.found = work, found

    def __call__(self, batch: Batch) -> np.ndarray:
        """Checks predictions, brackets and witnesses; the rows that a kept witness confirms, (blocks, samples) bool."""
        problem = self.work.problem(batch.samples)
        with torch.no_grad():
            logits = self.work.network.run(problem.x)
        reference = self._classes(batch, problem, logits)
        self._compare(batch)
        shown = np.zeros((len(batch.blocks), len(batch.samples)), bool)
        if batch.witnesses and reference is not None:
            self._witnesses(batch, problem, logits, reference, shown)
        self._kept(batch)
        return shown

    def _classes(self, batch: Batch, problem: Problem, logits: Tensor) -> Tensor | None:
        """The reference classes, where predictions are the model's; None where rows name classes that there are not."""
        predicted = logits.argmax(1)
        good = torch.ones(len(predicted), dtype=torch.bool)
        reference: Tensor | None = None
        for block in batch.blocks:
            said, against = block.column("predicted"), block.column("reference")
            sound = all(((v >= 0) & (v < self.work.network.classes)).all() for v in (said, against))  # NaN is not
            if not sound:
                self.found.contradict(f"{_named(batch)}: rows name classes that the model does not have")
                return None
            classes = torch.as_tensor(said.astype(np.int64)).to(predicted)
            against = torch.as_tensor(against.astype(np.int64)).to(predicted)
            reference = classes if problem.labels is None else problem.labels
            if not torch.equal(against, reference):
                what = "label" if problem.labels is not None else "prediction"
                self.found.contradict(f"{_named(batch)}: the reference classes are not the {what}s")
                return None
            good &= self._predicted(batch, problem, logits, predicted, classes).cpu()
        self.found.samples.checked += len(good)
        self.found.samples.confirmed += int(good.sum())
        return reference

    def _predicted(self, batch: Batch, problem: Problem, logits: Tensor, now: Tensor, said: Tensor) -> Tensor:
        """Which predictions are confirmed."""
        differ = (now != said).nonzero().flatten()
        for row in differ.tolist():
            lead = float(logits[row, now[row]].double() - logits[row, said[row]].double())
            sample = batch.positions[row]
            text = f"sample {sample}: the row says the prediction {int(said[row])}, the model {int(now[row])}"
            if lead > 2 * self._noise(problem.x[row : row + 1], now[row : row + 1], said[row]):
                self.found.contradict(text)
            else:
                self.found.doubt(f"{text}, by no more than rounding can explain")
        return now == said

    def _noise(self, x: Tensor, reference: Tensor, other: Tensor | int | None = None) -> float:
        """How far rounding can take the difference of these logits from the exact one: for one sample of x."""
        push = self.work.network.derive(Push)
        _, summary = push.summarise(x)
        changes = push.changes(summary, reference)(torch.zeros(1, 1, dtype=torch.float64, device=x.device))[0]
        noise = float(changes.amax() if other is None else changes[int(other)])
        return noise if not math.isnan(noise) else math.inf

    def _compare(self, batch: Batch) -> None:
        """No certified radius may exceed the distance to a witness of the same sample."""
        own = self.work.within.norm_name.lower()
        count = len(batch.samples)
        lower = np.fmax.reduce([b.column(own) for b in batch.blocks if b.kind == CERTIFIED] or [np.zeros(count)])
        upper = np.fmin.reduce([b.column(own) for b in batch.blocks if b.kind == WITNESS] or [np.full(count, np.nan)])
        for row in np.flatnonzero(lower > upper * (1 + 1e-12)):
            self.found.contradict(
                f"sample {batch.positions[row]}: the certified radius {lower[row]:.6g} lies above the witness at "
                f"{upper[row]:.6g}"
            )

    def _kept(self, batch: Batch) -> None:
        """Whether each sample whose rows have a witness has one kept, and no other sample."""
        sizes = [block.column(SIZES[0]) for block in batch.blocks if block.kind == WITNESS]
        some = ~np.isnan(np.stack(sizes)).all(0) if sizes else np.zeros(len(batch.samples), bool)
        kept = np.isin(batch.positions, batch.witnesses["sample"]) if batch.witnesses else np.zeros_like(some)
        within = np.array([place < self.work.keep_witnesses for place in batch.samples])
        lost = int((some & within & ~kept).sum())
        self.found.witnesses.checked += lost
        if lost:
            self.found.doubt(f"{_named(batch)}: of {lost} witnesses the input was not kept")
        if (kept & ~some).any():
            self.found.contradict(f"{_named(batch)}: inputs are kept for samples whose rows have no witness")

    def _witnesses(self, batch: Batch, problem: Problem, logits: Tensor, reference: Tensor, shown: np.ndarray) -> None:
        """Run every kept witness of the batch again, and find the rows that it stands behind."""
        kept, x = batch.witnesses, problem.x
        rows = np.searchsorted(batch.positions, kept["sample"], sorter=(order := np.argsort(batch.positions)))
        rows = order[rows]
        at = torch.as_tensor(rows, device=x.device)
        adversarial = torch.as_tensor(np.ascontiguousarray(kept["adversarial"])).to(x)
        original = torch.as_tensor(np.ascontiguousarray(kept["original"])).to(x)
        types = {torch.as_tensor(kept[name]).dtype for name in ("adversarial", "original")}
        whole = x.clone()
        whole[at] = adversarial
        wrong = self._misclassified(whole, reference)[at]
        wrong |= (logits.argmax(1) != reference)[at] & _same(adversarial, x[at])  # wrong as it stands, for its label
        inside = problem.within.in_box(adversarial)
        classes = self._graph(whole)[at]
        for i, row in enumerate(rows.tolist()):
            place = f"sample {batch.positions[row]}: the witness"
            if types != {x.dtype} or not torch.equal(original[i], x[row]):
                self.found.contradict(f"{place} is kept with another original than the data's")
                continue
            self.found.witnesses.checked += 1
            z, own = adversarial[i : i + 1], reference[row : row + 1]
            problems = [] if bool(inside[i]) else ["leaves the box, or is not finite"]
            if not self._rows(batch, row, _distances(z, x[row : row + 1]), shown):
                problems.append("does not lie where its row says")
            doubt = ""
            if not problems and not bool(wrong[i]) and not bool(self._misclassified(z, own)[0]):
                clear = self._leads(z, own)
                problems += ["is not misclassified"] if clear else []
                doubt = "" if clear else "is misclassified by no more than rounding can explain"
            new = int(kept["new_class"][i])
            if not problems and not doubt and new != int(classes[i].argmax()):
                clear = not 0 <= new < self.work.network.classes or self._apart(z, classes[i], new)
                problems += [f"is of class {int(classes[i].argmax())}, not {new}"] if clear else []
                doubt = "" if clear else "is of another class than said, by no more than rounding can explain"
            for text in problems:
                self.found.contradict(f"{place} {text}")
            if doubt:
                self.found.doubt(f"{place} {doubt}")
            if not problems and not doubt:
                self.found.witnesses.confirmed += 1
            else:
                shown[:, row] = False

    def _graph(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.work.network.run(x)

    def _misclassified(self, x: Tensor, reference: Tensor) -> Tensor:
        """By the graph and by the original model, strictly, as this batch is computed; (batch,) bool."""
        network = self.work.network
        with torch.no_grad():
            wrong = strictly_misclassified(network.run(x), reference, reserve=0.0)
            if network.original is not None:
                wrong = wrong & strictly_misclassified(network.original(x), reference, reserve=0.0)
        return wrong

    def _leads(self, z: Tensor, reference: Tensor) -> bool:
        """Whether one of the two says so clearly that the reference class wins that rounding cannot explain it."""
        noise = 2 * self._noise(z, reference)
        models: list[Callable[[Tensor], Tensor]] = [self.work.network.run]
        models += [] if self.work.network.original is None else [self.work.network.original]
        for model in models:
            with torch.no_grad():
                values = model(z)[0].double()
            own = float(values[reference[0]])
            values[reference[0]] = -torch.inf
            if not own - float(values.max()) <= noise:
                return True
        return False

    def _apart(self, z: Tensor, logits: Tensor, new: int) -> bool:
        best = logits.argmax()[None]
        return float(logits[best[0]].double() - logits[new].double()) > 2 * self._noise(z, best, new)

    def _rows(self, batch: Batch, row: int, sizes: dict[str, float], shown: np.ndarray) -> bool:
        """Marks the rows with these distances; whether the nearest row of the sample is one of them."""
        own = self.work.within.norm_name.lower()
        nearest, near = math.inf, False
        for number, block in enumerate(batch.blocks):
            if block.kind != WITNESS:
                continue
            said = {name: float(block.column(name)[row]) for name in SIZES}
            if math.isnan(said[own]):
                continue
            fits = all(abs(said[name] - size) <= ROUNDING * size + 1e-300 for name, size in sizes.items())
            shown[number, row] = fits
            if said[own] < nearest:
                nearest, near = said[own], fits
        return near


def _distances(z: Tensor, x: Tensor) -> dict[str, float]:
    move = z.double() - x.double()
    return {Ball(p=p).norm_name.lower(): float(Ball(p=p).norms(move)) for p in (1.0, 2.0, math.inf)}


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one == other).flatten(1).all(1)


def _named(batch: Batch) -> str:
    return f"samples {batch.positions[0]} to {batch.positions[-1]}"
