"""Why a connection of the channel ends: WebSocket close codes, and reasons short enough to be sent.

The codes up to 1999 are RFC 6455 §7.4.1's and the IANA registry's; 4000 to 4999 are private use (§7.4.2) and
fixed here: both ends, their logs and the documents name a cause by them.
"""

from enum import IntEnum
from typing import Final

MAX_REASON_BYTES: Final = 123
"""A control frame carries 125 bytes, two of which are the code (RFC 6455 §5.5)."""


class CloseCode(IntEnum):
    """Why a connection ends. What a Defender does about it is `REFUSALS`' and its back-off's matter.

    NORMAL: it moved to another connection, or stops on purpose.
    GOING_AWAY: this end's process stops.
    INVALID_DATA: a message that is not UTF-8 or not JSON.
    POLICY: a message that breaks the protocol: its fields, its moment, its rate, its window.
    TOO_BIG: a message beyond the size agreed on.
    INTERNAL_ERROR: this end met a bug or a fault of its own.
    TRY_AGAIN: the Console can't serve it now.
    HELLO_TIMEOUT: no Hello (or no Challenge, no Welcome) in time.
    IDENTITY_REFUSED: the proof of the instance key failed, or the key isn't the one bound to the ID.
    SUPERSEDED: the same Defender has a newer session; this one is fenced.
    LOCKED: an operator locked this Defender.
    RESTARTING: the Console restarts or stops; come back with back-off.
    AWAITING_APPROVAL: a new instance on a shared certificate waits for an operator.
    SILENT: nothing was heard for several heartbeats.
    NOT_MOVED: asked to reconnect, made no attempt by the deadline (D4a).
    TRUST_REMOVED: the CA or certificate that this connection rests on was removed; its grace is over.
    VERSION_REFUSED: the other end's protocol lacks what this one can't do without.
    CERTIFICATE_EXPIRED: this connection's client certificate ended, and its Defender has proved no other.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN = 1013
    HELLO_TIMEOUT = 4001
    IDENTITY_REFUSED = 4002
    SUPERSEDED = 4003
    LOCKED = 4004
    RESTARTING = 4005
    AWAITING_APPROVAL = 4006
    SILENT = 4007
    NOT_MOVED = 4008
    TRUST_REMOVED = 4009
    VERSION_REFUSED = 4010
    CERTIFICATE_EXPIRED = 4011


REFUSALS: Final = frozenset(
    {
        CloseCode.IDENTITY_REFUSED,
        CloseCode.LOCKED,
        CloseCode.AWAITING_APPROVAL,
        CloseCode.VERSION_REFUSED,
    }
)
"""The codes by which a Console says that it won't have this Defender: only an operator changes that, so
a Defender tries again rarely and its exit says "refused by Console"."""


def printable(text: str) -> str:
    """Replace what has no business in a log line: control characters, lone surrogates."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def close_reason(text: str) -> str:
    """Cut a reason to what a close frame carries, between characters and without control characters."""
    return printable(text).encode()[:MAX_REASON_BYTES].decode(errors="ignore")
