"""Positions in the database."""

from console.store import Store
from console.store.database import Database
from console.store.sequence import Position
from console.store.spools import CHUNK, SpoolKey, SpoolRow, chunks, load, save
from tests.console.store.samples import LATER, NOW, request


def test_chunks_cover_everything_in_order() -> None:
    assert list(chunks([])) == []
    portions = list(chunks(range(2 * CHUNK + 1)))
    assert [len(portion) for portion in portions] == [CHUNK, CHUNK, 1]
    assert [item for portion in portions for item in portion] == list(range(2 * CHUNK + 1))


async def admitted(store: Store, count: int) -> list[str]:
    requests = [request(b"key %d" % number, epoch="first") for number in range(count)]
    return [admission.record.id for admission in await store.defenders.admit_all(requests, NOW)]


async def test_positions_of_many_spools_are_kept(store: Store) -> None:
    ids = await admitted(store, CHUNK + 20)
    keys: list[SpoolKey] = [(key, epoch) for key in ids for epoch in ("first", "second")]
    database = Database.sqlite(store.data_folder / "console.db")
    async with database.writing() as connection:
        rows = await load(connection, keys)
        assert {key for key, row in rows.items() if row.id is None} == {(key, "second") for key in ids}
        for number, key in enumerate(keys):
            rows[key].position = Position(number, number + 1, number + 2)
        await save(connection, rows, NOW)
        assert all(row.id is not None and row.before == row.position for row in rows.values())
    async with database.writing() as connection:
        found = await load(connection, keys)
        assert found == rows
        # What did not change is not written.
        await save(connection, found, LATER)
    await database.close()
    assert {spool.opened for spool in await store.events.spools(ids[0])} == {NOW}


async def test_a_key_that_is_asked_for_finds_no_other(store: Store) -> None:
    one, two = await admitted(store, 2)
    database = Database.sqlite(store.data_folder / "console.db")
    async with database.writing() as connection:
        await save(connection, {(one, "own"): SpoolRow(None, None, Position(5))}, NOW)
        rows = await load(connection, [(one, "first"), (two, "own")])
        assert rows[one, "first"].position == Position()
        assert rows[two, "own"] == SpoolRow(None, None, Position())
    await database.close()
