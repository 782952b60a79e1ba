"""Facts that frontends declare, for random odd parameters of every operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from contracts import aten_cases, onnx_cases
from contracts.aten_cases import computing, prefixes, program, run
from contracts.aten_shape_cases import arranging
from contracts.dice import Dice
from contracts.facts import Read, check_facts, inputs
from oracles.onnx_models import written
from pertbound.errors import ConversionError, UnsupportedLayerError
from pertbound.frontends.aten import converted
from pertbound.frontends.conversion import Converter
from pertbound.frontends.local_response import with_local_responses
from pertbound.frontends.lp_pool import with_lp_pools
from pertbound.frontends.onnx_operators import OPERATORS
from pertbound.frontends.onnx_shapes import SHAPES
from pertbound.frontends.operators import HANDLERS
from pertbound.frontends.program import Program
from pertbound.frontends.ranges import Range
from pertbound.frontends.rearranging import REARRANGING
from pertbound.graph import Graph
from pertbound.layers import LocalResponse, Standardize

ATEN = computing() | arranging()
ONNX = onnx_cases.onnx_cases()

NEVER = {"aten.t"}
"""Operators that always mix the batch with the sample, which their handler says."""


def _marked(names: set[str], slow: set[str]) -> list[Any]:
    """All names; those that only move entries, which other tests read as well, are tried with the slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in sorted(names)]


def test_every_aten_operator_has_a_case() -> None:
    assert sorted(ATEN) == sorted(HANDLERS)


def read(source: Program, dtype: torch.dtype) -> Read:
    converter = Converter(source, HANDLERS, dtype)
    for call in with_local_responses(with_lp_pools(source.calls)):
        converter.read(call)
    parts = converted(converter, converter.values[source.output])
    return Read(parts.nodes, converter.ranges, parts.finish)


def check_aten(name: str, draw: aten_cases.Draw, number: int, *, layers: int | None = None) -> bool:
    """Whether what was drawn is supported; then all that is declared of it holds, and it computes what PyTorch does."""
    dtype = torch.float64 if number % 3 else torch.float32
    dice = Dice(name, number, dtype)
    drawn = draw(dice)
    source = program(drawn, prefixes(dice, nonnegative=drawn.nonnegative), 2)
    try:
        found = read(source, dtype)
    except UnsupportedLayerError:
        return False
    x = inputs(drawn.shape, dice.generator, drawn.numbers)
    expected = run(source, x, {name: v.double() if v.is_floating_point() else v for name, v in drawn.tensors.items()})
    got, _ = found.run(x)
    finite = expected.isfinite()
    size = torch.where(finite, expected, 0.0).abs().flatten(1).amax(1).reshape(-1, *(1 for _ in expected.shape[1:]))
    allowed = (1e-9 if dtype == torch.float64 else 1e-5) * (1 + size)
    assert got.shape == expected.shape
    assert ((got - expected).abs() <= allowed)[finite].all(), f"computes something else: {drawn.steps}"
    check_facts(found, x, dice.generator, layers=layers)
    return True


@pytest.mark.parametrize("name", _marked({*ATEN} - NEVER, {f"aten.{name}" for name in REARRANGING}))
def test_aten_once(name: str) -> None:
    found = (check_aten(name, ATEN[name], number, layers=1) for number in range(10))
    assert any(found), "nothing that was drawn is supported"


# --- ONNX ------------------------------------------------------------------------------------------------------


