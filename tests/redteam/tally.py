"""What the red team has counted, from every test and process to the end of the session's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

KEY = "redteam"


class Tally(Counter[str]):
    """Counts by name; `faults` are what was found, in words; `misread` are files that only agreement refused."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.misread: list[str] = []

    def fault(self, said: str) -> None:
        """Something that the library said is false."""
        self["faults"] += 1
        self.faults.append(said)

    def require_none(self) -> None:
        """Fails with all faults."""
        assert not self.faults, "\n".join(self.faults)


def summary(reports: Iterable[Any]) -> list[str]:
    """Lines for the end of a session: the sums of what its tests counted."""
    total: Counter[str] = Counter()
    for report in reports:
        for key, counts in getattr(report, "user_properties", ()):
            if key == KEY:
                total.update(counts)
    return [f"{name}: {count}" for name, count in sorted(total.items())]
