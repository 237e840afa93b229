"""What a prober saw of a port whose certificates are swapped, and what it should have seen. Pure.

All times are readings of CLOCK_MONOTONIC, which the processes of a host share, in seconds.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.bench.errors import BenchError


class Channel(StrEnum):
    """A port of the Console."""

    HTTPS = "https"
    WEBSOCKET = "websocket"


class Outcome(StrEnum):
    """What became of an attempt."""

    OK = "ok"
    REFUSED = "refused"
    RESET = "reset"
    HUNG = "hung"
    ALERT = "alert"
    UNTRUSTED = "untrusted"
    WRONG_ANSWER = "wrong answer"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One new connection, from TCP to its orderly end.

    Attributes:
        channel: Where to.
        began: Before its SYN; of one that paused after that, before its ClientHello.
        shaken: When its handshake was done; 0 if it never was.
        ended: When it was over.
        outcome: What became of it.
        leaf: SHA-256 of the leaf that was presented, hex; empty if none was.
        detail: The failure in words.
    """

    channel: Channel
    began: float
    shaken: float
    ended: float
    outcome: Outcome
    leaf: str = ""
    detail: str = ""

    def __str__(self) -> str:
        times = (repr(time) for time in (self.began, self.shaken, self.ended))
        return "\t".join((self.channel, *times, self.outcome, self.leaf, self.detail))

    @classmethod
    def parse(cls, line: str) -> "Attempt":
        """From its text."""
        channel, began, shaken, ended, outcome, leaf, detail = line.rstrip("\n").split("\t")
        times = (float(began), float(shaken), float(ended))
        return cls(Channel(channel), *times, Outcome(outcome), leaf, detail)


@dataclass(frozen=True, slots=True)
class Swap:
    """A set that took another's place.

    Attributes:
        channel: Whose.
        leaf: The new set's leaf: SHA-256, hex.
        touched: Before the first of its files was replaced.
        complete: When the last one was.
        in_force: When the Console's log had said that it is used.
    """

    channel: Channel
    leaf: str
    touched: float
    complete: float
    in_force: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a channel presented when.

    Args:
        first: The leaf before all swaps.
        swaps: In their order.
    """

    first: str
    swaps: tuple[Swap, ...]

    def permitted(self, attempt: Attempt) -> Sequence[str]:
        """The leaves that this attempt may have met.

        Not one before the last swap that was in force when it began, and none whose files nobody had touched
        when its handshake was done: between the two, old and new are both right.
        """
        oldest = bisect_left(self.swaps, attempt.began, key=lambda swap: swap.in_force)
        newest = bisect_left(self.swaps, attempt.shaken, key=lambda swap: swap.touched)
        return [self.first, *(swap.leaf for swap in self.swaps)][oldest : newest + 1]


def failures(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that were not taken to their end."""
    return [attempt for attempt in attempts if attempt.outcome is not Outcome.OK]


def strays(attempts: Iterable[Attempt], timeline: Timeline) -> Iterator[str]:
    """Attempts that met a certificate of another time, in words."""
    order = [timeline.first, *(swap.leaf for swap in timeline.swaps)]
    names = {leaf: f"set {number}" for number, leaf in enumerate(order)}
    for attempt in attempts:
        permitted = timeline.permitted(attempt)
        if attempt.shaken and attempt.leaf not in permitted:
            met = names.get(attempt.leaf, attempt.leaf)
            yield f"{met} instead of {' or '.join(names[leaf] for leaf in permitted)}: {attempt}"


def latencies(attempts: Iterable[Attempt], swaps: Iterable[Swap]) -> list[float]:
    """Seconds from the last file of each swap to the end of the first handshake with the new certificate.

    Raises:
        BenchError: nobody saw one of them.
    """
    first: dict[str, float] = {}
    for attempt in attempts:
        if attempt.shaken:
            first[attempt.leaf] = min(attempt.shaken, first.get(attempt.leaf, attempt.shaken))
    found = []
    for swap in swaps:
        if swap.leaf not in first:
            raise BenchError(f"no probe met the certificate {swap.leaf[:16]} of {swap.channel}")
        found.append(first[swap.leaf] - swap.complete)
    return found


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that this part of all doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
