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
from pertbound.certificates import Certificate, Estimator
from pertbound.data import DataSet
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.problem import Certified, Estimate, Problem, Witness
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
        """The arrays of `witnesses.npz` (see `records.py`) for the first witnesses; empty when none is kept."""
        if not self._witnesses:
            return {}
        samples, originals, adversarials, classes = zip(*self._witnesses, strict=True)
        return {
            "sample": np.concatenate(samples),
            "original": torch.cat(originals).numpy(),
            "adversarial": torch.cat(adversarials).numpy(),
            "new_class": torch.cat(classes).numpy(),
        }

    def add_witnesses(self, positions: np.ndarray, problem: Problem, witness: Witness) -> None:
        """Keep the inputs of this batch's witnesses while there is room."""
        room = self.keep_witnesses - sum(len(part[0]) for part in self._witnesses)
        chosen = witness.found.cpu().nonzero().flatten()[: max(room, 0)]
        if len(chosen):
            kept = witness.adversarial[chosen]
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
    certificates are asked about. An attack that stands before certificates tells them where to stop. Raises
    `InputError` when inputs do not fit the network or labels are wanted and absent.
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
        for method in methods:
            tell(method.name, measured.done, measured.total)
            start = time.perf_counter()
            result = _ask(method, batch)
            if isinstance(result, Witness):
                batch = replace(batch, upper=_nearer(batch, result))
            seconds = time.perf_counter() - start
            measured.seconds[method.name] = measured.seconds.get(method.name, 0.0) + seconds
            tables.append(rows_of(result, positions, true, seconds / len(batch.x)))
            if isinstance(result, Witness) and measured.keep_witnesses:
                measured.add_witnesses(positions, batch, result)
        if true is not None and tables:
            predicted = tables[0].column("predicted").to_numpy()
            measured.correct += int((predicted == true.numpy()).sum())
        measured.tables.extend(tables)
        measured.done += len(batch.x)
        tell(methods[-1].name, measured.done, measured.total)


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
        columns["l2"] = _or_null(result.distance, found)
        columns["linf"] = _or_null(result.linf_distance, found)
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
    return method.witness(problem)


def _nearer(problem: Problem, witness: Witness) -> Tensor:
    """What is known from above once the witnesses count as well, as far as they are valid; (batch,) float64."""
    sizes = problem.within.norms(witness.adversarial - problem.x) * (1 + 1e-6)
    valid = witness.found & problem.within.contains(witness.adversarial, problem.x, sizes * 2)
    return torch.where(valid, torch.minimum(sizes, problem.known()), problem.known())


def _or_null(values: Tensor, known: np.ndarray) -> pa.Array:
    return pa.array(values.cpu().numpy(), mask=~known)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""
