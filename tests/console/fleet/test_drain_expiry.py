"""Connections whose certificate expires while they stand."""

from datetime import UTC, datetime, timedelta

import pytest

from common.protocol import CloseCode, HeldSet, HostFacts
from console.store import Store
from tests.console.fleet.drains import CLIENT, OF_OLD, OLD, A, B, counts, idle, said
from tests.console.fleet.moving import ShiftedClock, become, mixed, running
from tests.pki import DAY

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
