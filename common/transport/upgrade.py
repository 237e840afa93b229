"""The HTTP upgrade that begins a WebSocket (RFC 6455 §4), of both ends, and the protocol factories."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from common.transport.quick_upgrade import QuickUpgrade
from common.transport.websocket import (
    MAX_BUFFERED,
    MAX_HEAD,
    MAX_MESSAGE,
    Options,
    Phase,
    UpgradeRefused,
    WebSocketConnection,
    WebSocketHandler,
)

# websockets' own: without one it looks it up for each connection.
_SERVER_LOGGER: Final = logging.getLogger("websockets.server")


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A request for a WebSocket, as `process_request` sees it.

    Attributes:
        path: With its query.
        headers: Names in any case; a name that came several times raises LookupError.
        transport: For the peer's address and certificate.
    """

    path: str
    headers: Mapping[str, str]
    transport: asyncio.Transport


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer instead of the upgrade.

    Attributes:
        status: 4xx or 5xx.
        text: For the body: what the client should know, never internals.
        retry_after: Seconds, sent as Retry-After.
    """

    status: int
    text: str
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class _ServerOptions(Options):
    handler_factory: Callable[[], WebSocketHandler]
    path: str
    process_request: Callable[[UpgradeRequest], Refusal | None] | None
    quick: QuickUpgrade


@dataclass(frozen=True, slots=True)
class _ClientOptions(Options):
    uri: str
    headers: Mapping[str, str] = field(repr=False)


class _ServerConnection(WebSocketConnection):
    __slots__ = ()
    _options: _ServerOptions
    _protocol: ServerProtocol | None

    def _receive_head(self, data: bytes) -> bytes:
        protocol = self._protocol
        assert protocol is not None
        # Who debugs websockets sees each line in its log: from its own parser.
        if self._head or protocol.debug or (fields := self._options.quick.read(data)) is None:
            return super()._receive_head(data)
        self._head, self._phase = len(data), Phase.BODY
        if not self._is_refused(self._options.path, fields):
            self._options.quick.accept(protocol, fields, time.time())
            self._accepted()
        return b""

    def _head_received(self, event: Request | Response) -> None:
        assert isinstance(event, Request)
        assert self._protocol is not None
        if event.path.partition("?")[0] != self._options.path:
            self._refuse(Refusal(HTTPStatus.NOT_FOUND, "There is nothing here."))
        elif not self._is_refused(event.path, event.headers):
            response = self._protocol.accept(event)
            self._protocol.send_response(response)
            if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                self._accepted()

    def _accepted(self) -> None:
        self.handler = self._options.handler_factory()
        self._open()

    def _is_refused(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the owner refuses; it is answered then."""
        if self._options.process_request is None:
            return False
        refusal = self._options.process_request(UpgradeRequest(path, headers, self.transport))
        if refusal is not None:
            self._refuse(refusal)
        return refusal is not None

    def _refuse(self, refusal: Refusal) -> None:
        assert self._protocol is not None
        response = self._protocol.reject(HTTPStatus(refusal.status), refusal.text + "\n")
        if refusal.retry_after is not None:
            response.headers["Retry-After"] = str(refusal.retry_after)
        self._protocol.send_response(response)

    def _head_malformed(self, exc: Exception) -> None:
        super()._head_malformed(exc)
        # websockets says nothing to what is no HTTP; a person with the wrong tool deserves a line.
        assert self._protocol is not None
        if not any(self._protocol.writes):
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )

    def _head_too_long(self) -> None:
        assert self._protocol is not None
        if self._protocol.handshake_exc is None:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._protocol.send_response(self._protocol.reject(status, "The request is too long.\n"))
        self._failure = UpgradeRefused(0, f"a request of more than {MAX_HEAD} octets")


