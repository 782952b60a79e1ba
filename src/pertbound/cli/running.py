"""What `certify`, `attack` and `bracket` do once it is clear what is asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from pertbound import store
from pertbound.certificates import Certificate
from pertbound.cli.inputs import command_line, require_free
from pertbound.cli.options import Asked
from pertbound.cli.screen import Screen, console, copyable
from pertbound.cli.show import print_contradictions, print_json, print_summary, progress
from pertbound.engine import Failed, Local, drive
from pertbound.engine.base import said
from pertbound.experiments.job import as_plain
from pertbound.experiments.layers import by_layer, certificate_for, losses_by_default
from pertbound.experiments.provenance import about_run
from pertbound.experiments.question import Question
from pertbound.experiments.work import OnProgress, Work
from pertbound.records import Run
from pertbound.store import Writer
from pertbound_entry import ExitCode


def answer(verb: str, asked: Asked, question: Question, *, layer_loss: int | None = 0) -> None:
    """Compute, write, and say it."""
    out = asked.out or Path("runs") / {"Certified": "certify", "Attacked": "attack"}.get(verb, "bracket")
    require_free(out, asked.overwrite, asked.resume)
    engine, job = asked.computes(), asked.job(question)
    screen = console(quiet=asked.as_json)
    interrupted, failed = False, list[Failed]()
    with progress() as tell:
        work = job.work(tell)
        title = f"{verb}: {asked.model.name} on {work.data.name}"
        about = about_run(title, work, asked.model.name, question.as_dict(), command_line(), as_plain(job.sources))
        with store.writing(out, about, resume=asked.resume, overwrite=asked.overwrite) as writer:
            say_found(writer, screen)
            work.done = len(work.data) - sum(len(work.samples(index)) for index in writer.missing)
            try:
                hashes = about["model"]["sha256"], about["data"]["sha256"]
                make = (lambda: work) if isinstance(engine, Local) else replace(job, hashes=hashes)
                failed = drive(engine, make, writer, None if isinstance(engine, Local) else _counting(work, tell))
            except KeyboardInterrupt:
                if writer.empty:
                    raise
                interrupted = True
    run = store.read(out)
    if not interrupted and not failed and layer_loss != 0:
        # the run is on disk already: this may be interrupted
        with suppress(KeyboardInterrupt):
            _layers(out, work, layer_loss)
    if asked.as_json:
        print_json(out, run, failed)
    else:
        print_summary(screen, run)
        for one in failed:
            samples = work.samples(one.index)
            text = f"Shard {one.index} (samples {samples.start} to {samples.stop - 1}) failed {one.tries} times: "
            screen.say(text + said(one.error))
        if failed or interrupted:
            screen.say(f"Go on with: {_again()}")
        screen.say(f"Run: {out}. Look at it with: {copyable(['pertbound', 'report', out])}")
    end_run(run, screen, failed, interrupted)


def end_run(run: Run, screen: Screen, failed: Sequence[Failed], interrupted: bool) -> None:
    """Say what contradicts itself in the run, and exit with the code of what happened."""
    wrong = print_contradictions(screen, run)
    if failed or wrong:
        raise typer.Exit(ExitCode.FAILED)
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)


def _layers(out: Path, work: Work, losses: int | None) -> None:
    """What each layer costs, into the run's folder."""
    number = losses_by_default(work.methods) if losses is None else losses
    if work.closing is None and not any(isinstance(method, Certificate) for method in work.methods):
        return
    run = store.read(out)
    with progress() as tell:
        layers = by_layer(
            work.network,
            work.data,
            run,
            losses=number,
            certificate=certificate_for(work.methods),
            against_labels=work.against_labels,
            within=work.within,
            on_progress=tell,
        )
    store.write_layers(out, layers | {"asked": number} if layers else {}, run.about)


def _counting(work: Work, tell: OnProgress) -> Any:
    """Progress by shards that were finished elsewhere."""
    tell("shards", work.done, len(work.data))

    def on_shard(index: int) -> None:
        work.done += len(work.samples(index))
        tell("shards", work.done, len(work.data))

    return on_shard


def say_found(writer: Writer, screen: Screen) -> None:
    """What was found in the run folder and a user must know."""
    if writer.rebuilt:
        screen.say("run.json was lost: it was written again, as the shards repeat it.")
    for index in writer.damaged:
        text = f"Shard {index} is damaged: it was set aside, and is computed again."
        screen.say(text)
    say_left(writer.left, screen)


def say_left(names: Sequence[str], screen: Screen) -> None:
    """Files of the folder of a run that was replaced, which are not of that run."""
    if names:
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        text = f"Left where they are, for they are not part of the run that was replaced: {some}."
        screen.say(text)


def _again() -> str:
    command = ["pertbound", *sys.argv[1:]]
    return copyable(command if "--resume" in command else [*command, "--resume"])
