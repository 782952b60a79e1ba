"""Synthetic runs: a function that makes rows for methods given as plain lists."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertbound import records, store
from pertbound.records import CERTIFIED, ESTIMATE, NONE, WITNESS, Run
from pertbound.report import write_report

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


LAYERS: dict[str, Any] = {
    "losses": {
        "method": "quadratic(60)",
        "nodes": ["input", "conv", "relu", "flatten", "linear"],
        "layers": ["Ball", "Conv", "ReLU", "Reshape", "Dense"],
        "sample": [0, 30],
        "radius": [0.5, 0.25],
        "margin": [4.0, 2.0],
        "real": [2.0, 0.5],
        "lost": [[0.25, 0.5, 1.25, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0, 0.0]],
        "left": [0.0, 0.0],
    },
    "factors": {
        "nodes": ["input", "conv", "relu", "flatten", "linear", "decision"],
        "layers": ["Ball", "Conv", "ReLU", "Reshape", "Dense", "Decision"],
        "sample": [0, 30],
        "looseness": [[1.0, 2.0, 4.0, 4.0, 8.0, 6.0], [1.0, 2.0, 4.0, 4.0, 4.0, 2.0]],
        "factor": [[1.0, 2.0, 2.0, 1.0, 2.0, 0.75], [1.0, 2.0, 2.0, 1.0, 1.0, None]],
    },
}


def build(
    methods: Sequence[Answers],
    about: dict[str, Any] | None = None,
    layers: dict[str, Any] | None = None,
    column: str = "l2",
    **arrays: np.ndarray,
) -> Run:
    """A run in which each (name, guarantee, size per sample) answers; None from an attack is a row of `none`."""
    columns: dict[str, list[Any]] = {name: [] for name in records.SCHEMA.names}
    for method, guarantee, values in methods:
        for sample, size in enumerate(values):
            missed = guarantee == WITNESS and size is None
            row = {
                "sample": sample,
                "label": None if sample % 7 == 3 else sample % 10,
                "reference": sample % 10,
                "predicted": sample % 10,
                "method": method,
                "guarantee": NONE if missed else guarantee,
                "l2": None,
                "linf": None,
                "l1": None,
                column: size,
                "seconds": 0.5,
                "note": "a surrogate" if guarantee == ESTIMATE else None,
            }
            for name, cell in row.items():
                columns[name].append(cell)
    return Run(records.table(columns), ABOUT if about is None else about, arrays, layers or {})


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return build


@pytest.fixture
def layers() -> dict[str, Any]:
    """A `layers.json`, to be changed at will."""
    return copy.deepcopy(LAYERS)


@pytest.fixture(scope="session")
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
        layers=LAYERS,
        sample=np.flatnonzero(found),
        original=original[found],
        adversarial=(original + change)[found],
    )


@pytest.fixture(scope="session")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with 10,000 samples; `lower` is numpy's default generator of seed 0."""
    generator = np.random.default_rng(0)
    lower = generator.random(10_000)
    folder = tmp_path_factory.mktemp("ten-thousand")
    store.write(folder, build([("c", CERTIFIED, lower), ("a", WITNESS, lower * (1 + generator.random(10_000)))]))
    return write_report([folder], folder / "page.html")
