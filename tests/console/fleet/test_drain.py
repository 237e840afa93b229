"""What a swap means for those who are connected: over real TLS, in this process."""

import asyncio
import itertools
import logging
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.certificates import CertificateSet, Role, Source
from common.protocol import CloseCode, HeldSet, HostFacts, Outcome
from common.transport import FailureKind
from console.fleet import pacing
from console.fleet.draining import Counts
from console.fleet.fleet import Fleet
from console.fleet.session import Session
from console.store import Store, Turn
from tests.console.fleet.moving import JumpingClock, Mover, ShiftedClock, become, mixed, running
from tests.peers import Peer, event
from tests.pki import DAY, PKI

OLD, NEW = PKI(name="Old CA"), PKI(name="New CA")
# Issued once: what a swap is made of is what differs between tests, not keys.
SERVER, CLIENT = Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT
A, B, C = (mixed(SERVER, OLD) for _ in range(3))
WIDE = mixed(SERVER, NEW, NEW, OLD)
"""The new CA's server, which still takes the old CA's Defenders."""
NARROW = mixed(SERVER, NEW)
"""It takes them no more."""
OF_OLD = mixed(CLIENT, OLD, OLD, NEW)
OF_NEW = mixed(CLIENT, NEW, OLD, NEW)


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "console.fleet.drain"):
        yield caplog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the drain logged."""
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "console.fleet.drain"]


def counts(fleet: Fleet) -> Counts:
    return fleet._drain._tally.counts


async def idle(fleet: Fleet, certificates: CertificateSet = OF_OLD, **more: object) -> Peer:
    """A Defender that is welcomed and does nothing that it is asked for."""
    peer = Peer(**more)  # type: ignore[arg-type]
    await peer.connect(fleet.port, certificates)
    await peer.welcomed()
    return peer


def presented(peer: Peer | None) -> bytes:
    assert peer is not None
    assert peer.connection is not None
    der: bytes = peer.connection.transport.get_extra_info("peer_chain")[0]
    return der


# Moves


async def test_all_move_in_slots_and_nothing_is_lost_or_comes_twice(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A) as fleet, asyncio.TaskGroup() as tasks:
        movers = [await Mover(fleet.port, OF_OLD, tasks, f"web-{n}").start() for n in range(100)]
        fleet.use(B)
        for number in range(1, 11):  # traffic all the while
            for mover in movers:
                mover.happen(str(number))
            await asyncio.sleep(0.1)
        await become(lambda: fleet.drain is not None and fleet.drain.over)
        # The Console knows of a Welcome before its Defender does.
        await become(lambda: all(presented(mover.peer) == B.leaf.der for mover in movers))
        assert [mover.moves for mover in movers] == [1] * 100
        assert (counts(fleet).asked, counts(fleet).moved, counts(fleet).left) == (100, 100, 0)
        for mover in movers:
            peer = mover.peer
            assert peer is not None
            await peer.until(lambda peer=peer: peer.acked == 10)  # type: ignore[misc]
        for mover in movers[::10]:
            assert mover.peer is not None
            welcome = await mover.peer.welcomed()
            stored = await store.events.list(welcome.defender_id, limit=1000)
            assert [one.fields["text"] for one in reversed(stored)] == [str(n) for n in range(1, 11)]
        # The old connections are closed by the Console.
        await become(lambda: len(fleet._sessions) == 100)
        assert len(fleet.live) == 100
    (first, second) = said(lines)
    assert first[0] == second[0] == "INFO"
    assert re.fullmatch(r"100 Defenders are asked to reconnect over about \d s", first[1])
    assert re.fullmatch(r"100 of 100 Defenders moved to the new certificates after \d+ s", second[1])


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Who is asked, and for when, in this order."""
    given: list[tuple[str, float]] = []
    ask = Session.ask

    def recorded(session: Session, slot: float, deadline: float, reason: str) -> bool:
        given.append((session.hostname, slot))
        return ask(session, slot, deadline, reason)

    monkeypatch.setattr(Session, "ask", recorded)
    return given


