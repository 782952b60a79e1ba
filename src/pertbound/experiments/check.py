"""Whether a run can be believed: what it claims is computed again from its model and its data.

Each claim is confirmed, not confirmed (it could not be repeated), or contradicted. docs/checking.md lists every field
of every file with what protects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from pertbound import store
from pertbound.errors import RunError
from pertbound.experiments.checking.again import Again
from pertbound.experiments.checking.described import compare_description, require_bound
from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.checking.form import batches_of, methods_of
from pertbound.experiments.checking.forward import Forward
from pertbound.experiments.checking.layered import compare_layers
from pertbound.experiments.checking.strangers import require_harmless
from pertbound.experiments.job import Job, job_of
from pertbound.experiments.work import OnProgress, Work
from pertbound.records import CERTIFIED, Shard

MOST_THREADS = 256
"""No run makes a check start more threads."""


@final
@dataclass(frozen=True)
class Plan:
    """What a check is about to do."""

    model: str
    data: str
    samples: int
    """Samples whose prediction and witness are run again: all that the run holds."""
    again: int
    """Samples whose rows are computed again, in whole batches."""
    methods: tuple[str, ...]
    seconds: float
    """How long the rows of these took, by what the run says; NaN where it does not say."""


def check(
    folder: Path,
    *,
    samples: int | None = 20,
    seed: int = 0,
    device: str = "cpu",
    allow_download: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: OnProgress | None = None,
    **sources: Any,
) -> Trust:
    """Check a run folder against its model and data, which `sources` (as `Sources`) may name where they have moved.

    Of every sample: the form of its rows, label, prediction and reference class, that no certified radius exceeds a
    witness, and the kept witness, by running it. Of batches drawn by `seed` until they hold `samples` samples (None:
    all): every row, computed again. Then all other fields of the files. Nothing is unpickled; nothing is fetched
    unless `allow_download`.

    Raises `RunError` where the folder holds no run that can be asked again or a file is damaged, and `PertboundError`
    where the model or the data cannot be read.
    """
    about, present = store.read_about(folder), sorted(store.shards(folder))
    if not present:
        raise RunError(f"{folder} holds no rows yet")
    first = job_of(about)
    job = replace(job_of(about, **sources), device=device)
    require_harmless(job.sources, allow_download=allow_download)
    work = job.work(None, download=allow_download)
    found = Trust()
    moved = {n for n, v in sources.items() if v is not None and v != getattr(first.sources, n)}
    compare_description(about, first, work, found, moved=bool(moved & {"data", "data_dir"}))
    if found.contradicted:
        return found  # of another model, other data, or another question nothing more can be said
    if beyond := [index for index in present if index >= work.shards["count"]]:
        found.contradict(f"there is a shard {beyond[0]}, and only {work.shards['count']} are asked for")
        return found
    if missing := work.shards["count"] - len(present):
        found.doubt(f"the run is not whole: {missing} of {work.shards['count']} shards are not there")
    drawn = _drawn(work, present, samples, np.random.default_rng(seed))
    threads, tell = torch.get_num_threads(), on_progress or (lambda _stage, _done, _total: None)
    try:
        _planned(folder, job, work, drawn, on_plan, found)
        _shards(folder, about, work, drawn, found, Again(work, job.question, found), tell)
        if not missing and not found.contradicted:
            compare_layers(folder, work, about, found, tell, again=samples != 0)
    finally:
        torch.set_num_threads(threads)
    return found


def _drawn(work: Work, present: list[int], samples: int | None, rng: np.random.Generator) -> set[range]:
    """Batches that hold at least so many samples, or all."""
    every = [batch for index in present for batch in work.batches(work.samples(index))]
    if samples is None:
        return set(every)
    chosen: set[range] = set()
    for number in rng.permutation(len(every)).tolist():
        if sum(len(batch) for batch in chosen) >= samples:
            break
        chosen.add(every[number])
    return chosen


def _parts(folder: Path, found: Trust) -> Iterator[tuple[int, Shard]]:
    """Each shard with its number; one that is damaged is a contradiction."""
    for index, path in sorted(store.shards(folder).items()):
        try:
            shard = store.part(folder, path)
        except RunError as error:
            found.contradict(str(error))
        else:
            yield index, shard


def _planned(
    folder: Path, job: Job, work: Work, drawn: set[range], on_plan: Callable[[Plan], None] | None, found: Trust
) -> None:
    """Tell what is to be done, with the time that the run itself took for it; damaged shards are found here."""
    positions = [work.data.positions[batch.start : batch.stop].numpy() for batch in drawn]
    wanted = np.concatenate(positions) if positions else np.empty(0, np.int64)
    seconds, count = 0.0, 0
    for index, shard in _parts(folder, found):
        mine = np.isin(np.array(shard.rows.column("sample").to_pylist()), wanted)
        seconds += float(np.array(shard.rows.column("seconds").to_pylist(), float)[mine].sum())
        count += len(work.samples(index))
    names = tuple("a bracket under a budget" if m is None else m.name for m, _ in methods_of(work))
    if on_plan is not None:
        asked = names[: len(work.methods) or 1]
        on_plan(Plan(job.sources.model, job.sources.data, count, len(wanted), asked, seconds))


def _shards(
    folder: Path,
    about: dict[str, Any],
    work: Work,
    drawn: set[range],
    found: Trust,
    again: Again,
    tell: OnProgress,
) -> None:
    """Every shard, one after the other."""
    forward, done, total = Forward(work, found), 0, len(work.data)
    for index, shard in _parts(folder, Trust()):
        require_bound(about, {index: shard.made}, found)
        found.samples.in_run += len(work.samples(index))
        threads = shard.made.get("threads")
        torch.set_num_threads(min(threads, MOST_THREADS) if type(threads) is int and threads > 0 else 1)
        for batch in batches_of(work, index, shard, found):
            tell("predictions and witnesses", done, total)
            found.certificates.in_run += sum(len(b.rows) for b in batch.blocks if b.kind == CERTIFIED)
            found.others.in_run += sum(len(b.rows) for b in batch.blocks if b.kind != CERTIFIED)
            found.witnesses.in_run += len(batch.witnesses["sample"]) if batch.witnesses else 0
            shown = forward(batch)
            if batch.samples in drawn:
                tell(f"{len(batch.samples)} samples again", done, total)
                again(batch, shown)
            done += len(batch.samples)
    tell("predictions and witnesses", total, total)
    if found.samples.checked < found.samples.in_run and not found.contradicted:
        found.doubt(f"{found.samples.in_run - found.samples.checked} samples could not be looked at")
