"""An asyncio transport over TLS on the socket: a non-blocking SSLSocket on the loop's readers and writers.

No SSLProtocol, no MemoryBIO and no buffer per connection: an idle connection costs OpenSSL's state and one
small object (asyncio's own TLS: 298 KiB; here 21, see performance.md). OpenSSL writes its alerts to the
socket itself, so a peer that is refused learns why.

How a connection ends:

- `close()` stops reading, flushes what is queued, sends close_notify and FIN, then drains what the peer still
  sends until it closes too, both bounded. Without the drain the kernel would answer those octets with a
  reset, and the reset would overtake our last words.
- `abort()` closes at once; the peer sees a truncated stream.
- The peer's close_notify is `eof_received()`, whose result is ignored: TLS here has no half-close. What is
  queued is flushed, then the connection closes; `connection_lost(None)`.
- An end without close_notify is a truncation, which an attacker can cause:
  `connection_lost(ssl.SSLEOFError)`, without `eof_received()`.
- An alert, or an octet that does not decrypt: `connection_lost(ssl.SSLError)`; `classify` names it. That
  includes a TLS 1.3 server that refuses our certificate, which it does after our side of the handshake is
  over.

`connection_lost` is called exactly once, from the loop, when nothing of the connection is left but its
socket.
"""

import asyncio
import errno
import ssl
from collections.abc import Callable, Iterable
from socket import SHUT_WR
from typing import Any, Final

from common.transport.client_hello import ClientHello
from common.transport.failures import bare, classify
from common.transport.generation import Generation
from common.transport.sockets import (
    discard,
    has_ended,
    is_edge_triggered,
    octets_waiting,
    watch_reader,
    watch_writer,
)
from common.transport.tls_facts import socket_fact
from common.transport.tls_parts import (
    HIGH_WATER,
    LINGER_OCTETS,
    LOW_WATER,
    MAX_DATALESS,
    READS_PER_TURN,
    WRITES_PER_TURN,
    Owner,
    State,
    buffer_of,
)
from common.transport.write_queue import RECORD, WriteQueue

_OWN_FACTS: Final = {"peername": "_peer", "generation": "_generation", "client_hello": "_hello"}


