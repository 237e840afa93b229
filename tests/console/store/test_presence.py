"""What is written of Defenders between two admissions."""

from datetime import timedelta

from console.store import Store, defender_id
from console.store.database import Database
from console.store.pen import Writing
from console.store.presence import flip, touch
from tests.console.store.samples import LATER, NOW, request

MANY = 1200


async def test_both_are_part_of_a_transaction(store: Store) -> None:
    ids = [a.record.id for a in await store.defenders.admit_all([request(b"%d" % n) for n in range(4)], NOW)]

    def work(writing: Writing) -> list[frozenset[str]]:
        touch(writing, dict.fromkeys(ids[1:], NOW - timedelta(seconds=1)))
        touch(writing, {ids[0]: LATER, 'd-"odd\\': LATER})
        touch(writing, {})
        first, second, third, unknown = ids
        return [
            flip(writing, {first: 1, second: 1, third: 2}, LATER, connected=False),
            flip(writing, {first: 1, unknown: 1}, LATER, connected=False),
            flip(writing, {second: 1, 'd-"odd\\': 1}, LATER, connected=True),
            flip(writing, {}, LATER, connected=True),
        ]

    database = Database.sqlite(store.data_folder / "console.db")
    flipped = await database.jot(work)
    await database.close()
    assert flipped == [{ids[0], ids[1]}, {ids[3]}, {ids[1]}, frozenset()]
    records = {record.id: record for record in await store.defenders.list()}
    assert [records[key].connected for key in ids] == [False, True, True, False]
    assert [records[key].last_modified for key in ids] == [LATER, LATER, NOW, LATER]
    assert [records[key].last_seen for key in ids] == [LATER, NOW, NOW, NOW]


async def test_a_fleet_leaves_at_once(store: Store) -> None:
    keys = [b"key %d" % number for number in range(MANY)]
    await store.defenders.admit_all([request(key) for key in keys], NOW)
    sessions = {defender_id(key): 1 for key in keys}
    assert await store.defenders.mark_disconnected(sessions, LATER) == sessions.keys()
    await store.defenders.touch(dict.fromkeys(sessions, LATER))
    assert {(r.connected, r.last_seen) for r in await store.defenders.list()} == {(False, LATER)}
