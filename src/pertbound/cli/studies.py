"""`demo` and `reproduce`: whole studies in one command."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pertbound import store
from pertbound.cli.inputs import command_line, require_free
from pertbound.cli.options import AsJson, BatchSize, DataDir, Limit, Overwrite, Resume
from pertbound.cli.running import end_run, say_found, say_left
from pertbound.cli.screen import console
from pertbound.cli.show import print_json, print_summary, progress
from pertbound.data import load
from pertbound.engine import Local, drive
from pertbound.errors import InputError
from pertbound.experiments import peck2017
from pertbound.experiments.demo import run_demo
from pertbound.experiments.layers import by_layer
from pertbound.models import Progress
from pertbound.report import write_report
from pertbound.report.study import write_paper_tables_and_figures


class Study(str, Enum):
    """The studies that can be reproduced."""

    peck2017 = "peck2017"


class Dataset(str, Enum):
    """The paper's data sets."""

    mnist = "mnist"
    cifar10 = "cifar10"


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the report is index.html in it.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the training.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a small network on scikit-learn's digits, bracket every test image, and write a report with pictures.

    Example: pertbound demo --out runs/demo
    """
    screen = console(quiet=as_json)
    require_free(out, overwrite)
    with progress() as tell:
        run = run_demo(seed=seed, command=command_line(), on_progress=tell)
    say_left(store.write(out, run), screen)
    print_json(out, run) if as_json else print_summary(screen, run)
    screen.print(f"Report: {write_report([out], out)}", soft_wrap=True)


def reproduce(
    study: Annotated[Study, typer.Argument(help="The study: peck2017.")],
    dataset: Annotated[Dataset, typer.Option("--dataset", help="The paper's data set.")],
    data_dir: DataDir = None,
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/peck2017-DATASET otherwise.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A trained LeNet; otherwise one is trained (minutes).")
    ] = None,
    batch_size: BatchSize = 500,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Run a paper's experiment and print its tables beside ours.

    Example: pertbound reproduce peck2017 --dataset mnist --data-dir data --limit 500 --out runs/mnist
    """
    screen = console(quiet=as_json)
    folder = out or Path("runs") / f"{study.value}-{dataset.value}"
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    require_free(folder, overwrite, resume, beside=(peck2017.CHECKPOINT,))
    setting = peck2017.SETTINGS[dataset.value]
    data = load(setting.dataset, data_dir, limit=limit)
    for note in data.notes:
        screen.print(f"Note: {note}", soft_wrap=True)
    with progress() as tell:

        def epoch(done: Progress) -> None:
            tell(f"training LeNet, loss {done.loss:.3f}", done.epoch, done.epochs)

        model, path = peck2017.network_for(setting, data_dir, folder, checkpoint, on_epoch=epoch)
    reached = peck2017.check_accuracy(setting, model, data)
    screen.print(
        f"LeNet from {path}: accuracy {reached:.2%} on {len(data)} test images of {setting.paper_name}.",
        soft_wrap=True,
    )
    interrupted = False
    with progress() as tell:
        work = peck2017.work_for(model, data, batch_size=batch_size, on_progress=tell)
        about = peck2017.about(setting, work, command_line())
        beside = (peck2017.CHECKPOINT,)
        with store.writing(folder, about, resume=resume, overwrite=overwrite, beside=beside) as writer:
            say_found(writer, screen)
            work.done = len(data) - sum(len(work.samples(index)) for index in writer.missing)
            try:
                failed = drive(Local(), lambda: work, writer)
            except KeyboardInterrupt:
                if writer.empty:
                    raise
                interrupted, failed = True, []
    if not interrupted and not failed:
        run = store.read(folder)
        store.write_layers(folder, by_layer(work.network, data, run, losses=0), run.about)
    run = store.read(folder)
    print_json(folder, run, failed) if as_json else print_summary(screen, run)
    screen.print(write_paper_tables_and_figures(run, folder))
    screen.print(f"Report: {write_report([folder], folder)}", soft_wrap=True)
    end_run(run, screen, failed, interrupted)
