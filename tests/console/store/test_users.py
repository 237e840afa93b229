"""Who may log in."""

import asyncio
from dataclasses import replace
from pathlib import Path

from console.store import Store
from tests.console.store.samples import LATER, user


async def test_a_fresh_store_has_no_users(store: Store) -> None:
    assert await store.users.count() == 0
    assert await store.users.get("admin") is None


async def test_the_first_user_is_kept_as_given(folder: Path) -> None:
    async with await Store.open(folder) as store:
        assert await store.users.create_first(user())
    async with await Store.open(folder) as store:
        assert await store.users.count() == 1
        assert await store.users.get("admin") == user()


async def test_names_are_exact(store: Store) -> None:
    await store.users.create_first(user("Admin"))
    assert await store.users.get("admin") is None
    assert await store.users.get("Admin ") is None
    assert await store.users.get("Admin") is not None


async def test_of_many_first_users_one_is_first(store: Store) -> None:
    names = [f"user-{number}" for number in range(20)]
    created = await asyncio.gather(*(store.users.create_first(user(name)) for name in names))
    assert sum(created) == 1
    assert await store.users.count() == 1
    winner = names[created.index(True)]
    assert await store.users.get(winner) is not None


async def test_a_second_user_of_the_same_name_is_not_the_first_either(store: Store) -> None:
    assert await store.users.create_first(user())
    assert not await store.users.create_first(replace(user(), password_hash="other"))
    assert await store.users.get("admin") == user()


async def test_a_hash_is_replaced_only_while_it_is_what_was_read(store: Store) -> None:
    await store.users.create_first(user())
    old = user().password_hash
    assert await store.users.update_password_hash("admin", expected=old, replacement="new", now=LATER)
    assert not await store.users.update_password_hash("admin", expected=old, replacement="newer", now=LATER)
    assert not await store.users.update_password_hash("nobody", expected="new", replacement="x", now=LATER)
    assert await store.users.get("admin") == replace(user(), password_hash="new", last_modified=LATER)
