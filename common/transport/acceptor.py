"""Accepting from listening sockets, through every fault that accept(2) has."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from common.transport.failures import describe

logger = logging.getLogger(__name__)

ACCEPTS_PER_TURN: Final = 64
EXHAUSTED_PAUSE: Final = 0.5
"""Seconds without accepting after the kernel, or our limit of file descriptors, had no room."""

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Listening sockets on the loop.

    Args:
        loop: The running loop.
        sockets: Listening and non-blocking.
        accepted: Called with each new connection, non-blocking, and its peer's address.
        may_accept: Asked before each; where it says no, the kernel's backlog holds them until `resume`.
        make_room: Asked when there are no file descriptors left; whether it has closed one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        *,
        accepted: Callable[[socket.socket, Any], None],
        may_accept: Callable[[], bool],
        make_room: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._accepted = accepted
        self._may_accept = may_accept
        self._make_room = make_room
        self._running = False
        self._closed = False
        self._exhausted = False
        self._pause: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Accept from now on; idempotent, and without effect on a pause that the kernel forced."""
        if not (self._running or self._closed or self._pause):
            self._running = True
            for sock in self._sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def pause(self) -> None:
        """Leave new connections to the kernel; idempotent."""
        if self._running:
            self._running = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def close(self) -> None:
        """Close the sockets; idempotent."""
        self.pause()
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for sock in self._sockets:
            sock.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._may_accept():
                self.pause()
                return
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _EXHAUSTED and not self._make_room():
                    self._wait_for_room(exc)
                    return
                # There is room now; or it was ECONNABORTED, EPROTO or the like, which concern that one
                # connection only (accept(2)).
                continue
            self._exhausted = False
            sock.setblocking(False)
            self._accepted(sock, peer)

    def _wait_for_room(self, exc: OSError) -> None:
        if not self._exhausted:  # once, until one is accepted again
            self._exhausted = True
            logger.error(
                "Cannot accept connections: %s; raise the limit (ulimit -n) or lower the load", describe(exc)
            )
        self.pause()
        self._pause = self._loop.call_later(EXHAUSTED_PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self.resume()
