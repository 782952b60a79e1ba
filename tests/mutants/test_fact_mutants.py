"""Each wrong fact is caught at some draw of its operator, where the right one passes."""

from __future__ import annotations

import pytest

from contracts.test_facts import ATEN, check_aten
from mutants.facts import Lie, lies

DRAWS = 60


def caught_at(lie: Lie) -> int | None:
    """The first draw that the contract rejects."""
    for number in range(DRAWS):
        try:
            check_aten(lie.operator, ATEN[lie.operator], number, layers=lie.layers)
        except AssertionError:
            return number
    return None


QUICK = ("the exponential's slope is its scale", "every average divides by its window", "every norm is Euclidean")
"""Of the lies that layers tell; all that a frontend tells are quick."""


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lie, id=name, marks=[pytest.mark.slow] * (lie.layers is None and name not in QUICK))
        for name, lie in lies().items()
    ],
)
def test_lie_is_caught(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(lie.owner, lie.name, lie.value)
        number = caught_at(lie)
    assert number is not None
    check_aten(lie.operator, ATEN[lie.operator], number, layers=lie.layers)
