"""How long somebody who failed to sign in has to wait: a pure table, bounded in size.

Two counts are kept: by user name and address (guessing one user's password), and by address alone (trying
many names). Waiting grows by doubling and is forgotten after a quiet while. Nothing is kept by user name
alone: it would let anybody lock somebody else out.
"""

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """When waiting begins and how it grows.

    Attributes:
        free: Failures without a wait.
        first: The first wait, in seconds; each further failure doubles it.
        cap: The longest wait, in seconds.
    """

    free: int
    first: float = 1.0
    cap: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        if failures <= self.free:
            return 0.0
        # The exponent is bounded so that a long attack cannot make it overflow.
        return min(self.cap, self.first * 2.0 ** min(failures - self.free - 1, 32))


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    last: float


_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that was counted as a failure before anybody looked at it; see `LoginThrottle.attempt`."""

    username: str
    place: str
    notes: tuple[tuple[_Key, _Failures | None, _Failures], ...]
    """For each count: its key, what was there before, what was put there."""


BY_USER: Final = Rule(free=5)
BY_ADDRESS: Final = Rule(free=50)
QUIET: Final = 900.0
"""Seconds after which failures are forgotten."""


class LoginThrottle:
    """Failures to sign in, by who and from where.

    Args:
        by_user: For one user name from one address.
        by_address: For all names from one address.
        size: How many entries are kept; the ones touched longest ago go first. An attacker who makes new
            ones to push out an old one is held by the entry of their address, which each try touches.
    """

    def __init__(self, *, by_user: Rule = BY_USER, by_address: Rule = BY_ADDRESS, size: int = 10_000) -> None:
        self._by_user = by_user
        self._by_address = by_address
        self._size = size
        self._entries: OrderedDict[_Key, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def wait(self, username: str, address: str, now: float) -> float:
        """Seconds until the next try is looked at; 0 if it is now.

        Args:
            username: Whom they want to be.
            address: Where the connection comes from.
            now: Of a monotonic clock.
        """
        place = origin(address)
        return max(
            self._wait((username, place), self._by_user, now), self._wait(("", place), self._by_address, now)
        )

    def attempt(self, username: str, address: str, now: float) -> Attempt:
        """Count a try as a failure before it is looked at, so that many at once are not looked at for one.

        It stays one unless it is handed to `succeeded` or `take_back`.
        """
        place = origin(address)
        notes = tuple(self._note(key, now) for key in ((username, place), ("", place)))
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return Attempt(username, place, notes)

    def succeeded(self, attempt: Attempt) -> None:
        """Forget this user's failures from there; not the address's, or one own account would reset it."""
        self.take_back(attempt)
        self._entries.pop((attempt.username, attempt.place), None)

    def take_back(self, attempt: Attempt) -> None:
        """Count this try as none."""
        for key, before, noted in attempt.notes:
            entry = self._entries.get(key)
            if entry is noted and before is not None:
                self._entries[key] = before
            elif entry is noted or (entry is not None and entry.count <= 1):
                del self._entries[key]
            elif entry is not None:
                # Others came since: theirs stays.
                self._entries[key] = replace(entry, count=entry.count - 1)

    def _note(self, key: _Key, now: float) -> tuple[_Key, _Failures | None, _Failures]:
        before, noted = self._entries.get(key), _Failures(self._count(key, now) + 1, now)
        self._entries[key] = noted
        self._entries.move_to_end(key)
        return key, before, noted

    def _count(self, key: _Key, now: float) -> int:
        entry = self._entries.get(key)
        return 0 if entry is None or now - entry.last > QUIET else entry.count

    def _wait(self, key: _Key, rule: Rule, now: float) -> float:
        count = self._count(key, now)
        return max(0.0, self._entries[key].last + rule.delay(count) - now) if count else 0.0


def origin(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 network of 64 bits, which one host owns."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def whole_seconds(seconds: float) -> int:
    """For a Retry-After header (RFC 9110 §10.2.3): whole, and never 0."""
    return max(1, math.ceil(seconds))
