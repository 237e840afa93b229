"""Who was admitted, and what is known of them."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from console.store import (
    Admission,
    DefenderCount,
    DefenderQuery,
    DefenderRecord,
    DefenderSort,
    HostFacts,
    Refusal,
    Store,
    defender_id,
)
from console.store.database import Database
from tests.console.store.samples import LATER, NOW, batch, facts, request

ONE, TWO = defender_id(b"key one"), defender_id(b"key two")


async def lock(store: Store, key: str) -> None:
    """As a revocation will."""
    database = Database.sqlite(store.data_folder / "console.db")
    async with database.writing() as connection:
        await connection.execute(text("UPDATE defenders SET locked = 1 WHERE id = :key"), {"key": key})
    await database.close()


async def admit(store: Store, key: bytes, **claims: str) -> Admission:
    return await store.defenders.admit(request(key, facts=facts(**claims)), NOW)


# Admission


async def test_a_key_is_bound_to_an_id_at_first_use(folder: Path) -> None:
    expected = DefenderRecord(
        id=ONE,
        public_key=b"key one",
        facts=facts(),
        first_seen=NOW,
        last_modified=NOW,
        last_seen=NOW,
        connected=True,
        session=1,
        certificate_fingerprint="ab" * 32,
        certificate_not_after=NOW + timedelta(days=1000),
        address="127.0.0.1",
        locked=False,
    )
    async with await Store.open(folder) as store:
        admission = await store.defenders.admit(request(), NOW)
        assert admission == Admission(expected, "e1", 0, new=True, missing=0)
    async with await Store.open(folder) as store:
        assert await store.defenders.get(ONE) == expected


async def test_each_admission_is_a_new_session_of_the_same_defender(store: Store) -> None:
    first = await store.defenders.admit(request(), NOW)
    again = request(
        facts=facts("renamed", version="0.2.0", capabilities=()),
        certificate_fingerprint="cd" * 32,
        certificate_not_after=LATER,
        address="::1",
    )
    second = await store.defenders.admit(again, LATER)
    assert not second.new
    assert second.record == replace(
        first.record,
        facts=facts("renamed", version="0.2.0", capabilities=()),
        session=2,
        last_seen=LATER,
        certificate_fingerprint="cd" * 32,
        certificate_not_after=LATER,
        address="::1",
    )
    assert await store.defenders.list() == (second.record,)


async def test_two_keys_on_one_host_name_are_two_defenders(store: Store) -> None:
    await admit(store, b"key one")
    await admit(store, b"key two")
    records = await store.defenders.list()
    assert {record.id for record in records} == {ONE, TWO}
    assert {record.facts.hostname for record in records} == {"node-1"}


async def test_many_that_come_at_once_are_all_admitted(store: Store) -> None:
    keys = [b"key %d" % number for number in range(700)]
    admissions = await asyncio.gather(*(store.defenders.admit(request(key), NOW) for key in keys * 2))
    assert [admission.record.public_key for admission in admissions] == keys * 2
    assert sorted({admission.session for admission in admissions}) == [1, 2]
    assert all(admission.new == (admission.session == 1) for admission in admissions)
    assert await store.defenders.count() == 700


async def test_two_connections_of_one_defender_in_one_transaction_get_two_sessions(store: Store) -> None:
    requests = [request(epoch="e1"), request(epoch="e2", first=4, next=9)]
    first, second = await store.defenders.admit_all(requests, NOW)
    assert (first.session, first.new, first.epoch) == (1, True, "e1")
    assert (second.session, second.new, second.epoch, second.applied_through) == (2, False, "e2", 3)
    record = await store.defenders.get(ONE)
    assert record == second.record
    assert {spool.epoch for spool in await store.events.spools(ONE)} == {"e1", "e2"}


async def test_nobody_at_the_door_is_no_transaction(store: Store) -> None:
    assert await store.defenders.admit_all([], NOW) == ()


async def test_a_locked_defender_is_refused_and_nothing_is_changed(store: Store) -> None:
    await admit(store, b"key one")
    await store.defenders.mark_disconnected({ONE: 1}, NOW)
    await lock(store, ONE)
    before = await store.defenders.get(ONE)
    admission = await store.defenders.admit(request(epoch="new", facts=facts("other")), LATER)
    assert admission.refused is Refusal.LOCKED
    assert await store.defenders.get(ONE) == before == admission.record
    assert [spool.epoch for spool in await store.events.spools(ONE)] == ["e1"]
    assert (await admit(store, b"key two")).refused is None


async def test_claims_that_no_engine_could_keep_are_made_harmless(store: Store) -> None:
    claimed = facts("node\0\ud800", capabilities=("a\0",))
    good, odd = await asyncio.gather(
        store.defenders.admit(request(b"key two"), NOW),
        store.defenders.admit(request(b"key one", facts=claimed), NOW),
    )
    assert good.refused is None
    record = await store.defenders.get(ONE)
    assert record == odd.record
    assert record is not None
    assert record.facts.hostname == "node??"
    assert record.facts.capabilities == ("a?",)


# The spool


async def test_a_spool_goes_on_where_it_was(store: Store) -> None:
    first = await store.defenders.admit(request(), NOW)
    await store.events.apply([batch(ONE, first.session, 1, 5)], NOW)
    second = await store.defenders.admit(request(first=4, next=9), LATER)
    assert (second.applied_through, second.missing) == (5, 0)


async def test_what_a_spool_no_longer_holds_is_given_up_and_counted(store: Store) -> None:
    await store.defenders.admit(request(), NOW)
    second = await store.defenders.admit(request(first=11, next=20, dropped=10), LATER)
    assert (second.applied_through, second.missing) == (10, 10)
    (spool,) = await store.events.spools(ONE)
    assert (spool.through, spool.missing, spool.dropped) == (10, 10, 10)


async def test_a_lost_spool_starts_a_new_epoch_and_both_are_on_record(store: Store) -> None:
    first = await store.defenders.admit(request(), NOW)
    await store.events.apply([batch(ONE, first.session, 1, 5)], NOW)
    second = await store.defenders.admit(request(epoch="e2"), LATER)
    assert second.applied_through == 0
    assert [(spool.epoch, spool.opened, spool.through) for spool in await store.events.spools(ONE)] == [
        ("e2", LATER, 0),
        ("e1", NOW, 5),
    ]


async def test_a_spool_from_a_restored_disk_is_told_how_far_it_was(store: Store) -> None:
    first = await store.defenders.admit(request(), NOW)
    await store.events.apply([batch(ONE, first.session, 1, 50)], NOW)
    await store.defenders.admit(request(epoch="e2"), LATER)
    restored = await store.defenders.admit(request(epoch="e1", first=10, next=20), LATER)
    assert restored.applied_through == 50  # beyond its next: it has to start a new epoch


# Connected or not


async def test_last_modified_is_the_last_flip(store: Store) -> None:
    await admit(store, b"key one")
    steps = [NOW + timedelta(minutes=minute) for minute in range(1, 6)]
    assert await store.defenders.mark_disconnected({ONE: 1}, steps[0]) == {ONE}
    assert await store.defenders.mark_disconnected({ONE: 1}, steps[1]) == frozenset()
    record = await store.defenders.get(ONE)
    assert record is not None
    assert (record.connected, record.last_modified) == (False, steps[0])
    assert await store.defenders.mark_connected({ONE: 1}, steps[2]) == {ONE}
    await store.defenders.admit(request(), steps[3])
    record = await store.defenders.get(ONE)
    assert record is not None
    assert (record.connected, record.last_modified, record.last_seen) == (True, steps[2], steps[3])


async def test_the_end_of_an_old_session_says_nothing_of_a_newer_one(store: Store) -> None:
    await admit(store, b"key one")
    await admit(store, b"key one")
    assert await store.defenders.mark_disconnected({ONE: 1, "d-unknown": 1}, LATER) == frozenset()
    record = await store.defenders.get(ONE)
    assert record is not None
    assert record.connected
    assert await store.defenders.mark_disconnected({ONE: 2}, LATER) == {ONE}


async def test_many_are_marked_at_once(store: Store) -> None:
    requests = [request(b"key %d" % number) for number in range(1200)]
    sessions = {a.record.id: a.session for a in await store.defenders.admit_all(requests, NOW)}
    assert await store.defenders.mark_disconnected(sessions, LATER) == sessions.keys()
    assert await store.defenders.summary() == (DefenderCount("docker", 0, 1200),)
    assert await store.defenders.mark_disconnected({}, LATER) == frozenset()


async def test_at_a_start_nobody_is_connected(store: Store) -> None:
    await admit(store, b"key one")
    await admit(store, b"key two")
    await store.defenders.mark_disconnected({TWO: 1}, NOW)
    assert await store.defenders.mark_all_disconnected(LATER) == 1
    assert await store.defenders.mark_all_disconnected(LATER) == 0
    assert {record.id: record.last_modified for record in await store.defenders.list()} == {
        ONE: LATER,
        TWO: NOW,
    }


async def test_signs_of_life_only_go_forward(store: Store) -> None:
    await admit(store, b"key one")
    await admit(store, b"key two")
    await store.defenders.touch({ONE: LATER, TWO: NOW - timedelta(days=1), "d-unknown": LATER})
    await store.defenders.touch({})
    assert {record.id: record.last_seen for record in await store.defenders.list()} == {ONE: LATER, TWO: NOW}


async def test_a_fleets_signs_of_life_are_one_transaction(store: Store) -> None:
    requests = [request(b"key %d" % number) for number in range(1200)]
    ids = [admission.record.id for admission in await store.defenders.admit_all(requests, NOW)]
    await store.defenders.touch(dict.fromkeys(ids, LATER))
    assert {record.last_seen for record in await store.defenders.list()} == {LATER}


# Facts, lists, deletion


async def test_facts_are_changed_by_the_session_that_is_current(store: Store) -> None:
    await admit(store, b"key one")
    await admit(store, b"key one")
    assert not await store.defenders.describe(ONE, 1, facts("stale"))
    assert await store.defenders.describe(ONE, 2, facts("fresh\0"))
    assert not await store.defenders.describe("d-unknown", 1, facts())
    record = await store.defenders.get(ONE)
    assert record is not None
    assert record.facts == facts("fresh?")


async def test_host_names_that_several_claim(store: Store) -> None:
    assert await store.defenders.duplicated_hostnames() == frozenset()
    for key, name in enumerate(["one", "Two", "tWo", "three", "three", "three", "ß", "ß"]):
        await admit(store, b"key %d" % key, hostname=name)
    assert await store.defenders.duplicated_hostnames() == {"two", "three", "ss"}
    await store.defenders.delete(defender_id(b"key 1"))
    assert await store.defenders.duplicated_hostnames() == {"three", "ss"}


@pytest.fixture
async def fleet(store: Store) -> dict[str, str]:
    """Four Defenders by a letter."""
    claims: dict[str, HostFacts] = {
        "a": facts("Alpha", version="0.3.0", type="docker", arch="arm64"),
        "b": facts("beta", version="0.1.0", type="daemonset"),
        "c": facts("Gamma_x", version="0.2.0", type="daemonset", fqdn="zeta.example.org"),
        "d": facts("delta", version="0.1.0", type="serverLinux"),
    }
    requests = [request(letter.encode(), facts=claim) for letter, claim in claims.items()]
    await store.defenders.admit_all(requests, NOW)
    await store.defenders.mark_disconnected({defender_id(b"b"): 1}, LATER)
    return {defender_id(letter.encode()): letter for letter in claims}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (DefenderQuery(), "abdc"),
        (DefenderQuery(reverse=True), "cdba"),
        (DefenderQuery(sort=DefenderSort.FQDN), "abdc"),
        (DefenderQuery(sort=DefenderSort.LAST_MODIFIED, reverse=True, limit=1), "b"),
        (DefenderQuery(sort=DefenderSort.CONNECTED, limit=1), "b"),
        (DefenderQuery(offset=1, limit=2), "bd"),
        (DefenderQuery(offset=9), ""),
        (DefenderQuery(limit=0), ""),
        (DefenderQuery(hostname="TA"), "bdc"),
        (DefenderQuery(hostname="example.ORG"), "c"),
        (DefenderQuery(hostname="_"), "c"),
        (DefenderQuery(hostname="%"), ""),
        (DefenderQuery(connected=False), "b"),
        (DefenderQuery(connected=True), "adc"),
        (DefenderQuery(types=("daemonset", "docker")), "abc"),
        (DefenderQuery(arches=("arm64",)), "a"),
        (DefenderQuery(types=("daemonset",), connected=True), "c"),
    ],
)
async def test_queries(store: Store, fleet: dict[str, str], query: DefenderQuery, expected: str) -> None:
    assert "".join(fleet[record.id] for record in await store.defenders.list(query)) == expected
    unpaged = replace(query, offset=0, limit=None)
    assert await store.defenders.count(query) == len(await store.defenders.list(unpaged))


@pytest.mark.parametrize("sort", list(DefenderSort))
@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_cover_everything_once(
    store: Store, fleet: dict[str, str], sort: DefenderSort, *, reverse: bool
) -> None:
    pages = [
        await store.defenders.list(DefenderQuery(sort=sort, reverse=reverse, offset=offset, limit=1))
        for offset in range(4)
    ]
    assert {record.id for page in pages for record in page} == fleet.keys()


async def test_the_summary_counts_by_type(store: Store, fleet: dict[str, str]) -> None:
    assert fleet
    assert await store.defenders.summary() == (
        DefenderCount("daemonset", 1, 2),
        DefenderCount("docker", 1, 1),
        DefenderCount("serverLinux", 1, 1),
    )


async def test_a_deleted_defender_is_gone_with_its_events_and_new_when_it_returns(store: Store) -> None:
    admission = await admit(store, b"key one")
    await admit(store, b"key two")
    await store.events.apply([batch(ONE, admission.session, 1, 5), batch(TWO, 1, 1, 5)], NOW)
    assert await store.defenders.delete(ONE)
    assert not await store.defenders.delete(ONE)
    assert await store.defenders.get(ONE) is None
    assert await store.events.list(ONE) == ()
    assert await store.events.spools(ONE) == ()
    assert len(await store.events.list(TWO)) == 5
    again = await store.defenders.admit(request(first=6, next=6), LATER)
    assert again.new
    assert (again.session, again.applied_through) == (1, 5)
