"""A check of runs with one thing left out each, and the forged run that it then believes.

`CHECKS` forge a run and demand that it is not confirmed; they pass as the check is.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from oracles.forged import Change, Forged, column, computed, points, tiny
from pertbound.experiments import check as module
from pertbound.experiments.checking import form
from pertbound.experiments.checking.again import Again
from pertbound.experiments.checking.findings import Trust, Verdict
from pertbound.experiments.checking.forward import Forward
from pertbound.experiments.job import Sources
from pertbound.experiments.question import Question
from pertbound.records import Shard

Mutant = Callable[[], AbstractContextManager[object]]


@functools.cache
def _honest() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pertbound-test-"))
    network = tiny(folder)
    sources = Sources(model=str(network), data=str(points(folder, network)))
    question = Question(attacks=("deepfool",), methods=("lipschitz",), labels=True)
    return computed(folder / "run", sources, question, verb="Bracketed", shard_size=3)


# --- what must notice -------------------------------------------------------------------------------------------------


def _refused(change: Change | None, *, careful: bool = True) -> None:
    """The forged run is not confirmed; the honest one, for None, is."""
    run = Forged.of(_honest())
    if change is not None:
        change(run)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        written = run.carefully(out) if careful else run.naively(_honest(), out)
        confirmed = module.check(written, samples=None).verdict is Verdict.CONFIRMED
    assert confirmed == (change is None)


def _bolder(run: Forged) -> None:
    column("l2", "certified", lambda radius: radius * 1.5)(run)


def _renamed_and_bolder(run: Forged) -> None:
    _bolder(run)
    column("method", "certified", lambda _: "auto(1 s)")(run)


def _harmless(run: Forged) -> None:
    shard = run.shards[1]
    witnesses = dict(shard.witnesses) | {"adversarial": np.array(shard.witnesses["original"])}
    run.shards[1] = Shard(shard.rows, witnesses, shard.made)


def _guarantee(run: Forged) -> None:
    run.about["guarantee"] = "Linf over all of R^d, for the float32 program"


def _dropped(run: Forged) -> None:
    del run.shards[1]


def _earlier(run: Forged) -> None:
    run.about["created"] = "2001-01-01T00:00:00+00:00"


def _tighter(run: Forged) -> None:
    run.layers["factors"]["factor"][0][1] /= 2


CHECKS: dict[str, Callable[[], None]] = {
    "an honest run": lambda: _refused(None),
    "radii times 1.5": lambda: _refused(_bolder),
    "renamed, radii times 1.5": lambda: _refused(_renamed_and_bolder),
    "an invented method": lambda: _refused(column("method", "certified", lambda _: "oracle")),
    "harmless witnesses": lambda: _refused(_harmless),
    "another guarantee": lambda: _refused(_guarantee),
    "a shard dropped": lambda: _refused(_dropped),
    "another run.json": lambda: _refused(_earlier, careful=False),
    "smaller factors": lambda: _refused(_tighter),
}


# --- the mutants ------------------------------------------------------------------------------------------------------

_fits = form._fits


def _believed_names(work: Any, part: Any, positions: Any, block: Any, found: Any) -> bool:
    """The form of rows, with the names of methods left alone."""
    at = block.rows.schema.get_field_index("method")
    if block.method is not None:
        names = form.pa.array([block.method.name] * len(block.rows))
        block = form.Block(block.method, block.kind, block.rows.set_column(at, block.rows.schema.field(at), names))
    return _fits(work, part, positions, block, found)


def _all_good(_self: Any, _batch: Any, block: Any, *_: Any) -> np.ndarray:
    return np.ones(len(block.rows), bool)


_proved = Again._proved


def _only_known_names(self: Any, batch: Any, block: Any, now: Any) -> np.ndarray:
    """Rows are proved again where their name is one that was asked for."""
    known = block.texts("method") == now.texts("method")
    return _proved(self, batch, block, now) if known else _all_good(self, batch, block)


def _patched(*changes: tuple[object, str, object]) -> Mutant:
    def mutant() -> AbstractContextManager[object]:
        stack = ExitStack()
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        return stack

    return mutant


NAMES = ((form, "_fits", _believed_names), (Again, "_words", _all_good))
MUTANTS: dict[str, tuple[Mutant, str]] = {
    "everything is contradicted": (_patched((form, "_fits", lambda *_: False)), "an honest run"),
    "radii are not proved again": (_patched((Again, "_proved", _all_good)), "radii times 1.5"),
    "renamed methods are not proved again": (
        _patched(*NAMES, (Again, "_proved", _only_known_names)),
        "renamed, radii times 1.5",
    ),
    "names of methods are believed": (_patched(*NAMES), "an invented method"),
    "witnesses are not run": (
        _patched((Forward, "_witnesses", lambda *_: None), (module, "compare_layers", lambda *_, **__: None)),
        "harmless witnesses",
    ),
    "run.json is believed": (_patched((module, "compare_description", lambda *_, **__: None)), "another guarantee"),
    "what is missing is forgotten": (_patched((Trust, "doubt", lambda *_: None)), "a shard dropped"),
    "hashes are not compared": (
        _patched((module, "require_bound", lambda *_: None), (module, "compare_layers", lambda *_, **__: None)),
        "another run.json",
    ),
    "layers.json is believed": (_patched((module, "compare_layers", lambda *_, **__: None)), "smaller factors"),
}
