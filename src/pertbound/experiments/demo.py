"""The first run: a small network on scikit-learn's digits, every test image bracketed."""

from __future__ import annotations

from dataclasses import replace

import torch

from pertbound import records
from pertbound.attacks import DDN, FastGradientSign
from pertbound.certificates import Lipschitz, Published, QuadraticRelaxation
from pertbound.data import load
from pertbound.experiments.layers import by_layer, certificate_for
from pertbound.experiments.provenance import about_run
from pertbound.experiments.work import OnProgress, Work, collect
from pertbound.frontends import from_torch
from pertbound.models import DIGITS, Progress, digits_network, train


def run_demo(*, seed: int = 0, command: str = "", on_progress: OnProgress | None = None) -> records.Run:
    """Train, bracket, and return the run; under a minute on two cores, without network access."""

    def epoch(progress: Progress) -> None:
        if on_progress is not None:
            on_progress("training", progress.epoch, progress.epochs)

    model = digits_network()
    train(model, load("digits", train=True), DIGITS, torch.Generator().manual_seed(seed), epoch)
    data = load("digits")
    network = from_torch(model, data.inputs[:2])
    attack = FastGradientSign(max_epsilon=1.0, probes=20)
    methods = (DDN(), attack, QuadraticRelaxation(steps=40), Lipschitz(), Published())
    work = Work(network=network, data=data, methods=methods, on_progress=on_progress)
    about = about_run(
        "Demo: a small convolutional network on 8 x 8 digits",
        work,
        "two convolutions and a linear layer, trained in seconds",
        {"seed": seed, "about the attacks": "fast gradient sign with steps up to the whole range of a pixel, and ddn"},
        command,
    )
    run = collect(work, about)
    layers = by_layer(network, data, run, losses=20, certificate=certificate_for(methods), on_progress=on_progress)
    return replace(run, layers=layers)
