"""Asking certificates, estimates and attacks about a whole data set, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pertbound import records
from pertbound.attacks import Attack
from pertbound.bracket import Bracket, bracket
from pertbound.certificates import Certificate, Estimator
from pertbound.data import DataSet
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.problem import Certified, Estimate, Guarantee, Problem, Witness
from pertbound.push import Push
from pertbound.sets import Ball

Method = Certificate | Estimator | Attack

L2 = Ball()
"""Perturbations measured in L2, anywhere."""
OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many samples are done, and how many there are."""


@dataclass
class Measured:
    """What has been measured so far; whole batches only, so it can be kept when the work is interrupted."""

    total: int
    keep_witnesses: int
    tables: list[pa.Table] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    norms_seconds: float = 0.0
    done: int = 0
    correct: int = 0
    _witnesses: list[tuple[np.ndarray, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @property
    def rows(self) -> pa.Table:
        """The rows, sample by sample within each batch."""
        return pa.concat_tables(self.tables)

    @property
    def complete(self) -> bool:
        """Whether every sample was measured."""
        return self.done == self.total

    @property
    def witnesses(self) -> dict[str, np.ndarray]:
        """The arrays of `witnesses.npz` (see `records.py`) of the first samples that have one; empty for none."""
        if not self._witnesses:
            return {}
        samples, originals, adversarials, classes = zip(*self._witnesses, strict=True)
        return {
            "sample": np.concatenate(samples),
            "original": torch.cat(originals).numpy(),
            "adversarial": torch.cat(adversarials).numpy(),
            "new_class": torch.cat(classes).numpy(),
        }

    def add_witnesses(self, positions: np.ndarray, problem: Problem, witnesses: Sequence[Witness]) -> None:
        """Keep the nearest of each sample's witnesses in this batch, while there is room."""
        room = self.keep_witnesses - sum(len(part[0]) for part in self._witnesses)
        sizes, nearest = torch.stack([witness.distance.cpu() for witness in witnesses]).min(0)
        chosen = torch.isfinite(sizes).nonzero().flatten()[: max(room, 0)]
        if len(chosen):
            kept = torch.stack([witnesses[int(nearest[i])].adversarial[i] for i in chosen.tolist()])
            with torch.no_grad():
                classes = problem.network.run(kept).argmax(1)
            self._witnesses.append((positions[chosen.numpy()], problem.x.cpu()[chosen], kept.cpu(), classes.cpu()))


def measure(
    network: Graph,
    data: DataSet,
    methods: Sequence[Method],
    measured: Measured,
    *,
    against_labels: bool = False,
    within: Ball = L2,
    batch_size: int = 500,
    on_progress: OnProgress | None = None,
) -> None:
    """Ask every method about every sample, batch by batch, adding to `measured`.

    The reference class is the prediction, or the label when `against_labels`; `within` is the norm and the box that
    all are asked about. An attack that stands before certificates tells them where to stop. Raises `InputError` when
    inputs do not fit the network or labels are wanted and absent.
    """
    if against_labels and data.labels is None:
        raise InputError(f"{data.name} has no labels to measure against; leave that option out to use predictions")
    tell = on_progress or _silent
    labels = data.labels if against_labels else None
    problem = Problem(network, data.inputs.to(network.dtype), labels, within)  # refuses bad inputs before any work
    if any(isinstance(method, Certificate) for method in methods):
        tell("operator norms", 0, measured.total)
        start = time.perf_counter()
        network.derive(Push)
        measured.norms_seconds = time.perf_counter() - start
    for batch in problem.batches(batch_size):
        positions = data.positions[measured.done : measured.done + len(batch.x)].numpy()
        true = None if data.labels is None else data.labels[measured.done : measured.done + len(batch.x)]
        tables: list[pa.Table] = []
        witnesses: list[Witness] = []
        for method in methods:
            tell(method.name, measured.done, measured.total)
            start = time.perf_counter()
            result = _ask(method, batch)
            if isinstance(result, Witness):
                batch = replace(batch, upper=torch.minimum(result.distance, batch.known()))
            seconds = time.perf_counter() - start
            measured.seconds[method.name] = measured.seconds.get(method.name, 0.0) + seconds
            tables.append(rows_of(result, positions, true, seconds / len(batch.x)))
            if isinstance(result, Witness):
                witnesses.append(result)
        if witnesses and measured.keep_witnesses:
            measured.add_witnesses(positions, batch, witnesses)
        if true is not None and tables:
            predicted = tables[0].column("predicted").to_numpy()
            measured.correct += int((predicted == true.numpy()).sum())
        measured.tables.extend(tables)
        measured.done += len(batch.x)
        tell(methods[-1].name, measured.done, measured.total)


def measure_closing(
    network: Graph,
    data: DataSet,
    measured: Measured,
    *,
    budget: float,
    ratio: float,
    against_labels: bool = False,
    within: Ball = L2,
    batch_size: int = 500,
    on_progress: OnProgress | None = None,
) -> None:
    """Bracket every sample under a budget of seconds (`pb.bracket`), batch by batch, adding two rows for each."""
    if against_labels and data.labels is None:
        raise InputError(f"{data.name} has no labels to measure against; leave that option out to use predictions")
    tell = on_progress or _silent
    problem = Problem(network, data.inputs.to(network.dtype), data.labels if against_labels else None, within)
    tell("operator norms", 0, measured.total)
    start = time.perf_counter()
    network.derive(Push)
    measured.norms_seconds = time.perf_counter() - start
    for batch in problem.batches(batch_size):
        rows = slice(measured.done, measured.done + len(batch.x))
        true = None if data.labels is None else data.labels[rows]

        def see(now: Bracket) -> None:
            closed = int((now.lower >= ratio * now.upper).sum())
            tell(f"{closed} of {len(now.lower)} closed", measured.done + closed, measured.total)

        options: dict[str, Any] = {"budget": budget, "ratio": ratio, "within": within, "batch_size": batch_size}
        found = bracket(network, batch.x, batch.labels, on_step=see, **options)
        with torch.no_grad():
            predicted = network.run(batch.x).argmax(1)
        table, witness = _closed_rows(found, batch, predicted, data.positions[rows].numpy(), true)
        measured.tables.append(table)
        for method, seconds in (("certificates", found.lower_seconds), ("attacks", found.upper_seconds)):
            assert seconds is not None
            measured.seconds[method] = measured.seconds.get(method, 0.0) + float(seconds.sum())
        if measured.keep_witnesses:
            measured.add_witnesses(data.positions[rows].numpy(), batch, [witness])
        if true is not None:
            measured.correct += int((predicted.cpu() == true).sum())
        measured.done += len(batch.x)
        tell("bracket", measured.done, measured.total)


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
        return method.certify(problem)
    if isinstance(method, Estimator):
        return method.estimate(problem)
    return method.witness(replace(problem, upper=None))  # what it finds by itself, whatever was asked before it


def _or_null(values: Tensor, known: np.ndarray) -> pa.Array:
    return pa.array(values.cpu().numpy(), mask=~known)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""
