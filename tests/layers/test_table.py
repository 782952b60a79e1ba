"""docs/layers.md is what the layers say of themselves, and their numbers are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts.catalogue import catalogue
from pertbound.layers import Activation, Layer
from pertbound.layers.table import all_layers, facts, layers_page, said

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == layers_page(), "run `make docs`"


@pytest.mark.parametrize("kind", all_layers())
def test_every_layer_says_what_the_table_needs(kind: type[Layer]) -> None:
    name, computes, modulus, _, interval, relaxation, source = facts(kind)
    assert name == f"`{kind.__name__}`"
    assert min(map(len, (computes, modulus, interval, relaxation, source))) > 2


def test_only_layers_that_look_at_the_input_have_a_modulus_there() -> None:
    for case in catalogue().values():
        kind = type(case.layer)
        named = said(kind, "At a known input")
        looks = kind.local is not Layer.local
        if isinstance(case.layer, Activation):
            looks = kind.curvature is not Activation.curvature
        assert (named is not None) == looks, kind


def test_numbers_in_the_table_are_those_of_the_code() -> None:
    """A modulus that is a number times rho is the activation's largest slope, rounded up; curvatures are halved."""
    checked = 0
    for case in catalogue().values():
        layer = case.layer
        if not isinstance(layer, Activation):
            continue
        modulus, local = said(type(layer), "Modulus") or "", said(type(layer), "At a known input") or ""
        factor = re.match(r"([\d.]+)? ?rho(?: / (\d+))?(,|$)", modulus)
        if factor:
            number = float(factor[1] or 1) / float(factor[2] or 1)
            assert number - 1e-3 <= layer.steepest <= number * (1 + 1e-3), type(layer)
            checked += 1
        second = re.search(r"\+ ([\d.]+) rho\^2", local)
        if second:
            assert layer.curvature / 2 == pytest.approx(float(second[1]), abs=5e-4), type(layer)
            checked += 1
    assert checked > 15
