"""A listener generation: one SSLContext with the connections that were made on it."""

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.transport.tls import TLSTransport


class Generation:
    """The context that new connections get, and who got it; replaced as a whole, never changed (D3).

    Args:
        name: For logs and for whoever drains it.
        context: Complete, and never changed after.
        mutual: The peer must have shown its certificate in this very handshake. A resumed session is refused
            then, because it skips the check (measured for TLS 1.2: neither `num_tickets = 0` nor
            OP_NO_TICKET prevents one).
    """

    __slots__ = ("connections", "context", "mutual", "name")

    def __init__(self, name: str, context: ssl.SSLContext, *, mutual: bool = False) -> None:
        self.name = name
        self.context = context
        self.mutual = mutual
        self.connections: set[TLSTransport] = set()

    def __repr__(self) -> str:
        return f"Generation({self.name!r}, mutual={self.mutual}, connections={len(self.connections)})"
