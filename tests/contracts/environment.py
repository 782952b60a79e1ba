"""The caller's modes and settings must not change an answer, nor what is kept; what they flush is part of the noise.

A state is a way to be hostile: whatever it sets is put back in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

import pertbound as pb
from oracles.dense import in_float64
from pertbound.environment import flushes_denormals
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Add, Dense, Layer, Multiply, ReLU

State = Callable[[], AbstractContextManager[object]]


@contextmanager
def flushing() -> Generator[None]:
    """Denormals are read and written as 0."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _set(change: Callable[[object], object], now: object, before: object) -> Generator[None]:
    change(now)
    try:
        yield
    finally:
        change(before)


STATES: dict[str, State] = {
    "plain": nullcontext,
    "flushing": flushing,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),  # type: ignore[arg-type]
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "medium precision": lambda: _set(torch.set_float32_matmul_precision, "medium", "highest"),  # type: ignore[arg-type]
    "deterministic": lambda: _set(torch.use_deterministic_algorithms, True, False),  # type: ignore[arg-type]
}


def settings() -> tuple[object, ...]:
    """All that states change, to see that it is put back."""
    return (
        flushes_denormals(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


def denormal_graph() -> Graph:
    """relu(1e8 x) times 1e-40 times 1e32 against 0.5: the classes meet at 0.5, and without the 1e-40 nowhere."""
    weights = (torch.tensor([[1e8]]), torch.tensor([[1e-40]]), torch.tensor([[1e32], [0.0]]))
    nodes = [
        Node("first", Dense((1,), weights[0], None), (INPUT,)),
        Node("relu", ReLU((1,)), ("first",)),
        Node("small", Dense((1,), weights[1], None), ("relu",)),
        Node("logits", Dense((1,), weights[2], torch.tensor([0.0, 0.5])), ("small",)),
    ]
    return Graph(nodes, (1,))


QUICK: tuple[pb.Certificate, ...] = (pb.Lipschitz(), pb.QuadraticRelaxation(steps=2))
DETERMINISTIC: tuple[pb.Certificate, ...] = (*QUICK, pb.Interval(), pb.LinearRelaxation())
TIMED: tuple[pb.Certificate, ...] = (pb.BranchAndBound(seconds=0.02, root_steps=5), pb.Auto(seconds=0.02))


@contextmanager
def all_at_once() -> Generator[None]:
    """Every state inside the next, but for the one that takes seconds to import."""
    with ExitStack() as stack:
        for name in STATES:
            if name != "deterministic":
                stack.enter_context(STATES[name]())
        yield


def check_answers(states: dict[str, State], asked: tuple[pb.Certificate, ...]) -> None:
    """In every state, every certificate asked first and Lipschitz after it: sound, and the same as in the plain one."""
    x = torch.tensor([[0.25]])
    plain: dict[str, list[float]] = {}
    for name, state in {"plain": nullcontext, **states}.items():
        for first in asked:
            graph, before = denormal_graph(), settings()
            with state():
                inside = settings()
                radii = [float(pb.certify(graph, x, c).radius) for c in (first, pb.Lipschitz())]
                assert settings() == inside, f"{name}: {first.name} changed the caller's settings"
            assert settings() == before
            assert all(0.1 < radius <= 0.2501 for radius in radii), f"{name}, {first.name} first: {radii}"
            if first not in TIMED:
                expected = plain.setdefault(first.name, radii)
                assert all(abs(a - b) <= 1e-5 * b for a, b in zip(radii, expected, strict=True)), (name, first.name)


def kept_facts(layer: Layer) -> dict[str, object]:
    """Every property that the layer computes once, by its name."""
    kinds = type(layer).__mro__
    names = {name for kind in kinds for name, value in vars(kind).items() if isinstance(value, cached_property)}
    return {name: getattr(layer, name) for name in sorted(names) if _applies(layer, name)}


def _applies(layer: Layer, name: str) -> bool:
    return not (name == "row_norms_upper" and getattr(layer, "terms", 1) == 0)


def check_kept_facts(layer: Layer, state: State) -> None:
    """What a fresh copy of the layer keeps when it is asked in that state is what it keeps otherwise."""
    expected = kept_facts(replace(layer))  # type: ignore[type-var]
    fresh = replace(layer)  # type: ignore[type-var]
    with state():
        found = kept_facts(fresh)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert _equal(value, expected[name]), f"{type(layer).__name__}.{name} depends on the caller's state"


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b) and not a.is_inference() and not a.requires_grad
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Layer) and isinstance(b, Layer):
        own, others = vars(a), vars(b)
        names = [name for name in own if isinstance(own[name], Tensor) and name in others]
        return type(a) is type(b) and all(_equal(own[name], others[name]) for name in names)
    return a == b


def check_flushed_noise(layer: Layer, *inputs: Tensor) -> None:
    """What the layer computes in float32 while denormals are flushed is within `noise` of the exact value."""
    with torch.no_grad():
        exact = in_float64(layer).forward(*(value.to(torch.float64) for value in inputs))
        with flushing():
            computed = layer.forward(*inputs)
        norms = [torch.linalg.vector_norm(value.to(torch.float64).flatten(1), dim=1)[:, None] for value in inputs]
        allowed = layer.noise(*norms)
        off = torch.linalg.vector_norm((computed.to(torch.float64) - exact).flatten(1), dim=1)
    kind = "Multiply" if isinstance(layer, Multiply) else "Add" if isinstance(layer, Add) else type(layer).__name__
    assert bool((off <= allowed.squeeze(1)).all()), f"{kind}: flushing changes the output by {off.tolist()}"
