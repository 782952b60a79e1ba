"""Finding Lp pooling in a trace: the whole pattern and nothing but the pattern."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pertbound.errors import PertboundError, UnsupportedLayerError
from pertbound.frontends.aten import convert
from pertbound.frontends.lp_pool import LP_POOL, with_lp_pools
from pertbound.frontends.program import Call, Program, Ref
from pertbound.layers import LpPool


def pattern(dims: int = 2, p: float = 2.0, window: int = 2, **pool: Any) -> list[Call]:
    """The calls that `functional.lp_pool` is traced as, on the value h."""
    sizes = [window] * dims
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("pow_1", "aten.pow.Tensor_Scalar", {"self": Ref("h"), "exponent": p}),
        ("mean", f"aten.avg_pool{dims}d.default", {"self": Ref("pow_1"), "kernel_size": sizes} | pool),
        ("sign", "aten.sign.default", {"self": Ref("mean")}),
        ("abs_1", "aten.abs.default", {"self": Ref("mean")}),
        ("relu", "aten.relu.default", {"self": Ref("abs_1")}),
        ("mul", "aten.mul.Tensor", {"self": Ref("sign"), "other": Ref("relu")}),
        ("mul_1", "aten.mul.Tensor", {"self": Ref("mul"), "other": window**dims}),
        ("pow_2", "aten.pow.Tensor_Scalar", {"self": Ref("mul_1"), "exponent": 1.0 / p}),
    ]
    return [Call(name, target, arguments, f"net ({name})") for name, target, arguments in steps]


HEAD = Call("h", "aten.mul.Tensor", {"self": Ref("x"), "other": 1.5})


def run(calls: list[Call], x: Tensor) -> Tensor:
    """What PyTorch itself computes for the last call."""
    values: dict[str, Any] = {"x": x.clone()}
    for call in calls:
        _, operator, overload = call.target.split(".")
        arguments = {k: values[v.name] if isinstance(v, Ref) else v for k, v in call.arguments.items()}
        values[call.name] = getattr(getattr(torch.ops.aten, operator), overload)(**arguments)
    return values[calls[-1].name]


def graph_output(calls: list[Call], x: Tensor) -> Tensor:
    converted = convert(Program("x", tuple(x.shape), {}, tuple(calls), calls[-1].name))
    values = {"input": x}
    for node in converted.nodes:
        values[node.name] = node.layer.forward(*(values[name] for name in node.inputs))
    return values[converted.nodes[-1].name]


def changed(calls: list[Call], name: str, **arguments: Any) -> list[Call]:
    return [replace(c, arguments=dict(c.arguments) | arguments) if c.name == name else c for c in calls]


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("p", [2.0, 4.0, 2])
def test_the_pattern_becomes_one_call(dims: int, p: float) -> None:
    (call,) = with_lp_pools(pattern(dims, p))
    assert (call.name, call.target, call.where) == ("pow_2", LP_POOL, "net (mean)")
    assert call.arguments["self"] == Ref("h")
    assert (call.arguments["p"], call.arguments["kernel_size"], call.arguments["dims"]) == (p, [2] * dims, dims)
    x = torch.randn(3, 2, *(6,) * dims)
    expected = (functional.lp_pool1d if dims == 1 else functional.lp_pool2d)(1.5 * x, p, 2)
    assert torch.allclose(graph_output([HEAD, *pattern(dims, p)], x), expected, atol=1e-5)


def test_one_size_may_stand_for_all_dimensions() -> None:
    x = torch.randn(2, 1, 4, 4)
    calls = [HEAD, *changed(pattern(), "mean", kernel_size=[2])]
    assert torch.allclose(graph_output(calls, x), run(calls, x), atol=1e-5)


def test_overlapping_windows_keep_their_stride() -> None:
    x = torch.randn(2, 1, 5, 6)
    calls = [HEAD, *pattern(stride=[1, 2])]
    assert torch.allclose(graph_output(calls, x), run(calls, x), atol=1e-5)


def test_other_calls_are_left_alone() -> None:
    tail = Call("y", "aten.relu.default", {"self": Ref("pow_2")})
    assert [call.name for call in with_lp_pools([HEAD, *pattern(), tail])] == ["h", "pow_2", "y"]
    assert with_lp_pools([HEAD, tail]) == [HEAD, tail]
    assert with_lp_pools([]) == []


@pytest.mark.parametrize("name", ["pow_1", "mean", "sign", "abs_1", "relu", "mul", "mul_1"])
def test_a_pattern_whose_inner_value_is_read_elsewhere_is_left_alone(name: str) -> None:
    calls = [HEAD, *pattern(), Call("y", "aten.tanh.default", {"self": Ref(name)})]
    assert with_lp_pools(calls) == calls
    with pytest.raises(UnsupportedLayerError, match="pow"):
        convert(Program("x", (2, 1, 4, 4), {}, tuple(calls), "y"))


@pytest.mark.parametrize("name", ["pow_1", "mean", "sign", "abs_1", "relu", "mul", "mul_1"])
def test_an_inner_value_as_the_output_is_refused(name: str) -> None:
    with pytest.raises(PertboundError):
        convert(Program("x", (2, 1, 4, 4), {}, (HEAD, *pattern()), name))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pow_1", {"exponent": 3.0}),
        ("pow_2", {"exponent": 0.4}),
        ("pow_2", {"exponent": math.nan}),
        ("pow_2", {"exponent": -0.5}),
        ("pow_1", {"exponent": math.nan}),
        ("mul_1", {"other": 3}),
        ("mul_1", {"other": 4.5}),
        ("mul_1", {"other": Ref("mean")}),
        ("mean", {"padding": [1, 1]}),
        ("mean", {"padding": [1]}),
        ("mean", {"padding": 1}),
        ("mean", {"divisor_override": 3}),
        ("mean", {"divisor_override": 4}),
        ("mean", {"ceil_mode": True}),
        ("mean", {"ceil_mode": True, "stride": [3, 3]}),
        ("mean", {"ceil_mode": True, "count_include_pad": False}),
        ("mean", {"count_include_pad": False}),
        ("mean", {"kernel_size": [2, 1]}),
        ("mean", {"kernel_size": [4, 1]}),
        ("mean", {"kernel_size": [1, 4]}),
        ("sign", {"self": Ref("pow_1")}),
        ("abs_1", {"self": Ref("h")}),
        ("mul", {"self": Ref("relu"), "other": Ref("sign")}),
        ("relu", {"self": Ref("mean")}),
    ],
)
def test_what_differs_from_the_pattern_is_computed_exactly_or_refused(name: str, arguments: dict[str, Any]) -> None:
    calls = [HEAD, *changed(pattern(), name, **arguments)]
    for shape in ((2, 1, 4, 5), (2, 1, 4, 4)):
        x = torch.randn(shape)
        try:
            got = graph_output(calls, x)
        except PertboundError:
            continue
        expected = run(calls, x)
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("missing", ["self", "exponent", "kernel_size", "other"])
def test_calls_that_lack_arguments_are_refused(missing: str) -> None:
    """As a damaged file may hold them."""
    for position in range(8):
        calls = pattern()
        arguments = {key: value for key, value in calls[position].arguments.items() if key != missing}
        calls[position] = replace(calls[position], arguments=arguments)
        if arguments != pattern()[position].arguments:
            with pytest.raises(PertboundError):
                convert(Program("x", (2, 1, 4, 4), {}, (HEAD, *calls), "pow_2"))


ODD: list[Any] = [
    None, True, -1, 0, 1 << 70, 1.5, math.nan, math.inf, "", "x", [], [None], [[1]], [1 << 62], ["a"], Ref("x"),
    Ref("nobody"), [Ref("h")],
]  # fmt: skip


@pytest.mark.parametrize("position", range(8))
def test_odd_arguments_never_escape(position: int) -> None:
    for key in pattern()[position].arguments:
        for value in ODD:
            calls = pattern()
            calls[position] = replace(calls[position], arguments=dict(calls[position].arguments) | {key: value})
            try:
                converted = convert(Program("x", (2, 1, 4, 4), {}, (HEAD, *calls), "pow_2"))
            except PertboundError:
                continue
            assert all(not isinstance(node.layer, LpPool) or node.layer.p >= 1 for node in converted.nodes)


@pytest.mark.parametrize("target", ["aten", "pow", "", "aten.avg_poolxd.default", "aten.avg_pool.default"])
def test_odd_targets_never_escape(target: str) -> None:
    for position in range(8):
        calls = pattern()
        calls[position] = replace(calls[position], target=target)
        with pytest.raises(UnsupportedLayerError):
            convert(Program("x", (2, 1, 4, 4), {}, (HEAD, *calls), "pow_2"))


@pytest.mark.parametrize("after", range(1, 8))
@pytest.mark.parametrize("last", [False, True])
def test_a_change_in_place_between_the_calls_is_not_moved_before_them(after: int, last: bool) -> None:
    """The pooling reads h where its first call stood, not where its last one stands."""
    inner = pattern()
    change = Call("r", "aten.mul_.Tensor", {"self": Ref("h"), "other": 3.0})
    calls = [HEAD, *inner[:after], change, *inner[after:]]
    if last:
        calls.append(Call("y", "aten.mul.Tensor", {"self": Ref("pow_2"), "other": 2.0}))
    x = torch.randn(2, 1, 4, 4)
    try:
        got = graph_output(calls, x)
    except PertboundError:
        return
    assert torch.allclose(got, run(calls, x), atol=1e-4)