async def test_slots_are_a_moment_apart(store: Store, slots: list[tuple[str, float]]) -> None:
    async with running(store, A) as fleet:
        peers = [await idle(fleet) for _ in range(30)]
        fleet.use(B)
        for peer in peers:
            await peer.until(lambda peer=peer: bool(peer.asked))  # type: ignore[misc]
    assert len(slots) == 30
    for (_, before), (_, after) in itertools.pairwise(slots):
        # At the bounds of what may have been measured by then.
        assert after - before >= 1 / (pacing.SHARE * pacing.HIGHEST_RATE) - 1e-6


async def test_who_needs_other_files_too_is_asked_a_moment_later(
    store: Store, slots: list[tuple[str, float]]
) -> None:
    """Who shares a volume with the Console sees them at that moment, too, and comes by itself."""
    async with running(store, A) as fleet:
        peer = await idle(fleet)
        before = fleet.clock.monotonic()
        fleet.use(WIDE)
        await peer.until(lambda: len(peer.asked) == 1)
        fleet.use(mixed(SERVER, OLD, NEW, OLD))
        await peer.until(lambda: len(peer.asked) == 2)
    (_, first), (_, second) = slots
    assert first >= before + pacing.LEAD_SECONDS
    assert second - first < pacing.LEAD_SECONDS


async def test_the_set_in_use_is_no_swap_whatever_it_comes_from(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A) as fleet:
        peer, generation = await idle(fleet), fleet._door.generation
        fleet.use(A)
        fleet.use(_from(A, Source.GENERATED))
        assert fleet._door.generation is generation
        assert fleet.certificates is not None
        assert fleet.certificates.source is Source.GENERATED
        fleet.use(B)
        await peer.until(lambda: bool(peer.asked))
        assert len(peer.asked) == 1
    assert len(said(lines)) == 1


async def test_a_swap_that_finds_nobody_says_nothing(store: Store, lines: pytest.LogCaptureFixture) -> None:
    async with running(store, A) as fleet:
        fleet.use(B)
        peer = await idle(fleet)
        assert fleet.drain is None
        fleet.use(C)
        await peer.until(lambda: bool(peer.asked))
    assert len(said(lines)) == 1


async def test_who_makes_no_attempt_is_closed_and_who_fails_stays_until_asked_again(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A, GARRISON_DRAIN_DEADLINE="1") as fleet:
        silent, failing = await idle(fleet, hostname="silent"), await idle(fleet, hostname="failing")
        fleet.use(B)
        await failing.until(lambda: bool(failing.asked))
        assert failing.end is not None
        failing.do(failing.end.reconnect_failed("unknownCa", "not in the bundle"))
        assert (await silent.over())[0] == CloseCode.NOT_MOVED
        await become(lambda: fleet.drain is not None and fleet.drain.over)
        assert failing.closed is None
        assert (counts(fleet).closed, counts(fleet).failed, counts(fleet).left) == (1, 1, 1)
        fleet.use(C)
        await failing.until(lambda: len(failing.asked) == 2)
        assert (await failing.over())[0] == CloseCode.NOT_MOVED
        await become(lambda: len(said(lines)) == 4)
    level, line = said(lines)[1]
    assert level == "WARNING"
    assert "1 could not and keeps its connection (failing: unknownCa not in the bundle)" in line
    assert "1 made no attempt and was closed (silent)" in line


