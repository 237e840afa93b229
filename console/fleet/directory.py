"""What API and pages show of the Defenders: the store's records, joined with their live sessions.

The store says whether a Defender is connected, so that every filter and count is the same question to the
same place, also where several Consoles share it (D10); the live fleet adds what only a connection knows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from common.clock import Clock
from common.version import VERSION
from console.store import DefenderCount, DefenderQuery, DefenderRecord, DefenderSort


class LiveSession(Protocol):
    """A connection that a Defender said Hello on."""

    @property
    def since(self) -> datetime:
        """When it was welcomed."""
        ...

    @property
    def address(self) -> str:
        """Where it comes from."""
        ...

    @property
    def certificate_not_after(self) -> datetime:
        """When the client certificate that it presented ends."""
        ...

    @property
    def using_old_ca(self) -> bool:
        """Whether that certificate is of the generation before the current one."""
        ...

    @property
    def session(self) -> int:
        """Its fencing number (D13)."""
        ...


class LiveFleet(Protocol):
    """The Defenders that are connected to this Console now.

    Its version moves after the store knows of a change: who reads the store then sees it.
    """

    @property
    def version(self) -> int:
        """A number that every change of the fleet moves."""
        ...

    def connected(self, defender_id: str) -> LiveSession | None:
        """A Defender's session, if it has one here."""
        ...

    async def wait_for_change(self, version: int) -> int:
        """Return the version as soon as it isn't `version`."""
        ...


class DefenderRecords(Protocol):
    """What the directory needs of the store."""

    async def list(self, query: DefenderQuery = ...) -> tuple[DefenderRecord, ...]:
        """The records that a query asks for."""
        ...

    async def count(self, query: DefenderQuery = ...) -> int:
        """How many records a query finds, whatever its offset and limit."""
        ...

    async def summary(self) -> tuple[DefenderCount, ...]:
        """Counts by type."""
        ...

    async def duplicated_hostnames(self) -> frozenset[str]:
        """The host names that several Defenders claim, case-folded."""
        ...


class Category(StrEnum):
    """`defender.Category` (product facts §7), as far as a Defender of ours can be of it."""

    CONTAINER = "container"
    HOST = "host"
    SERVERLESS = "serverless"
    APP_EMBEDDED = "appEmbedded"


_CATEGORIES: Final = {
    Category.HOST: ("none", "serverLinux", "serverWindows"),
    Category.SERVERLESS: ("serverless",),
    Category.APP_EMBEDDED: ("appEmbedded", "fargate", "eksFargate"),
    Category.CONTAINER: (
        "docker", "dockerWindows", "containerdWindows", "swarm", "daemonset", "cri", "tas", "tasWindows",
        "ecs", "podman",
    ),
}  # fmt: skip
_CATEGORY_OF: Final = {type_: category for category, types in _CATEGORIES.items() for type_ in types}

# Go and the kernel have a name each for the same processor.
_ARM64: Final = ("arm64", "aarch64")

SUPPORTED_MAJORS: Final = 2
"""How many major versions an agent may be behind its Console (product facts §7)."""


def category_of(type_: str) -> Category:
    """The category of a type. What a Defender claims and we don't know runs on a host, at any rate."""
    return _CATEGORY_OF.get(type_, Category.HOST)


def compatible(version: str, console: str = VERSION) -> bool:
    """Whether a Defender's version is one that this Console supports: n-2 majors, and not a newer one."""
    theirs, ours = (text.partition(".")[0] for text in (version, console))
    # A claim of any length from outside: digits of a bounded number only.
    if not (theirs.isascii() and theirs.isdigit() and len(theirs) <= 6):
        return False
    return int(ours) - SUPPORTED_MAJORS <= int(theirs) <= int(ours)


@dataclass(frozen=True, slots=True)
class Listing:
    """One Defender as it is shown.

    Attributes:
        record: What the store knows.
        category: Of its type.
        connected: Whether it is.
        since: When the live session began, if it is connected here.
        address: Where it connects from, or did last.
        certificate_expiration: When the certificate that it presented last ends.
        certificate_expired: Whether that is over.
        using_old_ca: Whether its live session rests on the old generation.
        latest: Whether its version is the Console's.
        compatible: Whether its version is supported.
        duplicate_hostname: Whether another Defender claims the same host name.
    """

    record: DefenderRecord
    category: Category
    connected: bool
    since: datetime | None
    address: str
    certificate_expiration: datetime
    certificate_expired: bool
    using_old_ca: bool
    latest: bool
    compatible: bool
    duplicate_hostname: bool

    @property
    def arm64(self) -> bool:
        """Whether it runs on a 64-bit ARM processor."""
        return self.record.facts.arch.lower() in _ARM64


