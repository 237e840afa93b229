"""Who is let in, and what is written down of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.store import HostFacts, Refusal, Store, defender_id
from console.store.admissions import capabilities_of, claimed, clean, decide
from console.store.records import MAX_NUMBER
from console.store.sequence import Position
from tests.console.store.samples import LATER, NOW, facts, request

ONE, TWO = defender_id(b"key one"), defender_id(b"key two")
TEXT = st.text(st.characters(), max_size=8)


def test_another_key_with_the_same_id_is_refused() -> None:
    admission, _ = decide(ONE, None, Position(), request(b"key one"), NOW)
    forged, position = decide(ONE, admission.record, Position(7), request(b"forged"), LATER)
    assert forged.refused is Refusal.KEY_MISMATCH
    assert forged.record == admission.record
    assert position == Position(7)


def test_a_return_moves_last_modified_only_if_it_was_away() -> None:
    first, _ = decide(ONE, None, Position(), request(), NOW)
    again, _ = decide(ONE, first.record, Position(), request(), LATER)
    assert (again.record.last_modified, again.record.last_seen, again.session) == (NOW, LATER, 2)
    away = replace(first.record, connected=False)
    back, _ = decide(ONE, away, Position(), request(), LATER)
    assert (back.record.last_modified, back.record.connected) == (LATER, True)


@settings(deadline=None, max_examples=100)
@given(names=st.tuples(*[TEXT] * 6), capabilities=st.lists(TEXT, max_size=3).map(tuple))
def test_whatever_is_claimed_can_be_kept(names: tuple[str, ...], capabilities: tuple[str, ...]) -> None:
    hostname, fqdn, version, type_, os, arch = names
    said = HostFacts(hostname, fqdn, version, type_, os, arch, capabilities)
    kept = clean(said)
    assert clean(kept) == kept
    *columns, last = claimed(kept)
    for text in (*columns, last):
        assert "\0" not in text
        text.encode()
    assert capabilities_of(last) == kept.capabilities
    if all(text.isprintable() for text in (*names, *capabilities)):
        assert kept is said


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"address": "[::1]:1"},
        {"facts": facts("other")},
        {"facts": facts(capabilities=("one", '"two"'))},
        {"facts": facts("n\u00f6de \\ \" ' $[0] %s :x ?")},
        {"certificate_fingerprint": "cd" * 32},
        {"certificate_not_after": NOW + timedelta(days=5, microseconds=1)},
    ],
)
async def test_the_record_that_is_answered_is_the_one_that_is_kept(
    store: Store, changed: dict[str, Any]
) -> None:
    first = await store.defenders.admit(request(), NOW)
    other = await store.defenders.admit(request(b"key two"), NOW)
    for session in (2, 3):
        admission = await store.defenders.admit(request(**changed), LATER)
        assert await store.defenders.get(ONE) == admission.record
        assert (admission.record.first_seen, admission.session) == (first.record.first_seen, session)
        await store.defenders.mark_disconnected({ONE: session}, LATER)
    # Nobody else is touched.
    assert await store.defenders.get(TWO) == other.record


async def test_a_batch_of_the_new_the_known_and_the_repeated(store: Store) -> None:
    await store.defenders.admit_all([request(b"key %d" % n) for n in range(0, 40, 2)], NOW)
    keys = [b"key %d" % n for n in range(40)]
    requests = [request(key, facts=facts(f"h{n}")) for n, key in enumerate(keys + keys)]
    admissions = await store.defenders.admit_all(requests, LATER)
    assert [a.new for a in admissions] == [n % 2 == 1 for n in range(40)] + [False] * 40
    assert [a.session for a in admissions] == [2, 1] * 20 + [3, 2] * 20
    kept = {record.id: record for record in await store.defenders.list()}
    assert kept == {a.record.id: a.record for a in admissions[40:]}


async def test_the_greatest_spool_numbers_are_admitted(store: Store) -> None:
    one = await store.defenders.admit(request(first=MAX_NUMBER, dropped=MAX_NUMBER), NOW)
    assert (one.applied_through, one.missing) == (MAX_NUMBER - 1, MAX_NUMBER - 1)
    again = await store.defenders.admit(request(first=MAX_NUMBER), LATER)
    assert (again.applied_through, again.missing) == (MAX_NUMBER - 1, 0)
    (spool,) = await store.events.spools(ONE)
    assert (spool.through, spool.dropped, spool.opened) == (MAX_NUMBER - 1, MAX_NUMBER, NOW)