async def test_one_that_failed_and_moves_later_is_counted(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    """A Defender goes on trying by itself: its files came later than the Console's."""
    only_old = mixed(CLIENT, OLD)
    async with running(store, A) as fleet, asyncio.TaskGroup() as tasks:
        mover = await Mover(fleet.port, only_old, tasks, "late").start()
        before = mover.peer
        assert before is not None
        fleet.use(WIDE)
        await become(lambda: counts(fleet).failed == 1)
        assert before.closed is None
        mover.certificates = OF_OLD
        mover._asked(before, before.asked[0])
        await become(lambda: counts(fleet).moved == 1)
        assert counts(fleet).left == 0
        await become(lambda: len(said(lines)) == 3)
    assert said(lines)[2] == ("INFO", "nobody is left on the replaced certificates of the Defenders' port")


# Several swaps


async def test_two_swaps_at_once_ask_once(store: Store) -> None:
    async with running(store, A) as fleet:
        peers = [await idle(fleet) for _ in range(20)]
        fleet.use(B)
        fleet.use(C)
        await become(lambda: all(peer.asked for peer in peers))
        fleet.use(C)
        await become(lambda: counts(fleet).pending == 20)
        assert [len(peer.asked) for peer in peers] == [1] * 20


async def test_a_second_swap_asks_those_again_who_were_asked_for_the_first(store: Store) -> None:
    async with running(store, A) as fleet:
        peers = [await idle(fleet) for _ in range(20)]
        fleet.use(B)
        await become(lambda: all(peer.asked for peer in peers))
        on_b = await idle(fleet)
        fleet.use(C)
        await become(lambda: all(len(peer.asked) == 2 for peer in peers) and bool(on_b.asked))
        # Later looks at everybody ask nobody again.
        fleet._drain._judge_all()
        await become(lambda: not fleet._drain._judging)
        await asyncio.sleep(0.3)
        assert [len(peer.asked) for peer in (*peers, on_b)] == [2] * 20 + [1]
        drain = fleet.drain
        assert drain is not None
        assert drain.counts.total == 21
        assert {(one.fingerprint, one.connections) for one in drain.replaced} == {
            (A.fingerprint, 20),
            (B.fingerprint, 1),
        }


async def test_a_failure_that_comes_after_a_second_swap_does_not_keep_it_from_being_asked(
    store: Store,
) -> None:
    async with running(store, A) as fleet:
        peer = await idle(fleet)
        fleet.use(B)
        await peer.until(lambda: bool(peer.asked))
        # It is judged for the second swap, and what it says of the first comes before its turn.
        fleet.use(C)
        fleet._drain._judge(next(iter(fleet._sessions)))
        fleet._drain.move_failed(next(iter(fleet._sessions)), "unknownCa")
        await peer.until(lambda: len(peer.asked) == 2)
        assert (counts(fleet).failed, counts(fleet).pending) == (0, 1)


async def test_a_second_swap_in_the_middle_of_a_drain_leaves_nobody_behind(store: Store) -> None:
    async with running(store, A) as fleet, asyncio.TaskGroup() as tasks:
        movers = [await Mover(fleet.port, OF_OLD, tasks, f"web-{n}").start() for n in range(60)]
        fleet.use(B)
        await become(lambda: counts(fleet).moved > 10)
        fleet.use(C)
        await become(lambda: all(presented(mover.peer) == C.leaf.der for mover in movers))
        await become(lambda: fleet.drain is not None and fleet.drain.over)
        assert counts(fleet).left == 0
        assert counts(fleet).closed == 0
        assert len(fleet.live) == 60


async def test_a_swap_back_leaves_those_alone_who_had_not_moved(store: Store) -> None:
    async with running(store, A, GARRISON_DRAIN_DEADLINE="1") as fleet:
        stayed = [await idle(fleet) for _ in range(5)]
        fleet.use(B)
        await become(lambda: all(peer.asked for peer in stayed))
        moved = await idle(fleet)
        fleet.use(A)
        # It is asked later than they were, so that their deadline is over when its own is.
        assert (await moved.over())[0] == CloseCode.NOT_MOVED
        assert [peer.closed for peer in stayed] == [None] * 5
        assert [len(peer.asked) for peer in stayed] == [1] * 5
        assert counts(fleet).total == 1
        for peer in stayed:
            peer.post(1, event("still here"))
            await peer.until(lambda peer=peer: peer.acked == 1)  # type: ignore[misc]


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


# Removed trust


async def test_a_connection_that_is_ending_at_the_swap_is_no_removed_trust(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A) as fleet:
        peer = await idle(fleet)
        (session,) = fleet._sessions
        assert session._connection is not None
        assert peer.connection is not None
        peer.connection.transport.pause_reading()  # so it doesn't answer a good-bye
        session._connection.transport.close()
        await become(lambda: not session.chain)
        assert session in fleet._sessions
        fleet.use(B)
        fleet._drain._slice()
        assert fleet.removed_trust is None
        peer.connection.abort()
        await become(lambda: not fleet._sessions)
    assert not [level for level, _ in said(lines) if level == "WARNING"]


async def test_removed_trust_ends_at_once_without_a_grace(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
        removed, kept = await idle(fleet, OF_OLD), await idle(fleet, OF_NEW)
        fleet.use(NARROW)
        assert (await removed.over())[0] == CloseCode.TRUST_REMOVED
        await kept.until(lambda: bool(kept.asked))
        assert kept.closed is None
        assert not removed.asked
        assert fleet.removed_trust is None
    assert ("WARNING", "ended connections on a removed CA: 1") in said(lines)


async def test_removed_trust_is_asked_first_and_ends_after_its_grace_whatever_it_says(
    store: Store, lines: pytest.LogCaptureFixture, slots: list[tuple[str, float]]
) -> None:
    async with running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="2") as fleet:
        kept = [await idle(fleet, OF_NEW) for _ in range(5)]
        removed, silent = [await idle(fleet, OF_OLD, hostname=name) for name in ("removed", "silent")]
        fleet.use(NARROW)
        await removed.until(lambda: bool(removed.asked))
        await become(lambda: all(peer.asked for peer in kept))
        assert {name for name, _ in slots[:2]} == {"removed", "silent"}
        assert "was removed" in removed.asked[0].reason
        assert removed.end is not None
        removed.do(removed.end.reconnect_failed("unknownCa", ""))
        assert fleet.removed_trust is not None
        assert fleet.removed_trust.connections == 2
        assert (await removed.over())[0] == CloseCode.TRUST_REMOVED
        # That it made no attempt is not why it ends.
        assert (await silent.over())[0] == CloseCode.TRUST_REMOVED
        assert [peer.closed for peer in kept] == [None] * 5
    warning = next(line for level, line in said(lines) if level == "WARNING")
    assert warning.startswith("connections on a CA that is not in the bundle any more: 2, which end by 20")
    assert "garrison console end-removed-trust" in warning


async def test_removed_trust_that_moves_in_its_grace_stays_connected(store: Store) -> None:
    async with (
        running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="30") as fleet,
        asyncio.TaskGroup() as tasks,
    ):
        mover = await Mover(fleet.port, OF_OLD, tasks, "web").start()
        mover.certificates = OF_NEW
        fleet.use(NARROW)
        await become(lambda: counts(fleet).moved == 1)
        assert fleet.removed_trust is None


