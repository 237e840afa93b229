"""The agent: one Defender that stays connected to its Console for as long as the process lives.

::

    attempt ──▶ failed: say why, wait (back-off), attempt again
       └──▶ welcomed: adopt, then hold: events, orders, moves ──▶ lost: say why, wait, attempt again

A move (the Console asks for it, the spool began a new epoch, or other certificates are to be used) is an
attempt beside the connection that is held: the new one is adopted once it is welcomed, and the Console closes
the old one when it waits for nothing on it any more (D4). `choice` says which certificates an attempt uses,
and whether there is a reason to move; here it is done.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any, Final

from common.certificates import Source
from common.clock import Clock
from common.protocol import (
    MAX_EVENTS,
    Claims,
    CloseCode,
    FetchLogs,
    HostFacts,
    Order,
    ReconnectAsked,
    ReportState,
    Restart,
    SpoolState,
    Started,
    Stopped,
    Welcome,
    log_lines,
    read_event,
)
from common.version import VERSION
from defender.backoff import STABLE_AFTER, Backoff
from defender.causes import Cause, Failure
from defender.choice import Choice, Move
from defender.chronicle import SHOWN, Chronicle
from defender.connection import Dialer, Link
from defender.credentials import Credentials, CredentialSource
from defender.facts import UNKNOWN, gather, system
from defender.identity import InstanceKey
from defender.journal import Journal
from defender.lookout import Lookout
from defender.report import state_report
from defender.settings import DefenderSettings
from defender.spool import Spool
from defender.wish import Wish

log = logging.getLogger(__name__)

STOP_BOUND: Final = 2.0
"""Seconds that a stop may take to hand over the last events and to close the connection."""

REPLACED_BOUND: Final = 10.0
"""Seconds that the Console may take to close a connection that another has replaced."""

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
        credentials: What to begin with: the operator's own, or what `source` gave.
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
        self._lookout = Lookout(source, clock)
        self._choice = Choice(credentials, grace=settings.removed_trust_grace)
        self._tried: Credentials | None = None
        self._failed: Credentials | None = None
        self._host = UNKNOWN
        self._journal = journal
        self._dialer = dialer
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(settings.reconnect_cap, rng)
        self._chronicle = Chronicle(settings.address, spool, clock, on_event=self._send_events)
        self._link: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[tuple[Ending, str]] = self._loop.create_future()
        self._wish = Wish()
        self._stirring: asyncio.Future[None] = self._loop.create_future()
        self._empty: asyncio.Future[None] | None = None
        self._leaving: set[Link] = set()
        self._settling: asyncio.TimerHandle | None = None
        self._trust_ends: asyncio.TimerHandle | None = None

    # Its life

    async def run(self, *beside: Coroutine[Any, Any, None]) -> Ending:
        """Stay connected until `stop` or the Console's order; failures to connect never end it.

        Args:
            beside: What is to run for as long, such as the watcher of certificates.
        """
        self._chronicle.record(Started(VERSION))
        self._chronicle.loaded(self._choice.wanted)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._stay_connected(), name="connection")]
            running += [tasks.create_task(work, name="beside") for work in beside]
            ending, reason = await self._ending
            for task in running:
                task.cancel()
        log.info("Stopping: %s", reason)
        self._chronicle.record(Stopped(reason))
        await self._leave(reason)
        return ending

    def stop(self, reason: str, ending: Ending = Ending.STOPPED) -> None:
        """End `run` in order, within STOP_BOUND; the first reason counts."""
        if not self._ending.done():
            self._ending.set_result((ending, reason))

    async def _leave(self, reason: str) -> None:
        """Hand over the last events and say goodbye, as far as there is time."""
        self._wish.forget()
        for timer in (self._settling, self._trust_ends):
            if timer:
                timer.cancel()
        links = {*((self._link,) if self._link else ()), *self._leaving}
        if not links:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_BOUND):
                if self._link:
                    await self._handed_over(self._link)
                for link in links:
                    link.close(CloseCode.GOING_AWAY, reason)
                await asyncio.wait({link.ended for link in links})
        for link in links:
            link.abort()

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
            attempt = await self._attempt(self._choice.sets(self._loop.time()))
            if isinstance(attempt, Link):
                failure = await self._hold(attempt)
                self._chronicle.lost(failure)
            else:
                failure = attempt
            await self._pause(self._backoff.next_delay(retry_after=failure.retry_after))
            await self._look_for_certificates(failure)

    async def _attempt(self, sets: Sequence[Credentials], *, what: str = "Cannot connect") -> Link | Failure:
        """Try one set after the other; ends with the last failure, or welcomed and adopted.

        All of them at once, whatever the failure: a peer that refuses our certificate may look like one that
        isn't there (its alert can be lost in a reset).

        Args:
            sets: What to try, the wanted one first.
            what: What to say of a failure.
        """
        self._tried = sets[0]
        outcome: Link | Failure
        for credentials in sets:
            outcome = await self._open(credentials)
            if isinstance(outcome, Link):
                break
            self._failed = credentials
            leaf = credentials.set.leaf.fingerprint
            # Both may be from one directory.
            which = f" with certificate {leaf[:SHOWN]} from {credentials.place}" if len(sets) > 1 else ""
            self._chronicle.failed(outcome, f"{what}{which}", self._loop.time())
            if outcome.retry_after is not None:
                break  # Asked for, or ours where the Console refuses who we are: no set changes that.
        return outcome

    async def _open(self, credentials: Credentials) -> Link | Failure:
        claims = self._claims(credentials)
        link = Link(self._key, credentials, claims, observer=self, jitter=self._rng.random())
        return await link.open(self._dialer) or link

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; a set that wasn't tried yet ends the wait."""
        until = self._loop.time() + seconds
        while self._was_tried(self._choice.wanted) and self._loop.time() < until:
            await self._stirred(until)

    def _claims(self, credentials: Credentials) -> Claims:
        self._spool.flush()
        position = self._spool.position
        spool = SpoolState(position.epoch, position.first, position.next, position.dropped)
        return self._host.claims(spool, self._choice.held(credentials, self._loop.time()))

    def on_welcome(self, link: Link, welcome: Welcome) -> None:
        """Make a welcomed connection the one in use; the one before it, if it still stands, is let go."""
        before, self._link = self._link, link
        self._wish.forget()
        log.info(
            "Connected to the Console at %s as %s, session %d (its certificate %s, ours %s)",
            self._settings.address,
            welcome.defender_id,
            welcome.session,
            link.leaf[:SHOWN],
            link.credentials.set.leaf.fingerprint[:SHOWN],
        )
        if self._settling:
            self._settling.cancel()
        self._settling = self._loop.call_later(STABLE_AFTER, self._settled)
        self._backoff.welcomed()
        self._catch_up(link, welcome.acked_through)
        if before is not None:
            self._let_go(before)
        self._prove(link)
        link.post_facts(self._facts(link))
        self.on_room(link)

    def _let_go(self, link: Link) -> None:
        """Keep a connection that another has replaced until the Console closes it.

        It does so when nothing is under way there any more: what it sent just before is still answered there.
        """
        now = self._loop.time()
        until = min(now + REPLACED_BOUND, self._choice.ends(link.credentials))
        bound = self._loop.call_at(until, link.close, CloseCode.NORMAL, "moved")

        def gone(_: object) -> None:
            bound.cancel()
            self._leaving.discard(link)

        self._leaving.add(link)
        link.ended.add_done_callback(gone)

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

    def _prove(self, link: Link) -> None:
        ours = link.credentials
        if self._choice.welcomed(ours, link.chain, now=self._loop.time(), wall=self._clock.now()):
            self._chronicle.proved(ours)
        self._bound_by_trust()

    def _settled(self) -> None:
        """The connection has lasted: what comes next is news."""
        self._settling = None
        self._backoff.lived(STABLE_AFTER)
        self._chronicle.settled()

    # Holding, and moving

    async def _hold(self, link: Link) -> Failure:
        """Stay connected, and move when there is a reason to; why the last connection ended."""
        while not link.ended.done():
            move = self._reason_to_move(link)
            if move is None:
                await self._stirred(link=link)
            else:
                link = await self._move_from(link, move)
        self._link, self._failed = None, link.credentials
        self._wish.forget()
        if self._settling:
            self._settling.cancel()
        return link.ended.result()

    def _reason_to_move(self, link: Link) -> Move | None:
        renewed = link.epoch != self._spool.position.epoch
        now = self._loop.time()
        return self._choice.move(link.credentials, asked=self._wish.asked, renewed=renewed, now=now)

    async def _move_from(self, link: Link, move: Move) -> Link:
        """Open the next connection beside this one; the one to hold then.

        What fails is said to the Console on this one and tried again for as long as this one stands and the
        reason does (D4a). No deadline ends an attempt: the Console may have welcomed it already.
        """
        log.info("Moving to a new connection: %s", move.reason)
        backoff = Backoff(self._settings.reconnect_cap, self._rng)
        at, wanted = move.at, move.sets[0]
        if not move.asked and self._was_tried(wanted) and not wanted.same(link.credentials):
            # It failed a moment ago, when the present connection came about with another set.
            at = self._loop.time() + backoff.next_delay()
        while self._reason_to_move(link) == move and not link.ended.done():
            if self._loop.time() < at:
                await self._stirred(at, link)
                continue
            what = "Cannot move to a new connection, the present one is kept"
            attempt = await self._attempt(move.sets, what=what)
            if isinstance(attempt, Link):
                return attempt
            if self._reason_to_move(link) == move:
                # Else it says nothing of what the Console asked, or what there is to try with, since.
                self._wish.answer(attempt)
            await self._look_for_certificates(attempt)
            at = self._loop.time() + backoff.next_delay(retry_after=attempt.retry_after)
        return link

    def _was_tried(self, credentials: Credentials) -> bool:
        """Whether the last attempt began with this set."""
        return self._tried is not None and self._tried.same(credentials)

    def _stir(self) -> None:
        """Something has changed that may be a reason to connect anew."""
        if not self._stirring.done():
            self._stirring.set_result(None)

    async def _stirred(self, until: float | None = None, link: Link | None = None) -> None:
        """Wait for a change, for the end of a connection, or until some instant (monotonic seconds)."""
        if self._stirring.done():
            self._stirring = self._loop.create_future()
        seconds = None if until is None else max(0.0, until - self._loop.time())
        await _first_of(self._stirring, *((link.ended,) if link else ()), seconds=seconds)

    # What the link says

    def on_room(self, link: Link) -> None:
        """Send what the spool holds, as far as the window and the socket take it."""
        if link is not self._link:
            return
        if link.epoch != self._spool.position.epoch:
            self._stir()
            return
        while link.room:
            events = self._spool.read(link.next_event, min(link.room, MAX_EVENTS))
            if not events:
                return
            link.post_events(events[0][0], [read_event(body) for _, body in events])

    def _send_events(self) -> None:
        if self._link:
            self.on_room(self._link)

    def on_acknowledged(self, link: Link, epoch: str, through: int) -> None:
        """Forget what the Console has."""
        if link is not self._link:
            return  # Its Welcome on the newer one has said so already.
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
                    held=self._choice.sets(self._loop.time()),
                    proved=self._choice.proved,
                    spool=self._spool,
                    link=link,
                )
                link.answer(command_id, ok=True, value=value)

    def on_move(self, link: Link, asked: ReconnectAsked) -> None:
        """Connect anew in the slot that the Console gives."""
        if link is self._link:
            self._wish.make(link, asked)
            self._stir()

    # Certificates

    def offer(self, credentials: Credentials) -> None:
        """Use another set from now on: it is in force for every attempt that begins after this.

        A connection that stands is kept until one over the new set is welcomed; without one, the next
        attempt begins at once.
        """
        if self._choice.offer(credentials, now=self._loop.time(), wall=self._clock.now()):
            self._loaded(credentials)

    def _loaded(self, credentials: Credentials) -> None:
        """Tell of a set that attempts are made with from now on, and do what follows from it."""
        self._chronicle.loaded(credentials)
        self._bound_by_trust()
        if self._link:
            self._link.post_facts(self._facts(self._link))
        self._stir()

    def _bound_by_trust(self) -> None:
        """Close the connection when the trust that it rests on ends, if it does."""
        if self._trust_ends:
            self._trust_ends.cancel()
            self._trust_ends = None
        link = self._link
        ends = self._choice.ends(link.credentials) if link else math.inf
        if link and ends < math.inf:
            words = "our bundle vouches for the Console no longer"
            self._trust_ends = self._loop.call_at(ends, link.close, CloseCode.TRUST_REMOVED, words)

    def _facts(self, link: Link) -> HostFacts:
        held = self._choice.held(link.credentials, self._loop.time())
        return system(self._settings.data_folder, held)

    async def _look_for_certificates(self, failure: Failure) -> None:
        """After a failure that other certificates may mend: has a deployment brought some?

        Not where the operator's own have failed: the watcher brings those.
        """
        failed = self._failed
        if failure.cause not in _CERTIFICATE_CAUSES or failed is None or failed.set.source is Source.CUSTOM:
            return
        found = await self._lookout.look()
        if isinstance(found, Credentials):
            self._deployed(found)
        elif found:
            self._chronicle.rejected(self._lookout.place, Source.GENERATED.value, found)

    def _deployed(self, found: Credentials) -> None:
        """Use what a deployment brought; beside the operator's own, in the place of what it replaces."""
        if self._choice.wanted.set.source is not Source.CUSTOM:
            self.offer(found)
        elif self._choice.renew(found, now=self._loop.time(), wall=self._clock.now()):
            self._loaded(found)


async def _first_of(*futures: asyncio.Future[Any], seconds: float | None = None) -> None:
    """Until one of these is done, or the time is over. None of them is cancelled."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
