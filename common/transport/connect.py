"""The client's side: name → address → TCP → TLS → transport, with each failure told apart."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar

from common.openssl import end_reads_at_records
from common.transport.failures import ConnectionFailed, FailureKind, classify, describe
from common.transport.sockets import peer_text, watch_reader, watch_writer
from common.transport.tls import TLSTransport

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


async def connect(
    host: str,
    port: int,
    *,
    context: ssl.SSLContext,
    server_hostname: str | None,
    protocol_factory: Callable[[], ProtocolT],
    timeout: float = 10.0,  # noqa: ASYNC109 - it becomes a kind of failure, not a TimeoutError
    shutdown_timeout: float = 10.0,
    write_stall: float = 60.0,
) -> tuple[TLSTransport, ProtocolT]:
    """Connect and shake hands.

    With TLS 1.3 a server judges our certificate after our side is done: its refusal comes later, to
    `protocol.connection_lost(exc)`, and `classify(exc)` says which it was.

    Args:
        host: Where to connect; its addresses are tried in the resolver's order.
        port: Where to connect.
        context: Never changed after.
        server_hostname: What the server's certificate must be for, where the context checks it.
        protocol_factory: Called once the handshake is done.
        timeout: Seconds for all of it.
        shutdown_timeout: Seconds from the transport's close() until what is queued must be written.
        write_stall: Seconds that the server may take nothing of what is queued; then it is lost.

    Raises:
        ConnectionFailed: with the kind of failure, and whom we tried.
    """
    place = peer_text((host, port))
    try:
        async with asyncio.timeout(timeout):
            sock, peer = await _connect_tcp(host, port, place)
            tls = await _shake_hands(sock, context, server_hostname, place)
    except TimeoutError as exc:
        raise ConnectionFailed(FailureKind.TIMEOUT, f"{place}: no connection in {timeout:g} s") from exc
    try:
        protocol = protocol_factory()
    except BaseException:
        tls.close()
        raise
    loop = asyncio.get_running_loop()
    transport = TLSTransport(
        *(loop, tls, protocol), peer=peer, shutdown_timeout=shutdown_timeout, write_stall=write_stall
    )
    transport.start()
    return transport, protocol


async def _connect_tcp(host: str, port: int, place: str) -> tuple[socket.socket, Any]:
    loop = asyncio.get_running_loop()
    failure = ConnectionFailed(FailureKind.UNREACHABLE, f"{place}: the name has no address")
    try:
        found = await _resolve(host, port)
    except (OSError, UnicodeError) as exc:
        raise ConnectionFailed(FailureKind.UNREACHABLE, f"{place}: {describe(exc)}") from exc
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            return await _connect_address(loop, family, address), address
        except OSError as exc:
            # asyncio's own text names the address again and not the fault.
            fault = os.strerror(exc.errno) if exc.errno else describe(exc)
            failure = ConnectionFailed(classify(exc), f"{peer_text(address)}: {fault}")
            failure.__cause__ = exc
    raise failure


async def _resolve(host: str, port: int) -> list[Any]:
    """The addresses of a host; of an address without a thread, which the resolver would need."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(found)


async def _connect_address(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(
    sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None, place: str
) -> ssl.SSLSocket:
    try:
        tls = context.wrap_socket(
            sock, do_handshake_on_connect=False, suppress_ragged_eofs=False, server_hostname=server_hostname
        )
    except (OSError, ValueError) as exc:
        # ValueError: a host name that none can be, or none where the context checks it.
        sock.close()
        raise ConnectionFailed(classify(exc), f"{place}: {describe(exc)}") from exc
    end_reads_at_records(tls)
    try:
        while (want := _handshake_step(tls)) is not None:
            await _ready(tls.fileno(), want)
    except BaseException as exc:
        tls.close()
        if isinstance(exc, OSError):
            raise ConnectionFailed(classify(exc), f"{place}: {describe(exc)}") from exc
        raise
    return tls


class _Want(Enum):
    READ = auto()
    WRITE = auto()


def _handshake_step(tls: ssl.SSLSocket) -> _Want | None:
    """One step; what it waits for now, or None when the handshake is done."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return _Want.READ
    except ssl.SSLWantWriteError:
        return _Want.WRITE
    return None


async def _ready(fd: int, want: _Want) -> None:
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    watch = watch_reader if want is _Want.READ else watch_writer
    watch(loop, fd, happened.set)
    try:
        await happened.wait()
    finally:
        loop.remove_reader(fd)
        loop.remove_writer(fd)
