"""The messages of the channel: JSON objects told apart by `kind`, decoded into bounded, typed values.

The subprotocol's name carries the major version: what an older peer can't read gets a new name. Within it,
either end may grow: fields it doesn't know are ignored, kinds it doesn't know are `Unknown` (ignored and
counted), and the minor version and capabilities are told in Challenge and Hello.

Readings of the wall clock (`time` of Heartbeat, HeartbeatAck and Welcome) are integers: milliseconds since
the UNIX epoch, 0 for none; they are compared, and cost nothing. Times in records are ISO 8601, UTC.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from common.protocol.codes import CloseCode

SUBPROTOCOL: Final = "garrison.defender.v1"
PROTOCOL_VERSION: Final = 0
"""The minor version: grows with every message or field that is added."""

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""No message is longer, in either direction; the WebSocket layer refuses longer ones by the same number."""
MAX_EVENTS: Final = 64
"""Events of one message."""
MAX_WINDOW: Final = 4096
"""Events that may be unacknowledged, at most; Welcome states how many may."""
MAX_LINES: Final = 2000
"""Lines of a log, and items of any list."""
NONCE_BYTES: Final = 32

_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"

MAX_NUMBER: Final = 2**53 - 1
"""What every reader of JSON keeps exactly (RFC 8259 §6)."""
Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Position: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400 * 30)]
# Names end up in log lines and pages: no control characters. `\Z`, since `$` lets a line feed through.
Name: TypeAlias = Annotated[str, Meta(max_length=255, pattern=rf"^[^{_CONTROL}]*\Z")]
Reason: TypeAlias = Annotated[str, Meta(max_length=1024, pattern=rf"^[^{_CONTROL}]*\Z")]
Token: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_.:-]+\Z")]
Fingerprint: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[0-9a-f]{64}\Z")]
Capabilities: TypeAlias = Annotated[tuple[Token, ...], Meta(max_length=64)]
Instant: TypeAlias = Annotated[datetime, Meta(tz=True)]
# No pattern here: msgspec crashes at the interpreter's end, one time in four, where a str with a pattern is
# part of a union (its issue 717; seen with 0.22). The store cleans what PostgreSQL would not take (NUL).
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Scalar: TypeAlias = Text | int | float | bool | None
Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\Z")]
Flat: TypeAlias = Annotated[dict[Key, Scalar], Meta(max_length=64)]
Listed: TypeAlias = Annotated[list[Scalar | Flat], Meta(max_length=MAX_LINES)]
Value: TypeAlias = Scalar | Flat | Listed
Fields: TypeAlias = Annotated[dict[Key, Value], Meta(max_length=64)]


class _Part(Struct, frozen=True, rename="camel", gc=False):
    """A part of a message."""


class Message(_Part, frozen=True, tag_field="kind", tag=lambda name: name[0].lower() + name[1:]):
    """Any message; `kind` is the class's name in camel case."""


class SpoolState(_Part, frozen=True):
    """What a Defender's spool holds: the events `first` to `next - 1` of `epoch`, `dropped` lost before.

    An empty spool has `first == next`. A spool that was lost or found corrupt begins a new epoch.
    """

    epoch: Token
    first: Position
    next: Position
    dropped: Number = 0

    def __post_init__(self) -> None:
        if self.first > self.next:
            raise ValueError("first lies behind next")


def require_utc(time: datetime) -> None:
    """Refuse a time that isn't in UTC: turning it could overflow, and no peer of ours sends one.

    Raises:
        ValueError: It isn't, or it is naive. In a decoder that makes what is read malformed.
    """
    if time.utcoffset() != timedelta(0):
        raise ValueError("not in UTC")


class HeldSet(_Part, frozen=True):
    """A certificate set that a Defender holds: channel, leaf's SHA-256, end of validity, source.

    `generation` tells generated sets apart (D3a), 0 where there is none; `proved` says that a Welcome was
    received over it.
    """

    channel: Token
    fingerprint: Fingerprint
    not_after: Instant
    source: Token
    generation: Number = 0
    proved: bool = False

    def __post_init__(self) -> None:
        require_utc(self.not_after)


class Claims(_Part, frozen=True):
    """What a Defender says about itself in its Hello. It describes; only the key identifies (D9a).

    `type` is one of product/api.json's `defender.Type`, kept as text, since a newer one may be unknown
    here. `protocol` is the minor version.
    """

    hostname: Name
    fqdn: Name
    version: Name
    type: Name
    os: Name
    arch: Name
    spool: SpoolState
    protocol: Number = PROTOCOL_VERSION
    capabilities: Capabilities = ()
    certificates: Annotated[tuple[HeldSet, ...], Meta(max_length=16)] = ()


class Limits(_Part, frozen=True):
    """What a Console takes: unacknowledged events, and bytes of a message."""

    event_window: Annotated[int, Meta(ge=1, le=MAX_WINDOW)] = 256
    message_bytes: Annotated[int, Meta(ge=64 * 1024, le=2**31)] = MAX_MESSAGE_BYTES


# Console → Defender


class Challenge(Message, frozen=True):
    """The first message: the nonce that the Hello signs, and what the Console is."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    version: Name
    protocol: Number = PROTOCOL_VERSION
    capabilities: Capabilities = ()


class Welcome(Message, frozen=True):
    """The Hello was accepted: from here on everything else may be sent.

    `acked_through` is the number of the last event of `epoch` that is stored for good, 0 for none: the
    Defender goes on with the next one. `session` is the fencing number (D13).
    """

    defender_id: Token
    session: Number
    heartbeat_seconds: Annotated[float, Meta(ge=0.05, le=3600)]
    epoch: Token
    acked_through: Number
    time: Number = 0
    limits: Limits = Limits()


class Ack(Message, frozen=True):
    """All events of `epoch` up to `through` are stored for good."""

    epoch: Token
    through: Number


class HeartbeatAck(Message, frozen=True, omit_defaults=True):
    """The Heartbeat of this sequence was heard, at `time` by the Console's clock."""

    sequence: Number
    time: Number = 0


class Command(Message, frozen=True):
    """Do this; answer with a CommandResult of the same ID."""

    id: Token
    name: Token
    arguments: Fields = {}


class Reconnect(Message, frozen=True):
    """Open a new connection `slot_seconds` from now and move there by `deadline_seconds` from now.

    One who can't says so by ReconnectFailed and keeps this connection (D4a).
    """

    slot_seconds: Seconds
    deadline_seconds: Seconds
    reason: Reason


# Defender → Console


class Hello(Message, frozen=True):
    """Who the Defender is: its instance key (SubjectPublicKeyInfo, DER), its claims, and the signature.

    The claims are kept as the bytes that were sent, because those are what is signed: re-encoding them
    would lose the fields that only a newer Defender knows (see `identity`).
    """

    instance_key: Annotated[bytes, Meta(max_length=128)]
    signature: Annotated[bytes, Meta(max_length=128)]
    body: msgspec.Raw


class Heartbeat(Message, frozen=True, omit_defaults=True):
    """A sign of life, numbered within the connection, with the Defender's clock."""

    sequence: Number
    time: Number = 0


class Events(Message, frozen=True, omit_defaults=True):
    """The events `first`, `first + 1`, … of the spool's epoch, in order, without gaps.

    The one gap there can be is said: `dropped` numbers directly before `first` exist no more, because the
    spool overflowed. Items are raw, so that one that can't be read doesn't hold up the others
    (`events.read_event`).
    """

    epoch: Token
    first: Position
    items: Annotated[Sequence[msgspec.Raw], Meta(min_length=1, max_length=MAX_EVENTS)]
    dropped: Number = 0


class CommandResult(Message, frozen=True, omit_defaults=True):
    """What became of a Command: a value, or why not (`unsupported`, `busy`, or words)."""

    id: Token
    ok: bool
    value: Fields = {}
    error: Reason = ""


class ReconnectFailed(Message, frozen=True, omit_defaults=True):
    """An attempt that a Reconnect asked for failed: `reason` in a word, `detail` in a sentence."""

    reason: Token
    detail: Reason = ""


class HostFacts(Message, frozen=True, omit_defaults=True):
    """What changes about a host while it is connected; named as api.json's `defender.SystemInfo`."""

    kernel_version: Name = ""
    cpu_count: Number = 0
    memory_gb: Annotated[float, Meta(ge=0, le=1e9)] = msgspec.field(default=0.0, name="memoryGB")
    total_disk_space_gb: Number = msgspec.field(default=0, name="totalDiskSpaceGB")
    free_disk_space_gb: Number = msgspec.field(default=0, name="freeDiskSpaceGB")
    certificates: Annotated[tuple[HeldSet, ...], Meta(max_length=16)] = ()


FromConsole: TypeAlias = Challenge | Welcome | Ack | HeartbeatAck | Command | Reconnect
FromDefender: TypeAlias = Hello | Heartbeat | Events | CommandResult | ReconnectFailed | HostFacts


class Direction(Enum):
    """Who sent a message."""

    FROM_CONSOLE = "from console"
    FROM_DEFENDER = "from defender"


class Unknown(_Part, frozen=True):
    """A well-formed message of a kind that this end doesn't know: to be ignored and counted."""

    kind: str


class Malformed(_Part, frozen=True):
    """What isn't a message, why, and the code to close with.

    The reason names a field at most, never what was in it: it is logged and sent.
    """

    reason: str
    code: CloseCode = CloseCode.POLICY


class _Header(Struct, frozen=True, gc=False):
    kind: Token


_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ENCODER: Final = msgspec.json.Encoder()
_HEADER: Final = msgspec.json.Decoder(_Header)
_CLAIMS: Final = msgspec.json.Decoder(Claims)
# mypy takes the type of a decoder from a class, and a union isn't one.
_CONSOLE: Final[msgspec.json.Decoder[FromConsole]] = msgspec.json.Decoder(FromConsole)
_DEFENDER: Final[msgspec.json.Decoder[FromDefender]] = msgspec.json.Decoder(FromDefender)
_CONSOLE_KINDS: Final = frozenset(kind.__struct_config__.tag for kind in FromConsole.__args__)
_DEFENDER_KINDS: Final = frozenset(kind.__struct_config__.tag for kind in FromDefender.__args__)
# msgspec ends a message with the path of the fault; its parts are names of our own fields and indices.
_PATH: Final = re.compile(r"(?:field|at|in) `(?:\$\.)?([A-Za-z0-9_.\[\]]{1,60})`\Z")


def encode(message: Message | Claims) -> bytes:
    """The JSON text of a message, UTF-8."""
    return _ENCODER.encode(message)


def decode_from_defender(data: bytes) -> FromDefender | Unknown | Malformed:
    """Read what a Defender sent."""
    if len(data) > MAX_MESSAGE_BYTES:
        return Malformed("message too big", CloseCode.TOO_BIG)
    try:
        return _DEFENDER.decode(data)
    except _FAULTS as fault:
        return _explain(data, fault, _DEFENDER_KINDS)


def decode_from_console(data: bytes) -> FromConsole | Unknown | Malformed:
    """Read what a Console sent."""
    if len(data) > MAX_MESSAGE_BYTES:
        return Malformed("message too big", CloseCode.TOO_BIG)
    try:
        return _CONSOLE.decode(data)
    except _FAULTS as fault:
        return _explain(data, fault, _CONSOLE_KINDS)


def decode(data: bytes, direction: Direction) -> FromConsole | FromDefender | Unknown | Malformed:
    """Read a message that came from the given direction."""
    if direction is Direction.FROM_DEFENDER:
        return decode_from_defender(data)
    return decode_from_console(data)


def decode_claims(body: bytes) -> Claims | Malformed:
    """Read the body of a Hello."""
    try:
        return _CLAIMS.decode(body)
    except _FAULTS as fault:
        return _fault(fault, "hello.body")


def _explain(data: bytes, fault: Exception, known: frozenset[Any]) -> Unknown | Malformed:
    """Tell an unknown kind from a broken message: only what failed to decode pays for a second look."""
    if not isinstance(fault, msgspec.ValidationError):
        return _fault(fault, "message")
    try:
        kind = _HEADER.decode(data).kind
    except _FAULTS:
        return Malformed("no message kind")
    return _fault(fault, kind) if kind in known else Unknown(kind)


def _fault(fault: Exception, where: str) -> Malformed:
    if isinstance(fault, msgspec.ValidationError):
        path = _PATH.search(str(fault))
        return Malformed(f"{where}: bad {path.group(1)}" if path else f"{where}: bad structure")
    if isinstance(fault, RecursionError):
        return Malformed(f"{where}: nested too deeply")
    if isinstance(fault, UnicodeDecodeError):
        return Malformed(f"{where}: not UTF-8", CloseCode.INVALID_DATA)
    return Malformed(f"{where}: not JSON", CloseCode.INVALID_DATA)
