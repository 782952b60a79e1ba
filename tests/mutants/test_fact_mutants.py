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


@pytest.mark.parametrize("lie", lies().values(), ids=lies().keys())
def test_lie_is_caught(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(lie.owner, lie.name, lie.value)
        number = caught_at(lie)
    assert number is not None
    check_aten(lie.operator, ATEN[lie.operator], number, layers=lie.layers)
