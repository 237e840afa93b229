"""Time as a parameter: what decides takes `now`; what waits takes a Clock."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The two clocks of a host."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC: for certificates and records."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back: for intervals and deadlines."""
        ...


class SystemClock:
    """The clocks of this host."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`: the clock that the event loop uses, too."""
        return time.monotonic()
