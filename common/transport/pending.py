"""A connection that a listener has accepted and that is not established yet."""

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from common.transport.client_hello import ClientHello, Spoken
from common.transport.failures import FailureKind
from common.transport.generation import Generation

_HTTP_BODY: Final = b"This port speaks TLS: use https:// or wss://.\n"
_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HTTP_BODY), _HTTP_BODY)
)
_DECODE_ERROR: Final = bytes([21, 3, 3, 0, 2, 2, 50])
"""A fatal decode_error alert in the clear (RFC 8446 §6.2): what OpenSSL would have said."""

LAST_WORDS: Final[Mapping[Spoken, bytes]] = {Spoken.HTTP: _HTTP_ANSWER, Spoken.BAD_TLS: _DECODE_ERROR}
"""What is said to a peer that sent no ClientHello, in the language that it speaks."""


class Pending:
    """A connection on its way to a transport."""

    __slots__ = (
        *("drained", "generation", "hello", "needed", "parked", "peeked", "peer", "refused", "sock", "tls"),
        "watched",
    )

    def __init__(self, sock: socket.socket, peer: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.tls: ssl.SSLSocket | None = None
        self.hello: ClientHello | None = None
        self.generation: Generation | None = None
        self.needed = 0
        self.peeked = 0
        self.parked = False
        self.refused = False
        self.watched = False
        self.drained = 0


def mutual_fault(tls: ssl.SSLSocket) -> tuple[FailureKind, str] | None:
    """Why this handshake does not do where the peer must have shown its certificate; None if it does."""
    if tls.session_reused:
        return FailureKind.RESUMED, "a resumed session skips the check of the certificate"
    if tls.getpeercert(binary_form=True) is None:
        return FailureKind.NO_CERTIFICATE, "the peer showed no certificate"
    return None
