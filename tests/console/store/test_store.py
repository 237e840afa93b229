"""The store as a whole."""

import asyncio
from pathlib import Path

import pytest

from common.errors import DataFolderError, StoreError
from console.store import Store
from tests.console.store.disks import small_disk
from tests.console.store.samples import NOW, batch, request


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def test_a_first_start_makes_folder_store_and_lock(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert {"console.db", "console.lock"} <= names(tmp_path / "data")
    assert store.data_folder == tmp_path / "data"
    await store.close()
    assert names(tmp_path / "data") == {"console.db", "console.lock"}


async def test_closing_twice_is_no_harm_and_a_closed_store_is_closed(store: Store) -> None:
    await store.close()
    await store.close()
    for use in (
        store.users.count(),
        store.defenders.admit(request(), NOW),
        store.defenders.admit(request(), NOW),
        store.events.apply([batch("d-x", 1, 1, 1)], NOW),
    ):
        with pytest.raises(StoreError, match="is closed"):
            await use


async def test_closing_waits_for_what_was_begun(folder: Path) -> None:
    store = await Store.open(folder)
    admission = asyncio.ensure_future(store.defenders.admit(request(), NOW))
    await asyncio.sleep(0)
    await store.close()
    assert (await admission).session == 1
    async with await Store.open(folder) as again:
        assert await again.defenders.count() == 1


async def test_a_second_console_on_the_same_folder_is_refused(store: Store) -> None:
    with pytest.raises(DataFolderError, match="another Console runs on this data folder"):
        await Store.open(store.data_folder)
    await store.meta.put("key", b"still works")


async def test_a_store_that_is_refused_is_not_held(folder: Path) -> None:
    whole = (folder / "console.db").read_bytes()
    (folder / "console.db").write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(StoreError):
            await Store.open(folder)
    assert (folder / "console.db").read_bytes() == b"garbage"
    (folder / "console.db").write_bytes(whole)
    await (await Store.open(folder)).close()


async def test_a_first_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32k") as disk:
        with pytest.raises(StoreError, match="the disk is full"):
            await Store.open(disk / "data")
        assert list(disk.iterdir()) == []


async def test_what_a_relative_path_says_is_as_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    async with await Store.open(Path("data")) as store:
        assert await store.users.count() == 0
