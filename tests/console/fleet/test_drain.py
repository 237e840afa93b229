"""What a swap means for those who are connected: over real TLS, in this process."""

import asyncio
import itertools
import re

import pytest

from common.certificates import Source
from common.protocol import CloseCode, Outcome
from console.fleet import pacing
from console.store import Store
from tests.console.fleet.drains import (
    CLIENT,
    NARROW,
    NEW,
    OF_OLD,
    OLD,
    SERVER,
    WIDE,
    A,
    B,
    C,
    counts,
    from_source,
    idle,
    presented,
    said,
)
from tests.console.fleet.moving import JumpingClock, Mover, become, mixed, running
from tests.peers import event

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


async def test_the_set_in_use_is_no_swap_whatever_it_comesfrom_source(
    store: Store, lines: pytest.LogCaptureFixture
) -> None:
    async with running(store, A) as fleet:
        peer, generation = await idle(fleet), fleet._door.generation
        fleet.use(A)
        fleet.use(from_source(A, Source.GENERATED))
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
