"""Connections whose CA a swap removes, and who must not get in any more."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from common.certificates import Source
from common.protocol import CloseCode
from common.transport import FailureKind
from console.fleet.fleet import Fleet
from console.store import Store
from tests.console.fleet.drains import (
    CLIENT,
    NARROW,
    NEW,
    OF_NEW,
    OF_OLD,
    OLD,
    SERVER,
    WIDE,
    A,
    B,
    counts,
    from_source,
    idle,
    said,
)
from tests.console.fleet.moving import Mover, become, mixed, running

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
    generated = from_source(WIDE, Source.GENERATED)
    async with running(store, generated, GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
        left, vouched = await idle(fleet, OF_OLD), await idle(fleet, OF_NEW)
        fleet.use(NARROW)
        await left.until(lambda: bool(left.asked))
        assert await fleet.end_removed_trust() == 0
        assert left.closed is None
        assert await fleet.end_removed_trust(every_source=True) == 1
        assert (await left.over())[0] == CloseCode.TRUST_REMOVED
        assert vouched.closed is None


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
        store, from_source(A, Source.GENERATED), GARRISON_REMOVED_TRUST_GRACE="0", GARRISON_DRAIN_DEADLINE="1"
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
    async with running(store, from_source(A, Source.GENERATED), GARRISON_REMOVED_TRUST_GRACE="0") as fleet:
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