class TLSTransport(asyncio.Transport):
    """One established TLS connection.

    Made by a `Listener` or by `connect`. Not safe to use from other threads, like any asyncio transport.

    Args:
        loop: The running loop.
        sock: Non-blocking, its handshake done, with `suppress_ragged_eofs=False`.
        protocol: What gets the data; `asyncio.BufferedProtocol`, too.
        peer: What `accept` or `getpeername` returned.
        generation: The listener generation it was made on; None for a client.
        hello: The ClientHello that began it; None for a client.
        owner: Told when it has ended.
        shutdown_timeout: Seconds from `close()` until what is queued must be written.
        linger_timeout: Seconds to drain after that.
        write_stall: Seconds that the peer may take nothing of what is queued; then it is lost.
    """

    __slots__ = (
        *("_dataless", "_drained", "_edge_triggered", "_fd", "_generation", "_hello", "_high"),
        *("_linger_timeout", "_loop", "_low", "_owner", "_paused", "_peer", "_peer_ended", "_protocol"),
        *("_queue", "_read_wants_write", "_shutdown_timeout", "_sock", "_state", "_timer", "_write_paused"),
        *("_write_stall", "_write_wants_read", "_writer", "_wrote_at"),
        "__weakref__",
    )

    # Raised, not returned: loop.sendfile() reads this attribute, and NotImplementedError is what tells its
    # callers (aiohttp) to copy the file through write(), as loops without sendfile do. TLS cannot be sent
    # by the kernel.
    @property
    def _sendfile_compatible(self) -> Any:
        raise NotImplementedError("no sendfile through TLS")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: ssl.SSLSocket,
        protocol: asyncio.BaseProtocol,
        *,
        peer: Any = None,
        generation: Generation | None = None,
        hello: ClientHello | None = None,
        owner: Owner | None = None,
        shutdown_timeout: float = 30.0,
        linger_timeout: float = 2.0,
        write_stall: float = 60.0,
    ) -> None:
        # BaseTransport's dictionary of extra information is not made.
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._edge_triggered = is_edge_triggered(loop)
        # Any: a Protocol or a BufferedProtocol, None once the connection is lost.
        self._protocol: Any = protocol
        self._peer = peer
        self._generation = generation
        self._hello = hello
        self._owner = owner
        self._shutdown_timeout = shutdown_timeout
        self._linger_timeout = linger_timeout
        self._write_stall = write_stall
        self._wrote_at = 0.0
        self._dataless = 0
        self._state = State.OPEN
        self._queue: WriteQueue | None = None
        self._drained = 0
        self._high = HIGH_WATER
        self._low = LOW_WATER
        self._paused = False
        self._write_paused = False
        self._writer = False
        self._read_wants_write = False
        self._write_wants_read = False
        self._peer_ended = False
        self._timer: asyncio.TimerHandle | None = None
        if generation is not None:
            generation.connections.add(self)

    def start(self) -> None:
        """Tell the protocol of its connection and begin to read; called once, by the maker."""
        self._guarded(self._protocol.connection_made, self)
        if self._state is State.OPEN and not self._paused:
            watch_reader(self._loop, self._fd, self._read_ready)

    def __repr__(self) -> str:
        return f"<TLSTransport fd={self._fd} {self._state.name.lower()} peer={self._peer}>"

    # About the connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's, plus `peer_chain` (DER, leaf first), `generation`, `client_hello` and `alpn`.

        What OpenSSL alone knows is gone once the connection has closed.
        """
        own = _OWN_FACTS.get(name)
        value = getattr(self, own) if own else socket_fact(self._sock, name)
        return default if value is None else value

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that gets the data."""
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        """Whether close() or abort() was called, or the connection is lost."""
        return self._state is not State.OPEN

    # Reading

    def is_reading(self) -> bool:
        """Whether data may be received."""
        return not self._paused and self._state is State.OPEN

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`; idempotent."""
        if not self.is_reading():
            return
        self._paused = True
        if not self._write_wants_read:
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Deliver again; idempotent."""
        if self._state is not State.OPEN or not self._paused:
            return
        self._paused = False
        watch_reader(self._loop, self._fd, self._read_ready)
        if self._sock.pending():
            # Decrypted already: the socket will not report it.
            self._loop.call_soon(self._read_ready)

    def _read_ready(self) -> None:
        if self._write_wants_read:
            self._write_wants_read = False
            self._write_ready()
        for _ in range(READS_PER_TURN):
            if not self.is_reading():
                # Registered for the sake of a write only; or paused a moment ago.
                if self._state <= State.FLUSHING and not self._write_wants_read:
                    self._loop.remove_reader(self._fd)
                return
            if not self._read_record():
                return
        if self.is_reading() and (self._sock.pending() or self._is_last_call()):
            self._loop.call_soon(self._read_ready)

    def _is_last_call(self) -> bool:
        """Whether the loop may not report again what is not read now; see `is_edge_triggered`."""
        return self._edge_triggered and has_ended(self._sock)

    def _read_record(self) -> bool:
        """Read and deliver once; whether there may be more at once."""
        protocol = self._protocol
        buffer: Any = None
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = self._guarded(buffer_of, protocol)
        try:
            if buffer is None:
                # A whole record's worth leaves nothing decrypted inside OpenSSL.
                data = self._sock.read(RECORD)
                count = len(data)
            else:
                data = b""
                count = self._sock.read(len(buffer), buffer)  # type: ignore[assignment]
        except ssl.SSLWantReadError:
            return self._nothing_read()
        except ssl.SSLWantWriteError:
            # A KeyUpdate is to be answered (RFC 8446 §4.6.3) and the kernel's buffer is full. What else has
            # come would be reported without end.
            self._read_wants_write = True
            if not self._write_wants_read:
                self._loop.remove_reader(self._fd)
            self._want_writer()
            return False
        except OSError as exc:
            self._lose(bare(exc))
            return False
        if not count:
            self._end_received()
            return False
        self._dataless = 0
        if buffer is None:
            self._guarded(protocol.data_received, data)
        else:
            self._guarded(protocol.buffer_updated, count)
        # After a short read the kernel has nothing more, as a rule: asking would cost a call and an
        # exception.
        return self._state is State.OPEN and (
            count == RECORD or self._sock.pending() > 0 or self._is_last_call()
        )

    def _nothing_read(self) -> bool:
        """After a read without data; whether to read on.

        There was nothing, or a part of a record, or a record without data, after which a context without
        SSL_MODE_AUTO_RETRY ends the read (docs/decisions/0008). OpenSSL takes all that is there of a record,
        so octets that wait tell that it was the last of these.
        """
        if not octets_waiting(self._fd):
            return self._is_last_call()
        self._dataless += 1
        if self._dataless <= MAX_DATALESS:
            return True
        reason = f"more than {MAX_DATALESS} TLS records without data in a row"
        self._lose(ConnectionAbortedError(errno.ECONNABORTED, reason))
        return False

    def _end_received(self) -> None:
        self._peer_ended = True
        self._guarded(self._protocol.eof_received)
        self.close()

    def _guarded(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Call the protocol; if it fails, the connection is aborted, and the loop reports the exception."""
        try:
            return callback(*args)
        except BaseException as exc:
            self._lose(exc if isinstance(exc, Exception) else None)
            raise

    # Writing

    def can_write_eof(self) -> bool:
        """False: TLS has no half-close here."""
        return False

    def write_eof(self) -> None:
        """Not supported; see `can_write_eof`."""
        raise NotImplementedError("no half-close through TLS; close() flushes")

    def get_write_buffer_size(self) -> int:
        """Octets that are queued."""
        return self._queue.size if self._queue is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water in octets."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to call pause_writing (above `high`) and resume_writing (at `low` or below); as asyncio's."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low
        self._pause_writer()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or queue, these octets; after close() or a loss they are dropped, as asyncio's do."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        view = memoryview(data)
        if not view.contiguous:
            data = bytes(data)
        if self._state is not State.OPEN or not view.nbytes:
            return
        # The usual case is one record into an empty queue: nothing is kept of it.
        sent = self._send(data) if self._queue is None and view.nbytes <= RECORD else 0
        if sent == view.nbytes or self._state is not State.OPEN:
            return
        if self._queue is None:
            self._queue = WriteQueue()
        blocked = self._writer or self._write_wants_read
        self._queue.append(view.cast("B")[sent:] if sent else data)
        if not blocked:
            self._flush()
        self._pause_writer()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send these as if they were one."""
        self.write(b"".join(list_of_data))

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """Octets that OpenSSL took; 0 if it could not write, with what it waits for arranged."""
        try:
            return self._sock.send(data)
        except ssl.SSLWantWriteError:
            self._want_writer()
        except ssl.SSLWantReadError:
            self._write_wants_read = True
            watch_reader(self._loop, self._fd, self._read_ready)
        except OSError as exc:
            self._lose(bare(self._cause(exc)))
        return 0

    def _cause(self, exc: OSError) -> OSError:
        """Why a write failed: an alert that has arrived says more than "broken pipe"."""
        for _ in range(READS_PER_TURN):
            try:
                if not self._sock.read(RECORD):
                    return exc
            except ssl.SSLError as alert:
                return alert if classify(alert).is_alert else exc
            except OSError:
                return exc
        return exc

    def _flush(self) -> None:
        for _ in range(WRITES_PER_TURN):
            if self._queue is None:
                return
            sent = self._send(self._queue.chunk())
            if not sent:
                return
            self._queue.consume(sent)
            self._wrote_at = self._loop.time()
            if not self._queue.size:
                self._queue = None  # an idle connection keeps no queue
        if self._queue is not None:
            self._want_writer()

    def _want_writer(self) -> None:
        if not self._writer:
            self._writer = True
            watch_writer(self._loop, self._fd, self._write_ready)
            self._wrote_at = self._loop.time()
            if self._timer is None:
                # Not cancelled when the queue is empty: whoever is slow once is so again, as a rule.
                self._timer = self._loop.call_later(self._write_stall, self._check_stall)

    def _check_stall(self) -> None:
        self._timer = None
        if not self._writer:
            return
        left = self._wrote_at + self._write_stall - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_stall)
        else:
            self._lose(TimeoutError(f"the peer took nothing for {self._write_stall:g} s"))

    def _drop_writer(self) -> None:
        if self._writer:
            self._writer = False
            self._loop.remove_writer(self._fd)

    def _write_ready(self) -> None:
        if self._queue is not None:
            self._flush()
        if self._queue is None or self._write_wants_read:
            self._drop_writer()
        if self._read_wants_write:
            self._read_wants_write = False
            if self.is_reading():
                watch_reader(self._loop, self._fd, self._read_ready)
            self._loop.call_soon(self._read_ready)
        if self._write_paused and self.get_write_buffer_size() <= self._low and self._state < State.LINGERING:
            self._write_paused = False
            self._guarded(self._protocol.resume_writing)
        if self._state is State.FLUSHING and self._queue is None:
            self._shut_down()

    def _pause_writer(self) -> None:
        if self.get_write_buffer_size() > self._high and not self._write_paused and self._state is State.OPEN:
            self._write_paused = True
            self._guarded(self._protocol.pause_writing)

    # Ending

    def close(self) -> None:
        """Flush, say close_notify, drain, close; bounded by the shutdown and linger timeouts. Idempotent."""
        if self._state is not State.OPEN:
            return
        self._state = State.FLUSHING
        if self._queue is None:
            self._shut_down()  # as a rule it succeeds: no timer and no other reader in between
        if self._state is State.FLUSHING:
            if not self._write_wants_read:
                self._loop.remove_reader(self._fd)
            self._cancel_timer()
            self._timer = self._loop.call_later(self._shutdown_timeout, self._flush_expired)

    def abort(self) -> None:
        """Close at once; what is queued is dropped, and the peer sees a truncated stream. Idempotent."""
        self._lose(None)

    def _flush_expired(self) -> None:
        self._lose(TimeoutError(f"the peer took nothing for {self._shutdown_timeout:g} s after close()"))

    def _shut_down(self) -> None:
        try:
            self._sock.unwrap()
        except ssl.SSLWantWriteError:
            self._want_writer()
            return
        except (OSError, ValueError):
            # SSLWantReadError: ours is sent, the peer's is due. Anything else: there is nobody to send it to.
            pass
        self._drop_writer()
        if not self._peer_ended:
            try:
                self._sock.shutdown(SHUT_WR)  # from here on the SSLSocket is a plain one
            except OSError:
                self._peer_ended = True
        if self._peer_ended:
            self._lose(None)  # the close ends our side, too
        else:
            self._linger()

    def _linger(self) -> None:
        self._state = State.LINGERING
        self._cancel_timer()
        self._timer = self._loop.call_later(self._linger_timeout, self._lose, None)
        watch_reader(self._loop, self._fd, self._drain)

    def _drain(self) -> None:
        count = discard(self._sock)
        self._drained += count or 0
        if count is None or self._drained > LINGER_OCTETS:
            self._lose(None)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lose(self, exc: Exception | None) -> None:
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self._cancel_timer()
        self._drop_writer()
        self._loop.remove_reader(self._fd)
        self._queue = None
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        try:
            protocol.connection_lost(exc)
        finally:
            self._sock.close()
            if self._generation is not None:
                self._generation.connections.discard(self)
            if self._owner is not None:
                self._owner.connection_ended(self)
                self._owner = None
