"""Those whose start was under way at the swap: handshake, upgrade or Hello."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest

from common.protocol import CloseCode
from console.store import Store, Turn
from tests.console.fleet.drains import (
    CLIENT,
    NARROW,
    NEW,
    OF_OLD,
    OLD,
    A,
    B,
    counts,
    idle,
)
from tests.console.fleet.moving import become, running
from tests.peers import Peer

# Those whose start was under way


async def test_a_hello_that_comes_after_the_swap_is_welcomed_and_asked(store: Store) -> None:
    async with running(store, A) as fleet:
        peer = Peer()
        challenge: list[bytes] = []
        peer.on_message = challenge.append  # type: ignore[method-assign, assignment]
        await peer.connect(fleet.port, OF_OLD)
        await become(lambda: bool(challenge))
        fleet.use(B)
        await become(lambda: counts(fleet).opening == 1)
        del peer.on_message
        peer.on_message(challenge[0])
        await peer.until(lambda: bool(peer.asked))
        assert counts(fleet).asked == 1


async def test_a_second_connection_that_was_under_way_takes_the_place_of_the_first(store: Store) -> None:
    async with running(store, A) as fleet:
        first = await idle(fleet)
        second = Peer(key=first.key)
        challenge: list[bytes] = []
        second.on_message = challenge.append  # type: ignore[method-assign, assignment]
        await second.connect(fleet.port, OF_OLD)
        await become(lambda: bool(challenge))
        fleet.use(B)
        await first.until(lambda: bool(first.asked))
        del second.on_message
        second.on_message(challenge[0])
        await second.until(lambda: bool(second.asked))
        assert (await first.over())[0] == CloseCode.SUPERSEDED
        assert (counts(fleet).total, counts(fleet).pending, counts(fleet).gone) == (1, 1, 0)


async def test_one_that_is_being_judged_at_the_swap_is_asked_once_it_is_welcomed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, turn = asyncio.Event(), store.turn

    async def slow(*args: object, **more: object) -> Turn:
        if more.get("hellos"):
            await go.wait()
        return await turn(*args, **more)  # type: ignore[arg-type]

    async with running(store, A) as fleet:
        monkeypatch.setattr(store, "turn", slow)
        peer = Peer()
        await peer.connect(fleet.port, OF_OLD)
        await become(lambda: fleet._writer.waiting_hellos == 1)
        fleet.use(B)
        await become(lambda: counts(fleet).opening == 1)
        fleet._drain.looked(fleet.clock.monotonic())
        assert counts(fleet).asked == 0
        go.set()
        await peer.until(lambda: bool(peer.asked))
        assert (counts(fleet).asked, counts(fleet).opening) == (1, 0)


def upgrade(tls: ssl.SSLSocket) -> bytes:
    """Ask for the WebSocket by hand; all that comes until the Console closes."""
    tls.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: garrison.defender.v1\r\n\r\n"
    )
    data = b""
    while more := tls.recv(4096):
        data += more
        if struct.pack("!H", CloseCode.TRUST_REMOVED) in data:
            break
    return data


async def test_one_whose_upgrade_comes_after_its_ca_was_removed_is_closed_at_its_opening(
    store: Store, tmp_path: Path
) -> None:
    context = NEW.bare_client(OLD.issue(CLIENT), folder=str(tmp_path))
    context.load_verify_locations(cadata=OLD.authority.certificate_pem.decode())

    def shaken() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", fleet.port), timeout=10)
        return context.wrap_socket(plain, server_hostname="localhost")

    async with running(store, A, GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
        tls = await asyncio.to_thread(shaken)
        with tls:
            await become(lambda: fleet._load().handshakes == 1)
            fleet.use(NARROW)
            data = await asyncio.to_thread(upgrade, tls)
        assert data.startswith(b"HTTP/1.1 101 ")
        assert struct.pack("!H", CloseCode.TRUST_REMOVED) in data
        assert counts(fleet).cut == 1
