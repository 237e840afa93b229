"""The Console's end of one Defender's connection, as a state machine without I/O.

::

    NEW ──opened──▶ CHALLENGED ──Hello, proved──▶ JUDGING ──welcome──▶ OPEN ──▶ CLOSED
                         └── no Hello in time, proof fails, refuse, malformed ──▶ CLOSED

Each input returns a tuple of outputs (`outputs`), to be executed in order; a Close is the last. After it the
end is CLOSED and every input returns nothing (but `send_command`, which says NOT_SENT). There is one of these
for each of ten thousand connections: slots, no closures, and a heartbeat costs one decode and one encode.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, Final, TypeAlias

from msgspec import Struct

from common.protocol.codes import CloseCode, printable
from common.protocol.end import FOREVER, SILENT_HEARTBEATS, End, Rate, closing, malformed
from common.protocol.events import read_event
from common.protocol.identity import verify_hello
from common.protocol.messages import (
    Ack,
    Capabilities,
    Challenge,
    Command,
    CommandResult,
    Events,
    Fields,
    Heartbeat,
    HeartbeatAck,
    Hello,
    HostFacts,
    Limits,
    Malformed,
    Message,
    Reconnect,
    ReconnectFailed,
    Unknown,
    Welcome,
    decode_claims,
    decode_from_console,
    decode_from_defender,
    encode,
)
from common.protocol.orders import BUSY, UNSUPPORTED
from common.protocol.outputs import (
    CommandFinished,
    ConsoleOutput,
    EventsReceived,
    FactsReceived,
    HelloReceived,
    MoveFailed,
    Outcome,
    Send,
)
from common.protocol.window import Window

COMMANDS_SHARE: Final = 0.5
"""The part of a Defender's rate that is used for commands."""

Outputs: TypeAlias = tuple[ConsoleOutput, ...]


class ConsoleState(Enum):
    """Where a connection stands."""

    NEW = "new"
    CHALLENGED = "challenged"
    JUDGING = "judging"
    OPEN = "open"
    CLOSED = "closed"


class Move(Enum):
    """What became of a Reconnect."""

    NOT_ASKED = "not asked"
    ASKED = "asked"
    FAILED = "failed"


class ConsoleOptions(Struct, frozen=True):
    """What all connections of a Console share.

    Args:
        version: The Console's version, told in the Challenge.
        heartbeat_seconds: The interval of Defenders' heartbeats.
        hello_seconds: How long a Hello may take.
        judge_seconds: How long the shell may take to welcome or refuse.
        max_commands: Commands without a result yet, at most.
        limits: What Welcome says that this Console takes.
        rate: Messages, events apart, that this Console takes.
        capabilities: What this Console can, told in the Challenge.
    """

    version: str
    heartbeat_seconds: float = 30.0
    hello_seconds: float = 10.0
    judge_seconds: float = 30.0
    max_commands: int = 16
    limits: Limits = Limits()
    rate: Rate = Rate()
    capabilities: Capabilities = ()


# A handler's own message type is the table's key, which no type says.
_Handlers: TypeAlias = Mapping[type[Any], Callable[["ConsoleEnd", Any, float], Outputs]]


