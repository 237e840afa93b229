"""The upgrade as clients usually ask for it, answered without a parser; what is unusual is not read here.

A Defender's request takes websockets 45 µs to parse, to judge and to answer, here it takes 6. This is a
shortcut and no second opinion: it takes only requests that websockets would take, answers them octet for
octet as websockets would, and leaves its protocol in the same state. Everything else, wrong or merely
unusual (another header, a header twice, another case of a value), gets None and goes the long way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import Final

from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

MAX_QUICK: Final = 2048
"""Octets of a request; far below each of websockets' own limits."""

_LINE_END: Final = b"\r\n"
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_PATH: Final = re.compile(r"/[!->@-~]*")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""Sixteen octets in base64 (RFC 6455 §4.1): the last character carries two bits of them."""
_NAMES: Final = frozenset(
    (
        *("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"),
        *("sec-websocket-protocol", "sec-websocket-extensions"),
        # Nothing depends on these; clients send them.
        *("user-agent", "accept", "accept-encoding"),
    )
)


class Fields(Mapping[str, str]):
    """The headers of a request, each of which came once; names in any case, as in websockets' Headers."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields


class QuickUpgrade:
    """Reads and answers the usual requests of one server.

    Args:
        path: The server's; a request with a query goes the long way.
        subprotocols: The server's; a request that offers several goes the long way.
    """

    __slots__ = ("_date", "_request_line", "_second", "_subprotocols")

    def __init__(self, path: str, subprotocols: Sequence[Subprotocol]) -> None:
        usual = _PATH.fullmatch(path) is not None
        self._request_line = b"GET %b HTTP/1.1" % path.encode() if usual else None
        # What the client may say, and what is chosen then. A server with none wants none here.
        self._subprotocols: dict[str | None, Subprotocol | None] = {
            name: name for name in subprotocols if _TOKEN.fullmatch(name)
        }
        if not subprotocols:
            self._subprotocols[None] = None
        self._second = -1
        self._date = ""

    def read(self, head: bytes) -> Fields | None:
        """The headers of this request if it is to be answered by `accept`; None if it is not usual.

        Args:
            head: All that came so far.
        """
        if len(head) > MAX_QUICK:
            return None
        lines = head.split(_LINE_END)
        if (
            lines[0] != self._request_line
            or lines[-2:] != [b"", b""]
            # Nothing but printable ASCII and ends of lines, and those only where the lines were split.
            or head.translate(None, _PRINTABLE) != _LINE_END * (len(lines) - 1)
        ):
            return None
        fields = {}
        for line in lines[1:-2]:
            name, _, value = line.decode("ascii").partition(": ")
            name = name.lower()
            if name not in _NAMES or name in fields:
                return None
            fields[name] = value.strip(" ")
        return Fields(fields) if self._is_upgrade(fields) else None

    def _is_upgrade(self, fields: Mapping[str, str]) -> bool:
        get = fields.get
        return (
            "host" in fields
            and get("upgrade") == "websocket"
            and get("connection") == "Upgrade"
            and get("sec-websocket-version") == "13"
            and _KEY.fullmatch(get("sec-websocket-key", "")) is not None
            and get("sec-websocket-protocol") in self._subprotocols
        )

    def accept(self, protocol: ServerProtocol, fields: Fields, now: float) -> None:
        """What `protocol.accept` and `protocol.send_response` do with this request: it is open then.

        Args:
            protocol: One that has seen nothing yet.
            fields: From `read`.
            now: The time, in seconds since the epoch.
        """
        chosen = self._subprotocols[fields.get("sec-websocket-protocol")]
        named = f"Sec-WebSocket-Protocol: {chosen}\r\n" if chosen is not None else ""
        response = (
            f"HTTP/1.1 101 Switching Protocols\r\nDate: {self._date_at(int(now))}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(fields['sec-websocket-key'])}\r\n"
            f"{named}\r\n"
        )
        protocol.accept_called = True
        protocol.subprotocol = chosen
        protocol.writes.append(response.encode("ascii"))
        protocol.state = State.OPEN
        protocol.logger.info("connection open")

    def _date_at(self, second: int) -> str:
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        return self._date
