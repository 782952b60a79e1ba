"""Whether a run can be trusted: its witnesses run again, a sample of its certificates proved again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from pertbound import store
from pertbound.errors import RunError
from pertbound.experiments.job import Job, job_of
from pertbound.experiments.provenance import weights_sha256
from pertbound.experiments.work import Work
from pertbound.problem import strictly_misclassified
from pertbound.records import CERTIFIED, WITNESS, Run, Witnesses
from pertbound.samples import Method, brackets, methods

SAME = 1e-6
"""How far, relatively, a radius may lie above the one that is proved again: other batches round differently."""
PART = 200
"""Witnesses that are run at once, at most."""


@final
@dataclass
class Trust:
    """What a check found. `problems` are reasons not to trust the run, empty for none; `remarks` are none."""

    witnesses: int = 0
    """Kept witnesses that were run again."""
    unkept: int = 0
    """Rows of farther witnesses, which were not kept: they decide nothing."""
    proved: int = 0
    """Certified rows that were computed again, with a radius at least as large, to `SAME`."""
    compared: int = 0
    """Pairs of a certified radius and a witness of the same sample that were compared."""
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.problems


def check(
    folder: Path,
    *,
    samples: int = 20,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] | None = None,
    **sources: Any,
) -> Trust:
    """Check a run folder against its model and data, which `sources` (as `Sources`) may name where they have moved.

    Every shard's checksum; that model and data are those of the run, by their hashes; that no certified radius exceeds
    a witness; every kept witness, through the graph and the original model, its distances computed anew; and the
    certificates of `samples` samples drawn by `seed`, computed anew. Methods under a budget of time may prove less in
    the same time: that is a remark, and a contradiction only where a witness lies nearer. Raises `RunError` where the
    folder holds no run that can be asked again, and `PertboundError` where the model or the data cannot be read.
    """
    run = store.read(folder)
    if not len(run.rows):
        raise RunError(f"{folder} holds no rows yet")
    told = on_progress or (lambda _stage, _done, _total: None)
    job = job_of(run.about, **sources)
    work = Job(
        sources=job.sources,
        question=job.question,
        batch_size=job.batch_size,
        shard_size=job.shard_size,
        device=device,
    ).work(None)
    found = Trust()
    for name, was, now in (
        ("model", run.about["model"]["sha256"], weights_sha256(work.network)),
        ("data", run.about["data"]["sha256"], work.data.sha256()),
    ):
        if was != now:
            found.problems.append(f"the {name} is another one than the run's: sha256 {now[:16]}, not {was[:16]}")
    if found.problems:
        return found
    if not run.about["complete"]:
        found.remarks.append("the run is not finished: what is there was checked")
    _compare(run, found)
    _run_again(run, work, found, told)
    _prove_again(run, work, samples, np.random.default_rng(seed), found, told)
    return found


def _compare(run: Run, found: Trust) -> None:
    """Every certified radius against the nearest witness of the sample."""
    best = brackets(run)
    both = ~np.isnan(best.lower) & np.isfinite(best.upper)
    found.compared = int(both.sum())
    over = both & (best.lower > best.upper * (1 + 1e-12))
    for i in np.flatnonzero(over)[:5]:
        found.problems.append(
            f"sample {best.sample[i]}: the certified radius {best.lower[i]:.6g} lies above the witness at "
            f"{best.upper[i]:.6g}"
        )


def _run_again(run: Run, work: Work, found: Trust, told: Callable[[str, int, int], None]) -> None:
    """Every kept witness."""
    stored = run.witnesses if isinstance(run.witnesses, Witnesses) else Witnesses([run.witnesses])
    positions = stored["sample"] if len(stored) else np.empty(0, np.int64)
    best = brackets(run)
    nearest = dict(zip(best.sample.tolist(), zip(best.upper.tolist(), best.reference, strict=True), strict=True))
    place = {position: i for i, position in enumerate(work.data.positions.tolist())}
    rows = int(sum(np.isfinite(m.size).sum() for m in methods(run) if m.guarantee == WITNESS))
    kept = set(positions.tolist())
    claimed = {s for s, (size, _) in nearest.items() if math.isfinite(size)}
    found.unkept = rows - len(positions)
    if lost := claimed - kept:
        found.remarks.append(f"of {len(lost)} samples with a witness none was kept: they could not be run again")
    for start in range(0, len(positions), PART):
        told("witnesses", start, len(positions))
        part = stored.take(range(start, min(start + PART, len(positions))))
        chosen = [place.get(int(s)) for s in part["sample"]]
        if None in chosen:
            found.problems.append("a witness is about a sample that the data set does not hold")
            continue
        rows_of = torch.tensor([i for i in chosen if i is not None])
        x = work.data.inputs[rows_of].to(device=work.network.device, dtype=work.network.dtype)
        adversarial = torch.as_tensor(part["adversarial"]).to(x)
        reference = torch.tensor([nearest[int(s)][1] for s in part["sample"]], device=x.device)
        with torch.no_grad():
            wrong = strictly_misclassified(work.network.run(adversarial), reference)
            if work.network.original is not None:
                wrong &= strictly_misclassified(work.network.original(adversarial), reference)
        size = work.within.norms(adversarial.double() - x.double()).cpu().numpy()
        said = np.array([nearest[int(s)][0] for s in part["sample"]])
        box = work.within.box
        inside = torch.ones(len(x), dtype=torch.bool)
        if box is not None:
            low, high = (torch.as_tensor(end).to(x) for end in box)
            inside = ((adversarial >= low) & (adversarial <= high)).flatten(1).all(1).cpu()
        for sample, ok, near, within in zip(
            part["sample"].tolist(), wrong.tolist(), (size <= said * (1 + SAME) + 1e-12).tolist(), inside.tolist(),
            strict=True,
        ):  # fmt: skip
            if not (ok and near and within):
                why = "is farther than its row" if ok else "is not misclassified"
                why = why if within else "leaves the box"
                found.problems.append(f"sample {sample}: the witness {why}")
        found.witnesses += len(part["sample"])


def _prove_again(
    run: Run,
    work: Work,
    samples: int,
    rng: np.random.Generator,
    found: Trust,
    told: Callable[[str, int, int], None],
) -> None:
    """The certificates of some samples."""
    claims = [method for method in methods(run) if method.guarantee == CERTIFIED]
    everyone = np.unique(np.concatenate([m.sample for m in claims])) if claims else np.empty(0, np.int64)
    chosen = np.sort(rng.choice(everyone, min(samples, len(everyone)), replace=False)) if len(everyone) else everyone
    place = {position: i for i, position in enumerate(work.data.positions.tolist())}
    for number, sample in enumerate(chosen.tolist()):
        told("certificates", number, len(chosen))
        at = place[sample]
        shard = _again(work, at)
        for claim in methods(Run(shard.rows, run.about)):
            if claim.guarantee == CERTIFIED:
                _hold(sample, claim, claims, work, found)


def _again(work: Work, at: int) -> Any:
    """The rows of one sample, computed anew."""
    size, work.shard_size = work.shard_size, 1
    try:
        return work(at)
    finally:
        work.shard_size = size


def _hold(sample: int, now: Method, claims: list[Method], work: Work, found: Trust) -> None:
    """What was claimed of a sample against what is proved of it now."""
    closing = work.closing is not None
    was = [m.size[m.sample == sample] for m in claims if m.guarantee == CERTIFIED and (closing or m.name == now.name)]
    claimed = float(max((float(size[0]) for size in was if len(size)), default=0.0))
    again = float(now.size[0])
    if claimed <= again * (1 + SAME) + 1e-12:
        found.proved += 1
        return
    text = f"sample {sample}: {now.name} claimed {claimed:.6g}, and proves {again:.6g} now"
    if closing or any(word in now.name for word in (" s)", "passes")):
        found.remarks.append(f"{text} (it has a budget of time)")
    else:
        found.problems.append(text)
