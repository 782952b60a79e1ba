"""Runs for comparisons, from brackets given as plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pertbound import records
from pertbound.records import CERTIFIED, ESTIMATE, NONE, WITNESS, Run

DATA = {"name": "digits", "sha256": "77ab", "input_shape": [1, 8, 8], "pixel_scale": 16.0, "samples": 4}


def about(model: str = "a", **changes: Any) -> dict[str, Any]:
    """run.json of a model."""
    return {
        "model": {"name": f"{model}.pt2", "sha256": f"weights of {model}"},
        "data": DATA,
        "norm": "L2",
        "guarantee": "L2 over all of R^d, for the network in exact arithmetic",
        "complete": True,
    } | changes


def run(
    lower: Sequence[float | None],
    upper: Sequence[float | None],
    model: str = "a",
    *,
    wrong: Sequence[int] = (),
    labelled: bool = True,
    against_labels: bool = False,
    first: int = 0,
    estimates: Sequence[float] = (),
    rungs: Sequence[tuple[str, str, float, Sequence[float | None]]] = (),
    seconds: float = 0.5,
    **changes: Any,
) -> Run:
    """A run with one certificate and one attack; None where that answered nothing, `wrong` are misclassified samples.

    `rungs` are further methods: name, guarantee, seconds, values.
    """
    methods = [("c", CERTIFIED, seconds, lower), ("a", WITNESS, seconds, upper), *rungs]
    methods += [("e", ESTIMATE, seconds, estimates)] if len(estimates) else []
    columns: dict[str, list[Any]] = {name: [] for name in records.SCHEMA.names}
    for method, guarantee, cost, values in methods:
        for i, value in enumerate(values):
            predicted = 1 if i in wrong else 0
            missed = guarantee == WITNESS and value is None
            row = {
                "sample": first + i, "label": 0 if labelled else None, "predicted": predicted,
                "reference": 0 if against_labels else predicted, "method": method,
                "guarantee": NONE if missed else guarantee, "l2": value, "linf": value, "l1": None, "seconds": cost,
                "note": None,
            }  # fmt: skip
            for name, cell in row.items():
                columns[name].append(cell)
    return Run(records.table(columns), about(model, **changes))


def shuffled(one: Run, seed: int = 0) -> Run:
    """The same rows in another order."""
    order = np.random.default_rng(seed).permutation(len(one.rows))
    return Run(one.rows.take(order), one.about, one.witnesses)
