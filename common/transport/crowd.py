"""How many established connections a listener has, in all and of one address."""

from collections import Counter
from typing import Any

from common.transport.admission import Limits
from common.transport.sockets import address_group


class Crowd:
    """Counts established connections against `Limits.max_connections` and `Limits.max_per_address`."""

    __slots__ = ("_by_address", "_count", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0
        self._by_address: Counter[str] = Counter()

    def objection(self, peer: Any) -> str:
        """Why there must be none more from this peer; empty if there may be."""
        limits = self._limits
        if limits.max_connections is not None and self._count >= limits.max_connections:
            return f"there are {self._count} connections already"
        of_address = limits.max_per_address
        if of_address is not None and self._by_address[address_group(peer)] >= of_address:
            return f"there are {of_address} connections from this address already"
        return ""

    def join(self, peer: Any) -> None:
        """One is established."""
        self._count += 1
        if self._limits.max_per_address is not None:
            self._by_address[address_group(peer)] += 1

    def leave(self, peer: Any) -> None:
        """It has ended."""
        self._count -= 1
        if self._limits.max_per_address is not None:
            group = address_group(peer)
            self._by_address[group] -= 1
            if not self._by_address[group]:
                del self._by_address[group]
