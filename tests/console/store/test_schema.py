"""Made, migrated, or refused and left as it was."""

import io
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from common.errors import GarrisonError, StoreError
from console.store import Store, schema
from console.store.database import Database
from console.store.models import Base
from tests.console.store.disks import fill, small_disk


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "console.db"


ROWS = (
    """INSERT INTO defenders VALUES ('d-x', x'00', 'h', 'f', '1', 'docker', 'linux', 'amd64', '[]',
    '2026-01-01', '2026-01-01', '2026-01-01', 0, 0, 1, 'ab', '2026-01-01', '::1')""",
    "INSERT INTO spools VALUES (1, 'd-x', 'e', '2026-01-01 00:00:00.000000', 5, 0, 0)",
)


async def refused(path: Path) -> GarrisonError:
    """Why the store is refused; it and its neighbours have to stay as they were."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(StoreError) as caught:
        await schema.prepare_sqlite(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    return caught.value


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def test_models_and_migrations_agree(path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    database = Database.sqlite(path)
    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


def test_head_is_the_newest_migration_and_they_are_numbered() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [schema.HEAD]
    assert all(revision.revision.isdecimal() for revision in script.walk_revisions())


def test_every_migration_is_one_that_postgresql_takes_too() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    script = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": script}
    )
    with Operations.context(context):
        for revision in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
            revision.module.upgrade()
    for table in Base.metadata.tables:
        assert f"CREATE TABLE {table} (" in script.getvalue()


async def test_a_first_start_and_the_next_agree_on_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "console.db"
    await schema.prepare_sqlite(path)
    made = path.read_bytes()
    await schema.prepare_sqlite(path)
    assert path.read_bytes() == made


async def test_a_header_without_a_page_count_is_left_to_sqlite(path: Path) -> None:
    """Writers of old don't maintain it: then it says nothing of what must be there."""
    whole = bytearray(path.read_bytes())
    whole[28:32] = (10_000).to_bytes(4, "big")
    whole[92:96] = bytes(4)
    path.write_bytes(whole)
    schema.inspect_file(path)


