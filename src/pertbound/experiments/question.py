"""What a run asks, in plain values: what its folder keeps, and what another process or a later day can ask again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

from pertbound.attacks import Attack, FastGradientSign, named
from pertbound.certificates import (
    Auto,
    BranchAndBound,
    Certificate,
    CurvatureFree,
    Estimator,
    Interval,
    LinearRelaxation,
    Lipschitz,
    Published,
    QuadraticRelaxation,
    Softened,
)
from pertbound.errors import InputError, RunError
from pertbound.experiments.work import Method
from pertbound.sets import Ball

BOUNDS = (
    *("auto", "lipschitz", "interval", "linear", "quadratic", "branch-and-bound"),
    *("published", "published-curvature-free"),
)
"""The lower bounds that can be named; the published ones are estimates."""
NORMS = {"l2": 2.0, "linf": math.inf, "l1": 1.0}
"""The norms that perturbations can be measured in, and their numbers."""
SLOW = ("auto", "linear", "quadratic", "branch-and-bound", "cw", "ensemble", "lbfgs")
"""Methods that take so long that few samples make a shard."""


@final
@dataclass(frozen=True, kw_only=True)
class Question:
    """Lower bounds and attacks by name, with their options; or a `budget` of seconds for each sample, up to a `ratio`.

    `norm` is one of `NORMS`, `box` what perturbed inputs must stay in, `labels` whether the class to be left is the
    label. Raises `InputError` for what makes no sense.
    """

    attacks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    norm: str = "l2"
    box: tuple[float, float] | None = None
    labels: bool = False
    budget: float | None = None
    ratio: float = 0.99
    seconds: float = 1.0
    steps: int = 60
    sharpness: float = 10.0
    max_epsilon: float = 100 / 255

    def __post_init__(self) -> None:
        if self.budget is not None and not (0 < self.budget < math.inf and 0 < self.ratio <= 1):
            raise InputError(
                f"--budget must be positive and finite, --ratio above 0 and at most 1: {self.budget}, {self.ratio}"
            )
        for name in ("seconds", "sharpness"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} must be positive and finite, got {getattr(self, name)}")
        if unknown := [name for name in self.methods if name not in BOUNDS]:
            raise InputError(f"there is no lower bound {unknown[0]!r}; there are {', '.join(BOUNDS)}")
        if self.norm not in NORMS:
            raise InputError(f"there is no norm {self.norm!r}; there are {', '.join(NORMS)}")

    @property
    def within(self) -> Ball:
        """The norm and the box."""
        return Ball(p=NORMS[self.norm], box=self.box)

    @property
    def closing(self) -> tuple[float, float] | None:
        """The budget and the ratio, if there is a budget."""
        return None if self.budget is None else (self.budget, self.ratio)

    @property
    def slow(self) -> bool:
        """Whether a sample takes about a second, or more."""
        return self.budget is not None or any(name in SLOW for name in (*self.methods, *self.attacks))

    def all_methods(self) -> tuple[Method, ...]:
        """The attacks, which tell certificates where to stop, and then the lower bounds."""
        attacks = [named(name) for name in dict.fromkeys(self.attacks)]
        sign = FastGradientSign(max_epsilon=self.max_epsilon)
        found: list[Attack | Certificate | Estimator] = [
            sign if isinstance(a, FastGradientSign) else a for a in attacks
        ]
        return (*found, *(self._bound(name) for name in dict.fromkeys(self.methods)))

    def _bound(self, name: str) -> Certificate | Estimator:
        known: dict[str, Certificate | Estimator] = {
            "auto": Auto(seconds=self.seconds),
            "lipschitz": Lipschitz(),
            "interval": Interval(),
            "linear": LinearRelaxation(),
            "quadratic": QuadraticRelaxation(steps=self.steps),
            "branch-and-bound": BranchAndBound(seconds=self.seconds),
            "published": Published(relu=Softened(sharpness=self.sharpness)),
            "published-curvature-free": Published(relu=CurvatureFree()),
        }
        return known[name]

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it, without what has no part in this question."""
        under_budget = {
            "attacks",
            "methods",
            "seconds",
            "steps",
            "max_epsilon",
            "sharpness",
        }  # which chooses for itself
        left_out = {"budget", "ratio"} if self.budget is None else under_budget
        left_out |= set() if "fgs" in self.attacks else {"max_epsilon"}
        left_out |= set() if "published" in self.methods else {"sharpness"}
        left_out |= set() if self.methods else {"seconds", "steps"}
        left_out |= {name for name in ("attacks", "methods") if not getattr(self, name)}
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def question_of(options: Mapping[str, Any]) -> Question:
    """The question that a run's options say. Raises `RunError` where they say none."""
    known = {field.name for field in fields(Question)}
    given: dict[str, Any] = {name: value for name, value in options.items() if name in known}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        found = Question(**given)
    except (TypeError, InputError) as error:
        raise RunError(f"the run's options are no question that can be asked again: {error}") from error
    if not (found.methods or found.attacks or found.budget):
        raise RunError("the run does not say what it asked: it is one of a demo or a study")
    return found
