"""What both ends of the channel have in common: the rate they take, silence, and how they close."""

import math
from typing import Final

from msgspec import Struct

from common.protocol.codes import CloseCode, close_reason
from common.protocol.messages import Malformed
from common.protocol.outputs import Close, PeerSilent

FOREVER: Final = math.inf
SILENT_HEARTBEATS: Final = 3
"""Heartbeats that may be missed before a peer counts as silent."""


class Rate(Struct, frozen=True):
    """Messages that an end takes, events and their acknowledgements apart (those the window bounds).

    Args:
        per_second: Messages per second, lasting.
        burst: Messages at once.
    """

    per_second: float = 10.0
    burst: int = 60

    @property
    def interval(self) -> float:
        """Seconds between messages at the lasting rate."""
        return 1 / self.per_second


class End:
    """The common part of both ends. Not for use by itself.

    `heard` is when anything was last received, `unknown` counts messages of unknown kinds, `stray` answers
    to what was never asked.
    """

    __slots__ = ("_arrival", "_burst", "_due", "_patience", "_spacing", "heard", "stray", "unknown")

    def __init__(self, rate: Rate) -> None:
        self.heard = 0.0
        self.unknown = 0
        self.stray = 0
        # When the first deadline other than silence is due; how long silence may last.
        self._due = FOREVER
        self._patience = FOREVER
        # A token bucket in one number (GCRA, ITU-T I.371): the time until which the rate is used up.
        self._arrival = -FOREVER
        self._spacing = rate.interval
        self._burst = rate.interval * rate.burst

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing is received before; infinity if never."""
        return min(self._due, self.heard + self._patience)

    def _too_fast(self, now: float) -> bool:
        """Take a token; True if there is none."""
        arrival = self._arrival
        # max() would cost as much as the rest of this.
        arrival = (arrival if arrival > now else now) + self._spacing  # noqa: FURB136
        if arrival - now > self._burst:
            return True
        self._arrival = arrival
        return False

    def _silence(self, now: float) -> tuple[PeerSilent, Close]:
        seconds = now - self.heard
        return PeerSilent(seconds), closing(CloseCode.SILENT, f"nothing heard for {seconds:.0f} s")


def closing(code: CloseCode, reason: str) -> Close:
    """A Close whose reason fits a close frame."""
    return Close(code, close_reason(reason))


def malformed(fault: Malformed) -> Close:
    """The Close that answers what isn't a message."""
    return closing(fault.code, fault.reason)
