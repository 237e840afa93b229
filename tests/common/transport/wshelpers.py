"""Handlers that write down what happens to them, and WebSocket servers and clients for a block."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from common.transport import WebSocketConnection, client_factory, connect, server_factory
from tests.common.transport import certs
from tests.common.transport.helpers import BioClient, Server, eventually, serving

NAME = "test.v1"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: test.v1\r\n\r\n"
)


class Handler:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.connection: WebSocketConnection
        self.opened = 0
        self.messages: list[bytes] = []
        self.writable = 0
        self.closed: list[tuple[int, str, Exception | None]] = []

    def on_open(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.opened += 1

    def on_message(self, data: bytes) -> None:
        self.messages.append(data)

    def on_writable(self) -> None:
        self.writable += 1

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        self.closed.append((code, reason, exc))

    async def open(self) -> WebSocketConnection:
        await eventually(lambda: self.opened, "on_open")
        return self.connection

    async def got(self, count: int = 1) -> list[bytes]:
        await eventually(lambda: len(self.messages) >= count, f"{count} messages")
        return self.messages

    async def ended(self) -> tuple[int, str, Exception | None]:
        await eventually(lambda: self.closed, "on_close")
        return self.closed[0]


class WebSocketServer:
    def __init__(self, tls: Server, handlers: list[Any]) -> None:
        self.tls = tls
        self.port = tls.port
        self.handlers = handlers

    async def handler(self, index: int = 0) -> Any:
        await eventually(lambda: len(self.handlers) > index, f"server handler {index}")
        return self.handlers[index]

    async def connect(self, handler: Any = None, *, path: str = "/", **options: Any) -> Any:
        """A client's handler, whatever becomes of it."""
        handler = handler or Handler()
        options = {"subprotocols": [NAME], **options}
        await connect(
            *("127.0.0.1", self.port),
            context=certs.client_context(certs.client_leaf()),
            server_hostname="localhost",
            protocol_factory=client_factory(f"wss://localhost:{self.port}{path}", handler, **options),
        )
        return handler


@contextlib.asynccontextmanager
async def websockets(make: Callable[[], Any] = Handler, **options: Any) -> AsyncIterator[WebSocketServer]:
    handlers: list[Any] = []

    def handler() -> Any:
        handlers.append(make())
        return handlers[-1]

    factory = server_factory(handler, **{"subprotocols": [NAME], **options})
    async with serving(factory) as server:
        yield WebSocketServer(server, handlers)


@contextlib.asynccontextmanager
async def http_client(server: WebSocketServer) -> AsyncIterator[BioClient]:
    """A TLS connection on which the test speaks itself."""
    with BioClient(server.port) as client:
        await client.handshake()
        yield client


async def answer(client: BioClient, request: bytes) -> bytes:
    """All that the server says to this, to the end of the stream."""
    await client.send(client.encrypt(request))
    return await client.read(10**6)


async def upgraded(client: BioClient) -> bytes:
    """The head of the 101."""
    await client.send(client.encrypt(REQUEST))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await client.read(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return head
