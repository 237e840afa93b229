"""What the log says of what peers can cause, such as connections that fail: every kind, no flood.

Whoever can reach the port can make connections fail; a line for each would fill the disk. So each kind of
failure from one address is said at once, then counted and said again once a minute; and all together say no
more than a stated number of lines a minute, whatever addresses they come from.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from common.transport import FailureKind, HandshakeFailure

REPEAT_SECONDS = 60.0
LINES_PER_MINUTE = 60
ADDRESSES = 256

GIVE = "give it this Console's install bundle, or the custom certificates that go with this Console's"
# What an operator does about it. A kind without an entry speaks for itself.
REMEDIES = {
    FailureKind.NO_CERTIFICATE: f"it presented no client certificate; {GIVE}",
    FailureKind.UNKNOWN_CA: f"its certificate is of another CA; {GIVE}",
    FailureKind.EXPIRED: f"its certificate has expired; {GIVE}",
    FailureKind.NOT_YET_VALID: "its certificate is not valid yet; look at both hosts' clocks",
    FailureKind.WRONG_PURPOSE: f"its certificate is not one for clients; {GIVE}",
    FailureKind.NOT_TLS: "it does not speak TLS; Defenders connect by wss://",
    FailureKind.ALERT_UNKNOWN_CA: f"it does not trust this Console's CA; {GIVE}",
    FailureKind.ALERT_EXPIRED: "it finds this Console's certificate expired; look at both hosts' clocks",
    FailureKind.ALERT_PROTOCOL_VERSION: "it speaks no TLS version that is on here; see GARRISON_TLS_MINIMUM",
    FailureKind.PROTOCOL_VERSION: "it speaks no TLS version that is on here; see GARRISON_TLS_MINIMUM",
    FailureKind.TIMEOUT: "it did not finish its handshake",
    FailureKind.EVICTED: "it did not finish its handshake while others were waiting",
}


@dataclass(slots=True)
class _Count:
    said: float
    since: int = 0


@dataclass(slots=True)
class Repeats:
    """Decides what is said and what is only counted. Values in, values out: `now` is monotonic seconds."""

    _counts: dict[Hashable, _Count] = field(default_factory=dict)
    _minute: float = float("-inf")
    _lines: int = 0

    def tail(self, kind: Hashable, now: float) -> str | None:
        """What ends the line for one of this kind; None where one like it was said a moment ago."""
        count = self._counts.get(kind)
        if count is not None and now - count.said < REPEAT_SECONDS:
            count.since += 1
            return None
        if self._spent(now):
            return None
        self._remember(kind, now)
        return f" (and {count.since} more like it)" if count and count.since else ""

    def _spent(self, now: float) -> bool:
        if now - self._minute >= REPEAT_SECONDS:
            self._minute, self._lines = now, 0
        self._lines += 1
        return self._lines > LINES_PER_MINUTE

    def _remember(self, kind: Hashable, now: float) -> None:
        self._counts.pop(kind, None)
        self._counts[kind] = _Count(now)
        if len(self._counts) > ADDRESSES:
            # The one that was said longest ago: a dictionary keeps the order of insertion.
            del self._counts[next(iter(self._counts))]


@dataclass(slots=True)
class FailureLog:
    """Decides which failed handshakes become a log line."""

    _repeats: Repeats = field(default_factory=Repeats)

    def line(self, failure: HandshakeFailure, now: float) -> str | None:
        """The line for this failure, or None where one like it was said a moment ago."""
        tail = self._repeats.tail((failure.peer.rsplit(":", 1)[0], failure.kind), now)
        if tail is None:
            return None
        why = REMEDIES.get(failure.kind, failure.detail)
        return f"connection from {failure.peer} failed: {failure.kind}: {why}{tail}"
