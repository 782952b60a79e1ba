"""Counts of the red team's tests; `tests/conftest.py` prints them, in the process that writes the session's report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from redteam.tally import KEY, Tally


@pytest.fixture
def tally(record_property: Any) -> Iterator[Tally]:
    """What one test counts. Recorded at its end, so that it stands in one report only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Tally()
        yield found
    record_property(KEY, dict(found))
