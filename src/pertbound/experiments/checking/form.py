"""The form of a shard's rows: which rows there must be, in which order, and what each column may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa

from pertbound.certificates import Auto, Certificate, Estimator
from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.work import Method, Work
from pertbound.problem import Guarantee
from pertbound.records import CERTIFIED, ESTIMATE, NONE, WITNESS, Shard

ARRAYS = ("sample", "original", "adversarial", "new_class")
"""What a file of witnesses holds."""
LADDER = ("lipschitz", "linear", "quadratic", "quadratic, tight boxes", "branch and bound")
"""Who can give a radius of `Auto`."""
SIZES = ("l1", "l2", "linf")
FINDER = re.compile(r"found by [\x20-\x7e]{1,200}")
"""The note of an attack that asks several others."""


@final
@dataclass(frozen=True)
class Block:
    """The rows of one method about the samples of a batch, in their order; `method` is None under a budget."""

    method: Method | None
    kind: str
    """`records.CERTIFIED`, `ESTIMATE`, or `WITNESS`, which includes `NONE`."""
    rows: pa.Table

    def column(self, name: str) -> np.ndarray:
        """Numbers, NaN where there is none."""
        return np.array(self.rows.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)

    def texts(self, name: str) -> list[str | None]:
        """Texts, None where there is none."""
        return self.rows.column(name).to_pylist()


@final
@dataclass(frozen=True)
class Batch:
    """What a run says about samples that were computed at once."""

    samples: range
    """Places in the data set."""
    positions: np.ndarray
    blocks: tuple[Block, ...]
    witnesses: Mapping[str, np.ndarray]
    """Those of these samples, in the arrays of `ARRAYS`; empty for none."""
    decisions: Mapping[str, Any]


def methods_of(work: Work) -> list[tuple[Method | None, str]]:
    """The methods in the order of the rows, and the kind of each."""
    if work.closing is not None:
        return [(None, CERTIFIED), (None, WITNESS)]
    return [
        (m, CERTIFIED if isinstance(m, Certificate) else ESTIMATE if isinstance(m, Estimator) else WITNESS)
        for m in work.methods
    ]


def batches_of(work: Work, index: int, shard: Shard, found: Trust) -> list[Batch]:
    """The batches of a shard; none, and a contradiction, where its rows are not those that the question asks for."""
    samples, methods = work.samples(index), methods_of(work)
    wanted = len(methods) * len(samples)
    if len(shard.rows) != wanted:
        found.contradict(f"shard {index} has {len(shard.rows)} rows; {len(samples)} samples need {wanted}")
        return []
    witnesses = _witnesses(work, index, shard, found)
    decisions: Any = shard.made.get("decisions", {})
    batches: list[Batch] = []
    start = 0
    for part in work.batches(samples):
        positions = work.data.positions[part.start : part.stop].numpy()
        blocks: list[Block] = []
        for method, kind in methods:
            block = Block(method, kind, shard.rows.slice(start, len(part)))
            start += len(part)
            if not _fits(work, part, positions, block, found):
                return []
            blocks.append(block)
        mine = np.isin(witnesses["sample"], positions) if witnesses else np.zeros(0, bool)
        some = {name: values[mine] for name, values in witnesses.items()} if mine.any() else {}
        at = decisions.get(str(part.start - samples.start), {}) if isinstance(decisions, Mapping) else {}
        batches.append(Batch(part, positions, tuple(blocks), some, at if isinstance(at, Mapping) else {}))
    return batches


def _fits(work: Work, part: range, positions: np.ndarray, block: Block, found: Trust) -> bool:
    """Whether the rows are about these samples, by this method; and what each column may hold."""
    said = f"samples {positions[0]} to {positions[-1]}"
    if block.rows.column("sample").to_pylist() != positions.tolist():
        found.contradict(f"{said}: the rows are about other samples, or in another order")
        return False
    name, names = None if block.method is None else block.method.name, block.texts("method")
    if name is not None and names != [name] * len(names):
        other = next(each for each in names if each != name)
        found.contradict(f"{said}: rows of {name} say that {other!r:.60} gave them")
        return False
    may = (WITNESS, NONE) if block.kind == WITNESS else (block.kind,)
    kinds = block.texts("guarantee")
    if wrong := [kind for kind in kinds if kind not in may]:
        found.contradict(f"{said}: rows of {name or 'a bracket'} are called {wrong[0]!r:.40}, not {' or '.join(may)}")
        return False
    labels = None if work.data.labels is None else work.data.labels[part.start : part.stop].tolist()
    if block.rows.column("label").to_pylist() != (labels or [None] * len(part)):
        found.contradict(f"{said}: the labels of the rows are not those of the data")
    if work.against_labels and block.rows.column("reference").to_pylist() != labels:
        found.contradict(f"{said}: the reference classes are not the labels, which the run is measured against")
    _sizes(work, said, block, np.array([kind == NONE for kind in kinds]), found)
    _notes(work, said, block, found)
    seconds = block.column("seconds")
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        found.contradict(f"{said}: seconds are not all finite and at least 0")
    return True


def _sizes(work: Work, said: str, block: Block, nothing: np.ndarray, found: Trust) -> None:
    """Which of the columns of sizes hold a number, and which number may stand there."""
    own = "l2" if block.kind == ESTIMATE else work.within.norm_name.lower()
    for name in SIZES:
        values, absent = block.column(name), block.rows.column(name).is_null().to_numpy(zero_copy_only=False)
        wanted = ~nothing if block.kind == WITNESS else np.full(len(values), name == own)
        given = values[wanted & ~absent]
        most = np.isfinite(given) | ((given == np.inf) & (block.kind == ESTIMATE))
        if (absent == wanted).any():
            found.contradict(f"{said}: {name} is given where it must not be, or missing where it must be")
        elif not (most & (given >= 0)).all():
            found.contradict(f"{said}: {name} holds numbers that are no sizes: NaN, infinite or negative")


def _notes(work: Work, said: str, block: Block, found: Trust) -> None:
    """The words of the guarantee, and who gave a value. Estimates' notes are computed again with their values."""
    notes, guarantee = block.texts("note"), str(Guarantee(work.within.norm_name, work.within.domain))
    if block.kind == CERTIFIED:
        if block.method is None:
            names = block.texts("method")
            fits = [n == f"{m}: {guarantee}" and m in LADDER for n, m in zip(notes, names, strict=True)]
        elif isinstance(block.method, Auto):
            fits = [note in {f"{step}: {guarantee}" for step in LADDER} for note in notes]
        else:
            fits = [note == guarantee for note in notes]
        if not all(fits):
            found.contradict(f"{said}: the note {notes[fits.index(False)]!r:.120} is not the guarantee {guarantee!r}")
    elif block.kind == WITNESS and not all(note is None or FINDER.fullmatch(note) for note in notes):
        found.contradict(f"{said}: a note of an attack says something else than who found the witness")