async def test_removed_trust_ends_by_command(store: Store) -> None:
    async with running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="3600") as fleet:
        assert await fleet.end_removed_trust() == 0
        removed = [await idle(fleet, OF_OLD) for _ in range(5)]
        kept = await idle(fleet, OF_NEW)
        fleet.use(NARROW)
        await become(lambda: fleet.removed_trust is not None and fleet.removed_trust.connections == 5)
        assert await fleet.end_removed_trust() == 5
        for peer in removed:
            assert (await peer.over())[0] == CloseCode.TRUST_REMOVED
        assert kept.closed is None
        assert await fleet.end_removed_trust() == 0
        assert counts(fleet).cut == 5


async def test_the_command_ends_those_too_that_are_not_found_yet(store: Store) -> None:
    async with running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="3600") as fleet:
        removed = await idle(fleet, OF_OLD)
        fleet.use(NARROW)
        assert await fleet.end_removed_trust() == 0
        assert (await removed.over())[0] == CloseCode.TRUST_REMOVED
        # It is over with the next swap: that one has a grace of its own.
        fleet.use(WIDE)
        again = await idle(fleet, OF_OLD)
        fleet.use(NARROW)
        await again.until(lambda: bool(again.asked))
        assert again.closed is None


async def test_the_command_ends_what_another_source_has_left_only_if_asked(store: Store) -> None:
    generated = _from(WIDE, Source.GENERATED)
    async with running(store, generated, GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
        left, vouched = await idle(fleet, OF_OLD), await idle(fleet, OF_NEW)
        fleet.use(NARROW)
        await left.until(lambda: bool(left.asked))
        assert await fleet.end_removed_trust() == 0
        assert left.closed is None
        assert await fleet.end_removed_trust(every_source=True) == 1
        assert (await left.over())[0] == CloseCode.TRUST_REMOVED
        assert vouched.closed is None


async def test_a_console_that_stood_still_reads_first_and_then_looks_who_is_late(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = JumpingClock()
    sweeps = itertools.count()
    async with running(store, A, clock, GARRISON_DRAIN_DEADLINE="1") as fleet:
        looked = fleet._drain.looked
        swept = 0

        def counted(now: float) -> None:
            nonlocal swept
            swept = next(sweeps)
            looked(now)

        monkeypatch.setattr(fleet._drain, "looked", counted)
        peer = await idle(fleet)
        fleet.use(B)
        await peer.until(lambda: bool(peer.asked))
        clock.jump += 8.0
        done = swept
        await become(lambda: swept >= done + 2)
        assert peer.closed is None
        while peer.closed is None:  # the control: no excuse lasts
            clock.jump += 1.5
            done = swept
            await become(lambda done=done: swept > done)
        assert peer.closed[0] == CloseCode.NOT_MOVED


async def test_a_second_swap_gives_no_second_grace_and_one_that_brings_the_ca_back_ends_it(
    store: Store,
) -> None:
    also_narrow = mixed(SERVER, NEW)
    async with running(store, WIDE, GARRISON_REMOVED_TRUST_GRACE="3600") as fleet:
        peer = await idle(fleet, OF_OLD)
        fleet.use(NARROW)
        await become(lambda: fleet.removed_trust is not None)
        (by,) = fleet._drain._removed.values()
        fleet.use(also_narrow)
        await peer.until(lambda: len(peer.asked) == 2)
        assert list(fleet._drain._removed.values()) == [by]
        fleet.use(mixed(SERVER, NEW, NEW, OLD))
        await peer.until(lambda: len(peer.asked) == 3)
        assert fleet.removed_trust is None
        assert await fleet.end_removed_trust() == 0
        # Taken away once more, it is a new removal.
        fleet.use(NARROW)
        await become(lambda: fleet.removed_trust is not None)
        (again,) = fleet._drain._removed.values()
        assert again > by


async def test_a_change_of_source_removes_nobodys_trust(store: Store) -> None:
    """Generated and custom have nothing in common: either side may get its files first."""
    async with running(
        store, _from(A, Source.GENERATED), GARRISON_REMOVED_TRUST_GRACE="0", GARRISON_DRAIN_DEADLINE="1"
    ) as fleet:
        failing, silent = await idle(fleet), await idle(fleet)
        fleet.use(NARROW)
        await failing.until(lambda: bool(failing.asked))
        assert failing.end is not None
        failing.do(failing.end.reconnect_failed("unknownCa", ""))
        assert (await silent.over())[0] == CloseCode.NOT_MOVED
        assert failing.closed is None
        assert fleet.removed_trust is None


async def test_the_generated_set_copied_to_the_directory_is_still_the_generated_one(store: Store) -> None:
    async with running(store, _from(A, Source.GENERATED), GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
        before = await idle(fleet)
        fleet.use(A)
        after = await idle(fleet)
        fleet.use(NARROW)
        for peer in (before, after):
            await peer.until(lambda peer=peer: bool(peer.asked))  # type: ignore[misc]
        assert (before.closed, after.closed, fleet.removed_trust) == (None, None, None)
        # Positive control: the same swap within a source.
        wide = await idle(fleet, OF_NEW)
        fleet.use(WIDE)
        kept = await idle(fleet, OF_OLD)
        fleet.use(NARROW)
        assert (await kept.over())[0] == CloseCode.TRUST_REMOVED
        assert wide.closed is None


def _from(certificates: CertificateSet, source: Source) -> CertificateSet:
    from dataclasses import replace

    return replace(certificates, source=source)


# Who must not get in any more. The positive controls are above: the same clients before the swap.


def _greet(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """A blocking client's view of the start; the session to come back with."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not tls.recv(1000):
            raise ConnectionResetError("closed without an answer")
        return tls.session


async def _refused(fleet: Fleet, kind: FailureKind) -> None:
    await become(lambda: bool(fleet.failures[kind]))


async def test_a_client_of_a_removed_ca_is_refused(store: Store, tmp_path: Path) -> None:
    context = NEW.bare_client(OLD.issue(CLIENT), folder=str(tmp_path))
    async with running(store, WIDE) as fleet:
        await asyncio.to_thread(_greet, fleet.port, context, None)
        fleet.use(NARROW)
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            await asyncio.to_thread(_greet, fleet.port, context, None)
        await _refused(fleet, FailureKind.UNKNOWN_CA)


async def test_no_saved_session_of_tls_12_revives_a_removed_ca(store: Store, tmp_path: Path) -> None:
    context = NEW.bare_client(OLD.issue(CLIENT), folder=str(tmp_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(store, WIDE, GARRISON_TLS_MINIMUM="1.2") as fleet:
        saved = await asyncio.to_thread(_greet, fleet.port, context, None)
        assert saved is not None
        fleet.use(NARROW)
        with pytest.raises(OSError):  # noqa: PT011 - an alert or a plain end: refused either way
            await asyncio.to_thread(_greet, fleet.port, context, saved)
        await become(lambda: fleet.failures.total() == 1)
        assert set(fleet.failures) <= {FailureKind.UNKNOWN_CA, FailureKind.RESUMED}
        # Nor does the set that took the CA, when it comes back: nobody is let in without the whole handshake.
        fleet.use(WIDE)
        fresh = await asyncio.to_thread(_greet, fleet.port, context, None)
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.to_thread(_greet, fleet.port, context, fresh)
        await _refused(fleet, FailureKind.RESUMED)


# Commands


async def test_a_command_that_is_under_way_at_the_move_is_answered_on_the_old_connection(
    store: Store,
) -> None:
    async with (
        running(store, A) as fleet,
        asyncio.TaskGroup() as movers,
        asyncio.TaskGroup() as tasks,
    ):
        mover = await Mover(fleet.port, OF_OLD, movers, "web").start()
        old = mover.peer
        assert old is not None
        under_way = tasks.create_task(fleet.command("web", "reportState", {}))
        await old.until(lambda: bool(old.commands))
        fleet.use(B)
        await become(lambda: mover.moves == 1)
        # Fenced events don't end it before the answer; nor does a look at the time.
        old.post(1, event("sent again on the other one"))
        new = mover.peer
        assert new is not None
        asked = tasks.create_task(fleet.command("web", "reportState", {}))
        await new.until(lambda: bool(new.commands))
        new.post(1, event("sent again on the other one"))
        await new.until(lambda: new.acked == 1)
        new.answer(new.commands[0], ok=True, value={"on": "new"})
        assert (await asked).value == {"on": "new"}
        assert old.closed is None
        old.answer(old.commands[0], ok=True, value={"on": "old"})
        reply = await under_way
        assert (reply.outcome, reply.value) == (Outcome.OK, {"on": "old"})
        assert (await old.over())[0] == CloseCode.SUPERSEDED
        assert counts(fleet).moved == 1


async def test_a_move_at_the_last_moment_is_no_missed_deadline(store: Store) -> None:
    """The old connection outlives its deadline for a command's sake; it isn't closed for that."""
    async with (
        running(store, A, GARRISON_DRAIN_DEADLINE="1") as fleet,
        asyncio.TaskGroup() as tasks,
    ):
        old = await idle(fleet, hostname="web")
        under_way = tasks.create_task(fleet.command("web", "reportState", {}))
        control = await idle(fleet)
        await old.until(lambda: bool(old.commands))
        fleet.use(B)
        await old.until(lambda: bool(old.asked))
        await idle(fleet, hostname="web", key=old.key)
        assert (await control.over())[0] == CloseCode.NOT_MOVED
        await asyncio.sleep(0)
        assert old.closed is None
        old.answer(old.commands[0], ok=True)
        assert (await under_way).outcome is Outcome.OK
        assert (await old.over())[0] == CloseCode.SUPERSEDED


# Expiry


def held(fingerprint: str = "ab" * 32, *, days: int = 3000, proved: bool = True) -> HeldSet:
    return HeldSet(CLIENT, fingerprint, datetime.now(UTC) + days * DAY, "custom", proved=proved)


async def test_an_expired_certificate_moves_who_has_proved_another_and_ends_the_others(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    clock = ShiftedClock()
    own = held(OF_OLD.leaf.fingerprint)
    async with running(store, A, clock) as fleet:
        bare = await idle(fleet, held=(own,))
        unproved = await idle(fleet, held=(own, held(proved=False)))
        ended = await idle(fleet, held=(own, held(days=100)))
        ready = await idle(fleet, held=(own, held()))
        told = await idle(fleet, held=(own,))
        assert told.end is not None
        told.do(told.end.post_facts(HostFacts(certificates=(own, held()))))
        await become(lambda: sum(one.spare_until is not None for one in fleet.live) == 3)
        clock.ahead = OF_OLD.leaf.not_after - datetime.now(UTC) + timedelta(seconds=1)
        for peer in (bare, unproved, ended):
            assert (await peer.over())[0] == CloseCode.CERTIFICATE_EXPIRED
        for peer in (ready, told):
            await peer.until(lambda peer=peer: bool(peer.asked))  # type: ignore[misc]
            assert peer.asked[0].reason == "the certificate of this connection has expired"
        # Looking again asks nobody again, and a failure is no reason to end it.
        assert ready.end is not None
        ready.do(ready.end.reconnect_failed("unknownCa", ""))
        await become(lambda: len(said(lines)) == 3)
        fleet._drain._judge_all()
        await become(lambda: not fleet._drain._judging)
        assert (ready.closed, len(ready.asked), len(told.asked)) == (None, 1, 1)
        assert fleet.drain is None
    assert said(lines) == [
        (
            "WARNING",
            (
                "ended connections of Defenders whose certificates have expired: 3; "
                "give these Defenders new ones"
            ),
        ),
        ("INFO", "asked Defenders to reconnect whose certificates have expired: 2"),
        (
            "WARNING",
            "expired, but could not reconnect and stay: 1; look at these Defenders' logs",
        ),
    ]


async def test_who_does_not_move_from_an_expired_certificate_is_closed(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    clock = ShiftedClock()
    async with running(store, A, clock, GARRISON_DRAIN_DEADLINE="1") as fleet:
        silent = await idle(fleet, held=(held(),))
        clock.ahead = OF_OLD.leaf.not_after - datetime.now(UTC) + timedelta(seconds=1)
        await silent.until(lambda: bool(silent.asked))
        fleet._drain._judge_all()
        assert (await silent.over())[0] == CloseCode.NOT_MOVED
        await become(lambda: len(said(lines)) == 2)
    assert said(lines)[1] == (
        "WARNING",
        "closed, since they made no attempt to reconnect: 1; look at these Defenders' logs",
    )


async def test_an_expiry_in_a_drain_ends_who_has_nothing_else_and_asks_nobody_twice(store: Store) -> None:
    clock = ShiftedClock()
    async with running(store, A, clock) as fleet:
        bare, ready = await idle(fleet), await idle(fleet, held=(held(),))
        fleet.use(B)
        await become(lambda: bool(bare.asked) and bool(ready.asked))
        clock.ahead = OF_OLD.leaf.not_after - datetime.now(UTC) + timedelta(seconds=1)
        assert (await bare.over())[0] == CloseCode.CERTIFICATE_EXPIRED
        assert (ready.closed, len(ready.asked)) == (None, 1)
        assert counts(fleet).gone <= 1


async def test_a_session_that_opens_with_a_certificate_that_ends_soon_is_looked_at(store: Store) -> None:
    soon = mixed(CLIENT, OLD, lifetime=timedelta(days=2))
    clock = ShiftedClock()
    async with running(store, A, clock) as fleet:
        long, short = await idle(fleet), await idle(fleet, soon)
        clock.ahead = timedelta(days=2, seconds=1)
        assert (await short.over())[0] == CloseCode.CERTIFICATE_EXPIRED
        assert long.closed is None


# Ends


async def test_a_console_that_stops_in_a_drain_says_good_bye_to_all(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A) as fleet:
        peers = [await idle(fleet) for _ in range(10)]
        fleet.use(NARROW)
        await become(lambda: fleet.drain is not None and fleet.drain.counts.pending > 0)
    for peer in peers:
        assert (await peer.over())[0] == CloseCode.RESTARTING
    assert [level for level, _ in said(lines)] == ["INFO", "WARNING"]
