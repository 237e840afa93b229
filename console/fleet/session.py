"""One Defender's connection on the Console: the protocol's decisions, executed.

One object per connection and no task: messages come in by callback, `common.protocol.ConsoleEnd` says what
they mean, the writer stores what has to be stored, and one sweep for all sessions looks at the time.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

from cryptography import x509

from common.certificates import Role, Source
from common.clock import Clock
from common.protocol import (
    Close,
    CloseCode,
    CommandFinished,
    ConsoleEnd,
    ConsoleOptions,
    ConsoleOutput,
    ConsoleState,
    EventsReceived,
    FactsReceived,
    Fields,
    HeldSet,
    HelloReceived,
    MoveFailed,
    Outcome,
    PeerSilent,
    Send,
)
from common.transport import Generation, WebSocketConnection
from console.store import Admission, Applied, Refusal
from console.store import Outcome as ApplyOutcome

logger = logging.getLogger(__name__)

SUPERSEDED_SECONDS: Final = 8.0
"""How long a command that is under way on a superseded connection may take: less than the 10 s after which a
Defender closes that connection itself."""
SETTLE_SECONDS: Final = 0.5
"""How long one without a command stays, so that its Defender reads the other one's Welcome first."""

# What is everyday business, or is said of all the Defenders that it happens to, in one line.
_QUIET: Final = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.RESTARTING,
        CloseCode.SUPERSEDED,
        CloseCode.NOT_MOVED,
        CloseCode.TRUST_REMOVED,
        CloseCode.CERTIFICATE_EXPIRED,
    }
)

REFUSALS = {
    Refusal.LOCKED: (CloseCode.LOCKED, "locked by an operator"),
    Refusal.KEY_MISMATCH: (CloseCode.IDENTITY_REFUSED, "another key is bound to this ID"),
}


@dataclass(frozen=True, slots=True)
class Presented:
    """The client certificate that a connection presented.

    Attributes:
        fingerprint: SHA-256 of its DER, lower-case hexadecimal.
        not_after: When it ends, aware.
    """

    fingerprint: str
    not_after: datetime


# Deployed Defenders share a certificate, so that a fleet has a few of them: parsing each once saves 50 µs of
# every handshake.
@lru_cache(maxsize=1024)
def presented(der: bytes) -> Presented:
    """What a certificate in DER is known by."""
    certificate = x509.load_der_x509_certificate(der)
    return Presented(hashlib.sha256(der).hexdigest(), certificate.not_valid_after_utc)


class ServedGeneration(Generation):
    """A listener generation that knows the leaf it answers with: Hellos sign it (D9a).

    Args:
        name: The fingerprint of its certificate set.
        context: Built from that set.
        leaf: SHA-256 of the leaf's DER, 32 bytes.
        source: Where the set came from.
    """

    __slots__ = ("leaf", "source")

    def __init__(self, name: str, context: ssl.SSLContext, leaf: bytes, source: Source) -> None:
        super().__init__(name, context, mutual=True)
        self.leaf = leaf
        self.source = source


class Owner(Protocol):
    """What a session needs of the fleet."""

    options: ConsoleOptions
    clock: Clock

    def opened(self, session: "Session") -> None:
        """A session begins."""
        ...

    def said_hello(self, session: "Session", hello: HelloReceived) -> None:
        """A proved Hello waits for `Session.admitted`."""
        ...

    def sent_events(self, session: "Session", events: EventsReceived) -> None:
        """Events wait for `Session.applied`."""
        ...

    def welcomed(self, session: "Session") -> None:
        """The session is its Defender's live one now."""
        ...

    def stillborn(self, session: "Session") -> None:
        """The connection was gone before the store had admitted it."""
        ...

    def move_failed(self, session: "Session", reason: str) -> None:
        """The Defender tried to reconnect as asked, and couldn't."""
        ...

    def closing(self, session: "Session", code: CloseCode) -> None:
        """We end the connection; `ended` follows once it is gone."""
        ...

    def ended(self, session: "Session") -> None:
        """The connection is gone."""
        ...


@dataclass(frozen=True, slots=True)
class CommandReply:
    """What became of a command: `outcome`, the Defender's value where it is OK, its words where not."""

    outcome: Outcome
    value: Fields
    error: str


