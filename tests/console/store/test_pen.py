"""A transaction as one function on one thread."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.engine.default import DefaultDialect

from common.errors import StoreError
from console.store.database import Database, sqlite_pen
from console.store.pen import Pen, Writing, _Prepared
from tests.console.store.disks import fill, small_disk
from tests.console.store.samples import NOW

PUT = "INSERT INTO meta (key, value) VALUES (:key, x'00')"
KEYS = "SELECT json_group_array(key) FROM (SELECT key FROM meta ORDER BY key)"
SYNCHRONOUS = "SELECT json(synchronous) FROM pragma_synchronous()"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "console.db"


@pytest.fixture
async def pen(path: Path) -> AsyncGenerator[Pen]:
    opened = sqlite_pen(path)
    yield opened
    await opened.close()


async def keys(pen: Pen) -> object:
    return await pen.write(lambda writing: writing.ask(KEYS), durable=False)


async def test_a_transaction_commits_as_a_whole_or_not_at_all(pen: Pen) -> None:
    def put(writing: Writing) -> int:
        writing.run(PUT, key="a")
        writing.run_rows(PUT, [["b"], ["c"]])
        return threading.get_ident()

    def fail(writing: Writing) -> None:
        writing.run(PUT, key="d")
        raise RuntimeError("in the middle")

    threads = {await pen.write(put, durable=True)}
    with pytest.raises(RuntimeError, match="in the middle"):
        await pen.write(fail, durable=False)
    assert await keys(pen) == ["a", "b", "c"]
    threads.add(await pen.write(lambda _: threading.get_ident(), durable=False))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_only_what_must_be_durable_waits_for_the_disk(pen: Pen) -> None:
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        assert await pen.write(lambda writing: writing.ask(SYNCHRONOUS), durable=durable) == level


async def test_a_savepoint_undoes_what_a_bad_row_left_half_done(pen: Pen) -> None:
    def work(writing: Writing) -> None:
        writing.run(PUT, key="before")
        for bad in (["x", "x"], ["x", "\ud800"], ["x", 2**70]):
            with pytest.raises(writing.row_faults), writing.savepoint():  # noqa: PT012
                writing.run(PUT, key="within")
                writing.run_rows(PUT, [[value] for value in bad])
        with writing.savepoint():
            writing.run(PUT, key="after")

    await pen.write(work, durable=False)
    assert await keys(pen) == ["after", "before"]


async def test_a_writer_holds_the_lock_from_its_beginning(pen: Pen, path: Path) -> None:
    def work(writing: Writing) -> None:
        writing.ask(KEYS)
        other = sqlite3.connect(path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()

    await pen.write(work, durable=False)


async def test_an_instant_is_written_as_the_models_read_it(pen: Pen) -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    stamps = await pen.write(lambda writing: [writing.stamp(NOW), writing.stamp(east)], durable=False)
    assert stamps == ["2026-11-21 20:00:00.123456"] * 2
    with pytest.raises(ValueError, match="naive"):
        pen.language.stamp(datetime(2026, 1, 1))  # noqa: DTZ001


async def test_a_connection_in_an_unknown_state_is_replaced(pen: Pen) -> None:
    await pen.write(lambda writing: writing.run(PUT, key="a"), durable=True)
    assert pen._connection is not None
    connection = pen._connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        await keys(pen)
    assert await keys(pen) == ["a"]


async def test_the_hot_path_and_the_rest_take_turns(path: Path) -> None:
    database = Database.sqlite(path)

    async def other(number: int) -> None:
        async with database.writing() as connection:
            await connection.exec_driver_sql("INSERT INTO meta VALUES (?, x'00')", (f"o{number:02}",))

    def put(writing: Writing, number: int) -> None:
        writing.run(PUT, key=f"p{number:02}")

    jots = [database.jot(partial(put, number=number)) for number in range(20)]
    await asyncio.gather(*jots, *(other(number) for number in range(20)))
    assert len(await database.jot(lambda writing: writing.ask(KEYS))) == 40
    await database.close()


async def test_a_caller_that_is_cancelled_leaves_all_or_nothing(path: Path) -> None:
    database = Database.sqlite(path)

    def put(writing: Writing, number: int) -> None:
        writing.run(PUT, key=f"{number:02}-a")
        writing.run(PUT, key=f"{number:02}-b")

    for number in range(40):
        task = asyncio.ensure_future(database.jot(partial(put, number=number)))
        for _ in range(number % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    found = await database.jot(lambda writing: writing.ask(KEYS))
    assert {key[:2] for key in found if key.endswith("a")} == {key[:2] for key in found if key.endswith("b")}
    await database.close()
    with pytest.raises(StoreError, match="is closed"):
        await database.jot(lambda writing: writing.ask(KEYS))


async def test_what_the_driver_refuses_is_said_in_an_operators_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.store.database.BUSY_TIMEOUT", 0.05)
    impatient = Database.sqlite(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"is locked by another program \(SQLITE_BUSY\)"):
        await impatient.jot(lambda writing: writing.run(PUT, key="a"))
    other.execute("ROLLBACK")
    other.close()
    await impatient.jot(lambda writing: writing.run(PUT, key="a"))
    await impatient.close()


async def test_a_full_disk_leaves_nothing_of_a_transaction(tmp_path: Path, path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        copy = disk / "console.db"
        copy.write_bytes(path.read_bytes())
        database = Database.sqlite(copy)
        await database.jot(lambda writing: writing.run(PUT, key="a"))
        ballast = fill(disk)
        rows = [[f"{number:06}" * 20] for number in range(5000)]
        with pytest.raises(StoreError, match="disk is full"):
            await database.jot(lambda writing: writing.run_rows(PUT, rows), durable=True)
        ballast.unlink()
        assert await database.jot(lambda writing: writing.ask(KEYS)) == ["a"]
        await database.close()


def test_another_driver_gets_its_own_parameters() -> None:
    prepared = _Prepared.of(PUT, DefaultDialect(paramstyle="pyformat"))
    assert "%(key)s" in prepared.sql
    assert prepared.bind({"key": "a"}) == {"key": "a"}
    assert prepared.bind_row(["a"]) == {"key": "a"}
