from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pertbound.data import load_cifar10, load_digits, load_mnist
from pertbound.errors import InputError
from pertbound.models import (
    CIFAR10_LENET,
    DIGITS,
    MNIST_LENET,
    Progress,
    Recipe,
    accuracy,
    digits_network,
    lenet,
    train,
)

BRIEF = Recipe(epochs=2, batch=16, peak_rate=0.05, shift=1, flip=True)


@dataclass(frozen=True)
class Made:
    inputs: Tensor
    labels: Tensor | None


def test_the_digits_network_learns_its_digits(generator: torch.Generator):
    model, test = digits_network(), load_digits(train=False)
    told: list[Progress] = []
    train(model, load_digits(train=True), DIGITS, generator, told.append)
    assert accuracy(model, test) >= 0.96
    assert not model.training
    assert [progress.epoch for progress in told] == list(range(1, DIGITS.epochs + 1))
    assert told[-1].loss < 0.1 < told[0].loss
    assert [progress.seconds for progress in told] == sorted(progress.seconds for progress in told)


def test_equal_generators_give_equal_models_and_others_do_not():
    data = load_digits(train=True).limit(100)
    weights: list[Tensor] = []
    for seed in (1, 1, 2):
        model = digits_network()
        torch.manual_seed(len(weights))
        train(model, data, BRIEF, torch.Generator().manual_seed(seed))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_batch_larger_than_the_data_is_all_of_it(generator: torch.Generator):
    model = digits_network()
    train(model, load_digits(train=True).limit(10), replace(BRIEF, batch=64), generator)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_training_that_diverges_is_an_error(generator: torch.Generator):
    with pytest.raises(InputError, match=r"diverged.*lower the recipe's peak_rate"):
        train(digits_network(), load_digits(train=True), replace(BRIEF, peak_rate=1e6), generator)


def test_accuracy_counts_right_answers_whatever_the_batch():
    inputs = torch.eye(4)
    data = Made(inputs, torch.tensor([0, 1, 2, 0]))
    model = nn.Linear(4, 4, bias=False)
    nn.init.eye_(model.weight)
    assert [accuracy(model, data, batch) for batch in (1, 3, 100)] == [0.75] * 3
    assert model.training


def test_accuracy_is_measured_in_evaluation_mode():
    data = Made(torch.ones(50, 2), torch.ones(50, dtype=torch.int64))
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Dropout(0.9))
    nn.init.constant_(model[0].weight, -1.0)
    with torch.no_grad():
        model[0].weight[1] = 1.0
    assert accuracy(model, data) == 1.0


def test_both_need_labels(generator: torch.Generator):
    data = Made(torch.zeros(3, 1, 8, 8), None)
    with pytest.raises(InputError, match="no labels"):
        accuracy(digits_network(), data)
    with pytest.raises(InputError, match="no labels"):
        train(digits_network(), data, BRIEF, generator)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"batch": 0}, {"shift": -1}, {"peak_rate": 0.0}, {"peak_rate": float("nan")}]
)
def test_a_recipe_that_cannot_be_meant_is_refused(changes: dict[str, Any]):
    with pytest.raises(InputError, match="a recipe takes"):
        replace(BRIEF, **changes)


@pytest.mark.slow
def test_lenet_reaches_its_accuracy_on_mnist(data_root: Any, generator: torch.Generator):
    model, folder = lenet(1, 28), data_root / "mnist"
    train(model, load_mnist(folder, train=True, download=False), MNIST_LENET, generator)
    assert accuracy(model, load_mnist(folder, train=False, download=False)) >= 0.989


@pytest.mark.slow
def test_lenet_reaches_its_accuracy_on_cifar10(data_root: Any, generator: torch.Generator):
    model, folder = lenet(3, 32), data_root / "cifar10"
    train(model, load_cifar10(folder, train=True, download=False), CIFAR10_LENET, generator)
    assert accuracy(model, load_cifar10(folder, train=False, download=False)) >= 0.70
