"""Single values."""

from pathlib import Path

from console.store import Store


async def test_a_value_is_kept_across_a_restart(folder: Path) -> None:
    async with await Store.open(folder) as store:
        assert await store.meta.get("key") is None
        await store.meta.put("key", b"one")
    async with await Store.open(folder) as store:
        assert await store.meta.get("key") == b"one"
        await store.meta.put("key", b"two")
        assert await store.meta.get("key") == b"two"


async def test_the_first_to_put_wins(store: Store) -> None:
    assert await store.meta.put_new("key", b"one")
    assert not await store.meta.put_new("key", b"two")
    assert await store.meta.get("key") == b"one"
