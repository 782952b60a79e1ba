"""The options that `certify`, `attack` and `bracket` share, and how a command gets them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from pertbound.cli.inputs import Crop, Data, Mean, Resize, Scale, Std, read_images, read_preprocessing
from pertbound.engine import Engine, Local, Ray
from pertbound.errors import InputError
from pertbound.experiments.job import Job, Sources
from pertbound.experiments.question import Question
from pertbound.models import ARCHITECTURES
from pertbound.preprocessing import Numbers

NAMES = ("mnist", "cifar10", "digits")
"""Data sets that a folder of the same name does not stand for."""
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets; otherwise $PERTBOUND_DATA, or ./data.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first samples.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples computed at once.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that --out holds; begin where it holds none.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out already holds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")]


class Norm(str, Enum):
    """The norms that perturbations can be measured in."""

    l2 = "l2"
    linf = "linf"
    l1 = "l1"


class EngineName(str, Enum):
    """Who can compute a run."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the three commands are all told."""

    model: Annotated[
        Path, typer.Option("--model", help="A .safetensors file (with --architecture), a .pt2 or an .onnx file.")
    ]
    data: Data
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/COMMAND otherwise.", show_default=False)
    ] = None
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", help=f"The network behind a .safetensors file: {', '.join(ARCHITECTURES)}."),
    ] = None
    data_dir: DataDir = None
    limit: Limit = None
    mean: Mean = None
    std: Std = None
    scale: Scale = None
    resize: Resize = None
    crop: Crop = None
    norm: Annotated[Norm, typer.Option("--norm", help="The norm that perturbations are measured in.")] = Norm.l2
    box: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--box", help="Count only perturbed inputs within LOW HIGH; otherwise anywhere.", metavar="LOW HIGH"
        ),
    ] = None
    labels: Annotated[
        bool,
        typer.Option("--labels", help="Measure against the true labels (a misclassified sample has radius 0)."),
    ] = False
    resume: Resume = False
    overwrite: Overwrite = False
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Samples computed at once; otherwise what fits in 2 GiB, at most 500.",
            show_default=False,
        ),
    ] = None
    shard_size: Annotated[
        int | None,
        typer.Option(
            "--shard-size",
            min=1,
            help="Samples whose rows are written at once: what an interruption can cost. Otherwise a batch, or 50 "
            "samples where methods are slow.",
            show_default=False,
        ),
    ] = None
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")] = "cpu"
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="Threads of torch; with ray, of each shard (1 otherwise).", show_default=False
        ),
    ] = None
    engine: Annotated[
        EngineName, typer.Option("--engine", help="local: this process. ray: the processes of a Ray cluster.")
    ] = EngineName.local
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="For ray: auto, or HOST:PORT of a cluster; one is started here otherwise.",
            show_default=False,
        ),
    ] = None
    as_json: AsJson = False

    def job(self, question: Question) -> Job:
        """As what any process can compute."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, got {self.limit}")
        threads = self.threads or (1 if self.engine is EngineName.ray else None)
        return Job(
            sources=self.sources(),
            question=question,
            batch_size=self.batch_size,
            shard_size=self.shard_size,
            threads=threads,
            device=self.device,
        )

    def sources(self) -> Sources:
        """The files, by paths that are good in any folder."""
        there = self.data not in ("", *NAMES) and Path(self.data).exists()
        preprocessing, images = read_preprocessing(self.mean, self.std, self.scale), read_images(self.resize, self.crop)
        return Sources(
            model=str(self.model.absolute()),
            architecture=self.architecture,
            data=str(Path(self.data).absolute()) if there else self.data,
            data_dir=None if self.data_dir is None else str(self.data_dir.absolute()),
            limit=self.limit,
            mean=_plain(preprocessing.mean),
            std=_plain(preprocessing.std),
            scale=preprocessing.scale,
            resize=images.resize,
            crop=images.crop,
        )

    def computes(self) -> Engine:
        """Who is to compute it."""
        if self.engine is EngineName.local:
            if self.address is not None:
                raise InputError("--address is for --engine ray")
            return Local()
        return Ray(address=self.address, cpus=self.threads or 1, gpus=1 if self.device.startswith("cuda") else 0)


def _plain(numbers: Numbers) -> float | tuple[float, ...]:
    return tuple(numbers) if isinstance(numbers, Sequence) else numbers


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """A command `f(asked, **own)` as one whose options are those of `Asked` and its own, as typer reads them."""
    own = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    shared = get_type_hints(Asked, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=shared[field.name],
        )
        for field in fields(Asked)
    ]
    mine = [p.replace(annotation=hints[name]) for name, p in list(own.parameters.items())[1:]]
    mine = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in mine]
    names = {p.name for p in parameters}

    @functools.wraps(command)
    def asking(**given: Any) -> None:
        asked = Asked(**{name: value for name, value in given.items() if name in names})
        command(asked, **{name: value for name, value in given.items() if name not in names})

    # those without a default first: model and data
    asking.__signature__ = inspect.Signature([*parameters[:2], *mine, *parameters[2:]])  # pyright: ignore
    asking.__annotations__ = {p.name: p.annotation for p in (*parameters, *mine)}
    del asking.__wrapped__  # pyright: ignore
    return asking