class ConsoleEnd(End):
    """One connection's state machine. See the module's docstring.

    `defender_id` and `session` are what `welcome` was given; `skew` is how far the Defender's clock is
    ahead of ours in seconds, by its last heartbeat that told, too small by the time it was on its way.

    Args:
        options: Shared by all connections.
        nonce: 32 fresh random bytes.
        leaf: The SHA-256 (32 bytes) of the leaf certificate that this connection was served with.
    """

    __slots__ = (
        "_commands",
        "_leaf",
        "_move_by",
        "_nonce",
        "_options",
        "_pace",
        "_start_by",
        "_window",
        "defender_id",
        "epoch",
        "move",
        "session",
        "skew",
        "state",
    )

    def __init__(self, options: ConsoleOptions, *, nonce: bytes, leaf: bytes) -> None:
        super().__init__(options.rate)
        self._options = options
        self._nonce = nonce
        self._leaf = leaf
        self._commands: dict[str, float] | None = None
        self._window: Window | None = None
        self._start_by = FOREVER
        self._move_by = FOREVER
        self._pace = -FOREVER
        self.state = ConsoleState.NEW
        self.move = Move.NOT_ASKED
        self.defender_id = ""
        self.session = 0
        self.epoch = ""
        self.skew: float | None = None

    @property
    def outstanding(self) -> int:
        """Commands without a result yet."""
        return len(self._commands) if self._commands else 0

    # What the connection does

    def opened(self, now: float) -> Outputs:
        """The WebSocket is open: challenge the Defender."""
        if self.state is not ConsoleState.NEW:
            raise ValueError(f"opened in state {self.state.value}")
        self.state = ConsoleState.CHALLENGED
        self.heard = now
        self._start_by = self._due = now + self._options.hello_seconds
        options = self._options
        return (_send(Challenge(self._nonce, options.version, capabilities=options.capabilities)),)

    def receive(self, data: bytes, now: float, wall: float = 0.0) -> Outputs:
        """A message arrived.

        Args:
            data: Its payload.
            now: The monotonic clock, seconds.
            wall: The wall clock, seconds since the UNIX epoch, for the answer to a heartbeat; 0 tells none.
        """
        state = self.state
        if state is ConsoleState.CLOSED:
            return ()
        message = decode_from_defender(data)
        # What the window bounds needs no other bound, nor does what we have asked for.
        free = type(message) is Events or (type(message) is CommandResult and self._is_awaited(message))
        if not free and self._too_fast(now):
            return self.close(CloseCode.POLICY, "too many messages")
        self.heard = now
        if type(message) is Heartbeat and state is ConsoleState.OPEN:
            if message.time and wall:
                self.skew = message.time / 1000 - wall
            return (Send(encode(HeartbeatAck(message.sequence, int(wall * 1000)))),)
        handler = self._HANDLERS[state].get(type(message))
        if handler is None:
            return self.close(CloseCode.POLICY, f"{type(message).__name__} while {state.value}")
        return handler(self, message, now)

    def tick(self, now: float) -> Outputs:
        """Time passed: give up on what is overdue. Asking twice for the same instant does nothing more."""
        if now < self.next_deadline:
            return ()
        if now >= self._start_by:
            return self._not_started()
        if now >= self.heard + self._patience:
            silent, close = self._silence(now)
            return (silent, *self.close(close.code, close.reason))
        if now >= self._move_by:
            return self.close(CloseCode.NOT_MOVED, "asked to reconnect, made no attempt")
        return self._time_out(now)

    def lost(self) -> Outputs:
        """The connection has ended, whoever ended it: nothing more will come or go."""
        outputs = self._abandon()
        self.state = ConsoleState.CLOSED
        self._due = self._start_by = self._move_by = self._patience = FOREVER
        self._window = None
        return outputs

    # What the shell wants

    def welcome(
        self, defender_id: str, session: int, acked_through: int, now: float, wall: float = 0.0
    ) -> Outputs:
        """Accept the Hello.

        Args:
            defender_id: The ID that the instance key is bound to.
            session: The fencing number of this session.
            acked_through: The last event of the spool's epoch that is stored for good, 0 for none.
            now: The monotonic clock, seconds.
            wall: The wall clock, seconds since the UNIX epoch; 0 tells none.

        Returns:
            Nothing if the connection has ended meanwhile.

        Raises:
            ValueError: There is no Hello to answer.
        """
        if self.state is ConsoleState.CLOSED:
            return ()
        if self.state is not ConsoleState.JUDGING:
            raise ValueError(f"welcome while {self.state.value}")
        options = self._options
        self.state = ConsoleState.OPEN
        self.defender_id, self.session = defender_id, session
        self._window = Window(acked_through, options.limits.event_window)
        self._patience = options.heartbeat_seconds * SILENT_HEARTBEATS
        # The shell took its time; the Defender isn't to blame for that silence.
        self.heard = now
        self._start_by = FOREVER
        self._reschedule()
        welcome = Welcome(
            defender_id,
            session,
            options.heartbeat_seconds,
            self.epoch,
            acked_through,
            int(wall * 1000),
            options.limits,
        )
        return (_send(welcome),)

    def refuse(self, code: CloseCode, reason: str) -> Outputs:
        """Refuse the Hello, by a code of `REFUSALS` or TRY_AGAIN."""
        return self.close(code, reason)

    def acknowledge(self, epoch: str, through: int) -> Outputs:
        """All events of `epoch` up to `through` are stored for good: say so.

        Raises:
            ValueError: The epoch isn't this connection's.
        """
        window = self._window
        if window is None:
            return ()
        if epoch != self.epoch:
            raise ValueError("an acknowledgement of another spool epoch")
        # The store may know more than this connection has sent again.
        through = min(through, window.next - 1)
        return (_send(Ack(epoch, through)),) if window.ack(through) else ()

    def send_command(
        self, command_id: str, name: str, arguments: Fields, now: float, *, timeout: float = 30.0
    ) -> Outputs:
        """Have the Defender do something. Exactly one CommandFinished follows, here or later.

        Args:
            command_id: Unique among this connection's, a Token.
            name: A `CommandName`, or what a newer Defender knows.
            arguments: Its arguments.
            now: The monotonic clock, seconds.
            timeout: Seconds that the result may take.

        Raises:
            ValueError: The ID is in use, or the Defender couldn't read the command: a name, an ID or
                arguments beyond their bounds.
        """
        if self.state is not ConsoleState.OPEN:
            return (CommandFinished(command_id, Outcome.NOT_SENT),)
        commands = self._commands = self._commands or {}
        if command_id in commands:
            raise ValueError("a command of this ID is under way")
        if len(commands) >= self._options.max_commands:
            return (CommandFinished(command_id, Outcome.BUSY, error="too many commands under way"),)
        # A Defender takes messages at a bounded rate, as we do, and acknowledgements of heartbeats are some.
        pace = max(self._pace, now) + self._spacing / COMMANDS_SHARE
        if pace - now > self._burst:
            return (CommandFinished(command_id, Outcome.BUSY, error="too many commands in a short time"),)
        self._pace = pace
        data = encode(Command(command_id, name, arguments))
        # What one operator asks for mustn't end a Defender's connection as malformed.
        fault = decode_from_console(data)
        if isinstance(fault, Malformed):
            raise ValueError(fault.reason)
        commands[command_id] = now + timeout
        self._reschedule()
        return (Send(data),)

    def reconnect(self, slot_seconds: float, deadline_seconds: float, reason: str, now: float) -> Outputs:
        """Ask the Defender to open a new connection and move there (D5), both counted from now.

        One that makes no attempt by the deadline is closed; one that tried and failed is not, until it is
        asked again (D4a).

        Raises:
            ValueError: The slot lies behind the deadline.
        """
        if slot_seconds > deadline_seconds:
            raise ValueError("the slot lies behind the deadline")
        if self.state is not ConsoleState.OPEN:
            return ()
        self.move = Move.ASKED
        self._move_by = now + deadline_seconds
        self._reschedule()
        return (_send(Reconnect(slot_seconds, deadline_seconds, printable(reason)[:1024])),)

    def stay(self) -> None:
        """What `reconnect` asked for isn't wanted any more: no deadline ends this connection.

        A Defender that tries all the same is served; there is no message to tell it.
        """
        self.move = Move.NOT_ASKED
        self._move_by = FOREVER
        self._reschedule()

    def close(self, code: CloseCode, reason: str) -> Outputs:
        """End the connection; commands under way are LOST."""
        if self.state is ConsoleState.CLOSED:
            return ()
        return (*self.lost(), closing(code, reason))

    # What the messages mean

    def _is_awaited(self, result: CommandResult) -> bool:
        return self._commands is not None and result.id in self._commands

    def _hello(self, hello: Hello, now: float) -> Outputs:
        nonce, self._nonce = self._nonce, b""  # one Hello for each nonce
        fault = verify_hello(hello, nonce=nonce, leaf=self._leaf)
        if fault is not None:
            return self.close(CloseCode.IDENTITY_REFUSED, fault.value)
        claims = decode_claims(bytes(hello.body))
        if isinstance(claims, Malformed):
            return self._malformed(claims, now)
        self.state = ConsoleState.JUDGING
        self.epoch = claims.spool.epoch
        self._start_by = self._due = now + self._options.judge_seconds
        return (HelloReceived(hello.instance_key, claims),)

    def _events(self, events: Events, _now: float) -> Outputs:
        assert self._window is not None
        if events.epoch != self.epoch:
            return self.close(CloseCode.POLICY, "events of another spool epoch than the Hello's")
        fault = self._window.take(events.first, len(events.items), events.dropped)
        if fault is not None:
            return self.close(CloseCode.POLICY, fault)
        items = tuple(read_event(bytes(item)) for item in events.items)
        return (EventsReceived(events.epoch, events.first, items, events.dropped),)

    def _result(self, result: CommandResult, _now: float) -> Outputs:
        if not self._commands or self._commands.pop(result.id, None) is None:
            self.stray += 1
            return ()
        self._reschedule()
        return (CommandFinished(result.id, _outcome(result), result.value, result.error),)

    def _move_failed(self, failed: ReconnectFailed, _now: float) -> Outputs:
        if self.move is not Move.ASKED:
            self.stray += 1
            return ()
        self.move = Move.FAILED
        self._move_by = FOREVER
        self._reschedule()
        return (MoveFailed(failed.reason, failed.detail),)

    def _facts(self, facts: HostFacts, _now: float) -> Outputs:
        return (FactsReceived(facts),)

    def _unknown(self, _message: Unknown, _now: float) -> Outputs:
        self.unknown += 1
        return ()

    def _malformed(self, fault: Malformed, _now: float) -> Outputs:
        close = malformed(fault)
        return self.close(close.code, close.reason)

    # What time does

    def _not_started(self) -> Outputs:
        if self.state is ConsoleState.JUDGING:
            return self.close(CloseCode.TRY_AGAIN, "the Console took too long to decide")
        return self.close(CloseCode.HELLO_TIMEOUT, "no Hello in time")

    def _time_out(self, now: float) -> Outputs:
        commands = self._commands or {}
        late = [command_id for command_id, deadline in commands.items() if now >= deadline]
        for command_id in late:
            del commands[command_id]
        self._reschedule()
        return tuple(CommandFinished(command_id, Outcome.TIMED_OUT) for command_id in late)

    def _abandon(self) -> tuple[CommandFinished, ...]:
        commands, self._commands = self._commands or {}, None
        return tuple(CommandFinished(command_id, Outcome.LOST) for command_id in commands)

    def _reschedule(self) -> None:
        self._due = min(self._start_by, self._move_by, *(self._commands or {}).values())

    # What may come in which state; anything else ends the connection. Heartbeats are `receive`'s own matter.
    _ANY: ClassVar[_Handlers] = {Unknown: _unknown, Malformed: _malformed}
    _HANDLERS: ClassVar[Mapping[ConsoleState, _Handlers]] = {
        ConsoleState.NEW: {},
        ConsoleState.CHALLENGED: {**_ANY, Hello: _hello},
        ConsoleState.JUDGING: _ANY,
        ConsoleState.OPEN: {
            **_ANY,
            Events: _events,
            CommandResult: _result,
            ReconnectFailed: _move_failed,
            HostFacts: _facts,
        },
    }


def _send(message: Message) -> Send:
    return Send(encode(message))


def _outcome(result: CommandResult) -> Outcome:
    if result.ok:
        return Outcome.OK
    return {UNSUPPORTED: Outcome.UNSUPPORTED, BUSY: Outcome.BUSY}.get(result.error, Outcome.FAILED)