async def test_pages_that_only_the_log_has_are_not_missing(folder: Path) -> None:
    """As a Console that was killed leaves it: the log is folded into the file by the next start."""
    killed = """
import asyncio, os, signal, sys
from pathlib import Path
from console.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]))
    for number in range(50):
        await store.meta.put(str(number), bytes(10_000))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", killed, str(folder)], check=False)
    assert (folder / "console.db-wal").stat().st_size > 500_000
    async with await Store.open(folder) as store:
        assert await store.meta.get("49") == bytes(10_000)


async def test_a_store_is_made_whole_and_private(tmp_path: Path) -> None:
    await schema.prepare_sqlite(tmp_path / "console.db")
    assert [file.name for file in tmp_path.iterdir()] == ["console.db"]
    assert (tmp_path / "console.db").stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(tmp_path / "console.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_its_log_is_private_too(store: Store) -> None:
    await store.meta.put("key", b"value")
    files = sorted(store.data_folder.glob("console.db*"))
    assert [file.name for file in files] == ["console.db", "console.db-shm", "console.db-wal"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_a_store_that_others_may_read_is_closed_to_them(path: Path) -> None:
    path.chmod(0o644)
    await schema.prepare_sqlite(path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_start_on_a_store_at_head_does_without_alembic(path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from console.store import Store;"
        "store = asyncio.run(Store.open(Path(sys.argv[1]))); print('alembic' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path.parent)], capture_output=True, check=True, text=True
    )
    assert run.stdout == "False\n"


async def test_what_a_crash_left_of_a_first_start_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "console.db.new").write_bytes(b"half a database")
    (tmp_path / "console.db.new-wal").write_bytes(b"half a log")
    await schema.prepare_sqlite(tmp_path / "console.db")
    assert [file.name for file in tmp_path.iterdir()] == ["console.db"]


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("defenders", recreate="always") as table:
        table.add_column(sa.Column("note", sa.Text(), nullable=True))
    {then}
"""


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations of a future Garrison: where its second one goes."""
    migrations = shutil.copytree(schema.MIGRATIONS, tmp_path / "100% migrations")
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(schema, "HEAD", "0002")
    return migrations / "versions" / "0002_next.py"


async def test_an_older_store_is_migrated_with_all_that_is_in_it(folder: Path, next_version: Path) -> None:
    next_version.write_text(NEXT.format(then=""))
    edit(folder / "console.db", "UPDATE alembic_version SET version_num = '0001'", *ROWS)
    async with await Store.open(folder) as store:
        # The table was replaced: with foreign keys checked, its children would have gone with it.
        assert [spool.epoch for spool in await store.events.spools("d-x")] == ["e"]
    connection = sqlite3.connect(folder / "console.db")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
    assert connection.execute("SELECT note FROM defenders").fetchall() == [(None,)]
    connection.close()


async def test_a_migration_that_fails_leaves_the_store_as_it_was(folder: Path, next_version: Path) -> None:
    next_version.write_text(NEXT.format(then='op.execute("INSERT INTO nowhere VALUES (1)")'))
    path = folder / "console.db"
    edit(path, *ROWS)
    for _ in range(2):
        with pytest.raises(StoreError, match="no such table: nowhere"):
            await Store.open(folder)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    assert connection.execute("SELECT id FROM defenders").fetchall() == [("d-x",)]
    assert "note" not in {row[1] for row in connection.execute("PRAGMA table_info(defenders)")}
    connection.close()


async def test_a_migration_that_leaves_rows_referring_to_nothing_is_undone(
    folder: Path, next_version: Path
) -> None:
    next_version.write_text(NEXT.format(then='op.execute("DELETE FROM defenders")'))
    edit(folder / "console.db", *ROWS)
    with pytest.raises(StoreError, match="rows that refer to nothing"):
        await Store.open(folder)
    connection = sqlite3.connect(folder / "console.db")
    assert connection.execute("SELECT id FROM defenders").fetchall() == [("d-x",)]
    connection.close()


async def test_a_newer_store_names_both_versions_and_the_way_out(path: Path) -> None:
    edit(path, "UPDATE alembic_version SET version_num = '0999'")
    error = await refused(path)
    assert f"has schema 0999, newer than this Garrison's {schema.HEAD}" in str(error)
    assert "run the Garrison that wrote it or a newer one" in str(error)


async def test_a_version_that_is_no_number_is_of_somebody_newer_too(path: Path) -> None:
    edit(path, "UPDATE alembic_version SET version_num = 'abc123'")
    assert "has schema abc123" in str(await refused(path))


async def test_somebody_elses_database(tmp_path: Path) -> None:
    edit(tmp_path / "console.db", "CREATE TABLE theirs (a INTEGER)")
    (tmp_path / "console.db").chmod(0o600)
    assert "is a database of another program" in str(await refused(tmp_path / "console.db"))


async def test_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))
    error = await refused(path)
    assert "is not a database (its header is damaged)" in str(error)
    assert "restore it from a backup" in str(error)


@pytest.mark.parametrize("left", [0, 50, 100, 5000, 40960])
async def test_a_truncated_store(path: Path, left: int) -> None:
    whole = path.read_bytes()
    assert len(whole) > left
    path.write_bytes(whole[:left])
    error = await refused(path)
    assert ("header is damaged" if left < 100 else "its end is missing") in str(error)


async def test_a_store_with_a_damaged_schema(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[100:4096] = os.urandom(3996)
    path.write_bytes(whole)
    assert "is corrupt (SQLITE_CORRUPT" in str(await refused(path))


async def test_damage_that_shows_later_is_said_then(folder: Path) -> None:
    path = folder / "console.db"
    connection = sqlite3.connect(path)
    pages = connection.execute("SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'users'").fetchall()
    connection.close()
    whole = bytearray(path.read_bytes())
    for (page,) in pages:
        whole[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    path.write_bytes(whole)
    async with await Store.open(folder) as store:
        with pytest.raises(StoreError, match=r"is corrupt .*restore it from a backup"):
            await store.users.count()


async def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "console.db").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        await schema.prepare_sqlite(tmp_path / "console.db")


async def test_a_fifo_in_its_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "console.db")
    with pytest.raises(StoreError, match="is not a database"):
        await schema.prepare_sqlite(tmp_path / "console.db")


@pytest.mark.parametrize("size", ["8k", "16k", "40k", "64k", "100k"])
async def test_a_disk_that_fills_up_while_the_store_is_made(tmp_path: Path, size: str) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        with pytest.raises(GarrisonError, match=r"(is on a full disk|the disk is full).*; free some space"):
            await schema.prepare_sqlite(disk / "console.db")
        assert list(disk.iterdir()) == []


async def test_a_store_on_a_full_disk_is_not_harmed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        store = await Store.open(disk / "data")
        await store.meta.put("key", b"before")
        ballast = fill(disk)
        with pytest.raises(StoreError, match=r"disk is full|space left"):
            await store.meta.put("key", bytes(500_000))
        assert await store.meta.get("key") is not None
        ballast.unlink()
        await store.meta.put("key", b"after")
        await store.close()
        async with await Store.open(disk / "data") as again:
            assert await again.meta.get("key") == b"after"
