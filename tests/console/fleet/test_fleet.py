"""The fleet over real TLS: who gets in, who doesn't, and what becomes of sessions, events and commands."""

import asyncio
import hashlib
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from common.certificates import Authority, KeyAlgorithm, Role
from common.errors import GarrisonError
from common.protocol import CloseCode, Outcome
from common.transport import FailureKind
from console.fleet.fleet import Fleet, reply_or_raise
from console.fleet.session import CommandReply
from console.store import Store
from tests.peers import Peer, event, new_key
from tests.pki import DAY, PKI


@pytest.fixture
def client(pki: PKI) -> object:
    return pki.set(Role.DEFENDER_CLIENT)


async def joined(fleet: Fleet, pki: PKI, **facts: object) -> Peer:
    peer = Peer(**facts)  # type: ignore[arg-type]
    await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    await peer.welcomed()
    return peer


async def test_a_defender_is_welcomed_and_live(fleet: Fleet, store: Store, pki: PKI) -> None:
    peer = await joined(fleet, pki, hostname="one")
    welcome = await peer.welcomed()
    session = fleet.live.connected(welcome.defender_id)
    assert session is not None
    assert session.hostname == "one"
    assert session.session == welcome.session
    record = await store.defenders.get(welcome.defender_id)
    assert record is not None
    assert record.connected
    assert record.certificate_fingerprint == session.certificate_fingerprint
    assert record.address == session.address


async def test_a_defender_that_leaves_is_disconnected_in_the_store(
    fleet: Fleet, store: Store, pki: PKI
) -> None:
    peer = await joined(fleet, pki)
    welcome = await peer.welcomed()
    version = fleet.live.version
    assert peer.connection is not None
    peer.connection.close(1000, "moved")
    await asyncio.wait_for(fleet.live.wait_for_change(version), 10)
    record = await store.defenders.get(welcome.defender_id)
    assert record is not None
    assert not record.connected
    assert fleet.live.connected(welcome.defender_id) is None


async def test_the_same_key_is_the_same_defender_and_the_newer_session_counts(fleet: Fleet, pki: PKI) -> None:
    key = new_key()
    old = await joined(fleet, pki, key=key)
    new = await joined(fleet, pki, key=key)
    first, second = await old.welcomed(), await new.welcomed()
    assert first.defender_id == second.defender_id
    assert second.session > first.session
    live = fleet.live.connected(second.defender_id)
    assert live is not None
    assert live.session == second.session
    # What the fenced one still sends is not applied; it is told so.
    old.post(1, event("too late"))
    await old.until(lambda: old.closed is not None)
    assert old.closed is not None
    assert old.closed[0] == CloseCode.SUPERSEDED
    new.post(1, event("in time"))
    await new.until(lambda: new.acked == 1)


async def test_a_superseded_session_that_stays_is_closed(fleet: Fleet, pki: PKI) -> None:
    key = new_key()
    old = await joined(fleet, pki, key=key)
    await joined(fleet, pki, key=key)
    await old.until(lambda: old.closed is not None)
    assert old.closed is not None
    assert old.closed[0] == CloseCode.SUPERSEDED


async def test_another_key_with_the_same_host_name_is_another_defender(fleet: Fleet, pki: PKI) -> None:
    one = await (await joined(fleet, pki, hostname="same")).welcomed()
    two = await (await joined(fleet, pki, hostname="same")).welcomed()
    assert one.defender_id != two.defender_id
    with pytest.raises(GarrisonError, match="is claimed by several Defenders; name one by its ID"):
        await fleet.command("same", "reportState", {})


async def test_events_are_stored_once_in_order_and_acknowledged(fleet: Fleet, store: Store, pki: PKI) -> None:
    key = new_key()
    peer = await joined(fleet, pki, key=key, next=151)
    peer.post(1, *(event(str(n)) for n in range(1, 151)))
    await peer.until(lambda: peer.acked == 150)
    # It comes again and is told where to go on.
    again = Peer(key=key, next=161)
    await again.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    welcome = await again.welcomed()
    assert welcome.acked_through == 150
    again.post(151, *(event(str(n)) for n in range(151, 161)))
    await again.until(lambda: again.acked == 160)
    stored = await store.events.list(welcome.defender_id, limit=1000)
    assert [record.number for record in reversed(stored)] == list(range(1, 161))
    assert [record.fields["text"] for record in reversed(stored)] == [str(n) for n in range(1, 161)]


