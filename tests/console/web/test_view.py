from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.version import VERSION
from console.fleet.directory import Listing, Page, Tally, listing
from console.store import DefenderRecord, HostFacts
from console.web.view import PAGE_SIZE, Counts, State, counts, moment, row, state_of, table, until, visible
from tests.console.api.world import START


def a_record(hostname: str = "web", fqdn: str = "web.example") -> DefenderRecord:
    return DefenderRecord(
        id="d-abc",
        public_key=b"key",
        facts=HostFacts(hostname, fqdn, VERSION, "serverLinux", "linux", "x86_64"),
        first_seen=START,
        last_modified=START,
        last_seen=START,
        connected=True,
        session=1,
        certificate_fingerprint="ab",
        certificate_not_after=START + timedelta(days=2),
        address="192.0.2.7",
        locked=False,
    )


def a_listing(record: DefenderRecord | None = None, **changed: Any) -> Listing:
    return replace(listing(record or a_record(), None, now=START, duplicate=False), **changed)


def test_a_row() -> None:
    shown = row(a_listing(), START)
    assert (shown.state, shown.state_text) == (State.CONNECTED, "Connected")
    assert (shown.hostname, shown.fqdn, shown.id) == ("web", "web.example", "d-abc")
    assert (shown.certificate.day, shown.certificate_note) == ("2026-11-23", "in 2 days")
    assert (shown.changed.machine, shown.changed.day, shown.changed.time) == (
        "2026-11-21T20:00:00Z",
        "2026-11-21",
        "20:00:00",
    )
    assert not any((shown.duplicate, shown.outdated, shown.old_ca, shown.certificate_bad))


def test_a_name_that_says_nothing_more_is_left_out() -> None:
    assert row(a_listing(a_record("web", "WEB")), START).fqdn == ""


def test_states() -> None:
    assert state_of(a_listing()) is State.CONNECTED
    assert state_of(a_listing(connected=False)) is State.DISCONNECTED
    assert state_of(a_listing(replace(a_record(), locked=True))) is State.LOCKED


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "expired"),
        (0, "in less than a minute"),
        (59, "in less than a minute"),
        (60, "in 1 minute"),
        (7199, "in 1 hour"),
        (7200, "in 2 hours"),
        (86400, "in 1 day"),
        (1095 * 86400, "in 1,095 days"),
    ],
)
def test_how_far_off(seconds: int, words: str) -> None:
    assert until(START + timedelta(seconds=seconds), START) == words


def test_counts() -> None:
    assert counts(Tally(12_345, 345)) == Counts("345", "12,000", "12,345")
    assert counts(Tally(0, 0)).total == "0"


@pytest.mark.parametrize(
    ("shown", "total", "offset", "first", "last", "previous", "following"),
    [
        (0, 0, 0, 0, 0, None, None),
        (3, 3, 0, 1, 3, None, None),
        (PAGE_SIZE, 250, 0, 1, 100, None, 100),
        (PAGE_SIZE, 250, 100, 101, 200, 0, 200),
        (50, 250, 200, 201, 250, 100, None),
        (10, 60, 50, 51, 60, 0, None),
        (0, 60, 100, 0, 100, 0, None),
    ],
)
def test_pages(
    shown: int, total: int, offset: int, first: int, last: int, previous: int | None, following: int | None
) -> None:
    made = table(Page(tuple(a_listing() for _ in range(shown)), total), offset, START)
    assert len(made.rows) == shown
    assert (made.first, made.last, made.previous, made.next) == (first, last, previous, following)


def test_hidden_characters_show() -> None:
    assert visible("a\u202eb") == r"a\u202eb"
    assert visible("a\x00\nb") == r"a\x00\nb"
    assert visible("zoë 名前 😀") == "zoë 名前 😀"


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=100)
def test_any_claim_is_printable(claim: str) -> None:
    assert visible(claim).isprintable()


def test_moments_are_utc() -> None:
    assert moment(START).machine == "2026-11-21T20:00:00Z"
