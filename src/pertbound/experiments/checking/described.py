"""`run.json` and what binds the files, against the model, the data and the question that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pertbound import chain
from pertbound.experiments.checking.findings import Trust
from pertbound.experiments.job import Job, as_plain
from pertbound.experiments.provenance import about_run
from pertbound.experiments.question import Question
from pertbound.experiments.work import Work

INFORMATIVE = ("created", "command", "versions", "machine", "sources.model", "sources.data", "sources.data_dir")
"""Fields of `run.json`, with all that is below them, that nothing can be computed from, and that claim nothing."""
PLACED = ("data.name", "data.source")
"""Fields that say where the data were read; not compared where the data have moved."""


def compare_description(about: Mapping[str, Any], job: Job, work: Work, found: Trust, *, moved: bool) -> None:
    """Every field of `run.json` that can be derived again, and no other fields."""
    question = job.question
    sources = as_plain(job.sources)
    name = Path(str(about["sources"]["model"])).name
    title = f"{_verb(question)}: {name} on {about['data'].get('name') if moved else work.data.name}"
    expected = about_run(title, work, name, question.as_dict(), "", sources)
    known, said = dict(_leaves(json.loads(json.dumps(expected)))), dict(_leaves(about))
    for key in dict.fromkeys((*known, *said)):
        if _below(key, INFORMATIVE) or (moved and _below(key, PLACED)):
            continue
        if key not in known:
            found.contradict(f"run.json says {key} = {said[key]!r:.80}, which a run of this question does not say")
        elif key not in said:
            found.contradict(f"run.json does not say {key}, which is {known[key]!r:.80}")
        elif known[key] != said[key]:
            found.contradict(f"run.json says {key} = {said[key]!r:.80}; it is {known[key]!r:.80}")
    for part in ("versions", "machine"):
        if isinstance(about.get(part), Mapping) and dict(about[part]) != expected[part]:
            was = {k: v for k, v in about[part].items() if expected[part].get(k) != v}
            found.remarks.append(f"the run was computed with other {part}: {json.dumps(was)[:300]}")


def require_bound(about: Mapping[str, Any], shards: Mapping[int, Mapping[str, Any]], found: Trust) -> None:
    """That every shard was made for this `run.json`, and has the number that its file has."""
    run = chain.of_run(about)
    for index, made in shards.items():
        if made.get(chain.DESCRIPTION) != run:
            found.contradict(f"shard {index} belongs to another run.json: the one that it repeats is not this one")
        if made.get("shard") != index:
            found.contradict(f"shard {index} says that it is shard {made.get('shard')!r:.40}")


def _verb(question: Question) -> str:
    if question.budget is not None or (question.methods and question.attacks):
        return "Bracketed"
    return "Certified" if question.methods else "Attacked"


def _below(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _leaves(each, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