class Session:
    """A connection from a Defender. Implements `common.transport.WebSocketHandler` and `LiveSession`.

    Attributes:
        since: When it was welcomed.
        session: Its fencing number, 0 before the Welcome.
        spare_until: When the last client set ends that the Defender has proved beside the one presented; None
            without one.
        superseded_at: When its Defender's newer session was welcomed, in monotonic seconds; None without one.
    """

    __slots__ = (
        "_commands",
        "_connection",
        "_end",
        "_owner",
        "_presented",
        "address",
        "defender_id",
        "hostname",
        "session",
        "since",
        "spare_until",
        "superseded_at",
        "using_old_ca",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._connection: WebSocketConnection | None = None
        self._end: ConsoleEnd | None = None
        self._commands: dict[str, asyncio.Future[CommandReply]] | None = None
        self._presented: Presented | None = None
        self.address = ""
        self.defender_id = ""
        self.hostname = ""
        self.session = 0
        self.since = datetime.min.replace(tzinfo=UTC)
        self.spare_until: datetime | None = None
        self.superseded_at: float | None = None
        self.using_old_ca = False

    def __str__(self) -> str:
        return f"{self.hostname or 'a Defender'} ({self.defender_id or 'no Hello yet'}, {self.address})"

    @property
    def certificate_not_after(self) -> datetime:
        """When the client certificate that it presented ends."""
        assert self._presented is not None
        return self._presented.not_after

    @property
    def certificate_fingerprint(self) -> str:
        """SHA-256 of the client certificate that it presented."""
        assert self._presented is not None
        return self._presented.fingerprint

    @property
    def generation(self) -> ServedGeneration:
        """What its connection was made on."""
        assert self._connection is not None
        generation = self._connection.transport.get_extra_info("generation")
        assert isinstance(generation, ServedGeneration)
        return generation

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER, leaf first: the chain by which the Defender was let in; empty once the connection is gone."""
        assert self._connection is not None
        chain: tuple[bytes, ...] | None = self._connection.transport.get_extra_info("peer_chain")
        return chain or ()

    @property
    def is_open(self) -> bool:
        """Whether it is welcomed, and neither end has begun to close it."""
        return self._end is not None and self._end.state is ConsoleState.OPEN

    @property
    def heard(self) -> float:
        """When anything was last received, in monotonic seconds."""
        return self._end.heard if self._end else 0.0

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do, in monotonic seconds."""
        return self._end.next_deadline if self._end else float("inf")

    # common.transport.WebSocketHandler

    def on_open(self, connection: WebSocketConnection) -> None:
        """The upgrade is done: challenge the peer."""
        transport = connection.transport
        assert transport is not None
        self._connection = connection
        self.address = _address(transport.get_extra_info("peername"))
        self._presented = presented(transport.get_extra_info("peer_chain")[0])
        self._end = ConsoleEnd(self._owner.options, nonce=os.urandom(32), leaf=self.generation.leaf)
        self._do(self._end.opened(self._owner.clock.monotonic()))
        self._owner.opened(self)

    def on_message(self, data: bytes) -> None:
        """A message arrived."""
        assert self._end is not None
        clock = self._owner.clock
        self._do(self._end.receive(data, clock.monotonic(), clock.now().timestamp()))

    def on_writable(self) -> None:
        """The peer reads again. What we send is bounded by what it sent or what was asked of it."""

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._end is None:
            return
        self._do(self._end.lost())
        if self.defender_id:
            cause = reason or (str(exc) if exc else "")
            level = logging.INFO if self.superseded_at is None else logging.DEBUG
            logger.log(level, "%s disconnected: %d %s", self, code, cause or "without a reason")
        self._owner.ended(self)

    # the fleet

    def tick(self, now: float) -> None:
        """Time passed."""
        assert self._end is not None
        if self.superseded_at is not None:
            patience = SUPERSEDED_SECONDS if self._end.outstanding else SETTLE_SECONDS
            if now >= self.superseded_at + patience:
                self.close(CloseCode.SUPERSEDED, "this Defender has a newer connection")
        self._do(self._end.tick(now))

    def supersede(self, now: float) -> None:
        """Its Defender has a newer session: this one ends once no command is under way on it."""
        self.superseded_at = now
        self.stay()

    def ask(self, slot: float, deadline: float, reason: str) -> bool:
        """Ask the Defender to reconnect (D5).

        Args:
            slot: When, in monotonic seconds.
            deadline: When its connection is closed if it made no attempt, by the same clock.
            reason: What its log says.

        Returns:
            Whether it could be asked.
        """
        if self._end is None or not self.is_open:
            return False
        now = self._owner.clock.monotonic()
        wait = max(0.0, slot - now)
        self._do(self._end.reconnect(wait, max(wait, deadline - now), reason, now))
        return True

    def stay(self) -> None:
        """What `ask` asked for isn't wanted any more."""
        if self._end is not None:
            self._end.stay()

    @contextlib.contextmanager
    def contained(self) -> Iterator[None]:
        """Where a task of the whole fleet calls a session: a bug that one Defender meets ends its connection.

        What the transport calls is contained by the transport in the same way.
        """
        try:
            yield
        except Exception:  # not swallowed: logged, and the connection ends
            logger.exception("%s met a bug of the Console's", self)
            if self._connection is not None:
                self._connection.abort()

    def close(self, code: CloseCode, reason: str) -> None:
        """End the connection in order."""
        if self._end is not None:
            self._do(self._end.close(code, reason))

    def admitted(self, admission: Admission) -> None:
        """The store has judged the Hello: welcome the Defender, or say why not."""
        assert self._end is not None
        if admission.refused is not None:
            logger.warning("%s refused: %s", self, admission.refused)
            self._do(self._end.refuse(*REFUSALS[admission.refused]))
            return
        record = admission.record
        self.defender_id, self.session, self.hostname = record.id, admission.session, record.facts.hostname
        clock = self._owner.clock
        self.since = clock.now()
        outputs = self._end.welcome(
            record.id,
            admission.session,
            admission.applied_through,
            clock.monotonic(),
            clock.now().timestamp(),
        )
        if not outputs:
            self._owner.stillborn(self)
            return
        self._owner.welcomed(self)
        self._do(outputs)

    def applied(self, applied: Applied) -> None:
        """The store has taken events, or a newer session has fenced this one."""
        assert self._end is not None
        match applied.outcome:
            case ApplyOutcome.APPLIED:
                self._do(self._end.acknowledge(applied.epoch, applied.through))
            case ApplyOutcome.FENCED:
                # They are sent again on the newer connection. A command's result still comes on this one.
                if self.superseded_at is None or not self._end.outstanding:
                    self.close(CloseCode.SUPERSEDED, "this Defender has a newer connection")
            case ApplyOutcome.GAP | ApplyOutcome.UNKNOWN:
                # The end counts positions itself, so this is a store that went back (a restored backup): the
                # Defender comes again and is told where to go on.
                logger.warning("%s sent events that the store does not expect", self)
                self.close(CloseCode.TRY_AGAIN, "positions disagree, come again")
            case ApplyOutcome.REFUSED:
                logger.error("%s sent events that can't be kept: %s", self, applied.fault)
                # It keeps them and comes again, with back-off: nothing is lost, and the log says so.
                self.close(CloseCode.INTERNAL_ERROR, "an event can't be kept")

    async def command(self, name: str, arguments: Fields, seconds: float) -> CommandReply:
        """Have the Defender do something; the reply comes in `seconds` at the latest."""
        assert self._end is not None
        command_id, now = os.urandom(8).hex(), self._owner.clock.monotonic()
        future: asyncio.Future[CommandReply] = asyncio.get_running_loop().create_future()
        self._commands = self._commands or {}
        self._commands[command_id] = future
        try:
            self._do(self._end.send_command(command_id, name, arguments, now, timeout=seconds))
            return await future
        finally:
            self._commands.pop(command_id, None)

    def _do(self, outputs: Iterable[ConsoleOutput]) -> None:
        for output in outputs:
            if type(output) is Send:
                assert self._connection is not None
                self._connection.send(output.data)
            else:
                self._upcall(output)

    def _upcall(self, output: ConsoleOutput) -> None:
        match output:
            case HelloReceived():
                self.hostname = output.claims.hostname
                self._holds(output.claims.certificates)
                self._owner.said_hello(self, output)
            case EventsReceived():
                self._owner.sent_events(self, output)
            case FactsReceived(facts):
                # Nothing shows what else changes about a host, and ten thousand copies of it would be kept.
                if facts.certificates:
                    self._holds(facts.certificates)
            case CommandFinished():
                self._finished(output)
            case MoveFailed(reason, detail):
                logger.debug("%s could not reconnect: %s %s", self, reason, detail)
                self._owner.move_failed(self, f"{reason} {detail}".strip())
            case PeerSilent(seconds):
                logger.warning("%s was silent for %.0f s", self, seconds)
            case Close(code, reason):
                assert self._connection is not None
                level = logging.DEBUG if code in _QUIET else logging.WARNING
                logger.log(level, "%s is closed: %d %s", self, code, reason)
                self._connection.close(code, reason)
                self._owner.closing(self, code)

    def _holds(self, sets: Iterable[HeldSet]) -> None:
        """Keep of the sets that the Defender holds what an expiry asks for: an end, not the sets."""
        own = self.certificate_fingerprint
        others = [one for one in sets if one.channel == Role.DEFENDER_CLIENT and one.fingerprint != own]
        self.spare_until = max((one.not_after for one in others if one.proved), default=None)

    def _finished(self, finished: CommandFinished) -> None:
        future = (self._commands or {}).get(finished.id)
        if future is not None and not future.done():
            future.set_result(CommandReply(finished.outcome, finished.value, finished.error))


def _address(peername: tuple[str, int] | None) -> str:
    if peername is None:
        return "?"
    host, port = peername[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
