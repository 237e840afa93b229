"""The agent: one Defender that stays connected to its Console for as long as the process lives.

::

    attempt ──▶ failed: say why, wait (back-off), attempt again
       └──▶ welcomed: adopt, then hold: events, orders, moves ──▶ lost: say why, wait, attempt again

A move (the Console asks for it, or the spool began a new epoch) is an attempt beside the connection that is
held: the new one is adopted once it is welcomed, then the old one is closed (D4).
"""

import asyncio
import contextlib
import logging
import math
import random
from enum import Enum
from typing import Any, Final

from common.clock import Clock
from common.protocol import (
    MAX_EVENTS,
    CertificateLoaded,
    CertificateProved,
    CertificateRejected,
    Claims,
    CloseCode,
    ConnectionFailed,
    ConnectionLost,
    FetchLogs,
    HeldSet,
    Known,
    Order,
    ReconnectAsked,
    ReportState,
    Restart,
    SpoolState,
    Started,
    Stopped,
    Welcome,
    encode_event,
    log_lines,
    read_event,
    report,
)
from common.version import VERSION
from defender.backoff import STABLE_AFTER, Backoff
from defender.causes import Cause, Failure
from defender.connection import SHOWN, Dialer, Link
from defender.credentials import CHANNEL, Credentials, CredentialSource
from defender.facts import UNKNOWN, gather, system
from defender.identity import InstanceKey
from defender.journal import Journal
from defender.ledger import Ledger
from defender.report import state_report
from defender.settings import DefenderSettings
from defender.spool import Spool

log = logging.getLogger(__name__)

STOP_BOUND: Final = 2.0
"""Seconds that a stop may take to hand over the last events and to close the connection."""

# Other files may be there by now: worth a look before the next attempt.
_CERTIFICATE_CAUSES: Final = frozenset(
    {Cause.UNKNOWN_CA, Cause.OWN_EXPIRED, Cause.REFUSED, Cause.CONSOLE_EXPIRED}
)


class Ending(Enum):
    """How a run ends."""

    STOPPED = "stopped"
    RESTART = "restart"


