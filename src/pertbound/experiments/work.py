"""Asking certificates, estimates and attacks about a data set, shard by shard, as rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pertbound import records
from pertbound.attacks import Attack
from pertbound.bracket import Bracket, bracket
from pertbound.certificates import Auto, BranchAndBound, Certificate, Estimator
from pertbound.data import DataSet
from pertbound.errors import ContradictionError, InputError
from pertbound.frontends.agreement import require_own_agreement
from pertbound.graph import Graph
from pertbound.pace import Pace
from pertbound.problem import Certified, Estimate, Guarantee, Problem, Witness, require_agreement
from pertbound.push import Push
from pertbound.records import Run, Shard, Witnesses
from pertbound.sets import Ball

Method = Certificate | Estimator | Attack
PaceOf = Callable[[str], Pace]
"""From a method's name to what decides in the clock's place, or records what the clock decides."""

L2 = Ball()
"""Perturbations measured in L2, anywhere."""
OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many samples are done, and how many there are."""


@final
@dataclass(eq=False, kw_only=True)
class Work:
    """Every method about every sample of a data set, or both ends closing under a budget; called for one shard.

    A shard is `shard_size` consecutive samples, computed `batch_size` at a time. The reference class is the prediction,
    or the label when `against_labels`; `within` is the norm and the box that all are asked about. An attack that stands
    before certificates tells them where to stop. With `closing`, a budget in seconds per sample and a ratio, it is
    `pb.bracket` that chooses methods. Witnesses of the first `keep_witnesses` samples are kept, the nearest of each.

    Raises `InputError` when inputs do not fit the network or labels are wanted and absent.
    """

    network: Graph
    data: DataSet
    methods: tuple[Method, ...] = ()
    closing: tuple[float, float] | None = None
    against_labels: bool = False
    within: Ball = L2
    batch_size: int = 500
    shard_size: int = 500
    keep_witnesses: float = math.inf
    on_progress: OnProgress | None = None
    done: int = 0
    """Samples that were finished, here or elsewhere: what progress is told."""
    _once: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.against_labels and self.data.labels is None:
            raise InputError(
                f"{self.data.name} has no labels to measure against; leave that option out to use predictions"
            )
        if min(self.batch_size, self.shard_size) < 1:
            raise InputError(f"a batch and a shard hold at least 1 sample, got {self.batch_size}, {self.shard_size}")
        first = min(self.shard_size, len(self.data))
        self.problem(range(first))  # refuses bad inputs before any work

    @property
    def shards(self) -> dict[str, int]:
        """How the samples are divided: how many there are, in each shard, and in how many."""
        count = len(self.data)
        return {"samples": count, "size": self.shard_size, "count": -(-count // self.shard_size)}

    def samples(self, index: int) -> range:
        """The places in the data set of the samples of a shard."""
        start = index * self.shard_size
        return range(start, min(start + self.shard_size, len(self.data)))

    def problem(self, samples: range) -> Problem:
        """What is asked about them."""
        rows, network = slice(samples.start, samples.stop), self.network
        labels = self.data.labels[rows] if self.against_labels and self.data.labels is not None else None
        x = self.data.inputs[rows].to(device=network.device, dtype=network.dtype)
        return Problem(network, x, None if labels is None else labels.to(network.device), self.within)

    def __call__(self, index: int) -> Shard:
        """The answers about the samples of a shard."""
        samples = self.samples(index)
        tables: list[pa.Table] = []
        witnesses: list[dict[str, np.ndarray]] = []
        decisions: dict[str, dict[str, Any]] = {}
        for batch in self.batches(samples):
            paces: dict[str, Pace] = {}
            found, seen = self.batch(batch, lambda name, paces=paces: paces.setdefault(name, Pace()))
            tables.append(found)
            witnesses += [seen] if seen else []
            if paces:
                decisions[str(batch.start - samples.start)] = {name: pace.coded() for name, pace in paces.items()}
            self.done += len(batch)
        self._tell(self.methods[-1].name if self.methods else "bracket", self.done)
        made: dict[str, Any] = {"device": str(self.network.device), "threads": torch.get_num_threads()}
        if self._once:
            made["once"], self._once = self._once, 0.0
        if decisions:
            made["decisions"] = decisions
        kept = Witnesses(witnesses)
        return Shard(pa.concat_tables(tables), {name: kept[name] for name in kept}, made)

    def batches(self, samples: range) -> list[range]:
        """Those of a shard, as they are computed at once."""
        size = self.batch_size
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def batch(self, samples: range, pace_of: PaceOf) -> tuple[pa.Table, dict[str, np.ndarray]]:
        """The rows of samples that are computed at once, and the nearest witness of each as in `records.Witnesses`."""
        if self.closing is not None or any(isinstance(method, Certificate) for method in self.methods):
            self._norms()
        problem, rows = self.problem(samples), slice(samples.start, samples.stop)
        require_own_agreement(self.network, problem.x)
        positions = self.data.positions[rows].numpy()
        true = None if self.data.labels is None else self.data.labels[rows]
        asked = self._closed if self.closing is not None else self._asked
        try:
            tables, seen = asked(problem, positions, true, pace_of)
        except ContradictionError as error:
            raise error.at(int(positions[error.sample])) from None
        room = self.keep_witnesses - samples.start
        return pa.concat_tables(tables), _nearest(problem, positions, seen, room) if seen and room > 0 else {}

    def _norms(self) -> None:
        """Operator norms, which are computed once."""
        self._tell("operator norms", self.done)
        start = time.perf_counter()
        self.network.derive(Push)
        seconds = time.perf_counter() - start
        self._once += seconds if seconds > 1e-3 else 0.0

    def _asked(
        self, batch: Problem, positions: np.ndarray, true: Tensor | None, pace_of: PaceOf
    ) -> tuple[list[pa.Table], list[Witness]]:
        """The rows of every method, one after the other, and the attacks' witnesses."""
        tables: list[pa.Table] = []
        witnesses: list[Witness] = []
        certified: list[Certified] = []
        for method in self.methods:
            self._tell(method.name, self.done)
            if isinstance(method, Auto | BranchAndBound):
                method = replace(method, pace=pace_of(method.name))
            start = time.perf_counter()
            result = _ask(method, batch)
            if isinstance(result, Witness):
                for proof in certified:
                    require_agreement(proof.radius, proof.names, result.distance, result.names)
                batch = _told(batch, result)
                witnesses.append(result)
            elif isinstance(result, Certified):
                certified.append(result)
            seconds = time.perf_counter() - start
            tables.append(rows_of(result, positions, true, seconds / len(batch.x)))
        return tables, witnesses

    def _closed(
        self, batch: Problem, positions: np.ndarray, true: Tensor | None, pace_of: PaceOf
    ) -> tuple[list[pa.Table], list[Witness]]:
        """Two rows for each sample, from brackets under a budget."""
        assert self.closing is not None
        (budget, ratio), done = self.closing, self.done

        def see(now: Bracket) -> None:
            closed = int((now.lower >= ratio * now.upper).sum())
            self._tell(f"{closed} of {len(now.lower)} closed", done + closed)

        options: dict[str, Any] = {"within": self.within, "batch_size": self.batch_size, "pace": pace_of("bracket")}
        found = bracket(self.network, batch.x, batch.labels, budget=budget, ratio=ratio, on_step=see, **options)
        with torch.no_grad():
            predicted = self.network.run(batch.x).argmax(1)
        table, witness = _closed_rows(found, batch, predicted, positions, true)
        return [table], [witness]

    def _tell(self, stage: str, done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(stage, done, len(self.data))


def _told(batch: Problem, witness: Witness) -> Problem:
    """The same question, where also these witnesses are known."""
    nearer, names = witness.distance < batch.known(), batch.upper_methods or ("",) * len(batch.x)
    who = tuple(new if now else old for new, now, old in zip(witness.names, nearer.tolist(), names, strict=True))
    return replace(batch, upper=torch.minimum(witness.distance, batch.known()), upper_methods=who)


def collect(work: Work, about: dict[str, Any]) -> Run:
    """All shards, in memory."""
    shards = [work(index) for index in range(work.shards["count"])]
    rows = pa.concat_tables([shard.rows for shard in shards])
    derived = records.measured(rows)
    derived["seconds"]["operator norms"] = sum(float(shard.made.get("once", 0.0)) for shard in shards)
    parts = [shard.witnesses for shard in shards if shard.witnesses]
    return Run(rows, about | derived | {"complete": True}, Witnesses(parts))


def _nearest(
    problem: Problem, positions: np.ndarray, witnesses: Sequence[Witness], room: float
) -> dict[str, np.ndarray]:
    """The nearest witness of each of the first `room` samples that has one, as the arrays of `records.Witnesses`."""
    sizes, nearest = torch.stack([witness.distance for witness in witnesses]).min(0)
    chosen = torch.isfinite(sizes).nonzero().flatten()
    chosen = chosen[chosen < room]
    if not len(chosen):
        return {}
    kept = torch.stack([witnesses[int(nearest[i])].adversarial[i] for i in chosen.tolist()])
    with torch.no_grad():
        classes = problem.network.run(kept).argmax(1)
    return {
        "sample": positions[chosen.cpu().numpy()],
        "original": problem.x[chosen].cpu().numpy(),
        "adversarial": kept.cpu().numpy(),
        "new_class": classes.cpu().numpy(),
    }


def _closed_rows(
    found: Bracket, batch: Problem, predicted: Tensor, positions: np.ndarray, true: Tensor | None
) -> tuple[pa.Table, Witness]:
    """A certified row and a witness row for each sample, each with who gave it and what its side has cost."""
    assert found.adversarial is not None
    assert found.lower_seconds is not None
    assert found.upper_seconds is not None
    reference, within = batch.reference(predicted), batch.within
    guarantee = Guarantee(within.norm_name, within.domain)
    certified = Certified(found.lower, reference, predicted, "bracket", guarantee, found.lower_method)
    seen = torch.isfinite(found.upper)
    move = found.adversarial - batch.x
    l2, linf, l1 = (torch.where(seen, Ball(p=p).norms(move) * (1 + 1e-12), torch.inf) for p in (2.0, float("inf"), 1.0))
    witness = Witness(
        found.adversarial, seen, l2, linf, l1, reference, predicted, "bracket", within, found.upper_method
    )
    tables: list[pa.Table] = []
    for answer, names, seconds in (
        (certified, found.lower_method, found.lower_seconds),
        (witness, found.upper_method, found.upper_seconds),
    ):
        rows: pa.Table = rows_of(answer, positions, true, 0.0)
        for name, column in (("method", [name or "none" for name in names]), ("seconds", seconds.cpu().numpy())):
            place = records.SCHEMA.get_field_index(name)
            rows = rows.set_column(place, records.SCHEMA.field(name), pa.array(column, records.SCHEMA.field(name).type))
        tables.append(rows)
    return pa.concat_tables(tables), witness


def rows_of(
    result: Certified | Estimate | Witness, positions: np.ndarray, labels: Tensor | None, seconds: float
) -> Any:
    """The rows of one answer: a table of `records.SCHEMA`."""
    count = len(positions)
    columns: dict[str, Any] = {
        "sample": positions,
        "reference": result.reference.cpu().numpy(),
        "predicted": result.predicted.cpu().numpy(),
        "method": [result.method] * count,
        "seconds": np.full(count, seconds),
    }
    if labels is not None:
        columns["label"] = labels.numpy()
    if isinstance(result, Witness):
        found = result.found.cpu().numpy()
        columns["guarantee"] = np.where(found, records.WITNESS, records.NONE)
        for norm, size in (("l2", result.l2), ("linf", result.linf), ("l1", result.l1)):
            columns[norm] = _or_null(size, found)
        if result.methods:
            columns["note"] = [f"found by {who}" if who else None for who in result.methods]
    else:
        proven = isinstance(result, Certified)
        columns["guarantee"] = [records.CERTIFIED if proven else records.ESTIMATE] * count
        norm = result.guarantee.norm.lower() if isinstance(result, Certified) else "l2"
        columns[norm] = result.radius.cpu().numpy()
        columns["note"] = [str(result.guarantee) if isinstance(result, Certified) else result.basis] * count
        if isinstance(result, Certified) and result.methods:
            columns["note"] = [f"{who}: {result.guarantee}" for who in result.methods]
    return records.table(columns)


def _ask(method: Method, problem: Problem) -> Certified | Estimate | Witness:
    if isinstance(method, Certificate):
        return method.answer(problem)
    if isinstance(method, Estimator):
        return method.estimate(problem)
    return method.witness(replace(problem, upper=None))  # what it finds by itself, whatever was asked before it


def _or_null(values: Tensor, known: np.ndarray) -> pa.Array:
    return pa.array(values.cpu().numpy(), mask=~known)
