"""Records without data, and peers that take nothing: what one connection may ask of us."""

import _ssl
import asyncio
import ctypes
import socket
from typing import Any

import pytest

from common import openssl
from common.transport import FailureKind, Limits, classify, describe
from common.transport.sockets import octets_waiting
from common.transport.tls_parts import MAX_DATALESS
from tests.common.transport.helpers import QUICK, BioClient, Echo, Recorder, dial, eventually, serving

MB = 2**20


def _handle(tls: Any) -> ctypes.c_void_p:
    # PySSLSocket is its head, a reference to its socket, and `SSL *ssl` (Modules/_ssl.c).
    where = id(tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    return ctypes.c_void_p.from_address(where)


def key_updates(client: BioClient, count: int) -> bytes:
    """So many records of a KeyUpdate (RFC 8446 §4.6.3), for which Python's ssl has no call."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    handle = _handle(client.tls)
    for _ in range(count):
        assert library.SSL_key_update(handle, 0) == 1
        assert library.SSL_do_handshake(handle) == 1
    return client.take()


@pytest.fixture
def unknown_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where `common.openssl` can do nothing."""
    monkeypatch.setattr(openssl, "_library", lambda: None)


async def test_records_without_data_end_the_connection_and_others_go_on_meanwhile() -> None:
    async with serving(Echo) as server:
        _, honest = await dial(server)
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol(1)
            protocol.transport.pause_reading()
            await client.send(key_updates(client, 2 * MAX_DATALESS))
            protocol.transport.resume_reading()
            rounds = 0
            while not protocol.lost:
                honest.transport.write(b"x")
                rounds += 1
                await honest.received(rounds)
            assert rounds > 2, "the flood is taken in many turns, and others have theirs between"
        assert isinstance(protocol.lost[0], ConnectionAbortedError)
        assert describe(protocol.lost[0]) == "more than 1000 TLS records without data in a row"
        await server.alive()


@pytest.mark.parametrize("known", [True, False])
async def test_data_between_records_without_data(known: bool, request: pytest.FixtureRequest) -> None:
    if not known:
        request.getfixturevalue("unknown_python")
    async with serving(Echo) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            stream = b""
            for _ in range(3):
                stream += key_updates(client, MAX_DATALESS * 2 // 3) + client.encrypt(b"word")
            await client.send(stream + key_updates(client, 3))
            assert await client.read(12) == b"word" * 3
            await client.send(client.encrypt(b"more"))
            assert await client.read(4) == b"more"


async def test_where_openssl_cannot_be_told_they_are_read_over(unknown_python: None) -> None:
    async with serving(Echo) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            await client.send(key_updates(client, 2 * MAX_DATALESS) + client.encrypt(b"word"))
            assert await client.read(4) == b"word"


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("before", [0, 1, 10])
@pytest.mark.parametrize("after", [0, 1, 10])
async def test_a_reset_among_them_is_noticed(before: int, after: int, paused: bool) -> None:
    """On uvloop the poll handle dies with the reset, whatever came before it."""
    async with serving(Echo) as server:
        client = BioClient(server.port)
        await client.handshake()
        protocol = await server.protocol()
        if paused:
            protocol.transport.pause_reading()
        stream = key_updates(client, before) + client.encrypt(b"word") + key_updates(client, after)
        client.sock.send(stream)
        client.reset()
        if paused:
            await asyncio.sleep(0.01)
            protocol.transport.resume_reading()
        assert classify(await protocol.ended()) is FailureKind.RESET


async def test_an_end_among_them_is_noticed() -> None:
    async with serving(Echo) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            client.sock.send(client.encrypt(b"word") + key_updates(client, 10))
            client.sock.shutdown(socket.SHUT_WR)
            assert classify(await protocol.ended()) is FailureKind.RESET
            assert protocol.data == b"word"


def test_octets_waiting() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert octets_waiting(one.fileno()) == 0
        other.send(b"four")
        assert octets_waiting(one.fileno()) == 4
        fd = one.fileno()
    assert octets_waiting(fd) == 0


# Peers that take nothing


async def test_a_peer_that_takes_nothing_is_lost() -> None:
    limits = Limits(sweep=0.02, write_stall=0.2)
    async with serving(Recorder, limits=limits) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            protocol.transport.write(bytes(20 * MB))
            exc = await protocol.ended()
        assert classify(exc) is FailureKind.TIMEOUT
        assert str(exc) == "the peer took nothing for 0.2 s"


async def test_a_server_that_takes_nothing_is_lost() -> None:
    async with serving(Recorder) as server:
        transport, client = await dial(server, write_stall=0.2)
        (await server.protocol()).transport.pause_reading()
        transport.write(bytes(20 * MB))
        assert classify(await client.ended()) is FailureKind.TIMEOUT


async def test_a_slow_peer_is_kept_and_so_is_an_idle_one() -> None:
    limits = type(QUICK)(sweep=0.02, write_stall=0.4)
    async with serving(Recorder, limits=limits) as server:
        with BioClient(server.port) as client:
            await client.handshake()
            protocol = await server.protocol()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            while loop.time() < begun + 1.0:
                protocol.transport.write(bytes(MB))
                while protocol.transport.get_write_buffer_size() > 4 * MB:
                    await loop.sock_recv(client.sock, MB)
                await asyncio.sleep(0.02)
            while protocol.transport.get_write_buffer_size():
                await loop.sock_recv(client.sock, MB)
            await asyncio.sleep(0.6)  # longer than a stall, with nothing queued
            assert not protocol.lost
            protocol.transport.write(bytes(20 * MB))
            await eventually(lambda: protocol.lost)
