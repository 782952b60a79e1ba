"""What every attack must keep: witnesses that are none, boxes that are left, distances that are too good to be true.

A check takes the attack it is about; what it asks is fixed here, so that `tests/mutants` can run the same checks on a
broken library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from contracts.certificates import BOXES, NORMS, SMOOTH, Question, question
from oracles.exact import long
from oracles.networks import chain, random_relu_graph
from oracles.whole import exact_values
from pertbound.attacks import (
    DDN,
    FMN,
    LBFGS,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    Ensemble,
    FastGradientSign,
    attack,
)
from pertbound.graph import Graph, in_float64
from pertbound.layers import Dense
from pertbound.problem import Problem, Witness
from pertbound.sets import Ball

ATTACKS: dict[str, Attack] = {
    "fgs": FastGradientSign(max_epsilon=8.0, probes=40),
    "deepfool": DeepFool(),
    "ddn": DDN(steps=15),
    "fmn": FMN(steps=15),
    "pgd": PGD(steps=15, radii=8),
    "cw": CarliniWagner(steps=40, searches=4),
    "lbfgs": LBFGS(targets=1, steps=10),
    "ensemble": Ensemble(attacks=(DeepFool(), FMN(steps=15, restarts=1), DDN(steps=15, restarts=1))),
}
"""Cheap ones of each kind."""
SLACK = 1e-6
"""How much nearer than the oracle's minimum, relatively, a witness may seem: the oracle's tolerance."""


# --- one answer -------------------------------------------------------------------------------------------------------


def demand_honest(asked: Question, found: Witness) -> Tensor:
    """Misclassified in long double, in the box, as far away as was said, no nearer than possible; shares of the exact
    distance, infinite where nothing was found.
    """
    name = f"{asked.name}: {found.method}"
    z, x = long(found.adversarial), long(asked.x)
    assert found.adversarial.dtype == asked.x.dtype
    assert found.within is asked.ball
    assert np.isfinite(z).all(), f"{name} gives {z}"
    logits = exact_values(asked.graph, z)[asked.graph.output.name]
    own = np.take_along_axis(logits, found.reference.numpy()[:, None], 1)[:, 0]
    np.put_along_axis(logits, found.reference.numpy()[:, None], -np.inf, 1)
    wrong = logits.max(1) > own
    hit = found.found.numpy()
    assert wrong[hit].all(), f"{name}: not misclassified: {np.flatnonzero(hit & ~wrong)}"
    assert torch.equal(found.adversarial[~found.found], asked.x[~found.found])
    low, high = (-math.inf, math.inf) if asked.ball.box is None else asked.ball.box
    for end, sign in ((low, 1), (high, -1)):
        gap = sign * (z - long(torch.as_tensor(end, dtype=torch.float64)))
        assert (gap >= 0).all(), f"{name} leaves the box by {-gap.min()}"
    r = np.abs(z - x).reshape(len(x), -1)
    true = {"l2": np.sqrt((r * r).sum(1)), "linf": r.max(1), "l1": r.sum(1)}
    for norm, value in true.items():
        said = getattr(found, norm)
        assert said.dtype == torch.float64
        assert not bool(said.isnan().any())
        assert torch.equal(torch.isinf(said), ~found.found), f"{name}: {said.tolist()}"
        assert (long(said)[hit] >= value[hit]).all(), f"{name}: {norm} said to be {said.tolist()}, is {value}"
        assert (long(said)[hit] <= value[hit] * (1 + 1e-9)).all(), f"{name}: {norm} said {said.tolist()}, is {value}"
    share = found.distance / asked.exact
    norm = {1.0: "l1", 2.0: "l2", math.inf: "linf"}[asked.ball.p]
    assert torch.equal(found.distance, getattr(found, norm))
    possible = asked.name.startswith(SMOOTH) or bool((share >= 1 - SLACK).all())  # of smooth ones no minimum is known
    assert possible, f"{name} at {found.distance.tolist()}, the nearest at {asked.exact.tolist()}"
    return share


def asked_of(method: Attack, asked: Question, **options: Any) -> Witness:
    """What an attack answers."""
    return attack(asked.graph, asked.x, method, within=asked.ball, **options)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_witnesses(method: Attack, questions: Iterable[Question]) -> Tensor:
    """Every answer is honest; the shares of the exact distances."""
    return torch.cat([demand_honest(asked, asked_of(method, asked)) for asked in questions])


def closed_form(asked: Question) -> Tensor:
    """min over j of (logit_c - logit_j) / dual norm(w_c - w_j), for a linear classifier without a box."""
    (node,) = asked.graph.nodes
    assert isinstance(node.layer, Dense)
    assert node.layer.bias is not None
    w, b = long(node.layer.weight), long(node.layer.bias)
    dual = {1.0: np.inf, 2.0: 2, math.inf: 1}[asked.ball.p]
    distances = []
    for x in long(asked.x):
        logits = w @ x + b
        c = int(logits.argmax())
        others = [j for j in range(len(w)) if j != c]
        distances.append(
            min((logits[c] - logits[j]) / np.linalg.norm((w[c] - w[j]).astype(float), dual) for j in others)
        )
    return torch.tensor(np.array(distances, dtype=float))


def check_linear_classifiers(method: Attack, *, tolerance: float = 0.01) -> None:
    """Within 1 % of the closed form, and in boxes of the exact distance, in every norm that the attack is made for."""
    for p in sorted(method.norms):
        for box in BOXES:
            asked = question("linear", p, box, samples=4)
            if box == "free":
                expected = closed_form(asked)
                assert torch.allclose(asked.exact, expected, rtol=1e-6), "the oracles disagree"
            share = demand_honest(asked, asked_of(method, asked))
            assert float(share.max()) <= 1 + tolerance, f"{asked.name}: {method.name} reaches {share.tolist()}"


def check_batches(method: Attack, questions: Iterable[Question]) -> None:
    """The same answer one by one and all at once.

    But for rounding: another last bit can decide which way a search goes, so one sample may end a little apart.
    """
    for asked in questions:
        whole = asked_of(method, asked)
        parts = asked_of(method, asked, batch_size=1)
        assert torch.equal(parts.found, whole.found), f"{asked.name}: {method.name} one by one"
        ratio = (parts.distance / whole.distance)[whole.found]
        said = f"{asked.name}: {parts.distance.tolist()} and {whole.distance.tolist()}"
        assert int(((ratio - 1).abs() > 1e-3).sum()) <= 1, said
        assert bool(((ratio - 1).abs() < 0.1).all()), said


def check_fails_closed(method: Attack) -> None:
    """Models whose logits are not numbers, everywhere or somewhere, are never fooled."""
    generator = torch.Generator().manual_seed(5)
    graph = random_relu_graph(generator, (4, 6, 3))
    x = torch.randn(5, 4, generator=generator)
    nowhere = Graph(graph.nodes, graph.input_shape, original=lambda z: torch.full((len(z), 3), torch.nan))
    _demand_nothing(method, nowhere, x)
    steep = 3e38 * torch.randn(3, 4, generator=generator).sign()
    overflowing = chain([Dense((4,), steep, torch.zeros(3))], (4,))
    for scale in (0.01, 1.0, 100.0):  # logits are finite at x and not farther out; nowhere; nowhere
        found = attack(overflowing, scale * x, method)
        assert bool(torch.isfinite(found.adversarial).all())
        assert not bool(found.distance.isnan().any())
        assert torch.equal(torch.isfinite(found.distance), found.found)
        with torch.no_grad():
            logits = overflowing.run(found.adversarial[found.found])
        assert bool(torch.isfinite(logits).all()), f"{method.name} believes {logits.tolist()}"


def _demand_nothing(method: Attack, graph: Graph, x: Tensor) -> None:
    found = attack(graph, x, method)
    assert not bool(found.found.any()), f"{method.name} claims to have fooled NaN"
    assert bool(torch.isinf(found.distance).all())
    assert torch.equal(found.adversarial, x)


@final
@dataclass(frozen=True, kw_only=True)
class Claims(Attack):
    """Claims whatever it was told to."""

    claim: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return "claims"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        return self.claim(problem.x)


def check_false_claims() -> None:
    """Candidates that are x, on the boundary, not numbers, or outside the box are no witnesses; one inside is."""
    graph = chain([Dense((2,), torch.eye(2), torch.zeros(2))], (2,))
    x = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    ball = Ball(box=(0.0, 3.0))
    swapped = x.flip(1)
    outside = swapped * torch.tensor([[1.0, 3.001 / 2], [3.001 / 2, 1.0]])
    for false in (x, torch.full_like(x, 1.5), torch.full_like(x, torch.nan), torch.full_like(x, torch.inf), outside):
        found = attack(graph, x, Claims(claim=lambda _, z=false: z), within=ball)
        assert not bool(found.found.any()), f"{false.tolist()} is believed"
        assert torch.equal(found.adversarial, x)
    true = attack(graph, x, Claims(claim=lambda x: x.flip(1)), within=ball)
    assert bool(true.found.all())
    assert torch.allclose(true.distance, torch.tensor(2.0, dtype=torch.float64).sqrt())

    def stubborn(z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x.argmax(1)[: len(z)], 2).to(z.dtype)

    told = Graph(graph.nodes, graph.input_shape, original=stubborn)
    assert not bool(attack(told, x, Claims(claim=lambda x: x.flip(1)), within=ball).found.any())


def check_ensemble(questions: Iterable[Question]) -> None:
    """No farther than any of its members, and the names are those of members that were nearest."""
    members = (FastGradientSign(max_epsilon=8.0, probes=40), DeepFool(), FMN(steps=15, restarts=1, targets=0))
    for asked in questions:
        both = asked_of(Ensemble(attacks=members), asked)
        alone = [asked_of(member, asked) for member in members]
        nearest = torch.stack([found.distance for found in alone]).amin(0)
        demand_honest(asked, both)
        assert bool((both.distance <= nearest).all()), f"{asked.name}: {both.distance.tolist()}, {nearest.tolist()}"
        assert len(both.methods) == len(asked.x)
        for i, who in enumerate(both.methods):
            (found,) = [found for found in alone if found.method == who]
            assert float(found.distance[i]) <= 1.0002 * float(nearest[i]), f"{asked.name}: {who} was not the nearest"


def repeated(asked: Question, count: int) -> Question:
    """The same question in float64 about samples around these; nothing is said of exact distances.

    In float32 what another batch rounds otherwise can be the start of another way to another witness.
    """
    generator = torch.Generator().manual_seed(3)
    many = asked.x.repeat(count, *(1 for _ in asked.x.shape[1:])).to(torch.float64)
    many = asked.ball.clamped(many + 0.1 * torch.randn(many.shape, generator=generator, dtype=many.dtype))
    return replace(asked, graph=asked.graph.derive(in_float64), x=many, exact=torch.zeros(len(many)).double())


PLACES = [
    (kind, NORMS[(i + j) % 3], BOXES[(i + 2 * j) % 3])
    for j in range(2)
    for i, kind in enumerate(("two layers", "five classes", "max pooling", "residual", "float64", "tanh"))
]
"""Networks, norms and boxes that every attack is asked about."""
