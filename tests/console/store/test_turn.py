"""All that a fleet has to write, in one transaction: `Store.turn`."""

import contextlib
from pathlib import Path

import pytest

from common.errors import StoreError
from console.store import DefenderRecord, EventBatch, Outcome, SpoolRecord, Store, Turn, defender_id
from tests.console.store.disks import fill, small_disk
from tests.console.store.samples import LATER, NOW, Happening, batch, request

ONE, TWO, THREE = defender_id(b"key one"), defender_id(b"key two"), defender_id(b"key three")

State = tuple[tuple[DefenderRecord, ...], list[tuple[tuple[SpoolRecord, ...], int]]]


async def state(store: Store) -> State:
    """All of it."""
    events = [
        (await store.events.spools(key), len(await store.events.list(key, limit=100_000)))
        for key in (ONE, TWO, THREE)
    ]
    return await store.defenders.list(), events


async def test_everything_at_once_comes_to_the_same_as_one_after_the_other(
    store: Store, tmp_path: Path
) -> None:
    hellos = [request(b"key one", first=4, next=9), request(b"key three")]
    batches = [batch(ONE, 1, 4, 1), batch(ONE, 2, 4, 2), batch(TWO, 1, 1, 2), batch(THREE, 2, 1, 1)]
    ended, seen = {ONE: 1, TWO: 9}, {TWO: LATER, "d-unknown": LATER}
    async with await Store.open(tmp_path / "other") as other:
        for each in (store, other):
            await each.defenders.admit_all([request(b"key one"), request(b"key two")], NOW)
            await each.events.apply([batch(ONE, 1, 1, 3)], NOW)
        turn = await store.turn(LATER, ended=ended, hellos=hellos, batches=batches, seen=seen)
        flipped = await other.defenders.mark_disconnected(ended, LATER)
        admissions = await other.defenders.admit_all(hellos, LATER)
        applied = await other.events.apply(batches, LATER)
        await other.defenders.touch(seen)
        assert turn == Turn(flipped, admissions, applied)
        assert await state(store) == await state(other)
    assert turn.flipped == {ONE}
    assert [a.session for a in turn.admissions] == [2, 1]
    assert [a.outcome for a in turn.applied] == [
        Outcome.FENCED,
        Outcome.APPLIED,
        Outcome.APPLIED,
        Outcome.FENCED,
    ]


async def test_a_turn_with_nothing_to_do_is_no_transaction(store: Store) -> None:
    assert await store.turn(NOW) == Turn(frozenset(), (), ())


async def test_one_bad_batch_keeps_nothing_else_from_happening(store: Store) -> None:
    await store.defenders.admit(request(), NOW)
    bad = EventBatch(ONE, 1, "e1", 1, [Happening(fields={"a": object()})])
    turn = await store.turn(LATER, hellos=[request(b"key two")], batches=[bad], seen={ONE: LATER})
    assert turn.applied[0].outcome is Outcome.REFUSED
    assert turn.admissions[0].session == 1
    record = await store.defenders.get(ONE)
    assert record is not None
    assert record.last_seen == LATER


async def test_a_disk_that_is_full_leaves_all_of_a_turn_undone(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        async with await Store.open(disk / "data") as store:
            await store.defenders.admit_all([request(b"key one"), request(b"key two")], NOW)
            ballast = fill(disk)
            first = 1
            with contextlib.suppress(StoreError):
                while True:  # what is left in the log's last pages is used up
                    await store.turn(NOW, batches=[batch(TWO, 1, first, 50)])
                    first += 50
            before = await state(store)
            with pytest.raises(StoreError, match="disk is full"):
                await store.turn(
                    LATER,
                    ended={ONE: 1},
                    hellos=[request(b"key one"), request(b"key three")],
                    batches=[batch(TWO, 1, first, 5000)],
                    seen={TWO: LATER},
                )
            assert await state(store) == before
            ballast.unlink()
            turn = await store.turn(
                LATER, ended={ONE: 1}, hellos=[request(b"key one")], batches=[batch(TWO, 1, first, 50)]
            )
            assert turn.flipped == {ONE}
            assert turn.admissions[0].session == 2
            assert (turn.applied[0].outcome, turn.applied[0].added) == (Outcome.APPLIED, 50)
