"""Real handshakes over a socket pair, each end in its thread."""

import socket
import ssl
import threading
from dataclasses import dataclass, field


@dataclass
class End:
    """What one end saw."""

    error: Exception | None = None
    received: bytes = b""
    peer: bytes | None = None
    version: str | None = None
    resumed: bool = False
    session: ssl.SSLSession | None = None

    @property
    def reason(self) -> str:
        """OpenSSL's reason, such as CERTIFICATE_VERIFY_FAILED, or the exception's name."""
        return getattr(self.error, "reason", None) or type(self.error).__name__


@dataclass
class Outcome:
    """Both ends after a handshake and one message in each direction."""

    client: End = field(default_factory=End)
    server: End = field(default_factory=End)

    @property
    def ok(self) -> bool:
        return (
            self.client.error is None
            and self.server.error is None
            and (self.client.received, self.server.received) == (b"from server", b"from client")
        )


def shake(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    *,
    hostname: str | None = "console.test",
    session: ssl.SSLSession | None = None,
) -> Outcome:
    """Handshake, then a message each way: in TLS 1.3 a client learns only then that it was refused."""
    outcome = Outcome()
    ours, theirs = socket.socketpair()
    for side in (ours, theirs):
        side.settimeout(10)
    thread = threading.Thread(target=_serve, args=(outcome.server, server, ours))
    thread.start()
    _connect(outcome.client, client, theirs, hostname, session)
    thread.join(20)
    assert not thread.is_alive()
    return outcome


def _serve(end: End, context: ssl.SSLContext, raw: socket.socket) -> None:
    with raw:
        try:
            with context.wrap_socket(raw, server_side=True) as connection:
                end.peer = connection.getpeercert(binary_form=True)
                end.version = connection.version()
                end.resumed = bool(connection.session_reused)
                end.received = connection.recv(100)
                connection.sendall(b"from server")
                connection.unwrap()  # without close_notify OpenSSL forgets the session, as a bad one
        except OSError as error:
            end.error = error


def _connect(
    end: End,
    context: ssl.SSLContext,
    raw: socket.socket,
    hostname: str | None,
    session: ssl.SSLSession | None,
) -> None:
    with raw:
        try:
            with context.wrap_socket(raw, server_hostname=hostname, session=session) as connection:
                end.peer = connection.getpeercert(binary_form=True)
                connection.sendall(b"from client")
                end.received = connection.recv(100)
                end.session = connection.session
                end.resumed = bool(connection.session_reused)
                connection.unwrap()
        except OSError as error:
            end.error = error
