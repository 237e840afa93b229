"""The engines under the repositories: one that writes, in turn, and a few that read.

SQLite in WAL mode lets readers go on while one writer works. A write transaction begins IMMEDIATE: one that
began as a reader and is upgraded later fails with "locked" at once, busy timeout or not, if somebody wrote in
between. `synchronous=FULL` makes a commit durable before it returns: events are acknowledged on its word.

What a fleet asks for all the time is written by a `Pen`, everything else through SQLAlchemy's asyncio.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

from sqlalchemy import URL, Engine, Row, Select, UpdateBase, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from common.errors import StoreError
from console.store.pen import Pen, Writing

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for a lock that somebody outside this process holds (a backup, an operator's sqlite3)."""

READERS: Final = 4
READER_TIMEOUT: Final = 30.0

_RESTORE = "restore it from a backup; what is there now was left as it is"
_FULL: Final = ("cannot be written because the disk is full", "free some space; nothing was changed")
_FAULTS: Final = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: _FULL,
    sqlite3.SQLITE_BUSY: ("is locked by another program", "close what has it open"),
    sqlite3.SQLITE_READONLY: (
        "is not writable",
        "give the file and its folder to the user that runs the Console",
    ),
    sqlite3.SQLITE_PERM: (
        "is not accessible",
        "give the file and its folder to the user that runs the Console",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "check the file, its folder and the space left on its disk",
    ),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "check the disk and the space left on it"),
    sqlite3.SQLITE_CORRUPT: ("is corrupt", _RESTORE),
    sqlite3.SQLITE_NOTADB: ("is not a database", _RESTORE),
}


def store_error(name: str, error: Exception) -> StoreError:
    """What the engine refused, in an operator's words.

    Args:
        name: The database's.
        error: SQLAlchemy's, or the driver's own.
    """
    if isinstance(error, PoolTimeoutError):
        return StoreError(name, "is overloaded with reads", "try again later")
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", 0)
    # The low byte is the primary code, the rest says more of it (https://sqlite.org/rescode.html).
    fault, remedy = _FAULTS.get(code) or _FAULTS.get(
        code & 0xFF, (f"failed ({type(original).__name__}: {original})", "report this with its log")
    )
    detail = getattr(original, "sqlite_errorname", None)
    return StoreError(name, f"{fault} ({detail})" if detail else fault, remedy)


