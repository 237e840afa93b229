"""What a connection still has to write, cut into TLS records."""

from collections import deque
from typing import Final

RECORD: Final = 16384
"""Octets of one TLS record (RFC 8446 §5.1)."""


class WriteQueue:
    """Octets in order, without a copy where nobody else can change them.

    OpenSSL wants a write that it could not finish to be repeated with the same octets, and at least as many
    (SSL_write(3)). `chunk` gives that: it always starts at the front, and between two of them the queue only
    grows.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview] = deque()
        self.size = 0

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add octets at the end; `data` may be changed afterwards."""
        if isinstance(data, memoryview):
            data = data.cast("B") if type(data.obj) is bytes and data.contiguous else bytes(data)
        elif not isinstance(data, bytes):
            data = bytes(data)
        if data:
            self._pieces.append(data)
            self.size += len(data)

    def chunk(self) -> bytes | memoryview:
        """The next record's octets: as many as there are, up to RECORD."""
        pieces = self._pieces
        if len(pieces[0]) < RECORD and len(pieces) > 1:
            self._join_front()
        return memoryview(pieces[0])[:RECORD] if len(pieces[0]) > RECORD else pieces[0]

    def _join_front(self) -> None:
        """Make the first piece a whole record, as far as there is enough."""
        parts: list[bytes | memoryview] = []
        room = RECORD
        while self._pieces and room:
            part = self._pieces.popleft()
            if len(part) > room:
                view = memoryview(part)
                self._pieces.appendleft(view[room:])
                part = view[:room]
            parts.append(part)
            room -= len(part)
        self._pieces.appendleft(b"".join(parts))

    def consume(self, count: int) -> None:
        """Drop octets that were written: at most the last chunk."""
        head = self._pieces.popleft()
        if count < len(head):
            self._pieces.appendleft(memoryview(head)[count:])
        self.size -= count
