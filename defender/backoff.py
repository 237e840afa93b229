"""How long to wait before the next attempt: capped exponential back-off with full jitter.

Full jitter (a delay drawn evenly from nothing to the window) spreads a fleet that lost its Console at one
instant best; a window that doubles keeps an absent Console from being hammered when it returns.
"""

import random
from dataclasses import dataclass
from typing import Final

FIRST_WINDOW: Final = 1.0
"""Seconds from which the first delay is drawn."""

STABLE_AFTER: Final = 30.0
"""Seconds that a connection has to live before what follows counts as a new trouble, not the same one."""

LONGEST_RETRY: Final = 3600.0
"""Seconds that a Console may keep a Defender away for: a mistyped Retry-After must not strand a fleet."""

WELCOMED_FAILURES: Final = 3
"""Failures that still count after a Welcome: the next delay is drawn from 8 s at most."""

RETRY_SPREAD: Final = 0.5
"""A time that the Console asks for is stretched by up to this share: those it asked don't return at once."""


@dataclass(slots=True)
class Backoff:
    """The delays of one Defender.

    Attributes:
        cap: The longest window, in seconds.
        rng: Where the jitter comes from.
        first: The first window, in seconds.
        failures: Attempts in a row that led to no stable connection.
    """

    cap: float
    rng: random.Random
    first: float = FIRST_WINDOW
    failures: int = 0

    def window(self) -> float:
        """The seconds from which the next delay is drawn."""
        # 2**62 is longer than any cap and still a float without loss.
        return float(min(self.cap, self.first * 2 ** min(self.failures, 62)))

    def next_delay(self, *, retry_after: float | None = None) -> float:
        """Count a failure and draw the delay that follows it, in seconds.

        Args:
            retry_after: The seconds that the Console asked for (HTTP's Retry-After, or a close with one).
                Not cut short by the cap, since it knows its load; LONGEST_RETRY counts as the most.
        """
        delay = self.rng.uniform(0, self.window())
        self.failures += 1
        if retry_after is None:
            return delay
        return max(delay, min(retry_after, LONGEST_RETRY) * (1 + self.rng.uniform(0, RETRY_SPREAD)))

    def welcomed(self) -> None:
        """Note that the Console took us: it is there and has room, so what follows is tried sooner.

        Not at once: a Console that fails again and again under its fleet needs the fleet spread out.
        """
        self.failures = min(self.failures, WELCOMED_FAILURES)

    def lived(self, seconds: float) -> None:
        """Note how long a connection lived; a stable one starts the delays anew."""
        if seconds >= STABLE_AFTER:
            self.failures = 0