async def test_commands_and_their_ends(fleet: Fleet, pki: PKI) -> None:
    peer = await joined(fleet, pki, hostname="one")
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(fleet.command("one", "reportState", {}))
        await peer.until(lambda: bool(peer.commands))
        peer.answer(peer.commands[0], ok=True, value={"version": "x"})
    assert asked.result() == CommandReply(Outcome.OK, {"version": "x"}, "")
    assert reply_or_raise("one", asked.result()) == {"version": "x"}

    reply = await fleet.command("one", "dance", {})
    assert reply.outcome is Outcome.UNSUPPORTED
    with pytest.raises(GarrisonError, match="one: does not know this command; upgrade the Defender"):
        reply_or_raise("one", reply)

    reply = await fleet.command("one", "restart", {}, seconds=0.5)
    assert reply.outcome is Outcome.TIMED_OUT

    async with asyncio.TaskGroup() as tasks:
        lost = tasks.create_task(fleet.command("one", "restart", {}))
        await peer.until(lambda: len(peer.commands) == 3)
        assert peer.connection is not None
        peer.connection.abort()
    assert lost.result().outcome is Outcome.LOST
    with pytest.raises(GarrisonError, match="one: is not connected"):
        await fleet.command("one", "restart", {})


# Who must not get in. The positive control is every test above.


async def refused(fleet: Fleet, kind: FailureKind) -> None:
    async with asyncio.timeout(10):
        while not fleet.failures[kind]:
            await asyncio.sleep(0.01)
    assert len(fleet.live) == 0


def handshake(port: int, context: ssl.SSLContext, send: bytes = b"GET / HTTP/1.1\r\n\r\n") -> bytes:
    """A blocking client's view: what it reads, or the alert that it was given as an SSLError."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(send)
        return tls.recv(1000)


async def test_without_a_certificate(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    context = pki.bare_client(None, folder=str(tmp_path))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        await asyncio.to_thread(handshake, fleet.port, context)
    await refused(fleet, FailureKind.NO_CERTIFICATE)


async def test_a_certificate_of_another_ca(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    other = PKI()
    context = pki.bare_client(other.issue(Role.DEFENDER_CLIENT), folder=str(tmp_path))
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        await asyncio.to_thread(handshake, fleet.port, context)
    await refused(fleet, FailureKind.UNKNOWN_CA)


async def test_a_certificate_of_another_ca_with_the_same_name(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    other = PKI()
    forged = Authority.create("Test CA", now=pki.now, algorithm=KeyAlgorithm.P256)
    assert forged.certificate_pem != pki.authority.certificate_pem
    issued = forged.issue(Role.DEFENDER_CLIENT, common_name="test", now=other.now)
    context = pki.bare_client(issued, folder=str(tmp_path))
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|decrypt.error|bad.certificate"):
        await asyncio.to_thread(handshake, fleet.port, context)


async def test_an_expired_certificate(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    issued = pki.authority.issue(
        Role.DEFENDER_CLIENT, common_name="test", now=pki.now - 10 * DAY, lifetime=timedelta(days=5)
    )
    context = pki.bare_client(issued, folder=str(tmp_path))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.expired"):
        await asyncio.to_thread(handshake, fleet.port, context)
    await refused(fleet, FailureKind.EXPIRED)


@pytest.mark.parametrize("role", [Role.DEFENDER_SERVER, Role.ADMISSION_SERVER])
async def test_a_servers_certificate_as_client(fleet: Fleet, pki: PKI, tmp_path: Path, role: Role) -> None:
    context = pki.bare_client(pki.issue(role), folder=str(tmp_path))
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(handshake, fleet.port, context)
    await refused(fleet, FailureKind.WRONG_PURPOSE)


async def test_an_older_tls(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    context = pki.bare_client(pki.issue(Role.DEFENDER_CLIENT), folder=str(tmp_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await asyncio.to_thread(handshake, fleet.port, context)
    await refused(fleet, FailureKind.PROTOCOL_VERSION)


async def test_plain_http(fleet: Fleet) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await refused(fleet, FailureKind.NOT_TLS)


async def test_https_that_is_no_websocket(fleet: Fleet, pki: PKI, tmp_path: Path) -> None:
    context = pki.bare_client(pki.issue(Role.DEFENDER_CLIENT), folder=str(tmp_path))
    answer = await asyncio.to_thread(
        handshake, fleet.port, context, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 4")


async def test_a_hello_that_was_made_for_another_console(fleet: Fleet, pki: PKI) -> None:
    """One who terminates TLS with a certificate of his own cannot pass a Defender's Hello on (D9a)."""
    peer = Peer()
    peer.on_open = lambda connection: _with_other_leaf(peer, connection)  # type: ignore[method-assign]
    await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    await peer.until(lambda: peer.closed is not None)
    assert peer.closed is not None
    assert peer.closed[0] == CloseCode.IDENTITY_REFUSED
    assert len(fleet.live) == 0


