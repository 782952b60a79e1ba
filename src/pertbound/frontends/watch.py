"""The time that reading a file may take."""

from __future__ import annotations

import math
import time
from typing import final

from pertbound.errors import PropertyTimeoutError


@final
class Watch:
    """Ends what takes longer than it may."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def look(self) -> None:
        """Raise `PropertyTimeoutError` where the time is over."""
        if time.monotonic() >= self._end:
            raise PropertyTimeoutError(f"the property was not read to its end within {self.seconds:g} seconds")