class _ClientConnection(WebSocketConnection):
    __slots__ = ()
    _options: _ClientOptions
    _protocol: ClientProtocol | None

    def _begin(self) -> None:
        assert self._protocol is not None
        request = self._protocol.connect()
        request.headers.update(self._options.headers)
        self._protocol.send_request(request)

    def _head_received(self, event: Request | Response) -> None:
        assert isinstance(event, Response)
        assert self._protocol is not None
        if self._protocol.handshake_exc is not None:
            return
        if self._options.subprotocols and self._protocol.subprotocol is None:
            self._failure = UpgradeRefused(0, "the server does not speak our subprotocol")
            self.transport.abort()
            return
        self._open()

    def _head_malformed(self, exc: Exception) -> None:
        if isinstance(exc, InvalidStatus):
            response = exc.response
            after = response.headers.get("Retry-After", "")
            seconds = int(after) if after.isdecimal() and len(after) < 10 else None
            self._failure = UpgradeRefused(response.status_code, response.reason_phrase, seconds)
        else:
            super()._head_malformed(exc)


def server_factory(
    handler_factory: Callable[[], WebSocketHandler],
    *,
    subprotocols: Sequence[str] = (),
    path: str = "/",
    max_size: int = MAX_MESSAGE,
    max_buffered: int = MAX_BUFFERED,
    process_request: Callable[[UpgradeRequest], Refusal | None] | None = None,
    upgrade_timeout: float = 10.0,
    close_timeout: float = 10.0,
) -> Callable[[], WebSocketConnection]:
    """A protocol factory for a `Listener`.

    Args:
        handler_factory: Called for each connection that has been upgraded.
        subprotocols: Ours, the preferred first; a client that offers none of them gets 400.
        path: The only one there is; others get 404.
        max_size: Octets of a message.
        max_buffered: Octets queued for a peer that does not read, until it is aborted.
        process_request: Looks at a request and may refuse it.
        upgrade_timeout: Seconds from the TLS handshake to the upgrade.
        close_timeout: Seconds for the closing handshake.
    """
    options = _ServerOptions(
        tuple(Subprotocol(name) for name in subprotocols),
        *(max_size, max_buffered, upgrade_timeout, close_timeout),
        *(handler_factory, path, process_request, QuickUpgrade(path, tuple(map(Subprotocol, subprotocols)))),
    )
    offered = list(options.subprotocols) or None

    def factory() -> WebSocketConnection:
        protocol = ServerProtocol(subprotocols=offered, max_size=max_size, logger=_SERVER_LOGGER)
        return _ServerConnection(options, protocol, None)

    return factory


def client_factory(
    uri: str,
    handler: WebSocketHandler,
    *,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    max_size: int = MAX_MESSAGE,
    max_buffered: int = MAX_BUFFERED,
    upgrade_timeout: float = 10.0,
    close_timeout: float = 10.0,
) -> Callable[[], WebSocketConnection]:
    """A protocol factory for `connect`, for one connection.

    Args:
        uri: `wss://host:port/path`, for the request's first line and Host.
        handler: Its owner.
        subprotocols: What we speak, the preferred first; a server that picks none of them is refused.
        headers: More of them for the request.
        max_size: Octets of a message.
        max_buffered: Octets queued for a peer that does not read, until it is aborted.
        upgrade_timeout: Seconds from the TLS handshake to the upgrade.
        close_timeout: Seconds for the closing handshake.

    Raises:
        ValueError: if the URI is none.
    """
    options = _ClientOptions(
        tuple(Subprotocol(name) for name in subprotocols),
        *(max_size, max_buffered, upgrade_timeout, close_timeout),
        *(uri, dict(headers or {})),
    )
    try:
        parsed = parse_uri(uri)
    except InvalidURI as exc:
        raise ValueError(str(exc)) from exc
    offered = list(options.subprotocols) or None

    def factory() -> WebSocketConnection:
        protocol = ClientProtocol(parsed, subprotocols=offered, max_size=max_size)
        return _ClientConnection(options, protocol, handler)

    return factory