class Recorded:
    """The ranges that the last conversion declared."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ranges: dict[str, Range] = {}
        original = Converter.add

        def add(converter: Converter, *arguments: Any) -> Any:
            self.ranges = converter.ranges
            return original(converter, *arguments)

        patch.setattr(Converter, "add", add)

    def of(self, graph: Graph) -> Read:
        return Read(graph.nodes, self.ranges, lambda logits: logits)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def test_every_onnx_operator_has_a_case() -> None:
    assert sorted(ONNX) == sorted(OPERATORS)


def check_onnx(
    name: str, draw: onnx_cases.Draw, number: int, folder: Path, recorded: Recorded, *, layers: int | None = None
) -> bool:
    """Whether what was drawn is supported; then all that is declared of it holds, and onnxruntime computes it, too."""
    dice = Dice(name, number, torch.float32)
    drawn = draw(dice)
    path = written(onnx_cases.whole(drawn, dice), folder)
    try:
        graph = pb.from_onnx(path)
    except UnsupportedLayerError:
        return False
    except ConversionError as error:
        if "onnxruntime refuses" in str(error) or "onnxruntime cannot run" in str(error):
            return False  # no model of the standard
        raise
    x = inputs(drawn.shape, dice.generator, drawn.numbers).to(torch.float32).to(torch.float64)
    assert graph.original is not None
    expected = graph.original(x.to(torch.float32)).to(torch.float64)
    got = graph.run(x.to(torch.float32)).to(torch.float64)
    if name in ("Softmax", "LogSoftmax"):
        got = got.softmax(1) if name == "Softmax" else got.log_softmax(1)
    if any(isinstance(node.layer, Standardize | LocalResponse) for node in graph.nodes):  # differences of large squares
        got, expected = (v[x.abs().flatten(1).amax(1) <= 30] for v in (got, expected))
    allowed = 1e-4 * (1 + expected.abs().flatten(1).amax(1, keepdim=True))
    assert got.shape == expected.shape
    assert ((got - expected).abs() <= allowed)[expected.isfinite()].all(), f"computes something else: {drawn.nodes}"
    check_facts(recorded.of(graph), x, dice.generator, layers=layers)
    return True


@pytest.mark.parametrize("name", _marked({*ONNX}, {*SHAPES}))
def test_onnx_once(name: str, tmp_path: Path, recorded: Recorded) -> None:
    found = (check_onnx(name, ONNX[name], number, tmp_path, recorded, layers=1) for number in range(10))
    assert any(found), "nothing that was drawn is supported"


# --- many draws, and through torch.export and its files ------------------------------------------------------------

MANY = 30


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ATEN} - NEVER))
def test_aten_often(name: str) -> None:
    found = sum(check_aten(name, ATEN[name], number) for number in range(MANY))
    assert found >= MANY / 6, f"only {found} of {MANY} draws are supported"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ONNX))
def test_onnx_often(name: str, tmp_path: Path, recorded: Recorded) -> None:
    found = sum(check_onnx(name, ONNX[name], number, tmp_path, recorded) for number in range(MANY))
    assert found >= MANY / 6, f"only {found} of {MANY} draws are supported"


class Steps(nn.Module):
    """A program as a module, with logits of whatever its result is."""

    def __init__(self, source: Program, dice: Dice) -> None:
        super().__init__()
        self.source, self.names = source, tuple(source.tensors)
        for name, value in source.tensors.items():
            self.register_buffer(f"own_{name}", value)
        with torch.no_grad():
            size = self.value(torch.zeros(source.input_shape, dtype=dice.dtype)).shape[1]
        self.register_buffer("last", torch.randn(size, 3, generator=dice.generator, dtype=dice.dtype))

    def value(self, x: Tensor) -> Tensor:
        return run(self.source, x, {name: getattr(self, f"own_{name}") for name in self.names}).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) @ self.last


def check_module(name: str, number: int, recorded: Recorded, folder: Path) -> bool:
    """As `check_aten`, but through `from_torch`; the file that torch.export writes gives the same ranges."""
    dice = Dice(name, number)
    drawn = ATEN[name](dice)
    source = program(drawn, prefixes(dice, nonnegative=drawn.nonnegative), 2)
    model = Steps(source, dice).eval()
    example = torch.randn(2, *drawn.shape, generator=dice.generator, dtype=dice.dtype)
    try:
        graph = pb.from_torch(model, example)
    except UnsupportedLayerError:
        return False
    read_ = recorded.of(graph)
    x = inputs(drawn.shape, dice.generator, drawn.numbers)
    with torch.no_grad():
        expected = model(x)
    allowed = 1e-9 * (1 + expected.abs().flatten(1).amax(1, keepdim=True))
    assert ((graph.run(x) - expected).abs() <= allowed)[expected.isfinite()].all(), f"something else: {drawn.steps}"
    check_facts(read_, x, dice.generator, layers=2)
    if number % 4 == 0:
        exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.export.save(exported, folder / "model.pt2")
        again = pb.from_pt2(folder / "model.pt2")
        assert torch.allclose(again.run(x), graph.run(x), rtol=1e-12, atol=1e-300, equal_nan=True)
        assert list(recorded.ranges.values()) == list(read_.ranges.values())
    return True


FINAL = {"aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax"}
"""Nothing may follow these."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec", "ignore:The tensor attributes", "ignore:Using padding")
@pytest.mark.parametrize("name", sorted({*ATEN} - NEVER - FINAL))
def test_modules_and_their_files(name: str, tmp_path: Path, recorded: Recorded) -> None:
    found = [check_module(name, number, recorded, tmp_path) for number in range(100, 105)]
    assert any(found), "nothing that was drawn is supported"