def _witnesses(work: Work, index: int, shard: Shard, found: Trust) -> Mapping[str, np.ndarray]:
    """The arrays of a file of witnesses, where they have the form that they must have."""
    if not len(shard.witnesses):
        return {}
    said, shape = f"the witnesses of shard {index}", tuple(work.network.input_shape)
    if set(shard.witnesses) != set(ARRAYS):
        found.contradict(f"{said} hold the arrays {sorted(shard.witnesses)!r:.100}, not {sorted(ARRAYS)}")
        return {}
    arrays = {name: shard.witnesses[name] for name in ARRAYS}
    sample = arrays["sample"]
    floating = all(arrays[name].dtype.kind == "f" for name in ("original", "adversarial"))
    integers = all(arrays[name].dtype.kind in "iu" for name in ("sample", "new_class"))
    whole = integers and arrays["new_class"].shape == sample.shape
    shaped = all(arrays[name].shape == (*sample.shape, *shape) for name in ("original", "adversarial"))
    if not (sample.ndim == 1 and floating and whole and shaped):
        shapes = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        found.contradict(f"{said} are not numbers of the right shape: {shapes!r:.200}")
        return {}
    places = work.samples(index)
    known = set(work.data.positions[places.start : places.stop].tolist())
    if len(set(sample.tolist())) < len(sample) or not set(sample.tolist()) <= known:
        found.contradict(f"{said} are about samples that the shard does not hold, or twice about one")
        return {}
    return arrays
