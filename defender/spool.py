"""The Defender's events that the Console has not acknowledged yet, on disk (D13).

What the file promises: an event that `append` gave a number to is on disk, and survives kill -9 and a power
cut; its number is never given to another event of the same epoch. An epoch is one life of the file: a lost,
corrupt or older file begins a new one, so that numbers can't be mistaken. Bounded by bytes and by number of
events; at the bound the oldest go first, because what happens now matters more than what happened first, and
are counted.

SQLite in WAL mode with synchronous=FULL, an fsync for each append: a Defender writes a few events a day
(starts, certificates, lost connections), and each is evidence. The file is ours alone
(locking_mode=EXCLUSIVE: no shared memory file, nothing to take and give back). Calls are made where they are
needed, on the event loop: a thread would cost more memory at rest than these few writes cost time.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import DataFolderError

log = logging.getLogger(__name__)

NAME: Final = "spool.db"
SCHEMA: Final = 1
MEMORY_EVENTS: Final = 256
"""Events kept in memory while the disk takes none."""
ROW_OVERHEAD: Final = 32
"""Bytes that an event costs besides its text: row header, number, page share."""

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRAGMAS: Final = (
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    # A few rows: the default of 2 MB of cache would be most of what a Defender may use.
    "PRAGMA cache_size=-128",
    "PRAGMA journal_size_limit=1048576",
)
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS events(number INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS state(
        id INTEGER PRIMARY KEY CHECK (id = 1),
        epoch TEXT NOT NULL, next INTEGER NOT NULL, dropped INTEGER NOT NULL
    );
"""


class _UnusableError(Exception):
    """The file is no spool of ours, or a broken one."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a spool may hold.

    Attributes:
        size: Bytes of events, each with ROW_OVERHEAD; the file is at most about twice that.
        events: Their number.
    """

    size: int = 16 << 20
    events: int = 50_000


@dataclass(frozen=True, slots=True)
class Position:
    """Where a spool stands.

    Attributes:
        epoch: The life of the file that its numbers belong to.
        first: The number of the oldest event that is held; equals `next` where none is.
        next: The number that the next event gets.
        dropped: Events of this file that went unsent, because of a bound or a disk that took none.
    """

    epoch: str
    first: int
    next: int
    dropped: int


