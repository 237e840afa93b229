"""What the load generator's Defenders met, counted."""

import statistics
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

MAX_FIGURES: Final = 1_000_000


def _figures() -> deque[float]:
    return deque(maxlen=MAX_FIGURES)


@dataclass(slots=True)
class Tally:
    """What happened so far.

    Attributes:
        created: Events that happened, each once.
        posted: Events sent: one that a move caught in flight is sent again.
        acknowledged: Events of which the Console said that it has them, each once.
        asked: Reconnects that the Console asked for.
        overstayed: Replaced connections that the Console did not close in time.
        repeated: Commands that came a second time.
        moved_last: When the last move was done, by the monotonic clock.
        waits: Seconds from the start of a connection to its Welcome.
        delays: Seconds from an event to its acknowledgement.
    """

    welcomed: int = 0
    moved: int = 0
    moved_last: float = 0.0
    asked: int = 0
    overstayed: int = 0
    heartbeats: int = 0
    created: int = 0
    posted: int = 0
    acknowledged: int = 0
    commands: int = 0
    repeated: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    waits: deque[float] = field(default_factory=_figures)
    delays: deque[float] = field(default_factory=_figures)

    def as_json(self) -> dict[str, Any]:
        counts = ("welcomed", "moved", "moved_last", "asked", "overstayed", "heartbeats", "created", "posted")
        more = ("acknowledged", "commands", "repeated")
        waits, delays = sorted(self.waits) or [0.0], sorted(self.delays) or [0.0]
        return {
            **{name: getattr(self, name) for name in (*counts, *more)},
            "failed": dict(self.failed),
            "lost": dict(self.lost),
            "p50": statistics.median(waits),
            "p99": waits[len(waits) * 99 // 100],
            "delay_p50": statistics.median(delays),
            "delay_p99": delays[len(delays) * 99 // 100],
            "delay_max": delays[-1],
        }
