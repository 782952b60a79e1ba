"""What a run says about the units of its distances."""

from __future__ import annotations

from typing import Any

import pytest

from pertbound import records
from pertbound.records import Run
from pertbound.report.about import units

PIXELS = "pixel values from 0 to 1, where 1 is 255 grey levels"


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, "the classifier's input"),
        ({"data": {"pixel_scale": 255.0}}, "the classifier's input (1 unit is 255 pixel units)"),
        ({"data": {"pixel_scale": 255.0, "units": PIXELS}}, f"the raw input ({PIXELS})"),
        (
            {"data": {"units": PIXELS}, "model": {"preprocessing": "(x - 0.5) / 0.25"}},
            f"the raw input ({PIXELS}), which the model takes as (x - 0.5) / 0.25",
        ),
        ({"model": {"preprocessing": "x / 255"}}, "the raw input, which the model takes as x / 255"),
        ({"data": {"units": 3}, "model": "m"}, "the classifier's input"),
    ],
)
def test_units_are_said_as_the_run_knows_them(about: dict[str, Any], expected: str) -> None:
    assert units(Run(records.SCHEMA.empty_table(), about)) == expected
