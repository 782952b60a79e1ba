"""Preprocessing as the first layer: radii, witnesses and boxes are in the units of the raw input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from pertbound.data import load_npy
from pertbound.errors import InputError
from pertbound.graph import Graph
from pertbound.layers import Diagonal
from pertbound.preprocessing import Preprocessing, declared

GENERATOR = torch.Generator().manual_seed(0)
BYTES = torch.randint(0, 256, (6, 3, 4, 4), generator=GENERATOR).float()
SCALE, STD, MEAN = 255.0, 0.25, 0.4
CHANNELS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.5, 0.3), "scale": 255.0}
Make = Callable[..., Graph]


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).to(dtype)


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))


def graph(model: nn.Module, dtype: torch.dtype = torch.float32) -> Graph:
    return pb.from_torch(model, torch.zeros(2, 3, 4, 4, dtype=dtype))


def by_hand(x: Tensor, mean: Any, std: Any, scale: float) -> Tensor:
    """The definition, channel by channel, in float64."""
    planes = [(x[:, c].double() / scale - np.broadcast_to(mean, 3)[c]) / np.broadcast_to(std, 3)[c] for c in range(3)]
    return torch.stack(planes, 1)


def check_scalar(make: Make) -> None:
    """A scalar std: the radii of the network on what it is given, times scale * std; in every norm."""
    network = graph(small())
    raw = make(network, mean=MEAN, std=STD, scale=SCALE)
    x = by_hand(BYTES, MEAN, STD, SCALE).float()
    for p in (1.0, 2.0, math.inf):
        plain = pb.certify(network, x, pb.Lipschitz(), within=pb.Ball(p=p)).radius
        found = pb.certify(raw, BYTES, pb.Lipschitz(), within=pb.Ball(p=p)).radius
        assert float(plain.min()) > 0
        torch.testing.assert_close(found, plain * SCALE * STD, rtol=1e-3, atol=0)


def check_channels(make: Make) -> None:
    """A linear classifier: the distance to each boundary is the margin over the norm of D (w_c - w_j), exactly."""
    model = linear()
    raw = make(graph(model), **CHANNELS)
    weight = model[1].weight.detach().double().reshape(4, 3, 16)  # pyright: ignore[reportIndexIssue]
    weight = (weight / (torch.tensor(CHANNELS["std"], dtype=torch.float64)[:, None] * SCALE)).reshape(4, 48)
    with torch.no_grad():
        logits = model.double()(by_hand(BYTES, **CHANNELS))
    top = logits.argmax(1)
    margins = logits.gather(1, top[:, None]) - logits
    lengths = torch.linalg.vector_norm(weight[top][:, None] - weight, dim=2)
    expected = (margins / lengths).masked_fill(lengths == 0, math.inf).amin(1)
    radius = pb.certify(raw, BYTES, pb.Lipschitz()).radius
    assert bool((radius <= expected).all())
    torch.testing.assert_close(radius, expected, rtol=1e-3, atol=0)


def test_a_scalar_std_scales_every_radius() -> None:
    check_scalar(pb.preprocessed)


def test_radii_of_a_linear_classifier_are_the_distances_to_its_boundaries() -> None:
    check_channels(pb.preprocessed)


def broken(change: Callable[..., dict[str, Any]]) -> Make:
    return lambda network, **given: pb.preprocessed(network, **{**given, **change(**given)})


@pytest.mark.parametrize("check", [check_scalar, check_channels])
@pytest.mark.parametrize(
    "change",
    [
        lambda mean, std, scale: {"scale": 1.0},
        lambda mean, std, scale: {"std": 1.0},
        lambda mean, std, scale: {"mean": 0.0},
        lambda mean, std, scale: {"scale": 1 / scale},
        lambda mean, std, scale: {"std": np.sqrt(std).tolist()},
        lambda mean, std, scale: {"mean": np.negative(mean).tolist()},
    ],
    ids=["no division by scale", "no division by std", "no mean", "multiplied by scale", "variance for std", "sign"],
)
def test_a_broken_copy_is_caught(check: Callable[[Make], None], change: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        check(broken(change))


def test_a_copy_with_its_channels_in_another_order_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_channels(broken(lambda mean, std, scale: {"mean": mean[::-1], "std": std[::-1]}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [{}, CHANNELS, {"mean": MEAN, "std": (1.0, 2.0, 3.0)}, {"scale": 255}])
def test_the_graph_computes_the_definition(dtype: torch.dtype, given: dict[str, Any]) -> None:
    network = graph(small(dtype=dtype), dtype)
    raw = pb.preprocessed(network, **given)
    with torch.no_grad():
        expected = network(by_hand(BYTES, **{"mean": 0.0, "std": 1.0, "scale": 1.0, **given}).to(dtype))
        close = 1e-12 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(raw(BYTES.to(dtype)), expected, rtol=close, atol=close)
    assert (raw is network) == (not given)
    assert (raw.dtype, raw.input_shape, raw.classes) == (network.dtype, network.input_shape, network.classes)


def test_every_certificate_stays_below_every_attack_and_boxes_are_raw() -> None:
    raw = pb.preprocessed(graph(small()), **CHANNELS)
    attacks = [pb.DDN(), pb.FastGradientSign(max_epsilon=100.0), pb.PGD()]
    for within in (pb.Ball(box=(0, 255)), pb.Ball(p=math.inf, box=(0, 255))):
        bracket = pb.bracket(
            raw, BYTES, certificates=[pb.Lipschitz(), pb.LinearRelaxation()], attacks=attacks, within=within
        )
        assert bool((bracket.lower <= bracket.upper).all())
        assert bool((bracket.lower > 0).all())
        assert bool((bracket.upper / bracket.lower < 20).all())


def test_attacks_find_what_they_find_on_the_preprocessed_input() -> None:
    network = graph(small())
    raw, x = pb.preprocessed(network, mean=MEAN, std=STD, scale=SCALE), by_hand(BYTES, MEAN, STD, SCALE).float()
    for attack in (pb.DDN(), pb.DeepFool(), pb.FMN()):
        plain, found = pb.attack(network, x, attack), pb.attack(raw, BYTES, attack)
        torch.testing.assert_close(found.distance, plain.distance * SCALE * STD, rtol=0.05, atol=0)


def test_witnesses_are_run_through_the_model_behind_the_formula() -> None:
    network, seen = graph(small()), list[Tensor]()

    def original(z: Tensor) -> Tensor:
        seen.append(z)
        return network.run(z)

    watched = Graph(network.nodes, network.input_shape, original=original)
    raw = pb.preprocessed(watched, **CHANNELS)
    witness = pb.attack(raw, BYTES, pb.DeepFool())
    assert bool(witness.found.all())
    with torch.no_grad():
        assert raw.original is not None
        raw.original(witness.adversarial)
        assert bool((network(by_hand(witness.adversarial, **CHANNELS).float()).argmax(1) != witness.predicted).all())
    torch.testing.assert_close(seen[-1].double(), by_hand(witness.adversarial, **CHANNELS), rtol=1e-5, atol=1e-5)
    assert pb.preprocessed(graph_without_original(network), scale=2).original is None


def graph_without_original(network: Graph) -> Graph:
    return Graph(network.nodes, network.input_shape)


def test_an_original_that_disagrees_refuses_the_witness() -> None:
    network = graph(small())
    stubborn = Graph(network.nodes, network.input_shape, original=lambda z: torch.zeros(len(z), network.classes))
    assert not bool(pb.attack(pb.preprocessed(stubborn, scale=255), BYTES, pb.DeepFool()).found.any())


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_data_as_they_are_stored_need_no_conversion(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", BYTES.numpy().astype(dtype))
    data = load_npy(tmp_path / "x.npy")
    raw = pb.preprocessed(graph(small()), **CHANNELS)
    expected = pb.certify(raw, BYTES, pb.Lipschitz()).radius
    assert torch.equal(pb.certify(raw, data.inputs[:], pb.Lipschitz()).radius, expected)
    double = pb.preprocessed(graph(small(dtype=torch.float64), torch.float64), **CHANNELS)
    found = pb.certify(double, data.inputs[:].double(), pb.Lipschitz()).radius
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)  # float32's rounding is taken off the latter


def test_the_layer_is_what_the_formula_says_to_one_rounding() -> None:
    raw = pb.preprocessed(graph(small()), **CHANNELS)
    layer = raw.nodes[0].layer
    assert isinstance(layer, Diagonal)
    std, mean = ([Fraction(number) for number in CHANNELS[name]] for name in ("std", "mean"))
    assert layer.scale.flatten().tolist() == [float(1 / (255 * s)) for s in std]
    assert layer.shift.flatten().tolist() == [float(-m / s) for m, s in zip(mean, std, strict=True)]


def test_it_may_be_declared_twice_and_says_what_it_is() -> None:
    network = graph(small())
    twice = pb.preprocessed(pb.preprocessed(network, mean=0.5, std=0.25), scale=255)
    once = pb.preprocessed(network, mean=0.5, std=0.25, scale=255)
    with torch.no_grad():
        torch.testing.assert_close(twice(BYTES), once(BYTES))
    assert declared(twice) == "x / 255, then (x - 0.5) / 0.25"
    assert (declared(once), declared(network)) == ("(x / 255 - 0.5) / 0.25", "")
    assert len({node.name for node in twice.nodes}) == len(twice.nodes)


def test_inputs_of_one_axis_take_a_number_for_each_feature() -> None:
    network = pb.from_torch(nn.Linear(3, 2), torch.zeros(2, 3))
    x = torch.randn(5, 3, generator=GENERATOR)
    raw = pb.preprocessed(network, mean=[1.0, 2.0, 3.0], std=torch.tensor([0.5, 1.0, 2.0]))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        expected = network((x - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 1.0, 2.0]))
        torch.testing.assert_close(raw(x), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"std": 0.0}, "std must be positive, got 0.0"),
        ({"std": (1.0, -1.0, 1.0)}, r"std must be positive, got \(1.0, -1.0, 1.0\)"),
        ({"scale": 0}, "scale must be positive"),
        ({"scale": -255}, "scale must be positive, got -255"),
        ({"scale": (1.0, 2.0)}, "scale must be one number"),
        ({"mean": math.nan}, "mean must be finite, got nan"),
        ({"std": math.inf}, "std must be finite"),
        ({"mean": ()}, "one for each channel"),
        ({"mean": "0.5"}, "must be a number, or one for each channel, got '0.5'"),
        ({"mean": (0.1, "a", 0.2)}, "must be a number"),
        ({"mean": 10**400}, "must be a number"),
        ({"mean": (0.1, 0.2)}, r"mean has 2 numbers, and an input of shape \(3, 4, 4\) takes 1, or 3"),
        ({"std": (1.0,) * 4}, "std has 4 numbers"),
        ({"std": 1e-44, "scale": 1e-10}, "overflows or underflows in torch.float32"),
        ({"scale": 1e60}, "overflows or underflows"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pb.preprocessed(graph(linear()), **given)


def test_it_is_equal_by_value_and_one_number_stands_for_all() -> None:
    assert Preprocessing(mean=(0.5,), std=[0.25], scale=255) == Preprocessing(0.5, 0.25, 255.0)
    assert Preprocessing((0.0,)).nothing
    assert not replace(Preprocessing(), scale=2).nothing
    assert Preprocessing(-0.5).words() == "x - (-0.5)"
    assert hash(Preprocessing([0.1, 0.2])) == hash(Preprocessing((0.1, 0.2)))
