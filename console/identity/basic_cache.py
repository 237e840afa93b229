"""Basic credentials that were right a moment ago, so that a script pays for Argon2 once and not per request.

Kept is a keyed hash under a key that only this process has, with the stored hash that the password was
checked against: when that changes, so by another Console too, the entry is worth nothing.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

SECONDS: Final = 60.0
"""How long an entry is good for, from the check."""


@dataclass(frozen=True, slots=True)
class _Entry:
    password_hash: str = field(repr=False)
    until: float


class BasicCache:
    """Recently verified credentials, bounded.

    Args:
        size: How many at most; the oldest go first.
        seconds: How long each is good for.
    """

    def __init__(self, *, size: int = 256, seconds: float = SECONDS) -> None:
        self._key = secrets.token_bytes(32)
        self._size = size
        self._seconds = seconds
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, username: str, password: str, password_hash: str, now: float) -> bool:
        """Whether this password was right for this stored hash a moment before `now` (monotonic)."""
        entry = self._entries.get(self._digest(username, password))
        return entry is not None and now < entry.until and entry.password_hash == password_hash

    def add(self, username: str, password: str, password_hash: str, now: float) -> None:
        """Note that this password is right for this stored hash."""
        key = self._digest(username, password)
        self._entries[key] = _Entry(password_hash, now + self._seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def _digest(self, username: str, password: str) -> bytes:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        name = username.encode()
        message = len(name).to_bytes(4, "big") + name + password.encode()
        return hmac.new(self._key, message, hashlib.sha256).digest()
