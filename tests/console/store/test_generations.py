"""Sealed sets, all or nothing."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from console.store import Kind, Store
from tests.console.store.samples import generation


async def test_nothing_is_sealed_at_first(store: Store) -> None:
    assert await store.generations.list(Kind.DEFENDER) == ()
    assert not await store.generations.any_sealed()


async def test_generations_are_listed_newest_first_and_by_kind(folder: Path) -> None:
    first, second = generation(number=1), generation(number=2, secrets={"one.pem": b"other"})
    console = generation(Kind.CONSOLE)
    async with await Store.open(folder) as store:
        assert await store.generations.add(first, console)
        assert await store.generations.add(second)
    async with await Store.open(folder) as store:
        assert await store.generations.list(Kind.DEFENDER) == (second, first)
        assert await store.generations.list(Kind.CONSOLE) == (console,)
        assert await store.generations.any_sealed()


async def test_of_several_all_are_added_or_none(store: Store) -> None:
    await store.generations.add(generation(number=1))
    assert not await store.generations.add(generation(Kind.CONSOLE), generation(number=1))
    assert await store.generations.list(Kind.CONSOLE) == ()


async def test_of_many_who_mint_at_once_one_wins(store: Store) -> None:
    offers = [generation(secrets={"one.pem": bytes([number])}) for number in range(10)]
    added = await asyncio.gather(*(store.generations.add(offer) for offer in offers))
    assert sum(added) == 1
    assert await store.generations.list(Kind.DEFENDER) == (offers[added.index(True)],)


async def test_secrets_are_replaced_together_or_not_at_all(store: Store) -> None:
    await store.generations.add(generation())
    assert await store.generations.replace(Kind.DEFENDER, 1, {"one.pem": b"new"})
    (held,) = await store.generations.list(Kind.DEFENDER)
    assert held.secrets == {"one.pem": b"new", "two.pem": b"sealed two"}
    assert not await store.generations.replace(Kind.DEFENDER, 1, {"one.pem": b"newer", "three.pem": b"x"})
    assert not await store.generations.replace(Kind.DEFENDER, 2, {"one.pem": b"newer"})
    assert await store.generations.list(Kind.DEFENDER) == (held,)


async def test_a_deleted_generation_takes_its_secrets_along(store: Store) -> None:
    await store.generations.add(generation())
    assert await store.generations.delete(Kind.DEFENDER, 1)
    assert not await store.generations.delete(Kind.DEFENDER, 1)
    assert not await store.generations.any_sealed()
    renewed = replace(generation(), not_after=generation().not_after + timedelta(days=1))
    assert await store.generations.add(renewed)
    assert await store.generations.list(Kind.DEFENDER) == (renewed,)
