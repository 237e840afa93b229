"""The fleet: the mutual-TLS listener, the sessions on it, and commands to Defenders.

::

    ClientHello → generation → TLS → upgrade → Hello → writer (store) → Welcome → live
                      └─ replaced by `use` ──▶ drain: asked to reconnect in a slot, superseded, closed
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Final

from common.certificates import CertificateSet, Role, server_context
from common.clock import Clock
from common.errors import GarrisonError
from common.protocol import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    CloseCode,
    ConsoleOptions,
    EventsReceived,
    Fields,
    HelloReceived,
    Outcome,
    leaf_digest,
)
from common.transport import Refusal, UpgradeRequest, server_factory
from console.door import Door
from console.fleet.drain import Drain, DrainState, Load, RemovedTrust
from console.fleet.live import Live
from console.fleet.session import CommandReply, ServedGeneration, Session
from console.fleet.slices import in_slices
from console.fleet.writer import Writer
from console.settings import ConsoleSettings
from console.store import AdmitRequest, DefenderQuery, EventBatch, HostFacts, SpoolState, Store

logger = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 1.0
STALL_SECONDS: Final = 3.0
"""Between two sweeps: more than this is no busy loop, but a process that stood still."""
STALL_EXCUSE_SECONDS: Final = 15.0
"""How long nobody is late after that, at most: as long as an attempt to connect may take."""
MAX_WAITING_HELLOS: Final = 4096
COMMAND_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 5.0


class Fleet:
    """All Defenders of this Console.

    Args:
        store: What it knows of them.
        settings: Ports, TLS version, heartbeat, and the bounds of drains.
        options: What every session is told.
        clock: Of this host.
    """

    def __init__(
        self, store: Store, settings: ConsoleSettings, options: ConsoleOptions, clock: Clock
    ) -> None:
        self.options = options
        self.clock = clock
        self.live: Live[Session] = Live()
        self._store = store
        self._settings = settings
        self._sessions: dict[Session, None] = {}
        self._writer = Writer(store, clock, lambda: list(self.live), self.live.changed)
        self._door: Door[ServedGeneration] = Door("Defenders", clock)
        self._certificates: CertificateSet | None = None
        self._drain = Drain(
            self._sessions,
            self._load,
            clock,
            grace=settings.removed_trust_grace,
            deadline=settings.drain_deadline,
        )

    @property
    def port(self) -> int:
        """The port that Defenders come to."""
        return self._door.port

    @property
    def failures(self) -> Counter[str]:
        """Connections that did not come to be, by kind."""
        return self._door.failures

    @property
    def certificates(self) -> CertificateSet | None:
        """What the next ClientHello is answered with."""
        return self._certificates

    @property
    def drain(self) -> DrainState | None:
        """What became of those who were connected at the last swap; None if nobody was."""
        return self._drain.state

    @property
    def removed_trust(self) -> RemovedTrust | None:
        """The connections that a swap took the trust from, and when they end; None without any."""
        return self._drain.removed_trust

    def use(self, certificates: CertificateSet) -> None:
        """Answer the next ClientHello with this set, and have those who are connected by another one move.

        The set in use, whatever files it comes from, is no swap: nobody is asked to move.

        Raises:
            CertificateSetError: OpenSSL refuses the set; the one before stays.
        """
        assert certificates.role is Role.DEFENDER_SERVER
        current, source = self._door.generation, certificates.source
        if current is not None and current.name == certificates.fingerprint:
            # The generation keeps the source that it began with: who first copies the generated set to the
            # directory of custom ones, and then replaces it, has changed the source, not removed a CA.
            self._certificates = certificates
            return
        context = server_context(certificates, minimum=self._settings.tls_minimum)
        leaf = leaf_digest(certificates.leaf.der)
        self._door.generation = ServedGeneration(certificates.fingerprint, context, leaf, source)
        self._certificates = certificates
        self._drain.swapped(certificates)

    async def end_removed_trust(self, *, every_source: bool = False) -> int:
        """End the connections now whose CA a swap has removed, rather than after their grace.

        Args:
            every_source: Those, too, that were made with another source's certificates and that the bundle in
                use doesn't vouch for.

        Returns:
            How many.
        """
        return await self._drain.end_removed_trust(every_source=every_source)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take Defenders on these bound sockets. `use` must have been called."""
        protocol = server_factory(
            lambda: Session(self),
            subprotocols=(SUBPROTOCOL,),
            max_size=MAX_MESSAGE_BYTES,
            process_request=self._admit,
        )
        await self._door.open(sockets, protocol)

    async def run(self) -> None:
        """Write and look at the time, until `close`."""
        async with asyncio.TaskGroup() as tasks:
            sweep = tasks.create_task(self._sweep(), name="fleet sweep")
            drain = tasks.create_task(self._drain.run(), name="fleet drain")
            await self._writer.run()
            sweep.cancel()
            drain.cancel()

    async def close(self) -> None:
        """Stop accepting, say good-bye, wait for the connections with a bound, write what is left."""
        self._door.shut()
        self._drain.stop()
        for session in tuple(self._sessions):
            session.close(CloseCode.RESTARTING, "the Console stops")
        await self._door.close(CLOSE_SECONDS)
        self._writer.close()

    async def command(
        self, defender: str, name: str, arguments: Fields, *, seconds: float = COMMAND_SECONDS
    ) -> CommandReply:
        """Have a Defender do something.

        Args:
            defender: Its ID, or a host name that only one Defender claims.
            name: The command: restart, fetchLogs, reportState.
            arguments: Its arguments.
            seconds: How long the reply may take.

        Raises:
            GarrisonError: there is no such Defender, several, or it isn't connected.
        """
        session = self.live.connected(await self._resolve(defender))
        if session is None:
            raise GarrisonError(defender, "is not connected", "try again once it is")
        return await session.command(name, arguments, seconds)

    async def _resolve(self, defender: str) -> str:
        if await self._store.defenders.get(defender) is not None:
            return defender
        found = await self._store.defenders.list(DefenderQuery(hostname=defender))
        exact = [record for record in found if record.facts.hostname == defender]
        if not exact:
            raise GarrisonError(
                defender, "is no Defender's ID or host name", "see garrison console defenders"
            )
        if len(exact) > 1:
            ids = ", ".join(record.id for record in exact)
            raise GarrisonError(defender, "is claimed by several Defenders", f"name one by its ID: {ids}")
        return exact[0].id

    # console.fleet.session.Owner

    def opened(self, session: Session) -> None:
        """A session begins."""
        self._sessions[session] = None
        self._drain.opened(session)

    def said_hello(self, session: Session, hello: HelloReceived) -> None:
        """A proved Hello: have the store judge it."""
        claims = hello.claims
        facts = HostFacts(
            hostname=claims.hostname,
            fqdn=claims.fqdn,
            version=claims.version,
            type=claims.type,
            os=claims.os,
            arch=claims.arch,
            capabilities=claims.capabilities,
        )
        spool = SpoolState(claims.spool.epoch, claims.spool.first, claims.spool.next, claims.spool.dropped)
        request = AdmitRequest(
            public_key=hello.instance_key,
            facts=facts,
            spool=spool,
            certificate_fingerprint=session.certificate_fingerprint,
            certificate_not_after=session.certificate_not_after,
            address=session.address,
        )
        self._writer.hello(session, request)

    def sent_events(self, session: Session, events: EventsReceived) -> None:
        """Events: have them stored."""
        batch = EventBatch(
            session.defender_id, session.session, events.epoch, events.first, events.items, events.dropped
        )
        self._writer.events(session, batch)

    def welcomed(self, session: Session) -> None:
        """The session is its Defender's live one now; one before it gets a moment to finish."""
        superseded, moved = self.live.add(session), False
        if superseded is not None:
            superseded.supersede(self.clock.monotonic())
            moved = superseded is not session and self._drain.superseded(superseded, session)
        if superseded is not session:
            self._drain.welcomed(session)
        # A drain says of all that moved in one line.
        level = logging.DEBUG if moved else logging.INFO
        logger.log(level, "%s connected, certificate %s", session, session.certificate_fingerprint[:16])

    def stillborn(self, session: Session) -> None:
        """The connection was gone before the store had admitted it.

        By then the store has fenced the session that the Defender holds, if it holds one: nothing of it
        would be applied any more. So that one is asked to come again.
        """
        live = self.live.connected(session.defender_id)
        if live is not None and live.session < session.session:
            live.close(CloseCode.TRY_AGAIN, "another connection of this Defender failed at its start")
        self.ended(session)

    def move_failed(self, session: Session, reason: str) -> None:
        """A Defender tried to reconnect as asked, and couldn't."""
        self._drain.move_failed(session, reason)

    def closing(self, session: Session, code: CloseCode) -> None:
        """We end a connection."""
        self._drain.closing(session, code)

    def ended(self, session: Session) -> None:
        """The connection is gone."""
        self._sessions.pop(session, None)
        self._drain.ended(session)
        if session.defender_id:
            self.live.remove(session)
            self._writer.ended(session.defender_id, session.session)

    # the listener

    def _admit(self, _request: UpgradeRequest) -> Refusal | None:
        if self._writer.waiting_hellos < MAX_WAITING_HELLOS:
            return None
        return Refusal(503, "the store has too many Hellos to judge", retry_after=5)

    def _load(self) -> Load:
        stats = self._door.stats
        hellos = self._writer.waiting_hellos
        return Load(hellos=hellos) if stats is None else Load(stats.handshakes, stats.pending, hellos)

    async def _sweep(self) -> None:
        """One look at the time for all sessions; the sleep is the period, not a wait for something."""
        before = self.clock.monotonic()
        excused = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.clock.monotonic()
            if now - before > STALL_SECONDS:
                # This process stood still (a suspended host, a paused container). What its Defenders have
                # said meanwhile waits to be read: nobody is late before it was.
                excused = now + min(now - before, STALL_EXCUSE_SECONDS)
            before = now
            # Removed trust first: who makes no attempt by then is closed for that reason, not for this.
            self._drain.looked(now)

            def look(session: Session, now: float = now) -> None:
                if session.next_deadline <= now or session.superseded_at is not None:
                    with session.contained():
                        session.tick(now)

            if now >= excused:
                await in_slices(tuple(self._sessions), look)


def reply_or_raise(defender: str, reply: CommandReply) -> Fields:
    """The value of an OK reply.

    Raises:
        GarrisonError: it was anything else.
    """
    if reply.outcome is Outcome.OK:
        return reply.value
    causes = {
        Outcome.TIMED_OUT: ("did not answer in time", "look at its log; it may have done it"),
        Outcome.LOST: ("lost its connection before it answered", "it may have done it; look at its log"),
        Outcome.UNSUPPORTED: ("does not know this command", "upgrade the Defender"),
        Outcome.BUSY: ("is busy with other commands", "try again in a moment"),
    }
    fault, remedy = causes.get(reply.outcome, (f"failed: {reply.error}", "look at its log"))
    raise GarrisonError(defender, fault, remedy)
