"""The schema's version: compared at every start by a plain query, changed by Alembic only when it has to be.

Alembic takes an eighth of a second to import; a start on a store that is up to date does without it.
"""

import asyncio
import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.errors import StoreError
from console.store.database import Database, sqlite_engine, store_error
from console.store.folder import folder_error

HEAD: Final = "0001"
"""The newest revision in `migrations/versions/`. They are numbers, so that newer can be told from older."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_MAGIC: Final = b"SQLite format 3\0"
_RESTORE: Final = "restore it from a backup; it was left as it is"


async def prepare_sqlite(path: Path) -> None:
    """See to it that the file is a store of this schema: made if it is missing, migrated if it is older.

    Raises:
        StoreError: if it is corrupt, something else, of a newer version, or can't be written; it was left as
            it is.
        DataFolderError: if its folder refuses a new file.
    """
    if not await asyncio.to_thread(path.exists):
        await _create(path)
        return
    await asyncio.to_thread(inspect_file, path)
    found = await _found(path)
    if found != HEAD:
        _refuse_foreign(path, found)
        await _upgrade(path, str(path))


def inspect_file(path: Path) -> None:
    """Look at the file itself before SQLite may touch it.

    SQLite takes an empty file for a new database and finds out about missing pages only as it meets them.
    The page count in the header (https://sqlite.org/fileformat2.html, 1.3) says what must be there; pages
    that only the write-ahead log holds are excepted while there is one.

    Raises:
        StoreError: if it isn't a whole database.
    """
    try:
        # Not blocking: somebody may have put a FIFO there.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            header = file.read(100) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise StoreError(
            str(path), f"cannot be read ({error.strerror})", "give it to the user that runs the Console"
        ) from error
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(str(path), "is not a database (its header is damaged)", _RESTORE)
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    # The count holds if the writer that left the last change was one that maintains it.
    pages = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 1
    logged = path.with_name(path.name + "-wal").exists()
    if status.st_size < page_size * (1 if logged else pages):
        raise StoreError(str(path), "is corrupt (its end is missing)", _RESTORE)
    if status.st_mode & 0o077:
        path.chmod(0o600)


async def _found(path: Path) -> str | None:
    database = Database.sqlite(path)
    try:
        async with database.reading() as connection:
            return await _revision(connection)
    finally:
        await database.close()


async def _revision(connection: AsyncConnection) -> str | None:
    tables = await connection.execute(
        text("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'alembic_version'")
    )
    if tables.first() is None:
        return None
    row = (await connection.execute(text("SELECT version_num FROM alembic_version"))).first()
    return None if row is None else str(row[0])


def _refuse_foreign(path: Path, found: str | None) -> None:
    if found is None:
        raise StoreError(
            str(path), "is a database of another program", "move it away or restore it from a backup"
        )
    if not found.isdecimal() or int(found) > int(HEAD):
        raise StoreError(
            str(path),
            f"has schema {found}, newer than this Garrison's {HEAD}",
            "run the Garrison that wrote it or a newer one; it was left as it is",
        )


async def _create(path: Path) -> None:
    """Build the store beside its place and move it there whole: what has the name is complete."""
    draft = path.with_name(path.name + ".new")
    try:
        await asyncio.to_thread(_touch_private, draft)
        await _upgrade(draft, str(path))
        await asyncio.to_thread(_move, draft, path)
    except OSError as error:
        raise folder_error(path.parent, error) from error
    finally:
        await asyncio.to_thread(_remove, draft)


def _touch_private(path: Path) -> None:
    _remove(path)
    # SQLite gives its log and shared-memory files the mode of the database.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _move(draft: Path, path: Path) -> None:
    draft.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).unlink()


async def _upgrade(path: Path, name: str) -> None:
    """Migrate in one transaction, foreign keys unchecked meanwhile: SQLite alters a table by replacing it."""
    # Both can be set outside of a transaction only; the file remembers its journal mode.
    pragmas = ("foreign_keys=OFF", "journal_mode=WAL")
    engine = sqlite_engine(path, begin="BEGIN IMMEDIATE", size=1, pragmas=pragmas)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_migrate)
            if (await connection.execute(text("PRAGMA foreign_key_check"))).first() is not None:
                raise StoreError(name, "has rows that refer to nothing", _RESTORE)
    except DBAPIError as error:
        raise store_error(name, error) from error
    finally:
        await engine.dispose()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic reads "%" as the start of a placeholder.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