@dataclass(frozen=True, slots=True)
class Search:
    """Which Defenders are asked for.

    Attributes:
        stored: The part that the store answers, with order and page.
        using_old_ca: Only those that do, or don't.
        certificate_expired: Only those whose certificate has ended, or hasn't.
        latest: Only those of the Console's version, or of others.
        supported: Only those of a supported version, or of others.
        arm64: Only those on 64-bit ARM, or on others.
        nothing: Asked for something that no Defender of ours is.
    """

    stored: DefenderQuery = field(default_factory=DefenderQuery)
    using_old_ca: bool | None = None
    certificate_expired: bool | None = None
    latest: bool | None = None
    supported: bool | None = None
    arm64: bool | None = None
    nothing: bool = False

    @property
    def beyond_store(self) -> bool:
        """Whether the store alone can't answer it."""
        return any(want is not None for want in self._asked)

    def wants(self, listing: Listing) -> bool:
        """Whether a listing is among what the store can't tell."""
        there = (
            listing.using_old_ca,
            listing.certificate_expired,
            listing.latest,
            listing.compatible,
            listing.arm64,
        )
        return all(want is None or want == is_ for want, is_ in zip(self._asked, there, strict=True))

    @property
    def _asked(self) -> tuple[bool | None, ...]:
        return self.using_old_ca, self.certificate_expired, self.latest, self.supported, self.arm64


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        items: What is on it.
        total: How many there are on all pages.
    """

    items: tuple[Listing, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How many Defenders there are of a category, or in all."""

    deployed: int
    connected: int


@dataclass(frozen=True, slots=True)
class _Claims:
    state: tuple[int, int] | None = None
    until: float = 0.0
    twice: frozenset[str] = frozenset()


# How long nothing is read again, as a multiple of how long the last reading took.
_REST: Final = 20.0


class DefenderDirectory:
    """Lists and counts Defenders.

    Args:
        records: The store's.
        live: Who is connected.
        clock: Judges whether a certificate has ended.
    """

    def __init__(self, records: DefenderRecords, live: LiveFleet, clock: Clock) -> None:
        self._records = records
        self._live = live
        self._clock = clock
        self._claims = _Claims()

    async def list(self, search: Search) -> Page:
        """The Defenders that `search` asks for, a page of them."""
        if search.nothing:
            return Page((), 0)
        if search.beyond_store:
            return await self._sifted(search)
        records = await self._records.list(search.stored)
        return Page(await self._listings(records), await self._total(search.stored, len(records)))

    async def names(self, search: Search) -> tuple[str, ...]:
        """The host names of the Defenders that `search` asks for, each once, a page of them in order."""
        stored = search.stored
        everything = replace(stored, offset=0, limit=None, sort=DefenderSort.HOSTNAME)
        page = await self.list(replace(search, stored=everything))
        names = tuple(dict.fromkeys(item.record.facts.hostname for item in page.items))
        return names[_slice(stored)]

    async def summary(self) -> dict[Category, Tally]:
        """Counts for each category that has a Defender, in the order of Category."""
        deployed: Counter[Category] = Counter()
        connected: Counter[Category] = Counter()
        for count in await self._records.summary():
            deployed[category_of(count.type)] += count.deployed
            connected[category_of(count.type)] += count.connected
        return {
            category: Tally(deployed[category], connected[category])
            for category in Category
            if deployed[category]
        }

    async def tally(self) -> Tally:
        """Counts of all Defenders."""
        counts = await self._records.summary()
        return Tally(sum(count.deployed for count in counts), sum(count.connected for count in counts))

    async def _total(self, query: DefenderQuery, found: int) -> int:
        # A page that isn't full is the last one: asking again could only contradict what is on it.
        if query.limit is None or 0 < found < query.limit or (found == 0 and query.offset == 0):
            return query.offset + found
        return await self._records.count(query)

    async def _sifted(self, search: Search) -> Page:
        records = await self._records.list(replace(search.stored, offset=0, limit=None))
        found = tuple(item for item in await self._listings(records) if search.wants(item))
        return Page(found[_slice(search.stored)], len(found))

    async def _listings(self, records: Sequence[DefenderRecord]) -> tuple[Listing, ...]:
        twice = await self._claimed_twice()
        now = self._clock.now()
        return tuple(
            listing(
                record,
                self._live.connected(record.id),
                now=now,
                duplicate=record.facts.hostname.casefold() in twice,
            )
            for record in records
        )

    async def _claimed_twice(self) -> frozenset[str]:
        """The host names that several Defenders claim, in lower case; a moment old in a large, busy fleet."""
        # A claim changes when a Defender is admitted or describes itself anew, which moves the version, or is
        # removed, which moves the count: so the names are grouped once for each change, not for each page.
        # Where thousands of them come and go, that reading is held to a twentieth of the time.
        state = (self._live.version, (await self.tally()).deployed)
        begun = self._clock.monotonic()
        if state != self._claims.state and begun >= self._claims.until:
            twice = await self._records.duplicated_hostnames()
            ended = self._clock.monotonic()
            self._claims = _Claims(state, ended + _REST * (ended - begun), twice)
        return self._claims.twice


def listing(
    record: DefenderRecord, session: LiveSession | None, *, now: datetime, duplicate: bool
) -> Listing:
    """A record as it is shown, with its live session if it has one here."""
    # A session that the store has replaced already is on its way out and says nothing any more.
    live = session if session is not None and session.session == record.session else None
    not_after = live.certificate_not_after if live else record.certificate_not_after
    return Listing(
        record=record,
        category=category_of(record.facts.type),
        connected=record.connected,
        since=live.since if live else None,
        address=live.address if live else record.address,
        certificate_expiration=not_after,
        certificate_expired=not_after < now,
        using_old_ca=live.using_old_ca if live else False,
        latest=record.facts.version == VERSION,
        compatible=compatible(record.facts.version),
        duplicate_hostname=duplicate,
    )


def _slice(query: DefenderQuery) -> slice:
    return slice(query.offset, None if query.limit is None else query.offset + query.limit)
