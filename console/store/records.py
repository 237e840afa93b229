"""The values that the store takes and gives: frozen, free of SQLAlchemy, times aware and in UTC."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

MAX_NUMBER: Final = 2**63 - 1
"""The greatest event number and session: what both engines can keep."""


@dataclass(frozen=True, slots=True)
class UserRecord:
    """Who may log in (product facts §11).

    Attributes:
        username: Exactly as signed up.
        password_hash: What the identity room made of the password; it never leaves the two rooms.
        role: A role id, such as `admin`.
        auth_type: How the user proves who they are, such as `basic`.
        created: When the record was made.
        last_modified: When any of this changed last.
    """

    username: str
    password_hash: str = field(repr=False)
    role: str
    auth_type: str
    created: datetime
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a Defender claims of its host. It describes and never identifies (D9a)."""

    hostname: str
    fqdn: str
    version: str
    type: str
    os: str
    arch: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The spool as a Hello states it (D13).

    Attributes:
        epoch: The name of this spool's life; a lost or corrupt spool starts another.
        first: The oldest number it still holds; equal to `next` if it holds none. Numbers start at 1.
        next: The number that the next event will get.
        dropped: How many of this epoch it threw away for want of room.
    """

    epoch: str
    first: int
    next: int
    dropped: int

    def __post_init__(self) -> None:
        # What many ask for shares a transaction: a number that an engine can't keep would fail all of it.
        if not (1 <= self.first <= self.next <= MAX_NUMBER and 0 <= self.dropped <= MAX_NUMBER):
            raise ValueError("a spool's numbers run from 1, first ≤ next, within 63 bits")
        if not (self.epoch and self.epoch.isprintable()):
            raise ValueError("an epoch's name is printable text")


@dataclass(frozen=True, slots=True)
class AdmitRequest:
    """A Defender at the door, its signature verified.

    Attributes:
        public_key: The instance key's SubjectPublicKeyInfo, DER.
        facts: What it claims of its host.
        spool: What it holds of its spool.
        certificate_fingerprint: SHA-256 of the client certificate that it presented, hex.
        certificate_not_after: When that certificate ends.
        address: Where it connects from.
    """

    public_key: bytes
    facts: HostFacts
    spool: SpoolState
    certificate_fingerprint: str
    certificate_not_after: datetime
    address: str


@dataclass(frozen=True, slots=True)
class DefenderRecord:
    """What is known of one instance key.

    Attributes:
        id: See `defender_id`.
        public_key: The instance key's SubjectPublicKeyInfo, DER.
        facts: What it claimed last.
        first_seen: When the key was bound to the ID.
        last_modified: When it last went from connected to disconnected or back (product facts §7).
        last_seen: The last sign of life that was written down; may lag by the writer's interval.
        connected: Whether it is, as far as the store knows.
        session: Counts its admissions; only the newest may write (D13).
        certificate_fingerprint: SHA-256 of the certificate that it presented last, hex.
        certificate_not_after: When that certificate ends.
        address: Where it connected from last.
        locked: Whether it was revoked: it is refused (D9a).
    """

    id: str
    public_key: bytes
    facts: HostFacts
    first_seen: datetime
    last_modified: datetime
    last_seen: datetime
    connected: bool
    session: int
    certificate_fingerprint: str
    certificate_not_after: datetime
    address: str
    locked: bool


class Refusal(StrEnum):
    """Why a Defender with a valid certificate and signature is not admitted."""

    LOCKED = "locked"
    KEY_MISMATCH = "key-mismatch"


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an `AdmitRequest`.

    Attributes:
        record: The Defender as it is now; as it was, if it is refused.
        epoch: The spool's, as in the request.
        applied_through: All numbers of that epoch up to this one are settled: what the Welcome acknowledges.
            If the Defender's `next` is not beyond it, its spool went back in time (a restored disk, say) and
            it must start a new epoch.
        new: Whether this was the first use of the key.
        missing: How many numbers this admission gave up because the spool doesn't hold them any more.
        refused: Why not, if not; nothing was changed then.
    """

    record: DefenderRecord
    epoch: str
    applied_through: int
    new: bool
    missing: int
    refused: Refusal | None = None

    @property
    def session(self) -> int:
        """The fencing number of this admission."""
        return self.record.session


def storable(text: str) -> str:
    """Text from a peer as every engine takes it: no lone surrogates, no NUL.

    What many ask for shares a transaction: one row that an engine refuses would fail all of it.
    """
    # What is printable has none of them, and nearly everything is.
    return text if text.isprintable() else text.encode("utf-8", "replace").decode().replace("\0", "?")


