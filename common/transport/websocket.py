"""The WebSocket session shell: websockets' sans-I/O protocol on an asyncio transport, and nothing else.

One object per connection: no task, no queue, no timer once it is open. The owner is a `WebSocketHandler`
that is called back; what it sends while a message is being handled leaves in one write with the protocol's
own answers (pong, close, and the 101 with whatever `on_open` sends). Keepalive is the owner's: one sweep
for all its connections.

Bounds: the upgrade's octets and its time; a message's size (1009); what the owner queues for a peer that
does not read (`max_buffered`: the connection is aborted, since a close frame would wait behind it; reported
as 1013), pongs included; frames that carry next to nothing (1008); the closing handshake's time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol as WSProtocol
from websockets.protocol import State
from websockets.typing import Subprotocol

from common.transport.endings import PeerTooSlow, clip, outcome
from common.transport.idle_frames import (
    FRAMES_PER_READ,
    PIECE,
    TOO_MANY_FRAMES,
    TooManyFrames,
    is_idle,
    is_too_busy,
    spend,
)
from common.transport.resting import NO_ID, RESTING, rest, wake

MAX_MESSAGE: Final = 2**20
MAX_BUFFERED: Final = 4 * 2**20
MAX_HEAD: Final = 16384
"""Octets of a request or a response before the connection is open."""

_END_OF_HEAD: Final = b"\r\n\r\n"


class Phase(Enum):
    """How far the upgrade has come."""

    HEAD = auto()
    BODY = auto()
    """The head is complete and did not open the connection: an error's body, or nothing that matters."""
    OPEN = auto()


class WebSocketHandler(Protocol):
    """Who owns a connection. Its methods are called from the loop and must not block."""

    def on_open(self, connection: "WebSocketConnection") -> None:
        """The upgrade is done; what is sent here leaves with it."""
        ...

    def on_message(self, data: bytes) -> None:
        """A whole message; a text has been checked to be UTF-8."""
        ...

    def on_writable(self) -> None:
        """`writable` is true again."""
        ...

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        """The connection is over: called once, last, and also if a client's upgrade failed.

        Args:
            code: The peer's, or ours where we ended it for a fault of the peer; 1006 if nobody said one.
            reason: What was said with it, or why there was none.
            exc: What the network or TLS said (`failures.classify`), or what was wrong; None after a proper
                end.
        """
        ...


