from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.product import DEFENDER_TYPES
from common.version import VERSION
from console.fleet.directory import (
    Category,
    DefenderDirectory,
    Search,
    Tally,
    category_of,
    compatible,
    listing,
)
from console.store import DefenderQuery, DefenderSort, Store
from tests.console.api.world import START, Fleet, Session, SetClock, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with await Store.open(tmp_path / "data") as store:
        made = World(store)
        yield made
        await made.identity.close()


async def names(directory: DefenderDirectory, search: Search) -> list[str]:
    return [item.record.facts.hostname for item in (await directory.list(search)).items]


async def test_nobody_is_there(world: World) -> None:
    page = await world.directory.list(Search())
    assert (page.items, page.total) == ((), 0)
    assert await world.directory.summary() == {}
    assert await world.directory.tally() == Tally(0, 0)
    assert await world.directory.names(Search()) == ()


async def test_a_connected_defender_shows_its_session(world: World) -> None:
    defender = await world.connect("web-01", using_old_ca=True)
    (item,) = (await world.directory.list(Search())).items
    assert item.record.id == defender
    assert (item.connected, item.since, item.address) == (True, START, "192.0.2.7")
    assert item.using_old_ca
    assert (item.latest, item.compatible, item.certificate_expired) == (True, True, False)
    await world.disconnect(defender)
    (item,) = (await world.directory.list(Search())).items
    assert (item.connected, item.since, item.address) == (False, None, "192.0.2.7")
    assert not item.using_old_ca


async def test_a_session_that_was_superseded_says_nothing(world: World) -> None:
    defender = await world.connect("web-01", using_old_ca=True)
    (item,) = (await world.directory.list(Search())).items
    stale = replace(world.fleet.sessions[defender], session=item.record.session - 1)
    shown = listing(item.record, stale, now=START, duplicate=False)
    assert (shown.since, shown.using_old_ca) == (None, False)


async def test_the_same_claim_twice_is_flagged_on_both(world: World) -> None:
    await world.connect("build", key="a")
    await world.connect("web")
    assert [item.duplicate_hostname for item in (await world.directory.list(Search())).items] == [
        False,
        False,
    ]
    second = await world.connect("BUILD", key="b")
    flagged = {
        item.record.facts.hostname: item.duplicate_hostname
        for item in (await world.directory.list(Search())).items
    }
    assert flagged == {"build": True, "BUILD": True, "web": False}
    # Also on a page that shows only one of the two.
    (item,) = (await world.directory.list(Search(DefenderQuery(limit=1)))).items
    assert item.duplicate_hostname
    await world.store.defenders.delete(second)
    assert not any(item.duplicate_hostname for item in (await world.directory.list(Search())).items)


async def test_claims_are_not_counted_all_the_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read = world.store.defenders.duplicated_hostnames
    readings = 0

    async def slow() -> frozenset[str]:
        nonlocal readings
        readings += 1
        world.clock.advance(0.5)
        return await read()

    monkeypatch.setattr(world.store.defenders, "duplicated_hostnames", slow)
    page = Search(DefenderQuery(limit=50))
    for key in ("a", "b", "c"):
        await world.connect("build", key=key)
        await world.directory.list(page)
    assert readings == 1
    world.clock.advance(10)
    assert all(item.duplicate_hostname for item in (await world.directory.list(page)).items)
    await world.directory.list(page)
    assert readings == 2


async def test_filters_beyond_the_store(world: World) -> None:
    await world.connect("old", using_old_ca=True)
    await world.connect("ended", not_after=START - timedelta(seconds=1))
    await world.connect("other", version="99.1.0")
    await world.connect("arm", arch="aarch64")
    directory = world.directory
    assert await names(directory, Search(using_old_ca=True)) == ["old"]
    assert await names(directory, Search(certificate_expired=True)) == ["ended"]
    assert await names(directory, Search(latest=False)) == ["other"]
    assert await names(directory, Search(supported=False)) == ["other"]
    assert await names(directory, Search(arm64=True)) == ["arm"]
    assert await names(directory, Search(arm64=False, latest=True)) == ["ended", "old"]
    assert await names(directory, Search(nothing=True)) == []


async def test_pages_of_what_the_store_cannot_tell(world: World) -> None:
    for n in range(5):
        await world.connect(f"web-{n}", using_old_ca=n % 2 == 0)
    query = DefenderQuery(offset=1, limit=1)
    page = await world.directory.list(Search(query, using_old_ca=True))
    assert ([item.record.facts.hostname for item in page.items], page.total) == (["web-2"], 3)


async def test_totals(world: World) -> None:
    for n in range(5):
        await world.connect(f"web-{n}")
    for offset, limit, found in [(0, 2, 2), (4, 2, 1), (0, 5, 5), (9, 2, 0), (0, None, 5), (3, None, 2)]:
        page = await world.directory.list(Search(DefenderQuery(offset=offset, limit=limit)))
        assert (len(page.items), page.total) == (found, 5)


async def test_names_come_once_and_in_order(world: World) -> None:
    for name, key in [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")]:
        await world.connect(name, key=key)
    assert await world.directory.names(Search()) == ("a", "b", "c")
    page = Search(DefenderQuery(offset=1, limit=1, sort=DefenderSort.LAST_MODIFIED))
    assert await world.directory.names(page) == ("b",)


async def test_counts_by_category(world: World) -> None:
    await world.connect("host")
    gone = await world.connect("docker", type_="docker")
    await world.connect("daemonset", type_="daemonset")
    await world.disconnect(gone)
    assert await world.directory.summary() == {Category.CONTAINER: Tally(2, 1), Category.HOST: Tally(1, 1)}
    assert await world.directory.tally() == Tally(3, 2)


def test_every_type_has_a_category() -> None:
    assert {category_of(type_) for type_ in DEFENDER_TYPES} == set(Category)
    assert category_of("fargate") is Category.APP_EMBEDDED
    assert category_of("something new") is Category.HOST


@pytest.mark.parametrize(
    ("version", "console", "fits"),
    [
        ("34.4.1", "34.9.0", True),
        ("32.0", "34.0", True),
        ("31.9", "34.0", False),
        ("35.0", "34.0", False),
        ("", "34.0", False),
        ("x", "34.0", False),
        ("-1.0", "1.0", False),
        ("٣٤.0", "34.0", False),
        ("9" * 5000, "34.0", False),
        (VERSION, VERSION, True),
    ],
)
def test_supported_versions(version: str, console: str, fits: bool) -> None:
    assert compatible(version, console) is fits


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_any_claimed_version_is_judged(version: str) -> None:
    assert compatible(version) in (True, False)


def test_the_stand_in_fits_the_interface() -> None:
    clock = SetClock()
    session = Session(clock.now(), "192.0.2.1", clock.now(), 1)
    fleet = Fleet()
    fleet.sessions["d-1"] = session
    assert fleet.connected("d-1") is session
