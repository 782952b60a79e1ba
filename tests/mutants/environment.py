"""Libraries that heed the caller's modes, or what these flush, each with the check that must notice."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

from contracts.environment import QUICK, STATES, check_answers, check_flushed_noise, check_kept_facts, flushing
from pertbound import balance, environment, graph
from pertbound.certificates import relaxed
from pertbound.environment import denormals_flushed
from pertbound.layers import Activation, Add, Dense, LeakyReLU, Linear, Multiply
from pertbound.numerics import TINY32, UNIT32, gamma

Mutant = Callable[[], AbstractContextManager[object]]


def _answers() -> None:
    with patch.object(balance, "STEPS", 5):
        check_answers({"flushing": flushing}, QUICK)


def _facts() -> None:
    layer = Dense((2,), torch.full((2, 2), 1e-40), torch.full((2,), 1e-40))
    for state in STATES.values():
        check_kept_facts(layer, state)


def _noise() -> None:
    far, near = torch.full((1, 3), 1e30), torch.full((1, 3), 1e-40)
    check_flushed_noise(Dense((3,), torch.full((2, 3), 1e-40), None), far)
    check_flushed_noise(LeakyReLU((3,), 1e-40), -far)
    check_flushed_noise(Multiply((3,)), near, far)
    check_flushed_noise(Add(), near, near)


CHECKS: dict[str, Callable[[], None]] = {"answers": _answers, "facts": _facts, "noise": _noise}


def _cached_under_flush() -> AbstractContextManager[object]:
    """As it was: the relaxed certificates flush all along, and what is derived meanwhile is kept."""
    stack = ExitStack()
    stack.enter_context(patch.object(relaxed, "known_state", denormals_flushed))
    stack.enter_context(patch.object(graph, "known_state", nullcontext))
    return stack


@contextmanager
def _nothing_known():
    yield


def _linear(self: Linear, *norms: Tensor, unit: float = UNIT32) -> Tensor:
    size = self.absolute_norm_upper * norms[0] + self.bias_norm_upper
    flushed = 2 * (self.terms + 1) * math.sqrt(math.prod(self.output_shape))
    flushed = flushed + self.absolute_norm_upper * math.sqrt(math.prod(self.input_shape))
    return gamma(self.terms + 2, unit) * size + flushed * TINY32


def _activation(self: Activation, *norms: Tensor, unit: float = UNIT32) -> Tensor:
    return 8 * unit * self.steepest * norms[0] * 0 + 8 * TINY32 * math.sqrt(math.prod(self.input_shape))


def _product(self: Multiply, *norms: Tensor, unit: float = UNIT32) -> Tensor:
    return 2 * unit * norms[0] * norms[1] + TINY32 * math.sqrt(math.prod(self.input_shape))


def _sum(self: Add, *norms: Tensor, unit: float = UNIT32) -> Tensor:
    return len(norms) * unit * torch.stack(norms).sum(0)


MUTANTS: dict[str, tuple[Mutant, str]] = {
    "facts are cached while denormals are flushed": (_cached_under_flush, "answers"),
    "layers keep what the caller's mode makes of it": (
        lambda: patch.object(environment, "known_state", _nothing_known),
        "facts",
    ),
    "flushed weights cost nothing": (lambda: patch.object(Linear, "noise", _linear), "noise"),
    "flushed slopes cost nothing": (lambda: patch.object(Activation, "noise", _activation), "noise"),
    "flushed factors cost nothing": (lambda: patch.object(Multiply, "noise", _product), "noise"),
    "flushed summands cost nothing": (lambda: patch.object(Add, "noise", _sum), "noise"),
}
