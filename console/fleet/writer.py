"""Everything that the fleet asks the store to write, by one task, a transaction for all that waits.

A thousand Defenders that come at once cost a few transactions, not a thousand; a heartbeat costs none of its
own. What the store can't take (a full disk) stays here and is tried again: nothing is acknowledged before it
is stored, so that a Defender keeps what the Console may still lose.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
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
# A transaction costs as much as a dozen Defenders in it: those that come within a moment share one. Who comes
# alone doesn't wait.
GATHER_SECONDS = 0.01
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
    _turned: float = 0.0
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
                async with asyncio.timeout(TOUCH_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await self._write_all()
        # What is not written is not acknowledged either: its Defender sends it again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self._write_all()

    async def _gather(self) -> None:
        rest = self._turned + GATHER_SECONDS - self.clock.monotonic()
        if rest > 0 and not self._closing:
            await asyncio.sleep(rest)

    async def _write_all(self) -> None:
        await self._gather()
        while await self._attempt() and (self._hellos or self._events or self._ended):
            await self._gather()

    async def _attempt(self) -> bool:
        try:
            await self._turn()
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

    async def _turn(self) -> None:
        """All that waits, in one transaction: if the store can't take it, all of it waits on."""
        self._turned = monotonic = self.clock.monotonic()
        ended = dict(self._ended)
        hellos, events = self._hellos[:HELLOS_AT_ONCE], self._events[:EVENT_BATCHES_AT_ONCE]
        due = self._closing or monotonic - self._touched >= TOUCH_SECONDS
        turn = await self.store.turn(
            self.clock.now(),
            ended=ended,
            hellos=[request for _, request in hellos],
            batches=[batch for _, batch in events],
            seen=self._seen(monotonic) if due else {},
        )
        # Meanwhile the same Defender may have come and gone once more.
        self._ended = {id_: n for id_, n in self._ended.items() if n != ended.get(id_)}
        del self._hellos[: len(hellos)]
        del self._events[: len(events)]
        if due:
            self._touched = monotonic
        if turn.flipped:
            self.changed()
        for (session, _), admission in zip(hellos, turn.admissions, strict=True):
            with session.contained():
                session.admitted(admission)
        for (session, _), applied in zip(events, turn.applied, strict=True):
            with session.contained():
                session.applied(applied)

    def _seen(self, monotonic: float) -> dict[str, datetime]:
        """The last-seen times of all who were heard since they were written last."""
        now = self.clock.now()
        return {
            session.defender_id: now - timedelta(seconds=monotonic - session.heard)
            for session in self.sessions()
            if session.heard > self._touched
        }
