"""A listening socket whose connections get their certificates when their ClientHello is there.

accept → peek → complete ClientHello → `select(hello)` → that generation's context → handshake → transport.
A swap of certificates is what `select` returns from now on: nothing is re-bound, nothing is dropped, and
whoever is connected keeps what he has (D3). Who does a step next, and who has to go, is `Admission`'s
decision (D5).

Peeking does not spin: SO_RCVLOWAT has the kernel wake us when the next length we know of is there (plain
peeking was measured at 241,000 callbacks a second), and goes back to 1 before the handshake.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from common.openssl import end_reads_at_records
from common.transport.acceptor import Acceptor
from common.transport.admission import Admission, Limits, Stage
from common.transport.client_hello import (
    MAX_PEEK,
    ClientHello,
    NeedMore,
    NotClientHello,
    Spoken,
    parse_client_hello,
)
from common.transport.crowd import Crowd
from common.transport.failures import FailureKind, HandshakeFailure, classify, describe
from common.transport.generation import Generation
from common.transport.pending import LAST_WORDS, Pending, mutual_fault
from common.transport.sockets import (
    address_group,
    bind,
    discard,
    has_ended,
    listen,
    peer_text,
    wake_at,
    watch_reader,
    watch_writer,
)
from common.transport.tls import TLSTransport
from common.transport.tls_parts import LINGER_OCTETS

_KNOWN_HELLOS: Final = 256

Select = Callable[[ClientHello], Generation]


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """What a listener has seen so far.

    Attributes:
        accepted: TCP connections.
        handshakes: Those that became TLS connections.
        failures: Those that did not, by kind.
        evicted: Those among them that had to make room.
        pending: Those that are not decided yet.
        connections: Those established that live.
    """

    accepted: int
    handshakes: int
    failures: Mapping[FailureKind, int]
    evicted: int
    pending: int
    connections: int


class Listener:
    """Accepts TLS connections on one address; made by `start`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: tuple[socket.socket, ...],
        *,
        select: Select,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        limits: Limits,
        on_failure: Callable[[HandshakeFailure], None] | None,
    ) -> None:
        self._loop = loop
        self.sockets = sockets
        # Of the first socket; known after close(), too.
        self.port: int = sockets[0].getsockname()[1]
        self._select = select
        self._protocol_factory = protocol_factory
        self._limits = limits
        self._on_failure = on_failure
        self._admission = Admission(limits)
        self._crowd = Crowd(limits)
        self._pending: dict[int, Pending] = {}
        self._connections: set[TLSTransport] = set()
        self._hellos: dict[ClientHello, ClientHello] = {}
        self._accepted = 0
        self._handshakes = 0
        self._evicted = 0
        self._failures: Counter[FailureKind] = Counter()
        self._acceptor = Acceptor(
            *(loop, sockets),
            accepted=self._arrived,
            may_accept=lambda: not self._admission.full(loop.time()),
            make_room=self._make_room,
        )
        self._closed = False
        self._turn_handle: asyncio.Handle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._ended: asyncio.Event = asyncio.Event()

    @classmethod
    async def start(
        cls,
        host: str | None = None,
        port: int = 0,
        *,
        select: Select,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        limits: Limits | None = None,
        on_failure: Callable[[HandshakeFailure], None] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> Self:
        """Bind and begin to accept.

        Args:
            host: An address or a name; None for all addresses of both families.
            port: 0 lets the system choose.
            select: Called with each complete ClientHello; its answer is the connection's generation.
            protocol_factory: Called for each established connection.
            limits: What to take on at a time.
            on_failure: Told of each connection that did not come to be.
            sockets: Bound sockets (`bind`) to listen on instead of `host` and `port`.

        Raises:
            ListenError: if the port is taken, not permitted, or the address is not ours.
        """
        limits = limits or Limits()
        sockets = tuple(sockets) or tuple(await bind(host, port))
        listen(sockets, limits.backlog)
        listener = cls(
            asyncio.get_running_loop(),
            sockets,
            select=select,
            protocol_factory=protocol_factory,
            limits=limits,
            on_failure=on_failure,
        )
        listener._acceptor.resume()
        return listener

    @property
    def connections(self) -> frozenset[TLSTransport]:
        """The established connections that live."""
        return frozenset(self._connections)

    @property
    def stats(self) -> ListenerStats:
        """What it has seen so far."""
        return ListenerStats(
            accepted=self._accepted,
            handshakes=self._handshakes,
            failures=dict(self._failures),
            evicted=self._evicted,
            pending=len(self._admission),
            connections=len(self._connections),
        )

    def close(self) -> None:
        """Stop accepting and drop the unfinished handshakes; live connections stay. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._acceptor.close()
        for key in list(self._pending):
            self._leave(key)
        for handle in (self._turn_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()
        self._turn_handle = self._sweep_handle = None
        self._check_ended()

    async def wait_closed(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - it ends in an abort
        """Wait until the live connections have ended; after `timeout` seconds they are aborted."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            for transport in self.connections:
                transport.abort()
            await self._ended.wait()

    def connection_ended(self, transport: TLSTransport) -> None:
        """Called by a transport of ours (`tls.Owner`)."""
        self._connections.discard(transport)
        self._crowd.leave(transport.get_extra_info("peername"))
        self._check_ended()

    def _check_ended(self) -> None:
        if self._closed and not self._connections:
            self._ended.set()

    # Arrivals

    def _arrived(self, sock: socket.socket, peer: Any) -> None:
        self._accepted += 1
        if objection := self._crowd.objection(peer):
            sock.close()
            self._report(Pending(sock, peer), FailureKind.TOO_MANY, objection)
            return
        key = sock.fileno()
        victim = self._admission.arrive(key, address_group(peer), self._loop.time())
        if victim is not None:
            self._evict(victim)
        self._pending[key] = Pending(sock, peer)
        # A header of the PROXY protocol v2 would be read here, before the peek, and only from named peers;
        # its address then is the one that `arrive` counts.
        self._peek(key)
        self._arm_sweep()

    def _make_room(self) -> bool:
        victim = self._admission.make_room(self._loop.time())
        if victim is not None:
            self._evict(victim)
        return victim is not None

    def _evict(self, key: int) -> None:
        pending = self._close(key)
        if not pending.refused:
            self._evicted += 1
            self._report(pending, FailureKind.EVICTED, "made room for newer connections")

    # The ClientHello

    def _peek(self, key: int) -> None:
        pending = self._pending[key]
        try:
            data = pending.sock.recv(max(4096, pending.needed), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._peek_later(key, pending)
            return
        except OSError as exc:
            self._fail(key, classify(exc), describe(exc))
            return
        if not data:
            self._fail(key, FailureKind.RESET, "closed without a word")
            return
        match parse_client_hello(data):
            case NeedMore(total):
                self._await(key, pending, len(data), min(total, MAX_PEEK))
            case NotClientHello(spoken, reason):
                self._answer(key, spoken, reason)
            case hello:
                self._hello_complete(key, pending, hello)

    def _await(self, key: int, pending: Pending, peeked: int, needed: int) -> None:
        if has_ended(pending.sock):
            self._fail(key, FailureKind.RESET, "closed within its ClientHello")
            return
        if peeked == pending.peeked:
            # Woken for nothing (a kernel short of memory does so): look again at the next sweep, do not spin.
            self._loop.remove_reader(key)
            pending.peeked, pending.parked = 0, True
            return
        pending.peeked, pending.needed = peeked, needed
        wake_at(pending.sock, needed)
        self._peek_later(key, pending)

    def _peek_later(self, key: int, pending: Pending) -> None:
        pending.watched = True
        watch_reader(self._loop, key, self._peek, key)

    def _hello_complete(self, key: int, pending: Pending, hello: ClientHello) -> None:
        if pending.watched:  # as a rule all of it is there at the first look
            self._loop.remove_reader(key)
        if pending.needed:
            wake_at(pending.sock, 1)
        pending.hello = self._intern(hello)
        self._admission.hello(key)
        self._arm_turn()

    def _intern(self, hello: ClientHello) -> ClientHello:
        """One object for all that say the same: a fleet does, and each connection keeps its ClientHello."""
        if len(self._hellos) >= _KNOWN_HELLOS:
            self._hellos.clear()
        return self._hellos.setdefault(hello, hello)

    def _answer(self, key: int, spoken: Spoken, reason: str) -> None:
        pending = self._pending[key]
        kind = FailureKind.OTHER if spoken is Spoken.BAD_TLS else FailureKind.NOT_TLS
        with contextlib.suppress(OSError):  # gone already; draining finds out
            pending.sock.send(LAST_WORDS.get(spoken, b""))
        self._refuse(key, kind, reason)

    # Handshakes

    def _arm_turn(self) -> None:
        if self._turn_handle is not None or self._closed:
            return
        delay = self._admission.next_turn(self._loop.time())
        if delay is not None:
            later = self._loop.call_later
            self._turn_handle = later(delay, self._turn) if delay > 0 else self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_handle = None
        keys = deque(self._admission.turn(self._loop.time()))
        try:
            while keys:
                self._step(keys.popleft())
        finally:
            # A callback that fails fails its own connection only.
            for key in keys:
                self._admission.retry(key)
            self._arm_turn()

    def _readable(self, key: int) -> None:
        self._admission.readable(key)
        if isinstance(self._turn_handle, asyncio.TimerHandle):
            # It waits for a slot; this one needs none.
            self._turn_handle.cancel()
            self._turn_handle = None
        self._arm_turn()

    def _step(self, key: int) -> None:
        pending = self._pending[key]
        try:
            tls = pending.tls or self._begin(pending)
            tls.do_handshake()
        except ssl.SSLWantReadError:
            watch_reader(self._loop, key, self._readable, key)
            self._admission.waiting(key, self._loop.time())
        except ssl.SSLWantWriteError:
            watch_writer(self._loop, key, self._writable, key)
            self._admission.waiting(key, self._loop.time())
        except OSError as exc:
            self._handshake_failed(key, exc)
        except BaseException:
            self._fail(key, FailureKind.OTHER, "no listener generation was selected")
            raise
        else:
            self._handshake_done(key, pending, tls)

    def _writable(self, key: int) -> None:
        self._loop.remove_writer(key)
        self._readable(key)

    def _begin(self, pending: Pending) -> ssl.SSLSocket:
        if has_ended(pending.sock):
            # It gave up while it waited for its turn: the half millisecond goes to somebody else.
            raise ConnectionResetError(errno.ECONNRESET, "closed while waiting for its handshake")
        assert pending.hello is not None
        pending.generation = self._select(pending.hello)
        pending.sock = pending.tls = pending.generation.context.wrap_socket(
            *(pending.sock, True, False, False)  # server_side, do_handshake_on_connect, suppress_ragged_eofs
        )
        end_reads_at_records(pending.tls)
        return pending.tls

    def _handshake_failed(self, key: int, exc: OSError) -> None:
        kind = classify(exc)
        if not isinstance(exc, ssl.SSLError) or isinstance(exc, ssl.SSLEOFError):
            self._fail(key, kind, describe(exc))
        else:
            # OpenSSL has written its alert. FIN after it, then drain, or a reset would overtake it.
            self._refuse(key, kind, describe(exc))

    def _handshake_done(self, key: int, pending: Pending, tls: ssl.SSLSocket) -> None:
        generation = pending.generation
        assert generation is not None
        if generation.mutual and (fault := mutual_fault(tls)):
            self._refuse(key, *fault)
            return
        if objection := self._crowd.objection(pending.peer):
            # More of them were on their way than there was room for.
            self._refuse(key, FailureKind.TOO_MANY, objection)
            return
        self._admission.leave(key)
        del self._pending[key]
        self._handshakes += 1
        self._acceptor.resume()
        try:
            protocol = self._protocol_factory()
        except BaseException:
            self._loop.remove_reader(key)
            tls.close()
            raise
        transport = TLSTransport(
            *(self._loop, tls, protocol),
            peer=pending.peer,
            generation=generation,
            hello=pending.hello,
            owner=self,
            shutdown_timeout=self._limits.shutdown_timeout,
            linger_timeout=self._limits.linger_timeout,
            write_stall=self._limits.write_stall,
        )
        self._crowd.join(pending.peer)
        self._connections.add(transport)
        transport.start()

    # Ends

    def _fail(self, key: int, kind: FailureKind, detail: str) -> None:
        self._report(self._leave(key), kind, detail)

    def _refuse(self, key: int, kind: FailureKind, detail: str) -> None:
        """Our last words are said: FIN, then drain the peer's, so that ours arrive."""
        pending = self._pending[key]
        pending.refused = True
        try:
            wake_at(pending.sock, 1)
            pending.sock.shutdown(socket.SHUT_WR)  # an SSLSocket is a plain one from here on
        except OSError:
            pass  # gone already; draining finds out
        self._admission.linger(key, self._loop.time())
        watch_reader(self._loop, key, self._drain, key)
        self._report(pending, kind, detail)

    def _drain(self, key: int) -> None:
        pending = self._pending[key]
        count = discard(pending.sock)
        pending.drained += count or 0
        if count is None or pending.drained > LINGER_OCTETS:
            self._leave(key)

    def _leave(self, key: int) -> Pending:
        self._admission.leave(key)
        return self._close(key)

    def _close(self, key: int) -> Pending:
        pending = self._pending.pop(key)
        self._loop.remove_reader(key)
        self._loop.remove_writer(key)
        pending.sock.close()
        self._acceptor.resume()
        return pending

    def _report(self, pending: Pending, kind: FailureKind, detail: str) -> None:
        self._failures[kind] += 1
        if self._on_failure is not None:
            name = pending.generation.name if pending.generation else None
            failure = HandshakeFailure(kind, peer_text(pending.peer), detail, name)
            # Not here: whatever it does must not break what we are in the middle of.
            self._loop.call_soon(self._on_failure, failure)

    def _arm_sweep(self) -> None:
        if self._sweep_handle is None and len(self._admission) and not self._closed:
            self._sweep_handle = self._loop.call_later(self._limits.sweep, self._sweep)

    def _sweep(self) -> None:
        """One look at all deadlines, rather than a timer for each connection."""
        self._sweep_handle = None
        for key, stage in self._admission.expired(self._loop.time()):
            if stage is Stage.LINGERING:
                self._leave(key)
            elif stage is Stage.SILENT:
                self._fail(key, FailureKind.TIMEOUT, f"no ClientHello in {self._limits.hello_timeout:g} s")
            else:
                self._fail(key, FailureKind.TIMEOUT, f"no handshake in {self._limits.handshake_timeout:g} s")
        for key in [key for key, pending in self._pending.items() if pending.parked]:
            self._pending[key].parked = False
            self._peek(key)
        self._acceptor.resume()  # what was work a moment ago may wait now
        self._arm_sweep()
