"""Attacks that Foolbox has, as attacks like any other: `pip install pertbound[foolbox]`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from pertbound.attacks.base import Attack
from pertbound.attacks.nearest import Nearest
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.problem import Problem

STRETCHES = (1.0, 1.0001, 1.01)
"""How far beyond Foolbox's points, from x, witnesses are looked for: what only just misclassifies is none here."""


@final
@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(Attack):
    """One of Foolbox's attacks (Rauber et al. 2020); its witnesses are run again and measured like any other's.

    `attack` is the name of a class in `foolbox.attacks`, which gets its usual options, or an attack that was made
    already, with the options that it should have; which norm it searches in, its name says. One that wants to know how
    far to go tries each of `epsilons`, in its own norm and the units of x; the others take none.

    Foolbox must be told what range inputs have: that of the box asked about, or `bounds` where it has no end. Global
    random numbers are seeded with `seed` and afterwards as they were; they are drawn for a whole batch, so that
    witnesses may depend on the batch size.
    """

    attack: Any = field(kw_only=False)
    epsilons: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` where Foolbox is not installed, has no such attack, or the options cannot be meant."""
        made, kinds = self._made(), _foolbox().attacks.base
        if not isinstance(made, (kinds.MinimizationAttack, kinds.FixedEpsilonAttack)):
            raise InputError(f"{self.attack!r} is none of Foolbox's attacks; give a name such as 'LInfFMNAttack'")
        if isinstance(made, kinds.FixedEpsilonAttack) != bool(self.epsilons):
            remedy = (
                "looks for the smallest by itself: leave epsilons out" if self.epsilons else "needs epsilons=(...,)"
            )
            raise InputError(f"{type(made).__name__} {remedy}")
        if any(not 0 < epsilon < math.inf for epsilon in self.epsilons):
            raise InputError(f"epsilons must be positive and finite, got {self.epsilons}")
        if self.bounds is not None and not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise InputError(f"bounds must be (low, high), both finite, with low < high, got {self.bounds}")

    @property
    def name(self) -> str:
        """foolbox, with the class of the attack and the sizes that it tries."""
        return f"foolbox({', '.join([type(self._made()).__name__, *(f'{e:g}' for e in self.epsilons)])})"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """What the attack returns, put into the box, or a little beyond; x where nothing was found."""
        foolbox = _foolbox()
        with torch.inference_mode(False):
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            with torch.no_grad():
                nearest.probe(x)
            rows = (nearest.distance > 0).nonzero().flatten()
            if len(rows) == 0:
                return x
            part = nearest.take(rows)
            model = foolbox.PyTorchModel(
                _Module(problem.network).eval(), bounds=self._range(problem), device=str(x.device)
            )
            with _seeded(self.seed), torch.enable_grad():
                criterion = foolbox.criteria.Misclassification(part.reference)
                _, found, _ = self._made()(model, part.x, criterion, epsilons=list(self.epsilons) or None)
            with torch.no_grad():
                for points in found if isinstance(found, list) else [found]:
                    for stretch in STRETCHES:
                        part.probe(part.inside(x[rows] + stretch * (points.detach() - x[rows])))
            nearest.put(rows, part)
        return nearest.point

    def _made(self) -> Any:
        """The attack itself."""
        if not isinstance(self.attack, str):
            return self.attack
        kind = getattr(_foolbox().attacks, self.attack, None)
        if not isinstance(kind, type):
            raise InputError(f"Foolbox has no attack {self.attack!r}; names are as in foolbox.attacks")
        return kind()

    def _range(self, problem: Problem) -> tuple[float, float]:
        """What Foolbox is told about the inputs."""
        ends = problem.within.inner_ends(problem.x)
        low, high = float(ends[0].min()), float(ends[1].max())
        if self.bounds is not None:
            low, high = max(low, self.bounds[0]), min(high, self.bounds[1])
        least, most = float(problem.x.min()), float(problem.x.max())
        if not (math.isfinite(low) and math.isfinite(high) and low <= least and most <= high):
            raise InputError(
                f"Foolbox needs a finite range that holds all inputs, which go from {least:g} to {most:g}; got {low:g} "
                f"to {high:g}. Ask about a box (within=pb.Ball(box=...)), or give the attack bounds=(low, high)"
            )
        return low, high


@final
class _Module(nn.Module):
    """A graph as Foolbox wants it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.graph.run(x)


@contextmanager
def _seeded(seed: int) -> Generator[None, None, None]:
    """Global random numbers from `seed`; afterwards they go on as if nothing had been drawn."""
    state = np.random.get_state()  # noqa: NPY002 - it is what Foolbox draws from
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _foolbox() -> Any:
    """The library, imported only where it is used."""
    try:
        return importlib.import_module("foolbox")
    except ImportError as error:
        raise InputError("FoolboxAttack needs Foolbox; install it with: pip install 'pertbound[foolbox]'") from error