class Agent:
    """One Defender.

    Args:
        settings: Its options.
        key: Its instance key.
        spool: Its events; not closed here.
        source: Where its certificates come from.
        credentials: What `source` gave at start.
        journal: Its last log lines.
        dialer: To its Console.
        clock: The wall clock, for events.
        rng: For delays.
    """

    def __init__(
        self,
        settings: DefenderSettings,
        *,
        key: InstanceKey,
        spool: Spool,
        source: CredentialSource,
        credentials: Credentials,
        journal: Journal,
        dialer: Dialer,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._key = key
        self._spool = spool
        self._source = source
        self._credentials = credentials
        self._host = UNKNOWN
        self._journal = journal
        self._dialer = dialer
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(settings.reconnect_cap, rng)
        self._ledger = Ledger()
        self._proved: set[str] = set()
        self._link: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[tuple[Ending, str]] = self._loop.create_future()
        self._move: asyncio.Future[ReconnectAsked] = self._loop.create_future()
        self._empty: asyncio.Future[None] | None = None
        self._leaving: set[Link] = set()
        self._settling: asyncio.TimerHandle | None = None

    # Its life

    async def run(self) -> Ending:
        """Stay connected until `stop` or the Console's order; failures never end it."""
        self._record(Started(VERSION))
        self._loaded()
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(self._stay_connected(), name="connection")
            ending, reason = await self._ending
            connecting.cancel()
        log.info("Stopping: %s", reason)
        self._record(Stopped(reason))
        await self._leave(reason)
        return ending

    def stop(self, reason: str, ending: Ending = Ending.STOPPED) -> None:
        """End `run` in order, within STOP_BOUND; the first reason counts."""
        if not self._ending.done():
            self._ending.set_result((ending, reason))

    async def _leave(self, reason: str) -> None:
        """Hand over the last events and say goodbye, as far as there is time."""
        if self._settling:
            self._settling.cancel()
        link = self._link
        if link is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_BOUND):
                await self._handed_over(link)
                link.close(CloseCode.GOING_AWAY, reason)
                await asyncio.shield(link.ended)
        for left in (link, *self._leaving):
            left.abort()

    async def _handed_over(self, link: Link) -> None:
        """Until the Console has all events or the connection is gone; leaves half of STOP_BOUND."""
        if self._spool.held:
            self._empty = self._loop.create_future()
            await _first_of(self._empty, link.ended, seconds=STOP_BOUND / 2)

    # Connecting

    async def _stay_connected(self) -> None:
        self._host = await gather(
            defender_type=self._settings.defender_type, override=self._settings.hostname
        )
        log.info("Connecting to the Console at %s", self._settings.address)
        while True:
            if self._move.done():  # What was asked on a connection that is gone.
                self._take_move()
            attempt = await self._attempt()
            if isinstance(attempt, Link):
                failure = await self._hold(attempt)
                self._lost(failure)
            else:
                failure = attempt
                self._failed(failure)
            await asyncio.sleep(self._backoff.next_delay(retry_after=failure.retry_after))
            self._look_for_certificates(failure)

    async def _attempt(self) -> Link | Failure:
        """One attempt; it ends with a failure, or welcomed and adopted."""
        link = Link(self._key, self._claims(), observer=self, jitter=self._rng.random())
        failure = await link.open(self._dialer, self._credentials.context)
        return failure or link

    def _claims(self) -> Claims:
        self._spool.flush()
        position = self._spool.position
        certificates = self._credentials.set
        held = HeldSet(
            CHANNEL,
            certificates.leaf.fingerprint,
            certificates.not_after,
            certificates.source.value,
            proved=certificates.fingerprint in self._proved,
        )
        return self._host.claims(
            SpoolState(position.epoch, position.first, position.next, position.dropped), (held,)
        )

    def on_welcome(self, link: Link, welcome: Welcome) -> None:
        """Make a welcomed connection the one in use; the one before it, if it still stands, ends."""
        before, self._link = self._link, link
        log.info(
            "Connected to the Console at %s as %s, session %d (its certificate %s, ours %s)",
            self._settings.address,
            welcome.defender_id,
            welcome.session,
            link.leaf[:SHOWN],
            self._credentials.set.leaf.fingerprint[:SHOWN],
        )
        if self._settling:
            self._settling.cancel()
        self._settling = self._loop.call_later(STABLE_AFTER, self._settled)
        self._backoff.welcomed()
        self._catch_up(link, welcome.acked_through)
        self._prove()
        link.post_facts(system(self._settings.data_folder))
        self.on_room(link)
        if before is not None:
            self._let_go(before)

    def _let_go(self, link: Link) -> None:
        """Close a connection that another has replaced, and keep it until it is gone."""
        self._leaving.add(link)
        link.ended.add_done_callback(lambda _: self._leaving.discard(link))
        link.close(CloseCode.NORMAL, "moved")

    def _catch_up(self, link: Link, acked_through: int) -> None:
        """Bring the spool to where the Console is."""
        if link.epoch != self._spool.position.epoch:
            return
        if acked_through >= self._spool.position.next:
            log.warning(
                "The Console has event %d, the spool is at %d: restored from a backup? A new epoch begins",
                acked_through,
                self._spool.position.next,
            )
            self._spool.renew()
            return
        self._spool.acknowledge(link.epoch, acked_through)

    def _prove(self) -> None:
        certificates = self._credentials.set
        if certificates.fingerprint not in self._proved:
            self._proved.add(certificates.fingerprint)
            leaf = certificates.leaf.fingerprint
            source = certificates.source.value
            self._record(CertificateProved(CHANNEL, source, leaf, certificates.not_after))

    def _settled(self) -> None:
        """The connection has lasted: what comes next is news."""
        self._settling = None
        self._backoff.lived(STABLE_AFTER)
        for cause, count in self._ledger.settled().items():
            self._record(ConnectionFailed(cause.value, "and now connected", count))

    # Holding, and moving

    async def _hold(self, link: Link) -> Failure:
        """Stay connected, and move when asked to; why the last connection ended."""
        while not link.ended.done():
            await _first_of(link.ended, self._move)
            if self._move.done() and not link.ended.done():
                link = await self._move_from(link, self._take_move())
        self._link = None
        if self._settling:
            self._settling.cancel()
        return link.ended.result()

    def _take_move(self) -> ReconnectAsked:
        asked = self._move.result()
        self._move = self._loop.create_future()
        return asked

    async def _move_from(self, link: Link, asked: ReconnectAsked) -> Link:
        """Open the next connection beside this one in its slot; the one to hold then.

        What fails is said to the Console on this one, before the deadline, and tried again for as long as
        this one stands (D4a).
        """
        log.info("Moving to a new connection: %s", asked.reason)
        backoff = Backoff(self._settings.reconnect_cap, self._rng)
        wait, deadline = asked.at - self._loop.time(), asked.deadline
        while not await _ends_within(link.ended, wait):
            attempt = await self._attempt_until(deadline)
            if isinstance(attempt, Link):
                return attempt
            self._failed(attempt, "Cannot move to a new connection, the present one is kept")
            link.move_failed(attempt)
            self._look_for_certificates(attempt)
            # Once a failure was said, the deadline has no meaning any more.
            wait, deadline = backoff.next_delay(retry_after=attempt.retry_after), math.inf
            if self._move.done():
                asked = self._take_move()
                wait, deadline = asked.at - self._loop.time(), asked.deadline
        return link

    async def _attempt_until(self, deadline: float) -> Link | Failure:
        """An attempt that ends a little before the deadline, so that its failure can be said in time."""
        now, before = self._loop.time(), self._link
        until = now + (deadline - now) * 0.9 if now < deadline < math.inf else None
        try:
            async with asyncio.timeout_at(until):
                return await self._attempt()
        except TimeoutError:
            if self._link is not None and self._link is not before:
                return self._link  # Welcomed at the very moment that time was over.
            return Failure(Cause.UNREACHABLE, "the Console didn't welcome us by its own deadline")

    # What the link says

    def on_room(self, link: Link) -> None:
        """Send what the spool holds, as far as the window and the socket take it."""
        if link is not self._link:
            return
        if link.epoch != self._spool.position.epoch:
            self._ask_move("the spool began a new epoch")
            return
        while link.room:
            events = self._spool.read(link.next_event, min(link.room, MAX_EVENTS))
            if not events:
                return
            link.post_events(events[0][0], [read_event(body) for _, body in events])

    def on_acknowledged(self, link: Link, epoch: str, through: int) -> None:
        """Forget what the Console has."""
        self._spool.acknowledge(epoch, through)
        if self._empty and not self._empty.done() and not self._spool.held:
            self._empty.set_result(None)
        self.on_room(link)

    def on_heartbeat(self, link: Link) -> None:
        """A moment to see whether the disk takes again what it refused before."""
        if self._spool.waiting and self._spool.flush():
            self.on_room(link)

    def on_order(self, link: Link, command_id: str, order: Order) -> None:
        """Do what the Console wants."""
        match order:
            case Restart():
                link.answer(command_id, ok=True)
                self.stop("the Console ordered a restart", Ending.RESTART)
            case FetchLogs(lines):
                link.answer(command_id, ok=True, value=log_lines(self._journal.tail(lines=lines)))
            case ReportState():
                value = state_report(
                    self._settings,
                    host=self._host,
                    key=self._key,
                    credentials=self._credentials,
                    proved=self._proved,
                    spool=self._spool,
                    link=link,
                )
                link.answer(command_id, ok=True, value=value)

    def on_move(self, link: Link, asked: ReconnectAsked) -> None:
        """Connect anew in the slot that the Console gives."""
        if link is self._link and not self._move.done():
            self._move.set_result(asked)

    def _ask_move(self, reason: str) -> None:
        if not self._move.done():
            now = self._loop.time()
            self._move.set_result(ReconnectAsked(now, math.inf, reason))

    # What it records and says

    def _record(self, details: Known) -> None:
        self._spool.append(encode_event(report(details, self._clock.now())))
        if self._link:
            self.on_room(self._link)

    def _failed(self, failure: Failure, what: str = "Cannot connect") -> None:
        verdict = self._ledger.note(failure, self._loop.time())
        if verdict.log:
            again = f" ({verdict.repeats} more times since it was last said)" if verdict.repeats else ""
            log.warning("%s: %s: %s%s", what, self._settings.address, failure, again)
        if verdict.event:
            self._record(ConnectionFailed(failure.cause.value, failure.detail, verdict.event))

    def _lost(self, failure: Failure) -> None:
        # Each is told: one that was welcomed has emptied the spool before, so these can't fill it.
        log.warning("Lost the Console at %s: %s", self._settings.address, failure)
        self._record(ConnectionLost(failure.detail, failure.code))

    # Certificates

    def _loaded(self) -> None:
        certificates = self._credentials.set
        log.info(
            "Using certificate %s from %s, valid until %s",
            certificates.leaf.fingerprint[:SHOWN],
            self._source.place,
            certificates.not_after.isoformat(),
        )
        self._record(
            CertificateLoaded(
                CHANNEL, certificates.source.value, certificates.leaf.fingerprint, certificates.not_after
            )
        )

    def _look_for_certificates(self, failure: Failure) -> None:
        """After a failure that other certificates may mend: has a deployment brought some?"""
        if failure.cause not in _CERTIFICATE_CAUSES:
            return
        found = self._source.reload(self._clock.now())
        if isinstance(found, Credentials):
            if found.set.fingerprint != self._credentials.set.fingerprint:
                self._credentials = found
                self._loaded()
        elif found:
            for fault in found:
                log.error("New certificates in %s cannot be used: %s", self._source.place, fault)
            self._record(CertificateRejected(CHANNEL, self._credentials.set.source.value, tuple(found)))


async def _first_of(*futures: asyncio.Future[Any], seconds: float | None = None) -> None:
    """Until one of these is done, or the time is over. None of them is cancelled."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _ends_within(ended: asyncio.Future[Failure], seconds: float) -> bool:
    """Whether a connection ends within these seconds; waits for all of them if not."""
    await asyncio.wait({ended}, timeout=max(0.0, seconds))
    return ended.done()
