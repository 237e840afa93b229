"""How fast Defenders may be asked to reconnect: decided from what handshakes cost here, without I/O (D5).

A drain uses `SHARE` of one core for everything that the process does: the rate counts handshakes against all
of its CPU time, so that heartbeats, pages and strangers' handshakes slow a drain down and not the other way
round. Slots are handed out for the next moments only; the pace follows the rate while a drain runs.
"""

import math
from typing import Final

DEFAULT_RATE: Final = 200.0
"""Handshakes per CPU second before any were measured; a core of ours does 450 (docs/performance.md)."""
LOWEST_RATE: Final = 50.0
"""However little seems to be left: a drain goes on, and it takes a tenth of a core at this rate."""
HIGHEST_RATE: Final = 5000.0
ENOUGH: Final = 10
"""Handshakes of a reading that says something about their cost."""
MEMORY: Final = 0.7
"""What a reading still weighs at the next one: half of the weight lies on the last two."""
SHARE: Final = 0.7
LEAD_SECONDS: Final = 1.0
"""How long after a swap of the bundle the first slot lies: Defenders need other files, too. Those on a volume
that they share with the Console see theirs at that moment, and come by themselves."""
HORIZON_SECONDS: Final = 1.0
"""How far ahead slots are handed out."""
PAUSE_SECONDS: Final = 5.0
"""How long a drain waits at a stretch for a crowd to be served."""
CROWDED_SHARE: Final = 0.25
"""The part of its pace that it goes on with after that: a crowd that only waits mustn't hold it up."""


class HandshakeRate:
    """Handshakes per second of CPU time of one core, as measured lately."""

    __slots__ = ("_cpu", "_cpu_total", "_handshakes", "_total")

    def __init__(self) -> None:
        self._handshakes = 0.0
        self._cpu = 0.0
        self._total = 0
        self._cpu_total = math.inf

    @property
    def per_second(self) -> float:
        """The rate, within LOWEST_RATE and HIGHEST_RATE; DEFAULT_RATE before anything was measured."""
        if not self._cpu:
            return DEFAULT_RATE
        return min(max(self._handshakes / self._cpu, LOWEST_RATE), HIGHEST_RATE)

    def read(self, handshakes: int, cpu: float) -> None:
        """Read the counters, at any interval; the first reading is where they start.

        Args:
            handshakes: TLS handshakes done since the process began.
            cpu: Seconds of CPU that the process has used since.
        """
        done, used = handshakes - self._total, cpu - self._cpu_total
        self._total, self._cpu_total = handshakes, cpu
        # Sums that fade, not a mean of rates: a reading weighs as much as there were handshakes in it.
        if done >= ENOUGH and used > 0:
            self._handshakes = self._handshakes * MEMORY + done
            self._cpu = self._cpu * MEMORY + used


class Slots:
    """Moments at which Defenders reconnect, one after the other."""

    __slots__ = ("_crowded_since", "_next")

    def __init__(self) -> None:
        self._next = -math.inf
        self._crowded_since: float | None = None

    def not_before(self, at: float) -> None:
        """Give out no slot before `at`, in monotonic seconds."""
        self._next = max(self._next, at)

    def take(self, now: float, rate: float, *, crowded: bool) -> float | None:
        """The next slot, if one may be given out now.

        Args:
            now: The monotonic clock, seconds.
            rate: Handshakes per CPU second.
            crowded: Whether more wait to be served than is good.

        Returns:
            The slot by the same clock, not before `now`; None: ask again in a moment.
        """
        if not crowded:
            self._crowded_since = None
        elif self._crowded_since is None:
            self._crowded_since = now
        share = SHARE
        if self._crowded_since is not None:
            if now - self._crowded_since < PAUSE_SECONDS:
                return None
            share *= CROWDED_SHARE
        slot = max(self._next, now)
        if slot > now + HORIZON_SECONDS:
            return None
        self._next = slot + 1 / (share * rate)
        return slot


def expected_seconds(defenders: int, rate: float) -> float:
    """How long it takes to give each of these Defenders its slot."""
    return defenders / (SHARE * rate)
