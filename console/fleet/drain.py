"""The drain of replaced certificates: one task that has Defenders reconnect, in slots, and ends old trust.

::

    swap, or a certificate expired ─▶ judge all sessions, in slices ─▶ ask in slots ─▶ moved, failed, closed

A session is judged for each swap once, also when it opens after it on what was replaced. One whose trust was
removed is asked like the others, first of all, and ends with the grace whatever it says. What a session was
asked for an earlier swap is not taken back: its Defender will come to what is served then.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from common.certificates import CertificateSet
from common.clock import Clock
from common.protocol import CloseCode
from console.fleet.draining import Counts, Ending, Standing, Tally
from console.fleet.pacing import LEAD_SECONDS, HandshakeRate, Slots, expected_seconds
from console.fleet.session import Session
from console.fleet.slices import Slice, in_slices
from console.fleet.verdicts import Verdicts

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 0.25
"""How often slots are handed out while somebody waits for one."""
CLOSED_AT_ONCE: Final = 32
"""Connections closed in one turn of the loop: what follows in the next turns costs more than the closing."""
CROWD_HELLOS: Final = 256
"""Hellos that the store has not judged, beyond which a drain holds back: those of one transaction."""

REPLACED: Final = "the Console's certificates were replaced"
REMOVED: Final = "the CA of this Defender's certificate was removed from the Console's bundle"
EXPIRED: Final = "the certificate of this connection has expired"

_EXPIRED_FAILED: Final = "expired, and could not reconnect"
_FOREVER: Final = float("inf")
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Load:
    """What the Defenders' port is busy with.

    Attributes:
        handshakes: Done since its start.
        pending: Connections that are not decided yet.
        hellos: Hellos that the store has not judged.
    """

    handshakes: int = 0
    pending: int = 0
    hellos: int = 0


@dataclass(frozen=True, slots=True)
class Replaced:
    """A set that was replaced and still has connections: its fingerprint, source, and how many."""

    fingerprint: str
    source: str
    connections: int


@dataclass(frozen=True, slots=True)
class DrainState:
    """The drain of the last swap, for whoever asks.

    Attributes:
        begun: When the swap was.
        over: Whether nobody is left to be asked or to answer.
        counts: It in numbers.
        failures: Who tried and couldn't, with the reason; a few of them.
        replaced: The sets that still have connections.
        rate: Handshakes per CPU second of a core, as measured.
    """

    begun: datetime
    over: bool
    counts: Counts
    failures: tuple[str, ...]
    replaced: tuple[Replaced, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class RemovedTrust:
    """Connections whose CA is not in the bundle any more: how many, and when the last of them ends."""

    connections: int
    ends: datetime


@dataclass(slots=True)
class _Swap:
    """What is served since when, and what its bundle says."""

    certificates: CertificateSet
    name: str
    at: float
    begun: datetime
    grace: float
    verdicts: Verdicts


class Drain:
    """Moves the Defenders of replaced generations to the current one.

    Args:
        sessions: All connections with an open WebSocket.
        load: What the port is busy with.
        clock: Of this host.
        grace: Seconds from a swap until connections end whose CA it removed.
        deadline: Seconds from a Defender's slot until it is closed if it made no attempt.
        cpu: CPU seconds of this process.
    """

    def __init__(
        self,
        sessions: Mapping[Session, None],
        load: Callable[[], Load],
        clock: Clock,
        *,
        grace: float,
        deadline: float,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._sessions = sessions
        self._load = load
        self._clock = clock
        self._grace = grace
        self._deadline = deadline
        self._cpu = cpu
        self._rate = HandshakeRate()
        self._slots = Slots()
        self._wake = asyncio.Event()
        self._swap: _Swap | None = None
        self._tally: Tally[Session] = Tally(0.0)
        self._judging: deque[Session] = deque()
        self._queue: deque[Session] = deque()
        # Whose trust was removed, and when that connection ends, in monotonic seconds.
        self._removed: dict[Session, float] = {}
        # Who is to be closed, and why.
        self._ending: deque[tuple[Session, CloseCode]] = deque()
        # Who was asked because its certificate has expired, and when the next one does.
        self._expired: set[Session] = set()
        self._next_expiry = _NEVER
        self._announced = True
        self._news: Counter[CloseCode | str] = Counter()

    # What happens to the fleet

    def swapped(self, certificates: CertificateSet) -> None:
        """New connections get this set from now on."""
        now, begun, before = self._clock.monotonic(), self._clock.now(), self._swap
        name, verdicts = certificates.fingerprint, Verdicts(certificates, begun)
        if before is not None and _bundle(before.certificates) != _bundle(certificates):
            self._slots.not_before(now + LEAD_SECONDS)
        self._swap = _Swap(certificates, name, now, begun, self._grace, verdicts)
        self._tally = Tally(now)
        self._queue.clear()
        self._expired.clear()
        self._judge_all()
        self._announced = False

    def opened(self, session: Session) -> None:
        """A connection opened; its handshake may have begun before the swap."""
        if self._swap is not None and session.generation.name != self._swap.name:
            self._judge_replaced(session, self._swap)

    def welcomed(self, session: Session) -> None:
        """A Defender's session has become its live one."""
        self._next_expiry = min(self._next_expiry, session.certificate_not_after)
        if self._tally.welcomed(session):
            self._enqueue(session)

    def superseded(self, session: Session, by: Session) -> bool:
        """A Defender has a newer session; whether that is what a drain asked for."""
        self._removed.pop(session, None)
        self._expired.discard(session)
        if self._swap is None or session not in self._tally:
            return False
        if by.generation.name != self._swap.name:
            # Its handshake was under way at the swap, too.
            self._tally.replaced(session)
            return False
        self._tally.ended(session, Ending.MOVED)
        self._settle()
        return True

    def move_failed(self, session: Session, reason: str) -> None:
        """A Defender tried as it was asked, and couldn't: it keeps this connection (D4a)."""
        if session in self._expired:
            self._news[_EXPIRED_FAILED] += 1
        self._tally.failed(session, session.hostname or session.defender_id, reason)
        self._settle()

    def closing(self, session: Session, code: CloseCode) -> None:
        """We end a connection."""
        endings = {CloseCode.NOT_MOVED: Ending.CLOSED, CloseCode.TRUST_REMOVED: Ending.CUT}
        if code not in endings:
            return
        counted = self._tally.ended(session, endings[code], session.hostname or session.defender_id)
        if code is CloseCode.NOT_MOVED and not counted:
            self._news[code] += 1
        self._settle()

    def ended(self, session: Session) -> None:
        """A connection is gone."""
        self._removed.pop(session, None)
        self._expired.discard(session)
        if self._tally.ended(session, Ending.GONE):
            self._settle()

    def looked(self, now: float) -> None:
        """About every second: read the counters, end what is due.

        Args:
            now: The monotonic clock, seconds.
        """
        self._rate.read(self._load().handshakes, self._cpu())
        due = [session for session, by in self._removed.items() if now >= by]
        if due:
            self._end(due)
        if self._clock.now() >= self._next_expiry:
            self._next_expiry = _NEVER
            self._judge_all()

    def stop(self) -> None:
        """The Console stops: ask nobody any more, and say nothing of those who leave."""
        self._swap = None
        self._tally = Tally(0.0)
        for waiting in (self._judging, self._queue, self._ending, self._removed, self._expired):
            waiting.clear()
        self._next_expiry = _NEVER
        self._announced = True

    # What is asked of it

    @property
    def state(self) -> DrainState | None:
        """The drain of the last swap; None if it found nobody."""
        swap, counts = self._swap, self._tally.counts
        if swap is None or not counts.total:
            return None
        left = Counter((s.generation.name, s.generation.source.value) for s in self._tally)
        replaced = tuple(Replaced(*key, number) for key, number in left.most_common())
        over = not self._tally.busy and not self._judging
        return DrainState(swap.begun, over, counts, self._tally.failures, replaced, self._rate.per_second)

    @property
    def removed_trust(self) -> RemovedTrust | None:
        """Connections of removed trust; None without any."""
        if not self._removed:
            return None
        left = max(0.0, max(self._removed.values()) - self._clock.monotonic())
        return RemovedTrust(len(self._removed), self._clock.now() + timedelta(seconds=left))

    async def end_removed_trust(self, *, every_source: bool = False) -> int:
        """End connections of removed trust now, and those that are still to be found for the last swap.

        Args:
            every_source: Those, too, that a change of source has left: the bundle in use doesn't vouch for
                them, but that is no removal, so that they have no end of their own.

        Returns:
            How many are known.
        """
        swap = self._swap
        if swap is None:
            return 0
        swap.grace = 0.0
        found = dict.fromkeys(self._removed)

        def look(session: Session) -> None:
            if (
                session.generation.name != swap.name
                and session.chain
                and not swap.verdicts.trusts(session.chain)
            ):
                found[session] = None

        if every_source:
            await in_slices(tuple(self._sessions), look)
        self._end([session for session in found if session in self._sessions])
        return len(found)

    # The task

    async def run(self) -> None:
        """Judge, ask and end, until cancelled."""
        while True:
            self._wake.clear()
            await self._work()
            self._say()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS if self._queue else None):
                    await self._wake.wait()

    async def _work(self) -> None:
        while True:
            if not self._slice():
                return
            await asyncio.sleep(0)

    def _slice(self) -> bool:
        """Do what is to be done for a moment; whether more is to be done at once."""
        slice_, load, rate = Slice(), self._load(), self._rate.per_second
        # More than a second's work waits at the door, or more than a transaction's at the store.
        crowded = load.pending > rate or load.hellos > CROWD_HELLOS
        closed = 0
        while not slice_.over and closed < CLOSED_AT_ONCE:
            if self._ending:
                self._end_one(*self._ending.popleft())
                closed += 1
            elif self._judging:
                session = self._judging.popleft()
                with session.contained():
                    self._judge(session)
            elif not self._announced:
                self._announce()
            elif not self._ask_next(rate, crowded=crowded):
                return False
        return True

    def _settle(self) -> None:
        """Somebody's part has changed: if it was the last one's, there is something to say."""
        if not self._tally.busy:
            self._wake.set()

    # Judging

    def _judge_all(self) -> None:
        self._judging = deque(self._sessions)
        self._wake.set()

    def _judge(self, session: Session) -> None:
        swap = self._swap
        if swap is None or session not in self._sessions or session.superseded_at is not None:
            return
        if session.generation.name != swap.name:
            self._judge_replaced(session, swap)
        else:
            # Perhaps it was replaced and is served again: nothing is wanted of it any more.
            self._removed.pop(session, None)
            if session not in self._expired:
                session.stay()
        if session.is_open:
            self._judge_dates(session)

    def _judge_replaced(self, session: Session, swap: _Swap) -> None:
        if session in self._tally or not session.chain:
            return  # judged for this swap already; or its connection is ending: that is no removed trust
        welcomed = session.is_open
        self._tally.join(session, welcomed=welcomed)
        same_source = session.generation.source is swap.certificates.source
        if same_source and not swap.verdicts.trusts(session.chain):
            # A second swap doesn't give it another grace.
            by = min(self._removed.get(session, _FOREVER), swap.at + swap.grace)
            self._removed[session] = by
            if by <= self._clock.monotonic():
                self._end([session])
                return
        else:
            self._removed.pop(session, None)
        if welcomed:
            self._enqueue(session)

    def _judge_dates(self, session: Session) -> None:
        now, not_after = self._clock.now(), session.certificate_not_after
        if now < not_after:
            self._next_expiry = min(self._next_expiry, not_after)
        elif session.spare_until is None or session.spare_until <= now:
            self._ending.append((session, CloseCode.CERTIFICATE_EXPIRED))
        elif session not in self._tally and session not in self._expired:
            self._news[EXPIRED] += 1
            self._expired.add(session)
            self._enqueue(session)

    # Asking

    def _enqueue(self, session: Session) -> None:
        """Have it asked; who has least time comes first."""
        if session in self._removed:
            self._queue.appendleft(session)
        else:
            self._queue.append(session)
        self._wake.set()

    def _ask_next(self, rate: float, *, crowded: bool) -> bool:
        """Ask the next one, if there is one and a slot for it."""
        while self._queue and not self._is_waiting(self._queue[0]):
            self._queue.popleft()
        if not self._queue:
            return False
        slot = self._slots.take(self._clock.monotonic(), rate, crowded=crowded)
        if slot is None:
            return False
        session = self._queue.popleft()
        with session.contained():
            self._ask(session, slot)
        return True

    def _is_waiting(self, session: Session) -> bool:
        return session.is_open and (
            session in self._expired or self._tally.standing(session) is Standing.WAITING
        )

    def _ask(self, session: Session, slot: float) -> None:
        by = self._removed.get(session, _FOREVER)
        if slot >= by:
            return  # it ends before its turn
        reason = REMOVED if by < _FOREVER else EXPIRED if session in self._expired else REPLACED
        # What it hasn't begun by the end of its trust it need not begin; and then that is why it is closed.
        session.ask(slot, min(slot + self._deadline, by + ASK_SECONDS * 10), reason)
        self._tally.asked(session)

    # Ending

    def _end(self, sessions: Iterable[Session]) -> None:
        """End connections of removed trust."""
        for session in sessions:
            self._removed[session] = -_FOREVER
            self._ending.append((session, CloseCode.TRUST_REMOVED))
        self._wake.set()

    def _end_one(self, session: Session, code: CloseCode) -> None:
        removed = self._removed.pop(session, None) is not None
        if code is CloseCode.TRUST_REMOVED:
            wanted, reason = removed, REMOVED
        else:
            wanted, reason = session.is_open, EXPIRED
        if wanted:
            self._news[code] += 1
            with session.contained():
                session.close(code, reason)

    # Saying

    def _announce(self) -> None:
        self._announced = True
        waiting = self._tally.counts.waiting
        line = self._tally.start_line(expected_seconds(waiting, self._rate.per_second))
        if line is not None:
            logger.info("%s", line)
        removed = self.removed_trust
        if removed is not None:
            logger.warning(
                "connections on a CA that is not in the bundle any more: %d, which end by %s; give these "
                "Defenders certificates of a CA that is, or end them now: garrison console end-removed-trust",
                removed.connections,
                removed.ends.isoformat(timespec="seconds"),
            )

    def _say(self) -> None:
        """What came of it all, in a line for each kind."""
        news, self._news = self._news, Counter()
        if number := news[CloseCode.TRUST_REMOVED]:
            logger.warning("ended connections on a removed CA: %d", number)
        if number := news[CloseCode.CERTIFICATE_EXPIRED]:
            logger.warning(
                "ended connections of Defenders whose certificates have expired: %d; "
                "give these Defenders new ones",
                number,
            )
        if number := news[EXPIRED]:
            logger.info("asked Defenders to reconnect whose certificates have expired: %d", number)
        if number := news[_EXPIRED_FAILED]:
            logger.warning(
                "expired, but could not reconnect and stay: %d; look at these Defenders' logs",
                number,
            )
        if number := news[CloseCode.NOT_MOVED]:
            logger.warning(
                "closed, since they made no attempt to reconnect: %d; look at these Defenders' logs", number
            )
        line = None if self._judging else self._tally.end_line(self._clock.monotonic())
        if line is not None:
            logger.log(line[0], "%s", line[1])
            if self._swap is not None:
                self._swap.verdicts.forget()


def _bundle(certificates: CertificateSet) -> frozenset[str]:
    return frozenset(anchor.fingerprint for anchor in certificates.anchors)