class Database:
    """Where transactions come from.

    Attributes:
        name: The database, as an operator knows it.
    """

    def __init__(self, name: str, writer: AsyncEngine, reader: AsyncEngine, pen: Pen) -> None:
        self.name = name
        self._writer = writer
        self._reader = reader
        self._pen = pen
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    def sqlite(cls, path: Path) -> "Database":
        """A SQLite file that exists and is at the current schema."""
        writer = sqlite_engine(path, begin="BEGIN IMMEDIATE", size=1)
        reader = sqlite_engine(path, begin="BEGIN", size=READERS, pragmas=("query_only=ON",))
        return cls(str(path), writer, reader, sqlite_pen(path))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something in a transaction that commits at its end, or rolls back if an exception leaves it.

        A caller that is cancelled doesn't take it along: it ends in its own time, and `close` waits for it.
        (A statement that is cancelled under SQLAlchemy and aiosqlite can leave its connection open, and with
        it the lock.) Such a caller doesn't know whether it was committed.

        Raises:
            StoreError: if the engine refuses; nothing was changed then.
        """
        return await asyncio.shield(self.own(self._within(self.writing(), work)))

    async def jot(self, work: Callable[[Writing], T], *, durable: bool = False) -> T:
        """The same for the hot path: all of the transaction is one function, on a thread of its own.

        Args:
            work: What to do.
            durable: Whether a loss of power must not undo it, see `Pen.write`. To wait for the disk costs
                more than to note that a few Defenders came and went, who come again after such a loss.

        Raises:
            StoreError: if the engine refuses; nothing was changed then.
        """
        return await asyncio.shield(self.own(self._jotted(work, durable=durable)))

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something on a consistent view of what is committed; it never waits for a writer.

        Raises:
            StoreError: if the engine refuses.
        """
        return await asyncio.shield(self.own(self._within(self.reading(), work)))

    async def rows(self, statement: Select[*Ts]) -> Sequence[Row[*Ts]]:
        """What one query finds.

        Raises:
            StoreError: if the engine refuses.
        """

        async def fetch(connection: AsyncConnection) -> Sequence[Row[*Ts]]:
            return (await connection.execute(statement)).all()

        return await self.read(fetch)

    async def change(self, statement: UpdateBase) -> int:
        """Run one statement in a transaction of its own; how many rows it found.

        Raises:
            StoreError: if the engine refuses; nothing was changed then.
        """

        async def run(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self.write(run)

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start something that runs to its end, whoever is cancelled; `close` waits for it.

        Raises:
            StoreError: after `close`: an engine would open the file again, which may be another's by then.
        """
        if self._closed:
            work.close()
            raise StoreError(self.name, "is closed", "start the Console again")
        task = asyncio.get_running_loop().create_task(work, name="store")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who waits for it gets it, and who was cancelled doesn't care

    async def _jotted(self, work: Callable[[Writing], T], *, durable: bool) -> T:
        async with self._turn:
            try:
                with _translated(self.name):
                    return await self._pen.write(work, durable=durable)
            except self._pen.language.errors as error:
                raise store_error(self.name, error) from error

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """The transaction of `write`, for who can't be cancelled."""
        # The lock is what writers queue at, first come first served; the pool's own queue would time out.
        async with self._turn:
            with _translated(self.name):
                async with self._writer.begin() as connection:
                    yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """The view of `read`, for who can't be cancelled."""
        with _translated(self.name):
            async with self._reader.begin() as connection:
                yield connection

    async def close(self) -> None:
        """Wait for what runs, then close; the last connection folds the write-ahead log into the file."""
        while self._running:
            await asyncio.wait(self._running)
        self._closed = True
        await self._reader.dispose()
        await self._writer.dispose()
        await self._pen.close()

    @staticmethod
    async def _within(
        transaction: AbstractAsyncContextManager[AsyncConnection],
        work: Callable[[AsyncConnection], Awaitable[T]],
    ) -> T:
        async with transaction as connection:
            return await work(connection)


@contextmanager
def _translated(name: str) -> Generator[None]:
    try:
        yield
    except IntegrityError:
        raise  # a broken constraint is an answer: the repository reads it
    except (DBAPIError, PoolTimeoutError) as error:
        raise store_error(name, error) from error


def sqlite_engine(path: Path, *, begin: str, size: int, pragmas: tuple[str, ...] = ()) -> AsyncEngine:
    """An engine on a SQLite file.

    Args:
        path: The file.
        begin: The statement that begins a transaction.
        size: How many connections at most.
        pragmas: What each connection is set to, beyond what all are.
    """
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=size,
        max_overflow=0,
        pool_timeout=READER_TIMEOUT,
        connect_args={"timeout": BUSY_TIMEOUT},
    )
    _set_up(engine.sync_engine, pragmas)
    event.listen(engine.sync_engine, "begin", _on_begin(begin))
    return engine


def sqlite_pen(path: Path) -> Pen:
    """A pen for a SQLite file."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)), pool_size=1, connect_args={"timeout": BUSY_TIMEOUT}
    )
    _set_up(engine, ())
    # In WAL mode NORMAL leaves out the wait for the disk at a commit, and nothing else.
    return Pen(
        engine,
        begin=("PRAGMA synchronous=NORMAL", "BEGIN IMMEDIATE"),
        begin_durable=("PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"),
    )


def _set_up(engine: Engine, pragmas: tuple[str, ...]) -> None:
    shared = ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF", "journal_size_limit=67108864")
    event.listen(engine, "connect", _on_connect((*shared, *pragmas)))


def _on_connect(pragmas: tuple[str, ...]) -> Callable[[DBAPIConnection, object], None]:
    def connect(connection: DBAPIConnection, _record: object) -> None:
        # Python's sqlite3 begins transactions by itself, before DML only and never IMMEDIATE: switch that
        # off and begin them in _on_begin (the recipe of SQLAlchemy's documents on SQLite transactions).
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return connect


def _on_begin(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin
