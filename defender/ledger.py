"""Which failures to say, and when: each kind once with its remedy, its repeats ever more rarely and counted.

A Defender that is cut off for a week tries ten thousand times; its log and its spool must not show it.
"""

from dataclasses import dataclass, field
from typing import Final

from defender.causes import Cause, Failure

FIRST_SILENCE: Final = 60.0
"""Seconds for which repeats of a failure go unlogged after its first line; doubled with each further line."""
LONGEST_SILENCE: Final = 3600.0
EVENT_PERIOD: Final = 3600.0
"""Seconds in which one cause makes at most one connectionFailed event."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to say of one failure.

    Attributes:
        log: Whether it is worth a line.
        repeats: How often it happened since the last line, this time not counted.
        event: How many failures of its cause an event has to tell of now; 0 for no event.
    """

    log: bool
    repeats: int
    event: int


@dataclass(slots=True)
class _Line:
    until: float
    silence: float = FIRST_SILENCE
    repeats: int = 0


@dataclass(slots=True)
class _Count:
    until: float
    unsaid: int = 0


@dataclass(slots=True)
class Ledger:
    """The failures of one Defender since it last had a connection that lasted."""

    _lines: dict[tuple[str, Cause, str], _Line] = field(default_factory=dict)
    _counts: dict[Cause, _Count] = field(default_factory=dict)

    def note(self, failure: Failure, now: float, what: str = "") -> Verdict:
        """Count a failure and decide what to say of it.

        Args:
            failure: What happened.
            now: Monotonic seconds.
            what: What came to nothing by it: the same cause is worth another line when it costs more.
        """
        log, repeats = self._line((what, failure.cause, failure.detail), now)
        return Verdict(log, repeats, self._event(failure.cause, now))

    def settled(self) -> dict[Cause, int]:
        """A connection has lasted: the next failure is news. The failures by cause that no event told of."""
        self._lines.clear()
        unsaid = {cause: count.unsaid for cause, count in self._counts.items() if count.unsaid}
        for count in self._counts.values():
            count.unsaid = 0
        return unsaid

    def _line(self, key: tuple[str, Cause, str], now: float) -> tuple[bool, int]:
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= 64:  # Details that vary without end may not fill the memory.
                self._lines.clear()
            self._lines[key] = _Line(now + FIRST_SILENCE)
            return True, 0
        if now < line.until:
            line.repeats += 1
            return False, line.repeats
        repeats, line.repeats = line.repeats, 0
        line.silence = min(line.silence * 2, LONGEST_SILENCE)
        line.until = now + line.silence
        return True, repeats

    def _event(self, cause: Cause, now: float) -> int:
        count = self._counts.get(cause)
        if count is None or now >= count.until:
            unsaid = 1 + (count.unsaid if count else 0)
            self._counts[cause] = _Count(now + EVENT_PERIOD)
            return unsaid
        count.unsaid += 1
        return 0
