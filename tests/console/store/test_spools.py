"""Positions in the database."""

from console.store import Store
from console.store.database import Database
from console.store.pen import Writing
from console.store.records import MAX_NUMBER
from console.store.sequence import Position
from console.store.spools import SpoolKey, SpoolRow, identify, load, save
from tests.console.store.samples import LATER, NOW, request

MANY = 700


async def admitted(store: Store, count: int) -> list[str]:
    requests = [request(b"key %d" % number, epoch="first") for number in range(count)]
    return [admission.record.id for admission in await store.defenders.admit_all(requests, NOW)]


async def test_positions_of_many_spools_are_kept(store: Store) -> None:
    ids = await admitted(store, MANY)
    keys: list[SpoolKey] = [(key, epoch) for key in ids for epoch in ("first", "second")]

    def move(writing: Writing) -> dict[SpoolKey, SpoolRow]:
        rows = load(writing, keys)
        assert {key for key, row in rows.items() if row.id is None} == {(key, "second") for key in ids}
        for number, key in enumerate(keys):
            rows[key].position = Position(number, number + 1, number + 2)
        save(writing, rows, NOW)
        identify(writing, rows)
        return rows

    def look(writing: Writing) -> dict[SpoolKey, SpoolRow]:
        found = load(writing, keys)
        # What did not change is not written.
        save(writing, found, LATER)
        return found

    database = Database.sqlite(store.data_folder / "console.db")
    moved = await database.jot(move)
    assert all(row.id is not None and row.before == row.position for row in moved.values())
    assert await database.jot(look) == moved
    await database.close()
    assert {spool.opened for spool in await store.events.spools(ids[0])} == {NOW}


async def test_a_key_that_is_asked_for_finds_no_other(store: Store) -> None:
    one, two = await admitted(store, 2)

    def work(writing: Writing) -> dict[SpoolKey, SpoolRow]:
        save(writing, {(one, "own"): SpoolRow(None, None, Position(5))}, NOW)
        return load(writing, [(one, "first"), (two, "own")])

    database = Database.sqlite(store.data_folder / "console.db")
    rows = await database.jot(work)
    assert rows[one, "first"].position == Position()
    assert rows[two, "own"] == SpoolRow(None, None, Position())
    await database.close()


async def test_the_greatest_numbers_and_odd_names_come_back_as_they_were(store: Store) -> None:
    (one,) = await admitted(store, 1)
    keys = [(one, name) for name in ('"', "\\", "é€😀", "'; DROP TABLE spools; --", "$[0]", "1")]
    largest = Position(MAX_NUMBER, MAX_NUMBER - 1, MAX_NUMBER)

    def work(writing: Writing) -> dict[SpoolKey, SpoolRow]:
        save(writing, {key: SpoolRow(None, None, largest) for key in keys}, NOW)
        return load(writing, keys)

    database = Database.sqlite(store.data_folder / "console.db")
    rows = await database.jot(work)
    assert {key: row.position for key, row in rows.items()} == dict.fromkeys(keys, largest)
    await database.close()