def defender_id(public_key: bytes) -> str:
    """The ID that an instance key is bound to: `d-` and 100 bits of the key's SHA-256 in base32."""
    # base64 is slow in base32: the 15 bytes that 20 characters come from, not all 32.
    return "d-" + base64.b32encode(hashlib.sha256(public_key).digest()[:15]).decode("ascii")[:20].lower()


class DefenderSort(StrEnum):
    """What a list of Defenders can be ordered by, as the API names it."""

    HOSTNAME = "hostname"
    FQDN = "fqdn"
    VERSION = "version"
    TYPE = "type"
    CONNECTED = "connected"
    LAST_MODIFIED = "lastModified"
    ID = "id"


@dataclass(frozen=True, slots=True)
class DefenderQuery:
    """Which Defenders, in which order.

    Attributes:
        hostname: A part of the host name or FQDN, in any case.
        connected: Only those that are, or are not.
        types: Only these; empty means all.
        arches: Only these; empty means all.
        sort: The order; ties are broken by ID.
        reverse: From the end.
        offset: How many to leave out first.
        limit: How many at most.
    """

    hostname: str = ""
    connected: bool | None = None
    types: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    sort: DefenderSort = DefenderSort.HOSTNAME
    reverse: bool = False
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class DefenderCount:
    """How many there are of one type."""

    type: str
    connected: int
    deployed: int


class EventLike(Protocol):
    """An event without its number: the protocol's message fits as it is."""

    @property
    def time(self) -> datetime:
        """When it happened, aware."""
        ...

    @property
    def type(self) -> str:
        """What happened."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """Its details: whatever JSON can say."""
        ...


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of one Defender, from the connection that its session belongs to.

    Attributes:
        defender_id: Whose.
        session: The fencing number of the connection they came over.
        epoch: The spool's.
        first: The number of the first item; the rest follow without a gap.
        items: The events.
        dropped: How many numbers directly before `first` the Defender states to have dropped.
    """

    defender_id: str
    session: int
    epoch: str
    first: int
    items: Sequence[EventLike]
    dropped: int = 0

    def __post_init__(self) -> None:
        last = self.first + len(self.items) - 1
        if not (self.first >= 1 and last <= MAX_NUMBER and 0 <= self.dropped <= MAX_NUMBER):
            raise ValueError("event numbers run from 1, within 63 bits")
        if not (self.epoch and self.epoch.isprintable()):
            raise ValueError("an epoch's name is printable text")


class Outcome(StrEnum):
    """What became of an `EventBatch`."""

    APPLIED = "applied"
    FENCED = "fenced"
    GAP = "gap"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer to one `EventBatch`.

    Attributes:
        defender_id: Whose.
        epoch: The batch's.
        outcome: APPLIED: durable; FENCED: a newer session has taken over, this one must end; GAP: numbers
            before the batch are missing, it must start at `expected`; UNKNOWN: there is no such Defender;
            REFUSED: an event of it can't be kept, so that none of it was: sending it again won't help.
        through: All numbers up to this one are settled; durable when this value is returned.
        added: How many events this batch added; the rest of it was there already.
        fault: Why, if it was REFUSED.
    """

    defender_id: str
    epoch: str
    outcome: Outcome
    through: int
    added: int = 0
    fault: str = ""

    @property
    def expected(self) -> int:
        """The number that has to come next."""
        return self.through + 1


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An applied event. `id` grows with every event: that of the last in a page asks for the next page."""

    id: int
    defender_id: str
    epoch: str
    number: int
    time: datetime
    received: datetime
    type: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One epoch of a Defender's spool.

    Attributes:
        epoch: Its name.
        opened: When the Console first heard of it.
        through: All numbers up to this one are settled.
        missing: How many of those were given up because the Defender no longer held them.
        dropped: How many the Defender itself counted as dropped, when it last said.
    """

    epoch: str
    opened: datetime
    through: int
    missing: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of all that `Store.turn` was given.

    Attributes:
        flipped: The IDs that were connected before their session ended.
        admissions: One for each Hello, in their order.
        applied: One for each batch of events, in their order.
    """

    flipped: frozenset[str]
    admissions: tuple[Admission, ...]
    applied: tuple[Applied, ...]


class Kind(StrEnum):
    """What a generation is of."""

    DEFENDER = "defender"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generated set as it is kept.

    Attributes:
        kind: Defender CA with its leaves, or Console CA with the web certificate.
        number: Counts from 1 within its kind.
        created: When it was minted.
        not_after: When its CA ends.
        secrets: Name → sealed bytes.
    """

    kind: Kind
    number: int
    created: datetime
    not_after: datetime
    secrets: Mapping[str, bytes] = field(repr=False)
