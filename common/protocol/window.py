"""How many events may be on their way: both ends count the same way, so neither trusts the other to."""

from typing import Final

from common.protocol.messages import MAX_NUMBER

OUT_OF_ORDER: Final = "events out of order"
TOO_MANY: Final = "events beyond the window"


class Window:
    """The positions in one spool epoch, on one connection.

    Args:
        acked: The last number that is stored for good, 0 for none.
        size: Events that may be unacknowledged.
    """

    __slots__ = ("_base", "acked", "next", "size")

    def __init__(self, acked: int, size: int) -> None:
        self.acked = acked
        self.next = acked + 1
        self.size = size
        # Numbers that the spool dropped were never on their way: they move the base that we count from.
        self._base = acked

    @property
    def room(self) -> int:
        """Events that may still be sent."""
        return self.size - (self.next - 1 - self._base)

    def take(self, first: int, count: int, dropped: int) -> str | None:
        """Account for events on their way; the fault, if they mustn't be."""
        if first != self.next + dropped or first + count > MAX_NUMBER:
            return OUT_OF_ORDER
        if count > self.room:
            return TOO_MANY
        self.next = first + count
        self._base += dropped
        return None

    def ack(self, through: int) -> bool:
        """Account for an acknowledgement: False if it covers what was never sent or says nothing new."""
        if not self.acked < through < self.next:
            return False
        self.acked = through
        self._base = max(self._base, through)
        return True
