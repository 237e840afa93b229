"""The Defender's end of its connection to the Console, as a state machine without I/O.

::

    NEW ──opened──▶ AWAITING_CHALLENGE ──Challenge / Hello──▶ AWAITING_WELCOME ──Welcome──▶ OPEN ──▶ CLOSED
                          └── no Welcome in time, malformed, out of order ──▶ CLOSED

Each input returns a tuple of outputs (`outputs`), to be executed in order; a Close is the last. After it the
end is CLOSED and every input returns nothing. Make before break (D4) is two of these: the shell opens the
second, has it welcomed, posts events there and closes the first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from common.protocol.codes import CloseCode, printable
from common.protocol.end import FOREVER, SILENT_HEARTBEATS, End, Rate, closing, malformed
from common.protocol.events import Event, encode_event
from common.protocol.identity import sign_hello
from common.protocol.messages import (
    MAX_EVENTS,
    MAX_MESSAGE_BYTES,
    Ack,
    Challenge,
    Claims,
    Command,
    CommandResult,
    Events,
    Fields,
    Heartbeat,
    HeartbeatAck,
    HostFacts,
    Malformed,
    Message,
    Reconnect,
    ReconnectFailed,
    Unknown,
    Welcome,
    decode_from_console,
    decode_from_defender,
    encode,
)
from common.protocol.orders import BUSY, read_order
from common.protocol.outputs import (
    Acknowledged,
    CommandReceived,
    DefenderOutput,
    HeartbeatSeen,
    ReconnectAsked,
    Send,
    Welcomed,
)
from common.protocol.window import Window

Outputs: TypeAlias = tuple[DefenderOutput, ...]

_ENVELOPE_BYTES: Final = 1024
"""More than what surrounds the items of Events."""


class DefenderState(Enum):
    """Where a connection stands."""

    NEW = "new"
    AWAITING_CHALLENGE = "awaiting challenge"
    AWAITING_WELCOME = "awaiting welcome"
    OPEN = "open"
    CLOSED = "closed"


class DefenderOptions(Struct, frozen=True):
    """What a Defender allows its Console.

    Args:
        start_seconds: How long it may take until Welcome; longer than the Console may judge.
        max_commands: Commands under way, at most; more are answered `busy`.
        rate: Messages, acknowledgements of events apart, that this Defender takes.
    """

    start_seconds: float = 45.0
    max_commands: int = 16
    rate: Rate = Rate()


# A handler's own message type is the table's key, which no type says.
_Handlers: TypeAlias = Mapping[type[Any], Callable[["DefenderEnd", Any, float], Outputs]]


class DefenderEnd(End):
    """One connection's state machine. See the module's docstring.

    `welcomed` is the Console's Welcome, None before it.

    Args:
        key: The instance key, of P-256.
        claims: What the Hello says, with the spool's state as it is now.
        leaf: The SHA-256 (32 bytes) of the leaf certificate that the Console presented on this connection.
        jitter: A random number in [0, 1): the part of an interval until the first heartbeat.
        options: What this Defender allows.
    """

    __slots__ = (
        "_beat_seconds",
        "_beat_wall",
        "_challenge",
        "_claims",
        "_commands",
        "_jitter",
        "_key",
        "_leaf",
        "_options",
        "_sent_at",
        "_sequence",
        "_window",
        "state",
        "welcomed",
    )

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        claims: Claims,
        *,
        leaf: bytes,
        jitter: float,
        options: DefenderOptions = DefenderOptions(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(options.rate)
        self._key = key
        self._claims = claims
        self._leaf = leaf
        self._jitter = jitter
        self._options = options
        self._challenge: Challenge | None = None
        self._window: Window | None = None
        self._commands: set[str] = set()
        self._sequence = 0
        self._beat_seconds = FOREVER
        self._sent_at: float | None = None
        self._beat_wall = 0.0
        self.state = DefenderState.NEW
        self.welcomed: Welcome | None = None

    @property
    def epoch(self) -> str:
        """The spool epoch that this connection carries. A spool that begins another needs another one."""
        return self._claims.spool.epoch

    @property
    def room(self) -> int:
        """Events that may be posted now; 0 unless the connection is open."""
        return self._window.room if self._window else 0

    @property
    def next_event(self) -> int:
        """The number of the event to be posted next; 0 unless the connection is open."""
        return self._window.next if self._window else 0

    # What the connection does

    def opened(self, now: float) -> Outputs:
        """The WebSocket is open: the Console speaks first."""
        if self.state is not DefenderState.NEW:
            raise ValueError(f"opened while {self.state.value}")
        self.state = DefenderState.AWAITING_CHALLENGE
        self.heard = now
        self._due = now + self._options.start_seconds
        return ()

    def receive(self, data: bytes, now: float) -> Outputs:
        """A message arrived, at `now` by the monotonic clock."""
        if self.state is DefenderState.CLOSED:
            return ()
        message = decode_from_console(data)
        if type(message) is not Ack and self._too_fast(now):
            return self.close(CloseCode.POLICY, "too many messages")
        self.heard = now
        handler = self._HANDLERS[self.state].get(type(message))
        if handler is None:
            return self.close(CloseCode.POLICY, f"{type(message).__name__} while {self.state.value}")
        return handler(self, message, now)

    def tick(self, now: float, wall: float = 0.0) -> Outputs:
        """Time passed: send the heartbeat that is due, give up on a Console that is silent.

        Asking twice for the same instant does nothing more.

        Args:
            now: The monotonic clock, seconds.
            wall: The wall clock, seconds since the UNIX epoch; 0 tells none.
        """
        if now < self.next_deadline:
            return ()
        if self.state is not DefenderState.OPEN:
            return self.close(CloseCode.HELLO_TIMEOUT, f"still {self.state.value}")
        if now >= self.heard + self._patience:
            silent, close = self._silence(now)
            return (silent, *self.close(close.code, close.reason))
        # After a pause (a suspended host) one heartbeat is enough: the next is counted from now.
        self._due = now + self._beat_seconds
        self._sequence += 1
        self._sent_at, self._beat_wall = now, wall
        return (_send(Heartbeat(self._sequence, int(wall * 1000))),)

    def lost(self) -> Outputs:
        """The connection has ended, whoever ended it. Returns nothing; results are no longer wanted."""
        self.state = DefenderState.CLOSED
        self._due = self._patience = FOREVER
        self._window = None
        self._commands.clear()
        return ()

    # What the shell wants

    def post_events(self, epoch: str, first: int, items: Sequence[Event]) -> Outputs:
        """Send events from the spool, in order: `first` is `next_event`, or later if the spool dropped some.

        Raises:
            ValueError: Another epoch than the Hello's, more events than `room`, or events sent before.
        """
        window = self._window
        if window is None or not items:
            return ()
        if epoch != self.epoch:
            raise ValueError("events of another epoch need another connection")
        dropped = first - window.next
        fault = window.take(first, len(items), dropped) if dropped >= 0 else "events sent before"
        if fault is not None:
            raise ValueError(fault)
        return tuple(self._batches(first, items, dropped))

    def result(self, command_id: str, *, ok: bool, value: Fields | None = None, error: str = "") -> Outputs:
        """Answer a command. A value that doesn't fit a message is replaced by an error that says so.

        Raises:
            ValueError: No such command is under way on this connection.
        """
        if self.state is not DefenderState.OPEN:
            return ()
        if command_id not in self._commands:
            raise ValueError("no such command is under way")
        self._commands.discard(command_id)
        data = encode(CommandResult(command_id, ok, value or {}, printable(error)[:1024]))
        fault = "result too big" if len(data) > self._message_bytes() else _refusal(data)
        return (Send(data),) if fault is None else (_send(CommandResult(command_id, ok=False, error=fault)),)

    def reconnect_failed(self, reason: str, detail: str) -> Outputs:
        """Say that the attempt that a Reconnect asked for failed (D4a).

        Args:
            reason: The kind of the failure, a Token.
            detail: The same in words, without secrets; cut to what fits.

        Raises:
            ValueError: The reason isn't a Token.
        """
        return self._tell(ReconnectFailed(reason, printable(detail)[:1024]))

    def post_facts(self, facts: HostFacts) -> Outputs:
        """Tell what changed about the host.

        Raises:
            ValueError: A fact beyond its bounds.
        """
        return self._tell(facts)

    def close(self, code: CloseCode, reason: str) -> Outputs:
        """End the connection: NORMAL after a move, GOING_AWAY when the process stops."""
        if self.state is DefenderState.CLOSED:
            return ()
        self.lost()
        return (closing(code, reason),)

    # What the messages mean

    def _challenged(self, challenge: Challenge, _now: float) -> Outputs:
        self._challenge = challenge
        self.state = DefenderState.AWAITING_WELCOME
        return (_send(sign_hello(self._key, self._claims, nonce=challenge.nonce, leaf=self._leaf)),)

    def _welcome(self, welcome: Welcome, now: float) -> Outputs:
        assert self._challenge is not None
        if welcome.epoch != self.epoch:
            return self.close(CloseCode.POLICY, "Welcome for another spool epoch than the Hello's")
        self.state = DefenderState.OPEN
        self.welcomed = welcome
        self._window = Window(welcome.acked_through, welcome.limits.event_window)
        self._beat_seconds = welcome.heartbeat_seconds
        self._patience = welcome.heartbeat_seconds * SILENT_HEARTBEATS
        self._due = now + welcome.heartbeat_seconds * self._jitter
        welcomed = Welcomed(welcome, self._challenge)
        # What an acknowledgement said that was lost with the last connection.
        through = welcome.acked_through
        return (welcomed, Acknowledged(welcome.epoch, through)) if through else (welcomed,)

    def _ack(self, ack: Ack, now: float) -> Outputs:
        assert self._window is not None
        if ack.epoch == self.epoch and self._window.ack(ack.through):
            return (Acknowledged(ack.epoch, ack.through),)
        # Only what gets on is free: there are no more of those than events.
        if self._too_fast(now):
            return self.close(CloseCode.POLICY, "too many messages")
        return self._stray()

    def _heard(self, ack: HeartbeatAck, now: float) -> Outputs:
        if ack.sequence != self._sequence or self._sent_at is None:
            return self._stray()
        round_trip, self._sent_at = now - self._sent_at, None
        told = ack.time and self._beat_wall
        skew = ack.time / 1000 - self._beat_wall - round_trip / 2 if told else None
        return (HeartbeatSeen(round_trip, skew),)

    def _command(self, command: Command, _now: float) -> Outputs:
        if command.id in self._commands:
            return self._stray()
        full = len(self._commands) >= self._options.max_commands
        order = BUSY if full else read_order(command.name, command.arguments)
        if isinstance(order, str):
            return (_send(CommandResult(command.id, ok=False, error=order)),)
        self._commands.add(command.id)
        return (CommandReceived(command.id, order),)

    def _reconnect(self, asked: Reconnect, now: float) -> Outputs:
        return (ReconnectAsked(now + asked.slot_seconds, now + asked.deadline_seconds, asked.reason),)

    def _unknown(self, _message: Unknown, _now: float) -> Outputs:
        self.unknown += 1
        return ()

    def _malformed(self, fault: Malformed, _now: float) -> Outputs:
        close = malformed(fault)
        return self.close(close.code, close.reason)

    def _stray(self) -> Outputs:
        self.stray += 1
        return ()

    # How messages are made

    def _tell(self, message: Message) -> Outputs:
        if self.state is not DefenderState.OPEN:
            return ()
        data = encode(message)
        fault = _refusal(data)
        if fault is not None:
            raise ValueError(fault)
        return (Send(data),)

    def _message_bytes(self) -> int:
        assert self.welcomed is not None
        return min(MAX_MESSAGE_BYTES, self.welcomed.limits.message_bytes)

    def _batches(self, first: int, items: Sequence[Event], dropped: int) -> Iterator[Send]:
        """Cut events into messages by number and by bytes; only the first follows a gap."""
        budget = self._message_bytes() - _ENVELOPE_BYTES
        batch: list[msgspec.Raw] = []
        size = 0
        for item in items:
            data = encode_event(item)
            if batch and (len(batch) == MAX_EVENTS or size + len(data) >= budget):
                yield _send(Events(self.epoch, first, batch, dropped))
                first, dropped, batch, size = first + len(batch), 0, [], 0
            batch.append(msgspec.Raw(data))
            size += len(data) + 1
        yield _send(Events(self.epoch, first, batch, dropped))

    # What may come in which state; anything else ends the connection.
    _ANY: ClassVar[_Handlers] = {Unknown: _unknown, Malformed: _malformed}
    _HANDLERS: ClassVar[Mapping[DefenderState, _Handlers]] = {
        DefenderState.NEW: {},
        DefenderState.AWAITING_CHALLENGE: {**_ANY, Challenge: _challenged},
        DefenderState.AWAITING_WELCOME: {**_ANY, Welcome: _welcome},
        DefenderState.OPEN: {
            **_ANY,
            Ack: _ack,
            HeartbeatAck: _heard,
            Command: _command,
            Reconnect: _reconnect,
        },
    }


def _send(message: Message) -> Send:
    return Send(encode(message))


def _refusal(data: bytes) -> str | None:
    """Why the Console would refuse this message: what can't be read there mustn't be sent."""
    message = decode_from_defender(data)
    return message.reason if isinstance(message, Malformed) else None
