"""`certify`, `attack` and `bracket`: one model, one data set, rows."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from pertbound.attacks import ATTACKS, named, quick
from pertbound.cli.options import Asked, asks
from pertbound.cli.running import answer
from pertbound.experiments.layers import LOSSES
from pertbound.experiments.question import NORMS, Question

MaxEpsilon = Annotated[
    float | None,
    typer.Option(
        "--max-epsilon",
        help="For fgs: largest step tried, in units of the input; otherwise 100/255 (times --scale), as in the paper.",
        show_default=False,
    ),
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


@asks
def certify(
    asked: Asked,
    method: Bounds = [Bound.lipschitz],  # noqa: B006 - typer copies it
    seconds: Seconds = 1.0,
    steps: Steps = 60,
    sharpness: Sharpness = 10.0,
    layer_loss: LayerLoss = None,
) -> None:
    """Lower bounds: how small, at least, a perturbation must be that changes each sample's class.

    Example: pertbound certify --model checkpoints/lenet_mnist.safetensors --architecture lenet --data mnist
    --data-dir data --limit 20 --method auto --seconds 2 --box 0 1 --out runs/certify
    """
    question = Question(
        methods=tuple(m.value for m in method),
        seconds=seconds,
        steps=steps,
        sharpness=sharpness,
        norm=asked.norm.value,
        box=asked.box,
        labels=asked.labels,
    )
    answer("Certified", asked, question, layer_loss=layer_loss)


@asks
def attack(
    asked: Asked,
    attack: Attacks = None,
    max_epsilon: MaxEpsilon = None,
) -> None:
    """Upper bounds: how small, at most, with the misclassified inputs that show it.

    Example: pertbound attack --model checkpoints/lenet_mnist.safetensors --architecture lenet --data mnist
    --data-dir data --limit 100 --attack ddn --attack fgs --box 0 1 --out runs/attack
    """
    question = Question(
        attacks=_names(attack or [quick(NORMS[asked.norm.value])]),
        max_epsilon=_largest(max_epsilon, asked),
        norm=asked.norm.value,
        box=asked.box,
        labels=asked.labels,
    )
    answer("Attacked", asked, question)


@asks
def bracket(
    asked: Asked,
    method: Bounds = [Bound.lipschitz],  # noqa: B006 - typer copies it
    seconds: Seconds = 1.0,
    steps: Steps = 60,
    attack: Attacks = None,
    max_epsilon: MaxEpsilon = None,
    budget: Budget = None,
    ratio: Ratio = 0.99,
    layer_loss: LayerLoss = None,
) -> None:
    """Both: the interval that holds the size of each sample's smallest adversarial perturbation.

    The attacks come first; certificates stop where they have nothing more to prove. With --norm and --box both sides
    are about that norm, and about inputs in that range.

    Example: pertbound bracket --model model.pt2 --data samples.npz --budget 2 --out runs/bracket
    """
    question = Question(
        attacks=_names(attack or [quick(NORMS[asked.norm.value]), "fgs"]),
        methods=tuple(m.value for m in method),
        seconds=seconds,
        steps=steps,
        max_epsilon=_largest(max_epsilon, asked),
        budget=budget,
        ratio=ratio,
        norm=asked.norm.value,
        box=asked.box,
        labels=asked.labels,
    )
    answer("Bracketed", asked, question, layer_loss=layer_loss)


def _largest(max_epsilon: float | None, asked: Asked) -> float:
    return 100 / 255 * (asked.scale or 1.0) if max_epsilon is None else max_epsilon


def _names(attacks: list[str]) -> tuple[str, ...]:
    for name in attacks:
        named(name)  # refuses what there is not, before anything is read
    return tuple(attacks)
