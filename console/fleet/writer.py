"""Everything that the fleet asks the store to write, by one task, a transaction for all that waits.

A thousand Defenders that come at once cost a few transactions, not a thousand; a heartbeat costs none of its
own. What the store can't take (a full disk) stays here and is tried again: nothing is acknowledged before it
is stored, so that a Defender keeps what the Console may still lose.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from common.clock import Clock
from common.errors import StoreError
from console.fleet.session import Session
from console.store import AdmitRequest, EventBatch, Store

logger = logging.getLogger(__name__)

HELLOS_AT_ONCE = 256
EVENT_BATCHES_AT_ONCE = 512
RETRY_SECONDS = 1.0
TOUCH_SECONDS = 1.0
LAST_WRITE_SECONDS = 5.0


@dataclass(slots=True)
class Writer:
    """The one task that writes for the fleet.

    Attributes:
        sessions: The live sessions, whose last-seen times are written once a second.
        changed: Called when the store knows of a Defender that came or went.
    """

    store: Store
    clock: Clock
    sessions: Callable[[], list[Session]]
    changed: Callable[[], None]
    _hellos: list[tuple[Session, AdmitRequest]] = field(default_factory=list)
    _events: list[tuple[Session, EventBatch]] = field(default_factory=list)
    _ended: dict[str, int] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _touched: float = 0.0
    _failing: bool = False
    _closing: bool = False

    @property
    def waiting_hellos(self) -> int:
        """Hellos that the store has not judged yet."""
        return len(self._hellos)

    def hello(self, session: Session, request: AdmitRequest) -> None:
        """Have a Hello judged; the session hears of it by `admitted`."""
        self._hellos.append((session, request))
        self._wake.set()

    def events(self, session: Session, batch: EventBatch) -> None:
        """Have events stored; the session hears of it by `applied`."""
        self._events.append((session, batch))
        self._wake.set()

    def ended(self, defender_id: str, session: int) -> None:
        """Have a Defender marked as disconnected, unless it has a newer session by then."""
        self._ended[defender_id] = max(session, self._ended.get(defender_id, 0))
        self._wake.set()

    def close(self) -> None:
        """Write what waits, then end `run`."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Write until `close`."""
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TOUCH_SECONDS)
            self._wake.clear()
            await self._write_all()
        # What is not written is not acknowledged either: its Defender sends it again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self._write_all()

    async def _write_all(self) -> None:
        while await self._attempt(self._turn) and (self._hellos or self._events or self._ended):
            pass

    async def _turn(self) -> None:
        await self._write_ended()
        await self._write_hellos()
        await self._write_events()
        await self._write_seen()

    async def _attempt(self, write: Callable[[], Awaitable[None]]) -> bool:
        try:
            await write()
        except StoreError as error:
            if not self._failing:
                logger.error("%s; Defenders keep their events until the store takes them", error)
            self._failing = True
            await asyncio.sleep(0 if self._closing else RETRY_SECONDS)
            self._wake.set()
            return False
        if self._failing:
            logger.info("the store takes writes again")
        self._failing = False
        return True

    async def _write_ended(self) -> None:
        if not self._ended:
            return
        ended = dict(self._ended)
        flipped = await self.store.defenders.mark_disconnected(ended, self.clock.now())
        # Meanwhile the same Defender may have come and gone once more.
        self._ended = {id_: n for id_, n in self._ended.items() if n != ended.get(id_)}
        if flipped:
            self.changed()

    async def _write_hellos(self) -> None:
        batch = self._hellos[:HELLOS_AT_ONCE]
        if not batch:
            return
        admissions = await self.store.defenders.admit_all([request for _, request in batch], self.clock.now())
        del self._hellos[: len(batch)]
        for (session, _), admission in zip(batch, admissions, strict=True):
            with session.contained():
                session.admitted(admission)

    async def _write_events(self) -> None:
        batch = self._events[:EVENT_BATCHES_AT_ONCE]
        if not batch:
            return
        applied = await self.store.events.apply([events for _, events in batch], self.clock.now())
        del self._events[: len(batch)]
        for (session, _), result in zip(batch, applied, strict=True):
            with session.contained():
                session.applied(result)

    async def _write_seen(self) -> None:
        """One transaction a second for the last-seen times of all who were heard since the last one."""
        monotonic, now = self.clock.monotonic(), self.clock.now()
        if not self._closing and monotonic - self._touched < TOUCH_SECONDS:
            return
        seen: dict[str, datetime] = {
            session.defender_id: now - timedelta(seconds=monotonic - session.heard)
            for session in self.sessions()
            if session.heard > self._touched
        }
        if seen:
            await self.store.defenders.touch(seen)
        self._touched = monotonic
