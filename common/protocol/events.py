"""The events that a Defender reports, and how one that nobody knows yet survives.

An event is its time, its type and fields: what is spooled, sent and stored is this generic form, so a type
that only a newer Defender knows keeps its number, is stored as it came and is shown by its name. The types
known here have a class each; `report` makes the generic form of one, `details` reads it back.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from common.protocol.messages import Fields, Fingerprint, Instant, Text, Token, Value, require_utc

MAX_EVENT_BYTES: Final = 16 * 1024
"""No encoded event is longer; `encode_event` cuts one that is."""

_MAX_TEXT: Final = 1024
_MAX_ITEMS: Final = 32
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class Event(Struct, frozen=True, rename="camel", gc=False):
    """Something that happened on a Defender at `time` (UTC, its own clock). Its number isn't in it."""

    time: Instant
    type: Token
    fields: Fields = {}

    def __post_init__(self) -> None:
        require_utc(self.time)


class Details(Struct, frozen=True, rename="camel", tag_field="type", tag=lambda n: n[0].lower() + n[1:]):
    """What is known of an event of some type."""


class Started(Details, frozen=True):
    """The Defender's process started."""

    version: Text


class Stopped(Details, frozen=True):
    """The Defender's process stops, and why."""

    reason: Text


class CertificateLoaded(Details, frozen=True):
    """A channel uses another certificate set from now on."""

    channel: Text
    source: Text
    fingerprint: Fingerprint
    not_after: Instant


class CertificateRejected(Details, frozen=True):
    """A set was found that must not be used; one sentence for each fault. The channel keeps what it has."""

    channel: Text
    source: Text
    faults: tuple[Text, ...]


class CertificateProved(Details, frozen=True):
    """A Welcome was received over this set (D8)."""

    channel: Text
    source: Text
    fingerprint: Fingerprint
    not_after: Instant


class ConnectionLost(Details, frozen=True):
    """A connection that had been welcomed ended, by this close code, otherwise than on purpose."""

    reason: Text
    code: int = 0


class ConnectionFailed(Details, frozen=True):
    """An attempt to connect failed: its kind in a word, the detail in a sentence, attempts so far."""

    reason: Text
    detail: Text = ""
    attempts: int = 1


Known: TypeAlias = (
    Started
    | Stopped
    | CertificateLoaded
    | CertificateRejected
    | CertificateProved
    | ConnectionLost
    | ConnectionFailed
)

UNREADABLE: Final = "unreadable"
"""The type of what stands for an item that isn't an event at all."""
OMITTED: Final = "omittedBytes"
RAW: Final = "raw"
"""The one field of an event whose fields have another shape than ours: their JSON text."""


class _Head(Struct, frozen=True, gc=False):
    time: Instant
    type: Token
    fields: msgspec.Raw = msgspec.Raw(b"{}")

    def __post_init__(self) -> None:
        require_utc(self.time)


_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ENCODER: Final = msgspec.json.Encoder()
_EVENT: Final = msgspec.json.Decoder(Event)
_HEAD: Final = msgspec.json.Decoder(_Head)


def report(details: Known, time: datetime) -> Event:
    """Make the event that says this. Text and lists are cut to what an event may carry.

    Args:
        details: What happened.
        time: When, an aware datetime; the event has it in UTC.
    """
    fields = cast("dict[str, Any]", msgspec.to_builtins(details))
    kind = fields.pop("type")
    return Event(time.astimezone(UTC), kind, {key: _cut(value) for key, value in fields.items()})


def details(event: Event) -> Known | None:
    """Read an event of a type that is known here; None for any other, and for one with other fields."""
    try:
        # Known is a union of types: mypy has no name for that.
        return cast("Known", msgspec.convert({**event.fields, "type": event.type}, Known))
    except msgspec.ValidationError:
        return None


def encode_event(event: Event) -> bytes:
    """The JSON text of an event, for the spool and for Events.

    One that is too long or outside an event's bounds is replaced by one of the same time and type that says
    so: a peer must never have a reason to refuse it, since events are sent again until they are taken.
    """
    try:
        data = _ENCODER.encode(event)
    except UnicodeEncodeError:  # lone surrogates, which have no UTF-8
        data = b""
    if len(data) <= MAX_EVENT_BYTES and _read(data) is not None:
        return data
    return _ENCODER.encode(Event(event.time, event.type, {OMITTED: len(data)}))


def read_event(item: bytes) -> Event:
    """Read an item of Events. Whatever it is, it becomes an event, so that its number isn't lost.

    One that is too long becomes what its sender should have made of it (`encode_event`): what an end holds is
    bounded by itself, not by the other. One with fields of another shape keeps them as text in the field
    `raw`; what isn't an event has the type
    `unreadable`, the UNIX epoch as time and its text in `raw`.
    """
    event = _read(item) if len(item) <= MAX_EVENT_BYTES else None
    if event is not None:
        return event
    try:
        head = _HEAD.decode(item)
    except _FAULTS:
        return Event(_EPOCH, UNREADABLE, {RAW: _text(item)})
    if len(item) > MAX_EVENT_BYTES:
        return Event(head.time, head.type, {OMITTED: len(item)})
    return Event(head.time, head.type, {RAW: _text(bytes(head.fields))})


def _read(item: bytes) -> Event | None:
    try:
        return _EVENT.decode(item)
    except _FAULTS:
        return None


def _text(data: bytes) -> str:
    return data[:4096].decode("utf-8", "replace").replace("\0", "�")


def _cut(value: Any) -> Value:
    """Bring a value of one of our own classes within an event's bounds."""
    if isinstance(value, str):
        # Lone surrogates come from file names that aren't UTF-8.
        return value[:_MAX_TEXT].replace("\0", "�").encode(errors="replace").decode()
    if isinstance(value, Sequence):
        return [cast("str", _cut(item)) for item in value[:_MAX_ITEMS]]
    return cast("Value", value)
