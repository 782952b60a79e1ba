"""A run as it can be sent to another process: files and a question, from which `Work` is made where it is computed."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import torch

from pertbound.data import DataSet, Images
from pertbound.errors import RunError
from pertbound.experiments.provenance import weights_sha256
from pertbound.experiments.question import Question, question_of
from pertbound.experiments.sources import read_data, read_network
from pertbound.experiments.work import OnProgress, Work
from pertbound.graph import Graph
from pertbound.preprocessing import Preprocessing

BATCH = 500
"""Samples computed at once, at most, unless a run says otherwise."""
SLOW_SHARD = 50
"""Samples of a shard whose methods take about a second for each."""
MEMORY = 2 * 2**30
"""Bytes that a batch may need by `bytes_for_one`."""


@final
@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the model and the data are, in the words of the command line. Paths must be good wherever it is read."""

    model: str
    data: str
    architecture: str | None = None
    data_dir: str | None = None
    limit: int | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    scale: float = 1.0
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | int | None = None

    def network(self) -> Graph:
        """The classifier of raw inputs."""
        preprocessing = Preprocessing(mean=self.mean, std=self.std, scale=self.scale)
        return read_network(Path(self.model), self.architecture, preprocessing)

    def samples(self, network: Graph, *, download: bool = True) -> DataSet:
        """The data, checked against what the classifier takes."""
        folder = None if self.data_dir is None else Path(self.data_dir)
        images = Images(resize=self.resize, crop=self.crop)
        return read_data(self.data, folder, self.limit, network, images, download=download)


@final
@dataclass(frozen=True, kw_only=True)
class Job:
    """Called without arguments, gives the `Work`: a `make` for any engine. Sizes that are None are chosen.

    `threads` and `device` say where it is computed, not what.
    """

    sources: Sources
    question: Question
    batch_size: int | None = None
    shard_size: int | None = None
    threads: int | None = None
    device: str = "cpu"
    hashes: tuple[str, str] | None = None
    """Of the model and the data that are meant, where another machine may read others."""

    def __call__(self) -> Work:
        """Read the model and the data, here. Raises `PertboundError` of any kind."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        work = self.work(None)
        if self.hashes is not None:
            files = ("model", self.sources.model), ("data", self.sources.data)
            found = weights_sha256(work.network), work.data.sha256()
            for (name, path), meant, read in zip(files, self.hashes, found, strict=True):
                if meant != read:
                    said = f"sha256 {read[:16]}, not {meant[:16]}"
                    raise RunError(f"the {name} at {path} on {platform.node()} is not the run's: {said}")
        return work

    def work(self, on_progress: OnProgress | None, *, download: bool = True) -> Work:
        """The same, in the thread count of this process."""
        sources, question = self.sources, self.question
        network = sources.network().to(self.device)
        data = sources.samples(network, download=download)
        batch = self.batch_size or fitting_batch(network)
        return Work(
            network=network,
            data=data,
            methods=() if question.closing else question.all_methods(),
            closing=question.closing,
            against_labels=question.labels,
            within=question.within,
            batch_size=batch,
            shard_size=self.shard_size or (min(batch, SLOW_SHARD) if question.slow else batch),
            on_progress=on_progress,
        )


def job_of(about: Mapping[str, Any], **changes: Any) -> Job:
    """The job that `run.json` describes, with `changes` to its sources. Raises `RunError` where it describes none."""
    known = {field.name for field in fields(Sources)}
    try:
        kept: dict[str, Any] = {name: value for name, value in about["sources"].items() if name in known}
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kept.items()}
        options, sizes = about["options"], about["shards"]
        sources = Sources(**given | {name: value for name, value in changes.items() if value is not None})
        return Job(
            sources=sources,
            question=question_of(options),
            batch_size=int(options["batch_size"]),
            shard_size=int(sizes["size"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"run.json does not say which files and options the run is about: {error!r}") from error


def bytes_for_one(network: Graph) -> int:
    """About what one sample needs: all values, their gradients, and as much again for what computes them."""
    entries: list[int] = []
    with torch.no_grad():
        x = torch.zeros(1, *network.input_shape, dtype=network.dtype, device=network.device)
        network.run(x, lambda _node, _inputs, value: entries.append(value.numel()))
    return 3 * sum(entries) * x.element_size()


def fitting_batch(network: Graph) -> int:
    """How many samples are computed at once: as many as fit in `MEMORY`, at most `BATCH`; the same on every machine."""
    return max(1, min(BATCH, MEMORY // bytes_for_one(network)))


def as_plain(sources: Sources) -> dict[str, Any]:
    """As `run.json` keeps them."""
    return {field.name: value for field in fields(sources) if (value := getattr(sources, field.name)) != field.default}
