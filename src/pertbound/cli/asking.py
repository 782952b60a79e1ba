"""`certify`, `attack` and `bracket`: one model, one data set, rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pertbound import records
from pertbound.attacks import ATTACKS, Attack, FastGradientSign, named, quick
from pertbound.certificates import (
    Auto,
    BranchAndBound,
    Certificate,
    CurvatureFree,
    Interval,
    LinearRelaxation,
    Lipschitz,
    Published,
    QuadraticRelaxation,
    Softened,
)
from pertbound.cli.inputs import command_line, read_data, read_network, require_free
from pertbound.cli.show import console, print_summary, progress
from pertbound.errors import InputError
from pertbound.experiments.layers import LOSSES, by_layer, certificate_for, losses_by_default
from pertbound.experiments.measure import Measured, Method, measure, measure_closing
from pertbound.experiments.provenance import about_run
from pertbound.sets import Ball

Model = Annotated[
    Path, typer.Option("--model", help="A .safetensors file (with --architecture), a .pt2 or an .onnx file.")
]
Architecture = Annotated[
    str | None, typer.Option("--architecture", help="The network behind a .safetensors file: lenet or digits.")
]
Data = Annotated[str, typer.Option("--data", help="mnist, cifar10, digits, or FILE.npz with x and optionally y.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets; otherwise $PERTBOUND_DATA, or ./data.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first samples.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder: rows.parquet, run.json, and witnesses.npz.")]
Labels = Annotated[
    bool,
    typer.Option("--labels", help="Measure against the true labels (a misclassified sample has radius 0)."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples computed at once.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out already holds.")]
MaxEpsilon = Annotated[
    float,
    typer.Option("--max-epsilon", help="For fgs: largest step tried, in units of the input; 100/255 as in the paper."),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        help=f"{', '.join(ATTACKS)}. May be given several times; otherwise ddn (L2) or fmn.",
        show_default=False,
    ),
]
Sharpness = Annotated[
    float, typer.Option("--sharpness", help="For published: sharpness of the softplus in ReLU's place.")
]


Box = Annotated[
    tuple[float, float] | None,
    typer.Option("--box", help="Count only perturbed inputs within LOW HIGH; otherwise anywhere.", metavar="LOW HIGH"),
]
Seconds = Annotated[
    float, typer.Option("--seconds", help="For auto and branch-and-bound: time per sample, on average.")
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="For quadratic: steps of the ascent.")]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="Instead of --method and --attack: seconds per sample, on average, spent where they narrow most.",
        show_default=False,
    ),
]
Ratio = Annotated[float, typer.Option("--ratio", help="With --budget: lower / upper at which a sample is done.")]
LayerLoss = Annotated[
    int | None,
    typer.Option(
        "--layer-loss",
        min=0,
        help="How many samples the report says of what each layer costs the certificate (0: none). Each takes as long "
        f"as quadratic; {LOSSES} where a method as dear is asked for.",
        show_default=False,
    ),
]


class Norm(str, Enum):
    """The norms that perturbations can be measured in."""

    l2 = "l2"
    linf = "linf"
    l1 = "l1"

    @property
    def p(self) -> float:
        """As a number."""
        return {"l2": 2.0, "linf": math.inf, "l1": 1.0}[self.value]


Size = Annotated[Norm, typer.Option("--norm", help="The norm that perturbations are measured in.")]


class Bound(str, Enum):
    """The lower bounds that can be named on the command line."""

    auto = "auto"
    lipschitz = "lipschitz"
    interval = "interval"
    linear = "linear"
    quadratic = "quadratic"
    branch = "branch-and-bound"
    published = "published"
    curvature_free = "published-curvature-free"


Bounds = Annotated[
    list[Bound],
    typer.Option(
        "--method",
        help="auto climbs from lipschitz to branch-and-bound in --seconds; the published formulas are estimates. "
        "May be given several times.",
    ),
]


def certify(
    model: Model,
    data: Data,
    out: Out = Path("runs/certify"),
    architecture: Architecture = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    method: Bounds = [Bound.lipschitz],  # noqa: B006 - typer copies it
    norm: Size = Norm.l2,
    box: Box = None,
    seconds: Seconds = 1.0,
    steps: Steps = 60,
    sharpness: Sharpness = 10.0,
    layer_loss: LayerLoss = None,
    labels: Labels = False,
    batch_size: BatchSize = 500,
    overwrite: Overwrite = False,
) -> None:
    """Lower bounds: how small, at least, a perturbation must be that changes each sample's class.

    Example: pertbound certify --model checkpoints/lenet_mnist.safetensors --architecture lenet --data mnist
    --data-dir data --limit 20 --method auto --seconds 2 --box 0 1 --out runs/certify
    """
    within = Ball(p=norm.p, box=box)
    options = {"methods": [m.value for m in method], "norm": norm.value, "box": box, "labels": labels}
    _ask("Certified", model, architecture, data, data_dir, limit, out, labels, batch_size, overwrite, 0, within)(
        _bounds(method, sharpness, seconds, steps), options | {"seconds": seconds, "steps": steps}, layer_loss
    )


def attack(
    model: Model,
    data: Data,
    out: Out = Path("runs/attack"),
    architecture: Architecture = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    method: Attacks = None,
    norm: Size = Norm.l2,
    box: Box = None,
    max_epsilon: MaxEpsilon = 100 / 255,
    labels: Labels = False,
    batch_size: BatchSize = 500,
    overwrite: Overwrite = False,
) -> None:
    """Upper bounds: how small, at most, with the misclassified inputs that show it.

    Example: pertbound attack --model checkpoints/lenet_mnist.safetensors --architecture lenet --data mnist
    --data-dir data --limit 100 --attack ddn --attack fgs --box 0 1 --out runs/attack
    """
    within = Ball(p=norm.p, box=box)
    attacks = _attacks(method or [quick(norm.p)], max_epsilon)
    options = {"attacks": [a.name for a in attacks], "norm": norm.value, "box": box, "max_epsilon": max_epsilon}
    _ask("Attacked", model, architecture, data, data_dir, limit, out, labels, batch_size, overwrite, None, within)(
        attacks, options | {"labels": labels}
    )


def bracket(
    model: Model,
    data: Data,
    out: Out = Path("runs/bracket"),
    architecture: Architecture = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    method: Bounds = [Bound.lipschitz],  # noqa: B006 - typer copies it
    seconds: Seconds = 1.0,
    steps: Steps = 60,
    attack: Attacks = None,
    budget: Budget = None,
    ratio: Ratio = 0.99,
    norm: Size = Norm.l2,
    box: Box = None,
    max_epsilon: MaxEpsilon = 100 / 255,
    layer_loss: LayerLoss = None,
    labels: Labels = False,
    batch_size: BatchSize = 500,
    overwrite: Overwrite = False,
) -> None:
    """Both: the interval that holds the size of each sample's smallest adversarial perturbation.

    The attacks come first; certificates stop where they have nothing more to prove. With --norm and --box both sides
    are about that norm, and about inputs in that range.

    Example: pertbound bracket --model model.pt2 --data samples.npz --budget 2 --out runs/bracket
    """
    within = Ball(p=norm.p, box=box)
    if budget is not None:
        if not 0 < budget < math.inf or not 0 < ratio <= 1:
            raise InputError(f"--budget must be positive and finite, --ratio above 0 and at most 1: {budget}, {ratio}")
        options = {"budget": budget, "ratio": ratio, "norm": norm.value, "box": box, "labels": labels}
        _ask("Bracketed", model, architecture, data, data_dir, limit, out, labels, batch_size, overwrite, None, within)(
            (), options, layer_loss
        )
        return
    attacks = _attacks(attack or [quick(norm.p), "fgs"], max_epsilon)
    options = {"attacks": [a.name for a in attacks], "methods": [m.value for m in method], "norm": norm.value}
    options |= {"box": box, "max_epsilon": max_epsilon, "seconds": seconds, "steps": steps, "labels": labels}
    _ask("Bracketed", model, architecture, data, data_dir, limit, out, labels, batch_size, overwrite, None, within)(
        (*attacks, *_bounds(method, 10.0, seconds, steps)), options, layer_loss
    )


def _attacks(names: Sequence[str], max_epsilon: float) -> tuple[Attack, ...]:
    sign = FastGradientSign(max_epsilon=max_epsilon)
    known = {name: named(name) for name in names}
    return tuple(sign if isinstance(method, FastGradientSign) else method for method in known.values())


def _bounds(chosen: Sequence[Bound], sharpness: float, seconds: float, steps: int) -> tuple[Method, ...]:
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds must be positive and finite, got {seconds}")
    if not 0 < sharpness < float("inf"):
        raise InputError(f"--sharpness must be positive and finite, got {sharpness}")
    known: dict[Bound, Method] = {
        Bound.auto: Auto(seconds=seconds),
        Bound.lipschitz: Lipschitz(),
        Bound.interval: Interval(),
        Bound.linear: LinearRelaxation(),
        Bound.quadratic: QuadraticRelaxation(steps=steps),
        Bound.branch: BranchAndBound(seconds=seconds),
        Bound.published: Published(relu=Softened(sharpness=sharpness)),
        Bound.curvature_free: Published(relu=CurvatureFree()),
    }
    return tuple(known[bound] for bound in dict.fromkeys(chosen))


def _ask(
    verb: str,
    model: Path,
    architecture: str | None,
    data_name: str,
    data_dir: Path | None,
    limit: int | None,
    out: Path,
    labels: bool,
    batch_size: int,
    overwrite: bool,
    keep_witnesses: int | None,
    within: Ball | None = None,
) -> Callable[..., None]:
    """What the three commands share; returns the step that does the work."""
    screen = console()
    require_free(out, overwrite)
    network = read_network(model, architecture)
    data = read_data(data_name, data_dir, limit, network)
    measured = Measured(len(data), len(data) if keep_witnesses is None else keep_witnesses)

    def work(methods: tuple[Method, ...], options: dict[str, Any], layer_loss: int | None = 0) -> None:
        try:
            with progress(screen) as tell:
                common: dict[str, Any] = {"against_labels": labels, "within": within or Ball()}
                common |= {"batch_size": batch_size, "on_progress": tell}
                if "budget" in options:
                    budget, ratio = options["budget"], options["ratio"]
                    measure_closing(network, data, measured, budget=budget, ratio=ratio, **common)
                else:
                    measure(network, data, methods, measured, **common)
        except KeyboardInterrupt:
            if not measured.done:
                raise
        title = f"{verb}: {model.name} on {data.name}"
        about = about_run(title, network, model.name, data, measured, options, command_line(), within)
        run = records.Run(measured.rows, about, measured.witnesses)
        records.write(out, run)
        print_summary(screen, run)
        losses = losses_by_default(methods) if layer_loss is None else layer_loss
        certified = "budget" in options or any(isinstance(method, Certificate) for method in methods)
        if measured.complete and layer_loss != 0 and certified:
            # the run is on disk already: this may be interrupted
            with suppress(KeyboardInterrupt), progress(screen) as tell:
                layers = by_layer(
                    network,
                    data,
                    measured,
                    losses=losses,
                    certificate=certificate_for(methods),
                    against_labels=labels,
                    within=within or Ball(),
                    on_progress=tell,
                )
                records.write_layers(out, layers)
        said = f"Rows: {out / 'rows.parquet'}. Look at them with: pertbound report {out}"
        screen.print(said, markup=False, highlight=False, soft_wrap=True)
        if not measured.complete:
            raise typer.Exit(130)

    return work
