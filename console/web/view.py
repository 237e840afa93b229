"""From a Defender to the words of its row: pure, so that every wording has a test."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from console.fleet.directory import Listing, Page, Tally

PAGE_SIZE = 100
"""Rows on a page."""


class State(StrEnum):
    """What a row's status is; each has an icon and a word, so that none rests on colour."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time.

    Attributes:
        machine: For the attribute `datetime`.
        day: For people: the date, in UTC.
        time: For people: the time of day, in UTC.
    """

    machine: str
    day: str
    time: str


@dataclass(frozen=True, slots=True)
class Row:
    """One Defender's row.

    Attributes:
        id: Its ID.
        state: Its status.
        state_text: Its status, in a word.
        hostname: What it claims to be called.
        fqdn: What it claims to be called in full; empty if that says nothing more.
        duplicate: Whether another one claims the same host name.
        type: Its kind, as the API names it.
        version: Its version.
        outdated: Whether the Console doesn't support that version.
        address: Where it connects from, or did last.
        certificate: When its certificate ends.
        certificate_note: How far off that is.
        certificate_bad: Whether it has ended.
        old_ca: Whether it uses a certificate of the old generation.
        changed: When it was last connected or disconnected.
    """

    id: str
    state: State
    state_text: str
    hostname: str
    fqdn: str
    duplicate: bool
    type: str
    version: str
    outdated: bool
    address: str
    certificate: Moment
    certificate_note: str
    certificate_bad: bool
    old_ca: bool
    changed: Moment


@dataclass(frozen=True, slots=True)
class Table:
    """A page of rows.

    Attributes:
        rows: What is on it.
        total: How many there are on all pages.
        first: The number of its first row, from 1; 0 on an empty page.
        last: The number of its last row.
        previous: The offset of the page before, if there is one.
        next: The offset of the page after, if there is one.
    """

    rows: tuple[Row, ...]
    total: int
    first: int
    last: int
    previous: int | None
    next: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """The fleet in numbers, as they are written.

    Attributes:
        connected: How many are.
        disconnected: How many aren't.
        total: How many there are.
    """

    connected: str
    disconnected: str
    total: str


def table(page: Page, offset: int, now: datetime) -> Table:
    """A page of Defenders as rows."""
    last = offset + len(page.items)
    return Table(
        rows=tuple(row(item, now) for item in page.items),
        total=page.total,
        first=offset + 1 if page.items else 0,
        last=last,
        previous=max(0, offset - PAGE_SIZE) if offset > 0 else None,
        next=last if page.items and last < page.total else None,
    )


def row(item: Listing, now: datetime) -> Row:
    """A Defender as a row."""
    facts = item.record.facts
    state = state_of(item)
    return Row(
        id=item.record.id,
        state=state,
        state_text=state.value.capitalize(),
        hostname=visible(facts.hostname),
        fqdn="" if facts.fqdn.casefold() == facts.hostname.casefold() else visible(facts.fqdn),
        duplicate=item.duplicate_hostname,
        type=visible(facts.type),
        version=visible(facts.version),
        outdated=not item.compatible,
        address=item.address,
        certificate=moment(item.certificate_expiration),
        certificate_note=until(item.certificate_expiration, now),
        certificate_bad=item.certificate_expired,
        old_ca=item.using_old_ca,
        changed=moment(item.record.last_modified),
    )


def visible(claim: str) -> str:
    """What a Defender claims, with nothing hidden in it: what turns text round, say, shows as its escape."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in claim)


def state_of(item: Listing) -> State:
    """A Defender's status: a revoked one is locked, whatever its connection."""
    if item.record.locked:
        return State.LOCKED
    return State.CONNECTED if item.connected else State.DISCONNECTED


def moment(time: datetime) -> Moment:
    """A time as it is shown."""
    utc = time.astimezone(UTC)
    day, clock = utc.strftime("%Y-%m-%d"), utc.strftime("%H:%M:%S")
    return Moment(f"{day}T{clock}Z", day, clock)


def until(time: datetime, now: datetime) -> str:
    """How far off an end is, in the largest unit that says enough."""
    seconds = (time - now).total_seconds()
    if seconds < 0:
        return "expired"
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"in {count:,} {unit}{'' if count == 1 else 's'}"
    return "in less than a minute"


def counts(tally: Tally) -> Counts:
    """The fleet in numbers."""
    numbers = (tally.connected, tally.deployed - tally.connected, tally.deployed)
    return Counts(*(f"{number:,}" for number in numbers))
