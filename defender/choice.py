"""Which certificate set the next connection is made with, and when there has to be another one. Pure.

The newest set is the one that is wanted. But the two sides get their files in any order, so a new set is
worth nothing before the Console has welcomed a connection over it. Until then the set that was proved last
stays beside it, so that nobody is cut off::

    offer(new) ──▶ wanted: new, fallback: what was proved last
                     ├── welcomed over new ──────────────▶ wanted: new
                     └── the fallback's trust is removed, and its grace over ──▶ wanted: new

Trust is removed when an operator replaces a set by one of the same source whose bundle doesn't vouch for the
Console that was seen last (or none was seen). Another source brings another CA by its nature: that is no
removal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from common.certificates import still_trusts
from common.protocol import HeldSet, ReconnectAsked
from defender.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Move:
    """A reason to open a connection beside the one that stands. Equal ones are the same reason.

    Attributes:
        reason: In words.
        sets: What to try, in this order; the first that is welcomed will do.
        asked: The Console's wish, if it is one.
    """

    reason: str
    sets: tuple[Credentials, ...]
    asked: ReconnectAsked | None = None

    @property
    def at(self) -> float:
        """From when on, monotonic seconds."""
        return self.asked.at if self.asked else -math.inf


class Choice:
    """The sets that a Defender holds: one or, while the newest is not proved, two.

    Attributes:
        wanted: The newest.
        proved: Fingerprints of the sets that a Welcome was received over.

    Args:
        credentials: What it begins with.
        grace: Seconds for which trust that was removed is still used.
    """

    def __init__(self, credentials: Credentials, *, grace: float) -> None:
        self.wanted = credentials
        self.proved: set[str] = set()
        self._fallback: Credentials | None = None
        self._ends: dict[str, float] = {}
        """By fingerprint: when the trust of a set that was replaced ends, or has ended."""
        self._chain: Sequence[bytes] = ()
        self._grace = grace

    def offer(self, new: Credentials, *, now: float, wall: datetime) -> bool:
        """Want another set from now on.

        Args:
            new: The set.
            now: Monotonic seconds.
            wall: The wall clock.

        Returns:
            Whether it is another one than before.
        """
        before, self.wanted = self.wanted, new
        if before.same(new):
            return False
        self._ends.pop(new.set.fingerprint, None)  # Who brings it back trusts it again.
        # What has never been proved gives way to what has; before anything has, the first one stays.
        self._keep((*self._alive(now), before)[0], now, wall)
        return True

    def renew(self, new: Credentials, *, now: float, wall: datetime) -> bool:
        """Keep a newer set beside the wanted one, in the place of one of the same source that has failed.

        Args:
            new: The set.
            now: Monotonic seconds.
            wall: The wall clock.

        Returns:
            Whether there was one whose place it takes.
        """
        for kept in self._alive(now):
            if kept.set.source is new.set.source and not kept.same(new):
                self._keep(new, now, wall)
                return True
        return False

    def welcomed(self, over: Credentials, chain: Sequence[bytes], *, now: float, wall: datetime) -> bool:
        """Note that a set is proved.

        Args:
            over: The set that the connection was made with.
            chain: The Console's certificates on it, DER, leaf first, as they were verified.
            now: Monotonic seconds.
            wall: The wall clock.

        Returns:
            Whether it was not before.
        """
        self._chain = chain
        # An attempt may have begun before its set was replaced: then this is what was proved last.
        self._keep(over, now, wall)
        news = over.set.fingerprint not in self.proved
        self.proved.add(over.set.fingerprint)
        return news

    def sets(self, now: float) -> tuple[Credentials, ...]:
        """What a connection that has to come about is tried with, in this order."""
        return (self.wanted, *self._alive(now))

    def held(self, using: Credentials, now: float) -> tuple[HeldSet, ...]:
        """What the Console is told: the set of the connection that it is told on, then the others."""
        others = [one for one in self.sets(now) if not one.same(using)]
        return tuple(one.held(proved=one.set.fingerprint in self.proved) for one in (using, *others))

    def ends(self, credentials: Credentials) -> float:
        """When a connection over this set ends as its trust was removed: monotonic seconds, or infinity."""
        return self._ends.get(credentials.set.fingerprint, math.inf)

    def move(
        self, using: Credentials, *, asked: ReconnectAsked | None, renewed: bool, now: float
    ) -> Move | None:
        """Whether the connection that stands is to be replaced by another.

        Args:
            using: The set that it was made with.
            asked: The Console's wish, if it has one.
            renewed: Whether the spool has begun a new epoch, which this connection can't carry.
            now: Monotonic seconds.
        """
        if asked is not None:
            return Move(asked.reason, self.sets(now), asked)
        if renewed:
            return Move("the spool began a new epoch", self.sets(now))
        if not using.same(self.wanted):
            # This connection does for everything else: only the wanted set is worth another.
            return Move(f"the certificates of {self.wanted.place} are to be used", (self.wanted,))
        return None

    def _alive(self, now: float) -> tuple[Credentials, ...]:
        fallback = self._fallback
        return (fallback,) if fallback is not None and now < self.ends(fallback) else ()

    def _keep(self, fallback: Credentials, now: float, wall: datetime) -> None:
        """Keep a set beside the wanted one, unless it is that; for ever or until its trust ends."""
        if fallback.same(self.wanted):
            self._fallback = None
            return
        self._fallback = fallback
        fingerprint = fallback.set.fingerprint
        removed = fallback.set.source is self.wanted.set.source and not still_trusts(
            self.wanted.set, self._chain, now=wall
        )
        if removed:
            # Also where it has ended already, and an attempt that began before was welcomed after: the
            # grace is one.
            self._ends.setdefault(fingerprint, now + self._grace)
        else:
            self._ends.pop(fingerprint, None)
