from __future__ import annotations

import torch
from sklearn import datasets

from pertbound.data import load_digits


def test_the_parts_are_disjoint_and_together_everything():
    train, test = load_digits(train=True), load_digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(torch.cat([train.positions, test.positions]).sort().values, torch.arange(1797))


def test_positions_lead_back_to_the_original():
    test = load_digits(train=False)
    original = datasets.load_digits()
    assert torch.equal(test.inputs[:, 0] * 16, torch.from_numpy(original.images[test.positions]).float())
    assert test.labels is not None
    assert torch.equal(test.labels, torch.from_numpy(original.target[test.positions]))
    assert float(test.inputs.max()) == 1.0
    assert test.pixel_scale == 16.0


def test_the_split_stays_what_it_is_and_leaves_global_randomness_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert load_digits(train=False).positions[:5].tolist() == [1, 2, 5, 7, 18]
    assert torch.equal(torch.get_rng_state(), state)
