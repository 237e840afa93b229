"""What became of a drain: who is to move, who was asked, moved, failed or was closed; and what is said of it.

A drain begins with a swap and takes in everybody who is connected by a replaced set, also those whose
handshake was under way. It is over when nobody is left to be asked or to answer; those who tried and failed
keep what they have (D4a) and may still move.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from common.protocol.codes import printable

SHOWN: Final = 3
"""How many Defenders a line names."""
_WORDS: Final = 200

K = TypeVar("K")


class Standing(Enum):
    """How far somebody is who has not moved yet."""

    OPENING = auto()
    """Its Hello is not judged yet."""
    WAITING = auto()
    """It will be asked in a slot."""
    ASKED = auto()
    FAILED = auto()
    """It tried and couldn't; it keeps its connection."""


class Ending(Enum):
    """How somebody's part in a drain ended."""

    MOVED = auto()
    CLOSED = auto()
    """Made no attempt by the deadline."""
    CUT = auto()
    """Its trust was removed, and the grace is over."""
    GONE = auto()
    """Its connection ended otherwise."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A drain in numbers.

    Attributes:
        total: Who was or is in it.
        opening: Who has not been welcomed yet.
        waiting: Who is still to be asked.
        pending: Who was asked and neither moved nor failed yet.
        asked: Who was asked, whatever became of it.
        failed: Who tried, couldn't, and is still there.
        moved, closed, cut, gone: See `Ending`.
        left: Who is still there.
    """

    total: int
    opening: int
    waiting: int
    pending: int
    asked: int
    failed: int
    moved: int
    closed: int
    cut: int
    gone: int
    left: int


class Tally(Generic[K]):
    """The drain of one swap. Whoever isn't in it is passed over by every method.

    Args:
        begun: When, by the monotonic clock.
    """

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self._total = 0
        self._asked = 0
        self._standing: dict[K, Standing] = {}
        self._stand: Counter[Standing] = Counter()
        self._endings: Counter[Ending] = Counter()
        self._failures: dict[K, str] = {}
        self._closed: list[str] = []
        self._told = 0
        self._told_failures = False

    def __contains__(self, key: K) -> bool:
        return key in self._standing

    def __iter__(self) -> Iterator[K]:
        return iter(self._standing)

    @property
    def busy(self) -> int:
        """How many are still to be asked or to answer."""
        return len(self._standing) - self._stand[Standing.FAILED]

    @property
    def counts(self) -> Counts:
        """It in numbers."""
        stand, endings = self._stand, self._endings
        return Counts(
            total=self._total,
            opening=stand[Standing.OPENING],
            waiting=stand[Standing.WAITING],
            pending=stand[Standing.ASKED],
            asked=self._asked,
            failed=stand[Standing.FAILED],
            moved=endings[Ending.MOVED],
            closed=endings[Ending.CLOSED],
            cut=endings[Ending.CUT],
            gone=endings[Ending.GONE],
            left=len(self._standing),
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """Who tried, couldn't, and is still there: the first SHOWN of them, with the reason."""
        return tuple(text for _, text in zip(range(SHOWN), self._failures.values(), strict=False))

    def standing(self, key: K) -> Standing | None:
        """How far somebody is; None for whoever isn't in it."""
        return self._standing.get(key)

    def join(self, key: K, *, welcomed: bool) -> None:
        """Somebody is connected by a replaced set."""
        self._total += 1
        self._stands(key, Standing.WAITING if welcomed else Standing.OPENING)

    def welcomed(self, key: K) -> bool:
        """Its Hello was accepted; whether it is to be asked now."""
        if self._standing.get(key) is not Standing.OPENING:
            return False
        self._stands(key, Standing.WAITING)
        return True

    def asked(self, key: K) -> None:
        """It was asked to reconnect."""
        if self._standing.get(key) is Standing.WAITING:
            self._asked += 1
            self._stands(key, Standing.ASKED)

    def failed(self, key: K, name: str, reason: str) -> None:
        """It said that its attempt failed.

        One that waits was asked for an earlier swap: it is to be asked for this one all the same.
        """
        if self._standing.get(key) is Standing.ASKED:
            self._stands(key, Standing.FAILED)
            self._failures[key] = f"{_clip(name)}: {_clip(reason)}"

    def ended(self, key: K, ending: Ending, name: str = "") -> bool:
        """Its part is over; whether it had one."""
        if not self._leaves(key):
            return False
        self._endings[ending] += 1
        if ending is Ending.CLOSED and len(self._closed) < SHOWN:
            self._closed.append(_clip(name))
        return True

    def replaced(self, key: K) -> None:
        """Its Defender has another connection, which is in the drain itself: it counts once."""
        if self._leaves(key):
            self._total -= 1

    def _stands(self, key: K, standing: Standing) -> None:
        self._leaves(key)
        self._standing[key] = standing
        self._stand[standing] += 1

    def _leaves(self, key: K) -> bool:
        before = self._standing.pop(key, None)
        if before is None:
            return False
        self._stand[before] -= 1
        self._failures.pop(key, None)
        return True

    # What is said

    def start_line(self, seconds: float) -> str | None:
        """What to log once it is known who is to be asked; None for nobody."""
        waiting = self._stand[Standing.WAITING]
        if not waiting:
            return None
        are = "Defender is" if waiting == 1 else "Defenders are"
        return f"{waiting} {are} asked to reconnect over about {max(1, round(seconds))} s"

    def end_line(self, now: float) -> tuple[int, str] | None:
        """What to log now that somebody's standing has changed: as a rule once, when it is over."""
        if self.busy or not self._total:
            return None
        if self._told == self._total:
            if not self._told_failures or self._standing:
                return None
            self._told_failures = False
            return logging.INFO, "nobody is left on the replaced certificates of the Defenders' port"
        self._told, self._told_failures = self._total, bool(self._failures)
        # A dictionary keeps the size that it once had.
        self._standing = dict(self._standing)
        counts = self.counts
        after = f"after {max(1, round(now - self.begun))} s"
        parts = [f"{counts.moved} of {_defenders(counts.total)} moved to the new certificates {after}"]
        if counts.failed:
            parts.append(f"{counts.failed} could not and {_keep(counts.failed)} ({'; '.join(self.failures)})")
        if counts.closed:
            made = f"{counts.closed} made no attempt and {_was(counts.closed)} closed"
            parts.append(f"{made} ({', '.join(self._closed)}{', …' if counts.closed > SHOWN else ''})")
        if counts.cut:
            parts.append(f"{counts.cut} {_was(counts.cut)} closed, since the CA was removed")
        if counts.gone:
            parts.append(f"{counts.gone} left")
        if counts.failed or counts.closed:
            parts.append("look at the Defenders' logs, and at garrison console certs")
        level = logging.WARNING if counts.failed or counts.closed or counts.cut else logging.INFO
        return level, "; ".join(parts)


def _defenders(number: int) -> str:
    return f"{number} Defender" if number == 1 else f"{number} Defenders"


def _keep(number: int) -> str:
    return "keeps its connection" if number == 1 else "keep their connections"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _clip(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…"
