"""What belongs to a TLS transport and needs none: its bounds, its states, and small helpers."""

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from common.transport.tls import TLSTransport

READS_PER_TURN: Final = 4
WRITES_PER_TURN: Final = 16
"""Records that one connection may read and write in a turn of the loop, so that it cannot starve others."""
MAX_DATALESS: Final = 1000
"""Records without data (KeyUpdate, RFC 8446 §4.6.3; session tickets) that may come in a row."""
HIGH_WATER: Final = 65536
LOW_WATER: Final = 16384
LINGER_OCTETS: Final = 4 * 2**20
"""What a peer may still send to a connection that we have closed before we stop listening."""


class Owner(Protocol):
    """Who keeps count of connections: a listener."""

    def connection_ended(self, transport: "TLSTransport") -> None:
        """The transport is closed."""
        ...


class State(IntEnum):
    """How far a connection has come."""

    OPEN = 0
    FLUSHING = 1
    """close() was called: what is queued, then close_notify."""
    LINGERING = 2
    """close_notify and FIN are sent; the peer's are due. TLS is over, the socket is a plain one."""
    CLOSED = 3


def buffer_of(protocol: asyncio.BufferedProtocol) -> memoryview:
    """Where the protocol wants its next octets."""
    view = memoryview(protocol.get_buffer(-1)).cast("B")
    if not view:
        raise RuntimeError("get_buffer() returned an empty buffer")
    return view