def _with_other_leaf(peer: Peer, connection: object) -> None:
    Peer.on_open(peer, connection)  # type: ignore[arg-type]
    assert peer.end is not None
    peer.end._leaf = hashlib.sha256(b"another certificate").digest()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"not json", CloseCode.INVALID_DATA),
        (b'{"kind":"heartbeat","sequence":1}', CloseCode.POLICY),
        (b'{"kind":"hello"}', CloseCode.POLICY),
        (b"x" * (300 * 1024), CloseCode.TOO_BIG),
    ],
)
async def test_malformed_and_oversized_messages(fleet: Fleet, pki: PKI, data: bytes, code: int) -> None:
    peer = Peer()
    peer.on_message = lambda _: None  # type: ignore[method-assign, assignment]
    await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    await peer.until(lambda: peer.connection is not None)
    assert peer.connection is not None
    peer.connection.send(data)
    await peer.until(lambda: peer.closed is not None)
    assert peer.closed is not None
    assert peer.closed[0] == code
    assert len(fleet.live) == 0


async def test_a_defender_that_says_nothing(fleet: Fleet, pki: PKI) -> None:
    peer = Peer()
    peer.on_message = lambda _: None  # type: ignore[method-assign, assignment]
    await peer.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    await peer.until(lambda: peer.closed is not None)
    assert peer.closed is not None
    assert peer.closed[:2] == (CloseCode.HELLO_TIMEOUT, "no Hello in time")


async def test_good_ones_work_while_a_thousand_never_finish(fleet: Fleet, pki: PKI) -> None:
    idle = []
    try:
        for n in range(1000):
            sock = socket.create_connection(("127.0.0.1", fleet.port))
            idle.append(sock)
            if n % 2:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        peers = [await joined(fleet, pki, hostname=f"good-{n}") for n in range(20)]
        for peer in peers:
            peer.post(1, event("through"))
        for peer in peers:
            await peer.until(lambda peer=peer: peer.acked == 1)  # type: ignore[misc]
    finally:
        for sock in idle:
            sock.close()


async def test_a_swap_is_seen_by_the_next_connection_and_breaks_none(
    fleet: Fleet, store: Store, pki: PKI
) -> None:
    before = await joined(fleet, pki, hostname="before")
    new = pki.set(Role.DEFENDER_SERVER)
    fleet.use(new)
    after = await joined(fleet, pki, hostname="after")
    assert after.connection is not None
    assert after.connection.transport is not None
    assert after.connection.transport.get_extra_info("peer_chain")[0] == new.leaf.der
    for peer in (before, after):
        peer.post(1, event("still here"))
        await peer.until(lambda peer=peer: peer.acked == 1)  # type: ignore[misc]


async def test_a_connection_that_failed_at_its_start_does_not_leave_a_fenced_one(
    fleet: Fleet, store: Store, pki: PKI
) -> None:
    """The store fences the live session for a newer one that died before its Welcome: it comes again."""
    key = new_key()
    old = await joined(fleet, pki, key=key)
    welcome = await old.welcomed()
    young = Peer(key=key)
    await young.connect(fleet.port, pki.set(Role.DEFENDER_CLIENT))
    await young.until(lambda: young.end is not None and young.end.state.value == "awaiting welcome")
    assert young.connection is not None
    young.connection.abort()
    await old.until(lambda: old.closed is not None or young.welcome is not None)
    if young.welcome is None:
        assert old.closed is not None
        assert old.closed[0] == CloseCode.TRY_AGAIN
        again = await joined(fleet, pki, key=key)
        assert (await again.welcomed()).defender_id == welcome.defender_id
        record = await store.defenders.get(welcome.defender_id)
        assert record is not None
        assert record.connected


async def test_an_event_beyond_its_size_is_bounded_by_the_console(
    fleet: Fleet, store: Store, pki: PKI
) -> None:
    peer = await joined(fleet, pki)
    welcome = await peer.welcomed()
    item = b'{"time":"2026-11-21T20:00:00Z","type":"huge","fields":{"t":"' + b"x" * 100_000 + b'"}}'
    message = b'{"kind":"events","epoch":"epoch-1","first":1,"items":[' + item + b"]}"
    assert peer.connection is not None
    peer.connection.send(message)
    async with asyncio.timeout(10):
        while not (stored := await store.events.list(welcome.defender_id)):
            await asyncio.sleep(0.02)
    assert stored[0].fields == {"omittedBytes": len(item)}


async def test_a_bug_that_one_defender_meets_ends_its_connection_only(
    fleet: Fleet, pki: PKI, caplog: pytest.LogCaptureFixture
) -> None:
    good = await joined(fleet, pki)
    bad = await joined(fleet, pki)
    session = fleet.live.connected((await bad.welcomed()).defender_id)
    assert session is not None
    with session.contained():
        raise RuntimeError("a bug")
    assert "met a bug of the Console's" in caplog.text
    await bad.until(lambda: bad.closed is not None)
    good.post(1, event("y"))
    await good.until(lambda: good.acked == 1)
