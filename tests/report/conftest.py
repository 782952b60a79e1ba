"""Synthetic runs: a function that makes rows for methods given as plain lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pertbound import records
from pertbound.records import CERTIFIED, ESTIMATE, NONE, WITNESS, Run

Answers = tuple[str, str, Sequence[float | None]]

ABOUT: dict[str, Any] = {
    "title": "A small network",
    "command": "pertbound bracket --data digits",
    "created": "2026-11-22T08:40:00+00:00",
    "model": {"name": "mlp", "sha256": "9f2c", "parameters": 2410},
    "data": {
        "name": "digits",
        "sha256": "77ab",
        "samples": 60,
        "input_shape": [1, 8, 8],
        "pixel_scale": 16.0,
        "notes": ["two images are not exact"],
        "source": "scikit-learn",
    },
    "options": {"fgs": {"probes": 10}},
    "versions": {"pertbound": "0.1.0"},
    "accuracy": 0.9667,
    "guarantee": "L2 over all of R^d",
    "seconds": {"lipschitz": 0.25},
}


def build(methods: Sequence[Answers], about: dict[str, Any] | None = None, **arrays: np.ndarray) -> Run:
    """A run in which each (name, guarantee, l2 per sample) answers; None from an attack is a row of `none`."""
    columns: dict[str, list[Any]] = {name: [] for name in records.SCHEMA.names}
    for method, guarantee, values in methods:
        for sample, l2 in enumerate(values):
            missed = guarantee == WITNESS and l2 is None
            row = {
                "sample": sample,
                "label": None if sample % 7 == 3 else sample % 10,
                "reference": sample % 10,
                "predicted": sample % 10,
                "method": method,
                "guarantee": NONE if missed else guarantee,
                "l2": l2,
                "linf": None,
                "l1": None,
                "seconds": 0.5,
                "note": "a surrogate" if guarantee == ESTIMATE else None,
            }
            for name, cell in row.items():
                columns[name].append(cell)
    return Run(records.table(columns), ABOUT if about is None else about, arrays)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    return build


@pytest.fixture
def typical() -> Run:
    """60 samples: two certificates (one with zeros), an estimate, an attack that misses some, grey witnesses."""
    generator = np.random.default_rng(5)
    upper = np.exp(generator.normal(0, 0.5, 60))
    found = generator.random(60) > 0.1
    tight, loose = upper * generator.uniform(0.2, 0.9, 60), upper * generator.uniform(0, 0.3, 60)
    loose[::9] = 0
    change = generator.normal(size=(60, 1, 8, 8))
    change *= (upper / np.linalg.norm(change.reshape(60, -1), axis=1))[:, None, None, None]
    original = generator.random((60, 1, 8, 8))
    return build(
        [
            ("lipschitz", CERTIFIED, tight.tolist()),
            ("interval", CERTIFIED, loose.tolist()),
            ("published(softplus)", ESTIMATE, (upper * 1e-6).tolist()),
            ("fgs", WITNESS, [float(d) if ok else None for d, ok in zip(upper, found, strict=True)]),
        ],
        sample=np.flatnonzero(found),
        original=original[found],
        adversarial=(original + change)[found],
    )
