"""Certificates held against what the attack and enumeration find, for one network at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pertbound as pb
from redteam.attack import Question, nearest, within
from redteam.grids import enumerated
from redteam.networks import Drawn
from redteam.rounding import misclassified
from redteam.tally import Tally

CERTIFICATES: dict[str, pb.Certificate] = {
    "lipschitz": pb.Lipschitz(),
    "lipschitz, resolved": pb.Lipschitz(floor=0.0),
    "interval": pb.Interval(passes=6),
    "linear, plain boxes": pb.LinearRelaxation(tighten=False, passes=3),
    "linear": pb.LinearRelaxation(passes=3),
    "quadratic": pb.QuadraticRelaxation(steps=4),
    "quadratic, tight boxes": pb.QuadraticRelaxation(steps=4, tighten=True),
    "branch and bound": pb.BranchAndBound(seconds=0.01, root_steps=4, tighten=False),
    "auto": pb.Auto(seconds=0.01),
}
CHEAPER = [
    ("lipschitz, resolved", "interval"),
    ("lipschitz, resolved", "linear"),
    ("lipschitz, resolved", "quadratic"),
    ("lipschitz, resolved", "branch and bound"),
    ("lipschitz, resolved", "auto"),
    ("linear, plain boxes", "linear"),
    ("linear, plain boxes", "quadratic"),
    ("quadratic", "quadratic, tight boxes"),
]
"""The second contains the first, or does in the limit of many steps: how often it is below is counted."""
SETTINGS = [(p, box, labels) for p in (1.0, 2.0, math.inf) for box in (False, True) for labels in (False, True)]


def check(drawn: Drawn, tally: Tally, settings: int = 2, certificates: dict[str, Any] | None = None) -> None:
    """Draw some norms, boxes and labels for the network, and hold all certificates against attacks."""
    try:
        graph = pb.from_torch(drawn.model, drawn.x)
    except pb.PertboundError as error:
        tally[f"networks refused ({type(error).__name__})"] += 1
        return
    tally["networks"] += 1
    for number in range(settings):
        # 5 has no common factor with 12: in turn all combinations
        p, boxed, labelled = SETTINGS[(5 * (settings * drawn.seed + number)) % len(SETTINGS)]
        _check_setting(drawn, graph, tally, p, boxed, labelled, certificates or CERTIFICATES)


def _check_setting(
    drawn: Drawn, graph: pb.Graph, tally: Tally, p: float, boxed: bool, labelled: bool, certificates: dict[str, Any]
) -> None:
    box = ((0.0, 1.0) if float(drawn.x.min()) >= 0 else (-1.0, 1.0)) if boxed else None
    ball = pb.Ball(p=p, box=box)
    with torch.no_grad():
        predicted, classes = drawn.model(drawn.x).argmax(1), graph.classes
    labels = predicted.clone() if labelled else None
    if labels is not None:
        labels[-1] = (labels[-1] + 1) % classes  # a misclassified sample
    said = f"{drawn}; L{p:g}, box {box}, {'labels' if labelled else 'no labels'}"
    radii: dict[str, Tensor] = {}
    reference = predicted if labels is None else labels
    for name, certificate in certificates.items():
        try:
            found = pb.certify(graph, drawn.x, certificate, labels, within=ball)
        except Exception as error:  # noqa: BLE001 any error on a network that was accepted is a fault
            tally.fault(f"{said}: {name} raises {type(error).__name__}: {str(error)[:200]}")
            continue
        tally["certificate checks"] += len(found.radius)
        radii[name] = found.radius
        if not bool(((found.radius >= 0) & ~found.radius.isnan()).all()):
            tally.fault(f"{said}: {name} gives {found.radius.tolist()}")
        if labels is not None and bool((found.radius[found.predicted != labels] > 0).any()):
            tally.fault(f"{said}: {name} certifies a misclassified sample, {found.radius.tolist()}")
        if labels is None and not torch.equal(found.reference, found.predicted):
            tally.fault(f"{said}: {name} has another reference than its prediction")
        reference = found.reference
    if not radii:
        return
    question = Question(drawn.precise, drawn.x.double(), reference, p, box)
    points = _attacked(question, radii, tally, drawn.seed)
    for name, radius in radii.items():
        for row in range(len(radius)):
            for z in points:
                if contradicted(question, z[row], row, float(radius[row])):
                    far = float(question.distance(z)[row])
                    tally.fault(f"{said}: {name} certifies {float(radius[row])!r} at sample {row}, but {far!r} is seen")
                    break
    for cheap, dear in CHEAPER:
        if cheap in radii and dear in radii:
            tally[f"pairs: {cheap} <= {dear}"] += len(radii[cheap])
            tally[f"below: {dear} < {cheap}"] += int((radii[dear] < radii[cheap] * (1 - 1e-6)).sum())
    names = list(certificates)
    name = names[drawn.seed % len(names)]
    upper = torch.stack([question.distance(z).nan_to_num(math.inf) for z in points]).amin(0)
    try:
        radius = pb.certify(graph, drawn.x, certificates[name], labels, within=ball, upper=upper).radius
    except pb.ContradictionError as error:
        tally.fault(f"{said}: {error}")
        return
    tally["checks of upper="] += len(radius)
    if bool((radius > upper).any()):
        tally.fault(f"{said}: {name} gives {radius.tolist()} above upper={upper.tolist()}")


def _attacked(question: Question, radii: dict[str, Tensor], tally: Tally, seed: int) -> list[Tensor]:
    """Points near the samples: from the search, from within the largest certified ball, and from a grid."""
    largest = torch.stack(list(radii.values())).amax(0)
    points = [nearest(question, start=largest, seed=seed), within(question, largest, seed=seed)]
    if question.x[0].numel() <= 3:
        points.append(enumerated(question, largest))
        tally["grids"] += len(largest)
    tally["attacks"] += len(largest) * len(points)
    distances = torch.stack([question.distance(z) for z in points])
    tally["samples with a witness"] += int(torch.isfinite(distances).any(0).sum())
    return points


def contradicted(question: Question, z: Tensor, row: int, radius: float) -> bool:
    """Whether a point on the ray through z, nearer than the radius, is misclassified beyond float64's rounding."""
    if not bool(torch.isfinite(z).all()) or radius <= 0:
        return False
    one = replace(question.take(torch.tensor([row])), x=question.x[row : row + 1])
    moved = z[None] - one.x
    far = float(one.distance(z[None])[0])
    if not far < radius or far > 1e300:
        return False
    last = min(radius / far if far > 0 else 1.0, 1e6)
    along = 1 + (last - 1) * torch.tensor([0.0, 1e-6, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 1e-9], dtype=z.dtype)
    ray = one.x + along.reshape(-1, *(1 for _ in z.shape)) * moved
    ray = ray if one.box is None else ray.clamp(*one.box)
    many = one.take(torch.zeros(len(along), dtype=torch.long))
    with torch.no_grad():
        inside = many.distance(ray) < radius
        margins = many.margins(ray).masked_fill(~inside, -math.inf)
    order = margins.argsort(descending=True)[:3].tolist()
    return any(bool(inside[i]) and misclassified(question.model, ray[i : i + 1], int(one.reference[0])) for i in order)
