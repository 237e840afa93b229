"""Transactions: who waits for whom, what is durable, and what an engine's refusal reads like."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.errors import StoreError
from console.store import database as database_module
from console.store.database import Database, store_error
from console.store.models import Meta


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "console.db"


@pytest.fixture
async def database(path: Path) -> AsyncGenerator[Database]:
    opened = Database.sqlite(path)
    yield opened
    await opened.close()


async def put(connection: AsyncConnection, key: str) -> None:
    await connection.execute(text("INSERT INTO meta VALUES (:key, x'00')"), {"key": key})


async def keys(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(text("SELECT key FROM meta ORDER BY key")))


async def keys_in(path: Path) -> list[str]:
    """By another connection, once the first is closed."""
    other = Database.sqlite(path)
    try:
        return await keys(other)
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", 5000),
        ("trusted_schema", 0),
    ],
)
async def test_every_connection_is_set_up(database: Database, pragma: str, value: object) -> None:
    for transaction in (database.writing, database.reading):
        async with transaction() as connection:
            assert await connection.scalar(text(f"PRAGMA {pragma}")) == value


async def test_a_transaction_commits_as_a_whole_or_not_at_all(database: Database) -> None:
    async with database.writing() as connection:
        await put(connection, "a")
        await put(connection, "b")

    async def fail(connection: AsyncConnection) -> None:
        await put(connection, "c")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(fail)
    assert await keys(database) == ["a", "b"]


async def test_ddl_is_part_of_a_transaction_too(database: Database) -> None:
    """Python's sqlite3, left to itself, begins no transaction for DDL."""

    async def fail(connection: AsyncConnection) -> None:
        await put(connection, "a")
        await connection.execute(text("CREATE TABLE half (made INTEGER)"))
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(fail)
    assert await keys(database) == []
    with pytest.raises(StoreError, match="no such table"):
        async with database.reading() as connection:
            await connection.execute(text("SELECT * FROM half"))


async def test_a_writer_holds_the_lock_from_its_beginning(database: Database, path: Path) -> None:
    """BEGIN IMMEDIATE: another program can't slip in between its first read and its first write."""
    async with database.writing() as connection:
        await connection.scalar(text("SELECT count(*) FROM meta"))
        other = sqlite3.connect(path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


async def test_readers_go_on_while_somebody_writes_and_see_what_was_committed(database: Database) -> None:
    async with database.writing() as writer:
        await put(writer, "a")
        assert await keys(database) == []
        async with database.reading() as reader:
            assert await reader.scalar(text("SELECT count(*) FROM meta")) == 0
            await writer.commit()
            # Still: a reader's view is of one moment.
            assert await reader.scalar(text("SELECT count(*) FROM meta")) == 0
    assert await keys(database) == ["a"]


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match="is not writable"):
        async with database.reading() as connection:
            await put(connection, "a")


async def test_many_writers_take_turns(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.writing() as connection:
            count = await connection.scalar(text("SELECT count(*) FROM meta"))
            await asyncio.sleep(0)
            await put(connection, f"{count:03}")

    await asyncio.gather(*(write(number) for number in range(40)))
    assert await keys(database) == [f"{number:03}" for number in range(40)]


async def test_a_writer_whose_caller_is_cancelled_ends_in_its_own_time(
    database: Database, path: Path
) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def work(connection: AsyncConnection) -> None:
        await put(connection, "slow")
        entered.set()
        await go.wait()

    task = asyncio.ensure_future(database.write(work))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys(database) == []
    go.set()
    await database.close()
    assert await keys_in(path) == ["slow"]


async def test_callers_that_are_cancelled_at_any_point_leave_all_or_nothing(
    database: Database, path: Path
) -> None:
    for number in range(60):

        async def work(connection: AsyncConnection, number: int = number) -> None:
            await put(connection, f"{number}-a")
            await put(connection, f"{number}-b")

        tasks = [asyncio.ensure_future(database.write(work)), asyncio.ensure_future(keys(database))]
        for _ in range(number):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await database.close()
    found = await keys_in(path)
    assert {key[:-1] + "b" for key in found} == {key for key in found if key.endswith("b")}
    assert found


async def test_a_failure_that_nobody_waits_for_any_more_is_no_trouble(database: Database, path: Path) -> None:
    async def work(connection: AsyncConnection) -> None:
        await put(connection, "a")
        raise StoreError("store", "failed", "nothing to do")

    task = asyncio.ensure_future(database.write(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()
    assert await keys_in(path) == []


async def test_what_is_closed_stays_closed(database: Database) -> None:
    """An engine that was disposed of opens the file again when it is used: it may be another Console's."""
    await database.close()
    await database.close()
    for use in (database.rows(select(Meta.key)), database.change(insert(Meta).values(key="a", value=b"1"))):
        with pytest.raises(StoreError, match="is closed"):
            await use


async def test_one_statement_is_a_transaction_too(database: Database) -> None:
    assert await database.change(insert(Meta).values(key="a", value=b"1")) == 1
    assert await database.change(update(Meta).where(Meta.key == "b").values(value=b"2")) == 0
    assert await database.rows(select(Meta.key, Meta.value)) == [("a", b"1")]


async def test_another_program_that_holds_the_lock_is_named_as_the_cause(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.05)
    impatient = Database.sqlite(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(
        StoreError, match=r"is locked by another program \(SQLITE_BUSY\); close what has it open"
    ):
        async with impatient.writing() as connection:
            await put(connection, "a")
    other.execute("ROLLBACK")
    other.close()
    async with impatient.writing() as connection:
        await put(connection, "a")
    await impatient.close()


async def test_a_broken_constraint_is_for_the_caller_to_read(database: Database) -> None:

    async def put_twice(connection: AsyncConnection) -> None:
        await put(connection, "a")
        await put(connection, "a")

    with pytest.raises(IntegrityError):
        await database.write(put_twice)
    assert await keys(database) == []


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (sqlite3.SQLITE_FULL, "disk is full"),
        (sqlite3.SQLITE_IOERR | 1 << 8, "cannot be read or written"),
        (sqlite3.SQLITE_READONLY, "is not writable"),
        (sqlite3.SQLITE_CORRUPT, "is corrupt"),
        (sqlite3.SQLITE_NOTADB, "is not a database"),
        (sqlite3.SQLITE_CANTOPEN, "cannot be opened"),
    ],
)
def test_every_refusal_says_what_to_do(code: int, says: str) -> None:
    original = sqlite3.OperationalError("what SQLite says")
    original.sqlite_errorcode = code
    original.sqlite_errorname = "SQLITE_NAME"
    error = store_error("/data/console.db", OperationalError("SELECT 1", {}, original))
    assert str(error).startswith("/data/console.db: ")
    assert says in str(error)
    assert error.remedy
    assert "SELECT" not in str(error)


def test_a_refusal_that_nobody_foresaw_is_passed_on() -> None:
    error = store_error("db", DBAPIError("SELECT 1", {}, sqlite3.DataError("string or blob too big")))
    assert "DataError: string or blob too big" in str(error)


def test_waiting_for_a_reader_has_an_end() -> None:
    assert "overloaded" in str(store_error("db", PoolTimeoutError()))
