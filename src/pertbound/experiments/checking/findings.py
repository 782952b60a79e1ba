"""What a check found: how many claims it confirmed, and why it did not confirm the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import final

TOLD = 20
"""So many reasons of each kind are kept as text; the others are counted."""


class Verdict(str, Enum):
    """What a check says of a run as a whole."""

    CONFIRMED = "confirmed"
    """All that was checked holds."""
    UNCONFIRMED = "not confirmed"
    """Something could not be repeated; nothing is known to be wrong."""
    CONTRADICTED = "contradicted"
    """Something that the run says is wrong."""


@final
@dataclass
class Count:
    """Claims of one kind."""

    confirmed: int = 0
    checked: int = 0
    in_run: int = 0


@final
@dataclass
class Trust:
    """What a check found. `certificates` were proved again, `witnesses` run again, and `others`, which are attacks'
    answers without a kept witness and estimates, computed again.
    """

    certificates: Count = field(default_factory=Count)
    witnesses: Count = field(default_factory=Count)
    others: Count = field(default_factory=Count)
    samples: Count = field(default_factory=Count)
    """Samples whose label, prediction and reference class are those of the data and the model."""
    contradictions: list[str] = field(default_factory=list)
    """Why the run is wrong; the first `TOLD` reasons."""
    doubts: list[str] = field(default_factory=list)
    """What could not be confirmed; the first `TOLD` reasons."""
    remarks: list[str] = field(default_factory=list)
    """What a reader should know, and speaks neither for nor against the run."""
    contradicted: int = 0
    doubted: int = 0

    def contradict(self, reason: str) -> None:
        """Something in the run is wrong."""
        self.contradicted += 1
        if len(self.contradictions) < TOLD:
            self.contradictions.append(reason)

    def doubt(self, reason: str) -> None:
        """Something in the run could not be confirmed."""
        self.doubted += 1
        if len(self.doubts) < TOLD:
            self.doubts.append(reason)

    @property
    def verdict(self) -> Verdict:
        """Of the run as a whole."""
        if self.contradicted:
            return Verdict.CONTRADICTED
        return Verdict.UNCONFIRMED if self.doubted else Verdict.CONFIRMED