class UpgradeRefused(Exception):  # noqa: N818 - a name of the product's vocabulary, like ConnectionRefused
    """The server answered the upgrade with something else than 101.

    Args:
        status: The HTTP status; 0 if what came back was no HTTP.
        reason: The status's phrase or what was wrong.
        retry_after: Seconds after which the server wants us back; None if it did not say.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(status, reason, retry_after)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        wait = "" if self.retry_after is None else f", retry after {self.retry_after} s"
        return f"HTTP {self.status} {self.reason}{wait}" if self.status else self.reason


@dataclass(frozen=True, slots=True)
class Options:
    """What all connections of a factory have in common."""

    subprotocols: tuple[Subprotocol, ...]
    max_size: int
    max_buffered: int
    upgrade_timeout: float
    close_timeout: float


class WebSocketConnection(asyncio.Protocol):
    """One WebSocket connection; made by `server_factory` or `client_factory`.

    Attributes:
        transport: The connection beneath.
        handler: Its owner; None before a server's upgrade and after `on_close`.
        writable: Whether the peer keeps up; while it is false, `send` queues, up to `max_buffered`.
    """

    __slots__ = (
        *(
            "_backlog",
            "_batching",
            "_busy_until",
            "_failure",
            "_fragments",
            "_head",
            "_options",
            "_paused",
            "_phase",
        ),
        *("_protocol", "_tail", "_text", "_timer", "handler", "transport", "writable"),
    )
    transport: asyncio.Transport

    def __init__(self, options: Options, protocol: WSProtocol, handler: WebSocketHandler | None) -> None:
        self._options = options
        self._protocol: WSProtocol | None = protocol
        self.handler = handler
        self.writable = True
        # Before the connection is open: octets of the head so far, and the last three of them.
        self._phase = Phase.HEAD
        self._head = 0
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None
        # When the idle frames so far will be forgotten.
        self._busy_until = 0.0
        self._fragments: list[bytes] | None = None
        self._text = False
        self._batching = False
        self._paused = False
        self._backlog: list[Frame] | None = None
        self._failure: Exception | None = None

    # For the owner

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol is not None and self._protocol.state is State.OPEN

    @property
    def subprotocol(self) -> str | None:
        """The negotiated one."""
        return self._protocol.subprotocol if self._protocol is not None else None

    @property
    def buffered(self) -> int:
        """Octets that are queued because the peer does not read them."""
        return self.transport.get_write_buffer_size()

    def send(self, data: bytes | str, *, binary: bool = False) -> bool:
        """Send a message.

        Args:
            data: A text, or octets; octets are sent as a text (and must be UTF-8) unless `binary`.
            binary: Send a binary message.

        Returns:
            Whether it was taken; False if the connection is not open any more.
        """
        protocol = self._protocol
        if protocol is None or protocol.state is not State.OPEN:
            return False
        octets = data.encode() if isinstance(data, str) else data
        if self.buffered + len(octets) > self._options.max_buffered:
            self._too_slow()
            return False
        if binary:
            protocol.send_binary(octets)
        else:
            protocol.send_text(octets)
        if not self._batching:
            self._flush()
        return True

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin the closing handshake, which ends with `on_close` within `close_timeout`. Idempotent."""
        if self._protocol is None:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, clip(reason))
            if not self._batching:
                self._flush()
        elif self._protocol.state is State.CONNECTING:
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abort()

    def pause_reading(self) -> None:
        """Call no `on_message` until `resume_reading`; the peer is held back by TCP."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Call `on_message` again, from the loop."""
        if self._paused:
            self._paused = False
            if self._backlog is None:
                self.transport.resume_reading()
            else:
                asyncio.get_running_loop().call_soon(self._deliver_backlog)

    # For the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._set_timer(self._options.upgrade_timeout, self._upgrade_expired)
        self._begin()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Octets of the upgrade, then of frames."""
        protocol = self._protocol
        if protocol is None:
            return
        self._batching = True
        try:
            if self._phase is not Phase.OPEN:
                data = self._receive_head(data)
            if len(data) <= PIECE:
                self._receive_frames(data)
            else:
                self._receive_pieces(data)
        finally:
            self._batching = False
            self._flush()
            if self._phase is Phase.OPEN:
                rest(protocol)

    def _receive_pieces(self, data: bytes) -> None:
        pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
        frames = sum(map(self._receive_frames, pieces))
        if frames > FRAMES_PER_READ and not self._paused and self._protocol is not None:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if self._protocol is not None and not self._paused and self._backlog is None:
            self.transport.resume_reading()

    def _receive_frames(self, data: bytes) -> int:
        """Parse and deliver; the number of frames."""
        protocol = self._protocol
        if not data or protocol is None or self._failure is not None:
            return 0
        wake(protocol)
        protocol.receive_data(data)
        frames = cast("list[Frame]", protocol.events_received())
        idle = sum(map(is_idle, frames))
        if idle:
            now = asyncio.get_running_loop().time()
            self._busy_until = spend(idle, self._busy_until, now)
            if is_too_busy(self._busy_until, now):
                self._fail(CloseCode.POLICY_VIOLATION, TOO_MANY_FRAMES, TooManyFrames(TOO_MANY_FRAMES))
                frames = []
        self._deliver(frames)
        return len(frames)

    def eof_received(self) -> None:
        """The peer's close_notify; the transport closes after it."""
        if self._protocol is not None:
            wake(self._protocol)
            self._protocol.receive_eof()
            if self._phase is not Phase.OPEN:
                self._head_events()
            self._flush()

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self.writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self.writable = True
        if self.handler is not None and self.is_open:
            self.handler.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, and let go of everything."""
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        self._set_timer(0, None)
        wake(protocol)
        protocol.receive_eof()
        while self._backlog:  # whoever pauses has no later any more
            self._paused = False
            self._deliver_backlog()
        handler, self.handler = self.handler, None
        code, reason = outcome(protocol, self._failure or exc)
        fault = self._failure or exc or (None if protocol.close_rcvd else protocol.parser_exc)
        protocol.parser.close()  # its frame and the protocol hold each other
        self._failure = None
        if handler is not None:
            handler.on_close(code, reason, fault)

    # The upgrade

    def _begin(self) -> None:
        """What is to be sent first."""

    def _receive_head(self, data: bytes) -> bytes:
        """Octets until the connection is open or refused.

        The head is handed over up to its very end: what follows is parsed by a parser that does not keep the
        request (3 KiB for as long as the connection lives).

        Returns:
            What came after the head, if the connection is open.
        """
        assert self._protocol is not None
        cut = len(data)
        if self._phase is Phase.HEAD:
            seen = self._tail + data
            end = seen.find(_END_OF_HEAD)
            if end >= 0:
                cut = end + len(_END_OF_HEAD) - len(self._tail)
                self._phase = Phase.BODY
            self._head += cut
            self._tail = seen[-3:]
        self._protocol.receive_data(data[:cut])
        if self._head > MAX_HEAD and self._phase is Phase.HEAD:
            self._head_too_long()
        self._head_events()
        if self._phase is Phase.BODY and data[cut:]:
            return self._receive_head(data[cut:])
        return data[cut:]

    def _head_events(self) -> None:
        assert self._protocol is not None
        for event in self._protocol.events_received():
            assert not isinstance(event, Frame)
            self._head_received(event)
        if self._protocol.handshake_exc is not None and self._failure is None:
            self._head_malformed(self._protocol.handshake_exc)

    def _head_received(self, event: Request | Response) -> None:
        raise NotImplementedError

    def _head_malformed(self, exc: Exception) -> None:
        """What came is not what it should be; an HTTP answer may be queued."""
        self._failure = UpgradeRefused(0, str(exc))

    def _head_too_long(self) -> None:
        self._failure = UpgradeRefused(0, f"a head of more than {MAX_HEAD} octets")
        self.transport.abort()

    def _open(self) -> None:
        protocol = self._protocol
        assert protocol is not None
        assert self.handler is not None
        self._set_timer(0, None)
        # The parser that read the head keeps it in its frame; this one begins where frames begin.
        protocol.parser.close()
        protocol.parser = RESTING
        protocol.id = NO_ID
        self._phase = Phase.OPEN
        self._tail = b""
        self.handler.on_open(self)

    def _upgrade_expired(self) -> None:
        self._failure = TimeoutError(f"no upgrade in {self._options.upgrade_timeout:g} s")
        self.transport.abort()

    # Messages

    def _deliver(self, frames: Sequence[Frame]) -> None:
        for index, frame in enumerate(frames):
            if self._paused:
                self._backlog = [*(self._backlog or ()), *frames[index:]]
                return
            self._frame(frame)
            if self._failure is not None:
                return

    def _deliver_backlog(self) -> None:
        frames, self._backlog = self._backlog, None
        if frames and not self._paused:
            self._deliver(frames)
            self._flush()
        if self._protocol is not None and not self._paused:
            self.transport.resume_reading()

    def _frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self._text = frame.opcode is Opcode.TEXT
                if frame.fin:
                    self._message(bytes(frame.data))
                else:
                    self._fragments = [bytes(frame.data)]
            case Opcode.CONT:
                assert self._fragments is not None
                if frame.data:  # empty ones count for no size, so they may not be kept
                    self._fragments.append(bytes(frame.data))
                if frame.fin:
                    fragments, self._fragments = self._fragments, None
                    self._message(b"".join(fragments))
        # The parser's frame keeps the last one until the next comes: not with its octets.
        frame.data = b""

    def _message(self, data: bytes) -> None:
        if self._text and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError as exc:
                self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)
                return
        if self.handler is not None:
            self.handler.on_message(data)

    def _fail(self, code: CloseCode, reason: str, exc: Exception) -> None:
        exc.__traceback__ = None  # its frames would keep the connection
        self._failure = exc
        if self._protocol is not None:
            self._protocol.fail(code, reason)

    def _flush(self) -> None:
        """Hand over everything that is to be sent, in one write."""
        protocol = self._protocol
        if protocol is None:
            return
        writes = protocol.data_to_send()
        if writes:
            data = writes[0] if len(writes) == 1 else b"".join(writes)
            if len(data) + (0 if self.writable else self.buffered) > self._options.max_buffered:
                self._too_slow()
                return
            if data:
                self.transport.write(data)
            if not writes[-1]:  # SEND_EOF: our part is over
                self._set_timer(0, None)
                self.transport.close()
                return
        if self._timer is None and protocol.close_expected():
            self._set_timer(self._options.close_timeout, self._close_expired)

    def _too_slow(self) -> None:
        self._failure = PeerTooSlow(f"more than {self._options.max_buffered} octets are not read by the peer")
        self.transport.abort()

    def _close_expired(self) -> None:
        self._failure = TimeoutError(
            f"the peer did not end the closing handshake in {self._options.close_timeout:g} s"
        )
        self.transport.abort()

    def _set_timer(self, delay: float, callback: Callable[[], None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, callback) if callback else None