class Spool:
    """A spool in a data folder. Not for use by several threads or processes: the folder's lock sees to that.

    Args:
        folder: The data folder.
        bounds: What the spool may hold.

    Raises:
        DataFolderError: if the file cannot be opened for a reason that setting it aside would not cure.
    """

    def __init__(self, folder: Path, bounds: Bounds = Bounds()) -> None:
        self._path = folder / NAME
        self._bounds = bounds
        self._epoch = ""
        self._next = 1
        self._dropped = 0
        self._count = 0
        self._size = 0
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._complained = False
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise DataFolderError(
                str(self._path), f"cannot be opened ({error})", "make it writable and make room on its disk"
            ) from error

    # What is there

    @property
    def position(self) -> Position:
        """Where the spool stands now."""
        return Position(self._epoch, self._first(), self._next, self._dropped + self._lost)

    @property
    def waiting(self) -> int:
        """Events in memory that the disk didn't take yet; they have no number."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Events on disk."""
        return self._count

    def read(self, first: int, count: int, *, size: int = 1 << 20) -> list[tuple[int, bytes]]:
        """Events from number `first` on, in order: at most `count`; beyond the first at most `size` bytes."""
        taken: list[tuple[int, bytes]] = []
        try:
            rows = self._db.execute(
                "SELECT number, body FROM events WHERE number >= ? ORDER BY number LIMIT ?", (first, count)
            )
            with contextlib.closing(rows):
                for number, body in rows:
                    size -= len(body)
                    if size < 0 and taken:
                        break
                    taken.append((number, body))
        except sqlite3.Error as error:
            self._refused(error)
            return []
        return taken

    # What changes it

    def append(self, body: bytes) -> int | None:
        """Keep an event.

        Returns:
            Its number, once it is on disk; None if the disk took it not: then it is kept in memory, gets its
            number with the next call that succeeds, and is dropped and counted if there are too many.
        """
        self._waiting.append(body)
        while len(self._waiting) > MEMORY_EVENTS:
            self._waiting.popleft()
            self._lost += 1
        return self._next - 1 if self.flush() else None

    def flush(self) -> bool:
        """Write what waits in memory; whether nothing does any more."""
        if not self._waiting:
            return True
        try:
            self._write(list(self._waiting))
        except sqlite3.Error as error:
            # A new file takes what the corrupt one didn't.
            return self._refused(error) and self.flush()
        self._waiting.clear()
        if self._complained:
            log.info("The spool %s can be written again; %d events lost", self._path, self._dropped)
            self._complained = False
        return True

    def acknowledge(self, epoch: str, through: int) -> None:
        """Delete the events up to number `through`: the Console has them.

        A refusal by the disk costs nothing: they are sent again, and the Console knows their numbers.
        """
        if epoch != self._epoch:
            return
        try:
            with self._transaction():
                count, size = self._delete(through)
        except sqlite3.Error as error:
            self._refused(error)
        else:
            self._count, self._size = self._count - count, self._size - size

    def renew(self) -> None:
        """Begin a new epoch with the events that are held, numbered from 1.

        For a file that is older than what the Console has seen of it (restored from a backup): its numbers
        would be taken for events that were applied already.
        """
        bodies = [body for _, body in self.read(0, self._count, size=1 << 40)]
        try:
            with self._transaction():
                self._db.execute("DELETE FROM events")
                self._insert(1, bodies)
                self._db.execute("UPDATE state SET epoch = ?, next = ?", (_new_epoch(), len(bodies) + 1))
            self._load()
        except sqlite3.Error as error:
            self._refused(error)

    def close(self) -> None:
        """Write what waits, if the disk takes it, and close the file."""
        if self._waiting and not self.flush():
            log.error("%d events were never written to %s and are lost", len(self._waiting), self._path)
        self._db.close()

    # How

    def _open(self) -> None:
        try:
            self._connect_file()
        except (sqlite3.DatabaseError, _UnusableError) as error:
            if not _is_corrupt(error):
                raise
            self._set_aside(error)
            self._connect_file()

    def _connect_file(self) -> None:
        # Made before SQLite does, for its mode: events tell about the host.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connect(self._path)

    def _connect(self, target: Path | str) -> None:
        self._db = sqlite3.connect(target, isolation_level=None)
        try:
            for pragma in _PRAGMAS:
                self._db.execute(pragma).close()
            self._check()
            self._load()
        except BaseException:
            self._db.close()
            raise

    def _check(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise _UnusableError(f"its schema {version} is newer than {SCHEMA}")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _UnusableError(str(verdict))
        if version < SCHEMA:
            with self._transaction():
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO state VALUES (1, ?, 1, 0)", (_new_epoch(),))
                self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def _load(self) -> None:
        try:
            row = self._db.execute("SELECT epoch, next, dropped FROM state").fetchone()
            held = self._measure(2**62)
        except sqlite3.OperationalError as error:
            # A table is missing; a disk that fails has another code, and its file is left alone.
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise _UnusableError(str(error)) from error
        if row is None:
            raise _UnusableError("it has no state")
        self._epoch, self._next, self._dropped = row
        self._count, self._size = held

    def _measure(self, through: int) -> tuple[int, int]:
        """The number of the events up to number `through`, and their bytes."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM events WHERE number <= ?", (through,)
        ).fetchone()
        return int(row[0]), int(row[1] + row[0] * ROW_OVERHEAD)

    def _first(self) -> int:
        (first,) = self._db.execute("SELECT min(number) FROM events").fetchone()
        return self._next if first is None else int(first)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A COMMIT that failed (a full disk) has been rolled back already, or has not.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write(self, bodies: Sequence[bytes]) -> None:
        """Number and insert events and drop what exceeds the bounds, all or nothing."""
        after = self._next + len(bodies)
        count = self._count + len(bodies)
        size = self._size + sum(len(body) + ROW_OVERHEAD for body in bodies)
        with self._transaction():
            self._insert(self._next, bodies)
            gone, freed = self._trim(count, size)
            self._db.execute("UPDATE state SET next = ?, dropped = dropped + ?", (after, gone + self._lost))
        self._dropped += gone + self._lost
        self._lost = 0
        self._next, self._count, self._size = after, count - gone, size - freed

    def _insert(self, first: int, bodies: Sequence[bytes]) -> None:
        self._db.executemany("INSERT INTO events VALUES (?, ?)", enumerate(bodies, first))

    def _trim(self, count: int, size: int) -> tuple[int, int]:
        """Delete the oldest until the bounds hold; the newest stays. Returns how many, and their bytes."""
        through = 0
        rows = self._db.execute("SELECT number, length(body) FROM events ORDER BY number")
        with contextlib.closing(rows):
            while count > 1 and (count > self._bounds.events or size > self._bounds.size):
                through, length = rows.fetchone()
                count, size = count - 1, size - length - ROW_OVERHEAD
        return self._delete(through) if through else (0, 0)

    def _delete(self, through: int) -> tuple[int, int]:
        """Delete the events up to a number. Returns how many, and their bytes."""
        gone = self._measure(through)
        self._db.execute("DELETE FROM events WHERE number <= ?", (through,))
        return gone

    def _refused(self, error: sqlite3.Error) -> bool:
        """Deal with an error while running; whether there is a new file to write to."""
        if _is_corrupt(error):
            self._replace(error)
            return True
        if not self._complained:
            log.error(
                "The spool %s cannot be written (%s); %d events at most are kept in memory: make room for it",
                self._path,
                error,
                MEMORY_EVENTS,
            )
            self._complained = True
        return False

    def _replace(self, error: sqlite3.Error) -> None:
        self._db.close()
        try:
            self._set_aside(error)
            self._connect_file()
        except (sqlite3.Error, OSError, _UnusableError) as again:
            # An epoch of its own makes numbers safe that live no longer than the process.
            log.error("No new spool can be made (%s); until a restart, events are kept in memory only", again)
            self._connect(":memory:")

    def _set_aside(self, error: Exception) -> None:
        """Move a file that is broken out of the way; one such file is kept, the last."""
        aside = self._path.with_name(NAME + ".corrupt")
        for suffix in ("-wal", "-shm"):
            self._path.with_name(NAME + suffix).unlink(missing_ok=True)
        self._path.replace(aside)
        log.error(
            "The spool %s cannot be used (%s): moved to %s; a new one begins, its unsent events are lost",
            self._path,
            error,
            aside,
        )


def _new_epoch() -> str:
    return secrets.token_hex(16)


def _is_corrupt(error: Exception) -> bool:
    if isinstance(error, _UnusableError):
        return True
    # The primary result code is the low byte of an extended one.
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT
