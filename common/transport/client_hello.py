"""The ClientHello, read before OpenSSL sees it.

The listener peeks at the first bytes of a connection to learn which listener generation it asks for (ALPN),
and whether it speaks TLS at all. This is a reader, not a judge: OpenSSL gets the very same bytes afterwards
and checks them in full. What is bounded here is what is held while waiting: the message's size and the
number of records that it may come in.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RECORD_HEADER: Final = 5
MAX_FRAGMENT: Final = 2**14
"""Octets of one record's plaintext (RFC 8446 §5.1)."""
MAX_MESSAGE: Final = 2**14
"""Octets of a ClientHello that we wait for; one with post-quantum key shares has about 2,000."""
MAX_RECORDS: Final = 8
"""Records that a ClientHello may come in: each one more is a wake-up that the peer can ask of us."""
MAX_NAMES: Final = 16
MAX_NAMES_OCTETS: Final = 512
"""Application protocols that are kept of a ClientHello; a browser offers two, a Defender one."""
MAX_VERSIONS: Final = 16
_MAX_SERVER_NAME: Final = 255
MAX_PEEK: Final = 4 + MAX_MESSAGE + MAX_RECORDS * RECORD_HEADER

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_OURS: Final = (_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS)
_LEAST_USUAL: Final = 44
_USUAL_TYPES: Final = (_HANDSHAKE << 8 | 3, _CLIENT_HELLO << 8)
"""The record's type and major version; the message's type and the first octet of its length."""
_REMEMBERED: Final = 128
_MAX_REMEMBERED: Final = 2048
"""Octets of the ClientHellos whose wishes are remembered: what a stranger can fill is bounded by both."""
_HTTP_METHODS: Final = (
    *(b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "),
    b"PRI * HTTP/2.0",
)


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for.

    Attributes:
        server_name: The host name of its SNI (RFC 6066 §3), lower case; None without one. Cut after 255
            octets, which OpenSSL refuses anyway.
        alpn: Its application protocols in its order (RFC 7301 §3.1); octets that are no ASCII as Latin-1.
            Only the first MAX_NAMES, and of those the first that have MAX_NAMES_OCTETS together: a hostile
            ClientHello holds 5,000, which would be 380 KB of Python objects for as long as it is kept.
        versions: The TLS versions it offers in its order (RFC 8446 §4.2.1), without GREASE; 0x0304 is TLS
            1.3. Only the first MAX_VERSIONS.
    """

    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The ClientHello is not complete.

    Attributes:
        total: How many octets from the start there must be before another look can tell more.
    """

    total: int


class Spoken(StrEnum):
    """What a peer speaks that sent no ClientHello."""

    HTTP = "HTTP"
    OTHER = "no TLS"
    BAD_TLS = "malformed TLS"


@dataclass(frozen=True, slots=True)
class NotClientHello:
    """These octets are not the beginning of a ClientHello, and more of them cannot change that."""

    spoken: Spoken
    reason: str


class _MalformedError(ValueError):
    """A length or a value inside the ClientHello contradicts another."""


class _Cursor:
    """Reads length-prefixed fields from octets."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _MalformedError("a field ends behind its structure")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> "_Cursor":
        """A vector with its length in `width` octets before it (RFC 8446 §3.4)."""
        return _Cursor(self.take(self.number(width)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


def parse_client_hello(data: bytes) -> ClientHello | NeedMore | NotClientHello:
    """Read the ClientHello at the start of a connection.

    Args:
        data: All octets that the peer has sent so far, from the first.

    Returns:
        The ClientHello; or how many octets there must be for another look; or what is spoken instead.
    """
    if not data:
        return NeedMore(RECORD_HEADER)
    if (usual := _parse_usual(data)) is not None:
        return usual
    if data[0] not in range(20, 25) or (len(data) > 1 and data[1] != 3):
        return _foreign(data)
    message = _reassemble(data)
    if not isinstance(message, bytes):
        return message
    try:
        return _parse_message(_Cursor(message))
    except _MalformedError as error:
        return NotClientHello(Spoken.BAD_TLS, f"malformed ClientHello: {error}")


def _parse_usual(data: bytes) -> ClientHello | None:
    """What clients send: one record, one message, and nothing after it; None for anything else.

    It reads by index, without an object for each field: half of what the reader below takes, which has the
    last word on everything that is unusual or wrong.
    """
    end = len(data)
    if (
        not _LEAST_USUAL < end <= RECORD_HEADER + MAX_FRAGMENT
        or (data[0] << 8 | data[1], data[5] << 8 | data[6]) != _USUAL_TYPES
        or data[3] << 8 | data[4] != end - RECORD_HEADER
        or data[7] << 8 | data[8] != end - RECORD_HEADER - 4
    ):
        return None
    try:
        at = 44 + data[43]  # behind legacy_session_id
        at += 2 + (data[at] << 8 | data[at + 1])  # cipher_suites
        at += 1 + data[at]  # legacy_compression_methods
        if at + 2 + (data[at] << 8 | data[at + 1]) != end:
            return None
        return _parse_usual_extensions(data, at + 2, end)
    except (IndexError, _MalformedError):
        return None


def _parse_usual_extensions(data: bytes, at: int, end: int) -> ClientHello | None:
    found: dict[int, bytes] = {}
    kinds = []
    while at < end:
        kind = data[at] << 8 | data[at + 1]
        start = at + 4
        at = start + (data[at + 2] << 8 | data[at + 3])
        kinds.append(kind)
        if kind in _OURS:
            found[kind] = data[start:at]
    if at != end or len(set(kinds)) != len(kinds):
        return None
    legacy = data[9] << 8 | data[10]
    name, alpn, versions = map(found.get, _OURS)
    if end > _MAX_REMEMBERED:
        return _read_extensions(legacy, name, alpn, versions)
    return _remembered(legacy, name, alpn, versions)


def _read_extensions(
    legacy: int, name: bytes | None, alpn: bytes | None, versions: bytes | None
) -> ClientHello:
    return ClientHello(
        None if name is None else _parse_server_name(_Cursor(name)),
        () if alpn is None else _parse_alpn(_Cursor(alpn)),
        (legacy,) if versions is None else _parse_versions(_Cursor(versions)),
    )


# A fleet asks for the same in every ClientHello; what differs (random, key share) is not in these.
_remembered = functools.lru_cache(_REMEMBERED)(_read_extensions)


def _foreign(data: bytes) -> NotClientHello:
    for method in _HTTP_METHODS:
        # One octet would not do: every capital letter begins some method.
        if data.startswith(method) or (len(data) > 1 and method.startswith(data)):
            return NotClientHello(Spoken.HTTP, "HTTP spoken to a TLS port")
    return NotClientHello(Spoken.OTHER, "the first octets are not TLS")


def _reassemble(data: bytes) -> bytes | NeedMore | NotClientHello:
    """The handshake message in these records, without its header of four octets."""
    message = b""
    start = 0
    for _ in range(MAX_RECORDS):
        body = start + RECORD_HEADER
        if len(data) < body:
            return NeedMore(body)
        length = int.from_bytes(data[start + 3 : body], "big")
        if data[start] != _HANDSHAKE or not 0 < length <= MAX_FRAGMENT:
            return NotClientHello(Spoken.BAD_TLS, f"a TLS record of type {data[start]} with {length} octets")
        message += data[body : body + length]
        if fault := _check_header(message):
            return NotClientHello(Spoken.BAD_TLS, fault)
        if len(data) < body + length:
            return NeedMore(body + length)
        if len(message) >= 4 and len(message) - 4 >= (size := int.from_bytes(message[1:4], "big")):
            return message[4 : 4 + size]
        start = body + length
    return NotClientHello(Spoken.BAD_TLS, f"a ClientHello in more than {MAX_RECORDS} records")


def _check_header(message: bytes) -> str:
    if message and message[0] != _CLIENT_HELLO:
        return f"a handshake message of type {message[0]} where the ClientHello is due"
    if len(message) >= 4 and (size := int.from_bytes(message[1:4], "big")) > MAX_MESSAGE:
        return f"a ClientHello of {size} octets"
    return ""


def _parse_message(body: _Cursor) -> ClientHello:
    legacy_version = body.number(2)
    body.take(32)  # random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (legacy_version,)
    # A TLS 1.2 client may send no extensions at all (RFC 5246 §7.4.1.2).
    for kind, content in _extensions(body.vector(2)) if body else ():
        if kind == _SERVER_NAME:
            server_name = _parse_server_name(content)
        elif kind == _ALPN:
            alpn = _parse_alpn(content)
        elif kind == _SUPPORTED_VERSIONS:
            versions = _parse_versions(content)
    return ClientHello(server_name, alpn, versions)


def _extensions(extensions: _Cursor) -> Iterator[tuple[int, _Cursor]]:
    seen = set()
    while extensions:
        kind = extensions.number(2)
        if kind in seen:
            # RFC 8446 §4.2. OpenSSL refuses it as well; two readers must not pick different ones.
            raise _MalformedError(f"extension {kind} twice")
        seen.add(kind)
        yield kind, extensions.vector(2)


def _parse_server_name(content: _Cursor) -> str | None:
    names = content.vector(2)
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == 0:
            return name[:_MAX_SERVER_NAME].decode("latin-1").lower()
    return None


def _parse_alpn(content: _Cursor) -> tuple[str, ...]:
    names = content.vector(2)
    found: list[str] = []
    room = MAX_NAMES_OCTETS
    while names and len(found) < MAX_NAMES:
        name = names.vector(1).rest()
        room -= len(name)
        if room < 0:
            break
        found.append(name.decode("latin-1"))
    return tuple(found)


def _parse_versions(content: _Cursor) -> tuple[int, ...]:
    versions = content.vector(1)
    found = []
    while versions:
        found.append(versions.number(2))
    # GREASE (RFC 8701 §2) is noise by design: it would make equal clients look different.
    return tuple([version for version in found if version & 0x0F0F != 0x0A0A][:MAX_VERSIONS])
