"""Protocols that write down what happens, listeners for a block, and a client made of single octets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from common.transport import (
    ConnectionFailed,
    Generation,
    HandshakeFailure,
    Limits,
    Listener,
    TLSTransport,
    connect,
)
from tests.common.transport import certs

BOUND = 10.0
"""Seconds after which what was waited for is called missing."""

QUICK = Limits(sweep=0.02, linger_timeout=0.5, shutdown_timeout=5.0)


async def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until it holds; fail after BOUND."""
    try:
        async with asyncio.timeout(BOUND):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true in {BOUND:g} s") from None


class Recorder(asyncio.Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.transport: TLSTransport
        self.data = bytearray()
        self.calls: list[str] = []
        self.lost: list[Exception | None] = []
        self.paused = 0
        self.resumed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TLSTransport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.calls.append("eof")

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.append(exc)

    async def ended(self) -> Exception | None:
        await eventually(lambda: self.lost, "connection_lost")
        return self.lost[0]

    async def received(self, count: int) -> bytes:
        await eventually(lambda: len(self.data) >= count, f"{count} octets ({len(self.data)} so far)")
        return bytes(self.data)


class Echo(Recorder):
    """Answers with what it gets."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class Server:
    """A listener with what it made."""

    def __init__(self) -> None:
        self.listener: Listener
        self.generation = Generation("one", certs.server_context())
        self.protocols: list[Any] = []
        self.failures: list[HandshakeFailure] = []

    @property
    def port(self) -> int:
        return self.listener.port

    async def protocol(self, index: int = 0) -> Any:
        await eventually(lambda: len(self.protocols) > index, f"server protocol {index}")
        return self.protocols[index]

    async def failure(self, index: int = 0) -> HandshakeFailure:
        await eventually(lambda: len(self.failures) > index, f"handshake failure {index}")
        return self.failures[index]

    async def settled(self) -> None:
        await eventually(lambda: self.listener.stats.pending == 0, "no pending connection")

    async def alive(self) -> None:
        """A new client is served: whatever happened before did no harm."""
        transport, protocol = await dial(self)
        transport.close()
        assert await protocol.ended() is None


@contextlib.asynccontextmanager
async def serving(
    factory: Callable[[], asyncio.BaseProtocol] = Echo,
    *,
    context: ssl.SSLContext | None = None,
    mutual: bool = False,
    limits: Limits = QUICK,
    select: Callable[..., Generation] | None = None,
) -> AsyncIterator[Server]:
    server = Server()
    server.generation = Generation("one", context or certs.server_context(mutual=mutual), mutual=mutual)

    def make() -> asyncio.BaseProtocol:
        server.protocols.append(factory())
        return server.protocols[-1]  # type: ignore[no-any-return]

    server.listener = await Listener.start(
        *("127.0.0.1", 0),
        select=select or (lambda _hello: server.generation),
        protocol_factory=make,
        limits=limits,
        on_failure=server.failures.append,
    )
    try:
        yield server
    finally:
        server.listener.close()
        for transport in server.listener.connections:
            transport.abort()
        await server.listener.wait_closed(BOUND)
        assert not server.listener.connections
        assert not server.generation.connections


async def dial(
    server: Server,
    factory: Callable[[], Any] = Recorder,
    *,
    context: ssl.SSLContext | None = None,
    **more: Any,
) -> tuple[TLSTransport, Any]:
    """Connect to it as a client with a good certificate."""
    return await connect(
        *("127.0.0.1", server.port),
        context=context or certs.client_context(certs.client_leaf()),
        server_hostname="localhost",
        protocol_factory=factory,
        **more,
    )


class BioClient:
    """A TLS client whose octets are sent as the test says: OpenSSL in memory, a plain socket beside it."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, hostname: str = "localhost") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or certs.client_context(certs.client_leaf())
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)

    def step(self) -> bool:
        """One step of the handshake; whether it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self) -> bytes:
        """What OpenSSL wants to have sent."""
        return self._outgoing.read()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> bool:
        """Feed OpenSSL with what comes; False at the end of the stream."""
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), BOUND)
        if not data:
            self._incoming.write_eof()
            return False
        self._incoming.write(data)
        return True

    async def handshake(self) -> None:
        while not self.step():
            await self.send(self.take())
            assert await self.receive(), "the server closed within the handshake"
        await self.send(self.take())

    async def read(self, count: int) -> bytes:
        """So many octets; fewer only at the end of the stream."""
        data = b""
        while len(data) < count:
            try:
                piece = self.tls.read(count - len(data))
            except ssl.SSLWantReadError:
                if await self.receive():
                    continue
                piece = self.tls.read(1)  # close_notify gives b"", a truncation raises
            if not piece:
                break
            data += piece
        return data

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.take()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with a RST, as a host does that has lost the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@contextlib.contextmanager
def loop_errors() -> Iterator[list[dict[str, Any]]]:
    """What the loop's exception handler is told in this block, rather than failing the test."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    try:
        yield told
    finally:
        loop.set_exception_handler(before)


async def refused(server: Server, **more: Any) -> ConnectionFailed:
    """Why the server cannot be connected to."""
    try:
        transport, _ = await dial(server, **more)
    except ConnectionFailed as failure:
        return failure
    transport.abort()
    raise AssertionError("the connection was not refused")
