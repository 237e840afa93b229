"""A port of the Console: its listener, the certificates it answers with, and what it says of failures."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from common.clock import Clock
from common.transport import (
    ClientHello,
    FailureKind,
    Generation,
    HandshakeFailure,
    Limits,
    Listener,
    ListenerStats,
)
from console.failures import FailureLog

logger = logging.getLogger(__name__)

G = TypeVar("G", bound=Generation)


class Door(Generic[G]):
    """One listening port. A swap of certificates is one assignment (D3): see `generation`.

    Args:
        name: For log lines: what the port is for.
        clock: Of this host.
        quiet: Kinds of failures that are everyday business here, and no news for an operator.
        limits: What the listener takes on at a time.

    Attributes:
        generation: What the next ClientHello is answered with.
        failures: Connections that did not come to be, by kind.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        quiet: frozenset[FailureKind] = frozenset(),
        limits: Limits | None = None,
    ) -> None:
        self.generation: G | None = None
        self.failures: Counter[str] = Counter()
        self._name = name
        self._clock = clock
        self._quiet = quiet
        self._limits = limits or Limits()
        self._log = FailureLog()
        self._quiet_log = FailureLog()
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that peers come to."""
        assert self._listener is not None
        return self._listener.port

    @property
    def stats(self) -> ListenerStats | None:
        """What its listener has seen so far; None before `open`."""
        return None if self._listener is None else self._listener.stats

    async def open(
        self, sockets: Sequence[socket.socket], protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """Accept on these bound sockets; `protocol` makes one for each. `generation` must have been set."""
        self._listener = await Listener.start(
            sockets=sockets,
            select=self._select,
            protocol_factory=protocol,
            limits=self._limits,
            on_failure=self._failed,
        )

    def shut(self) -> None:
        """Stop accepting; what is connected stays."""
        if self._listener is not None:
            self._listener.close()

    async def close(self, seconds: float) -> None:
        """Wait for the connections to end, and end those that are left after `seconds`."""
        if self._listener is not None:
            await self._listener.wait_closed(seconds)

    def _select(self, _hello: ClientHello) -> Generation:
        assert self.generation is not None
        return self.generation

    def _failed(self, failure: HandshakeFailure) -> None:
        self.failures[failure.kind] += 1
        if failure.kind is FailureKind.RESET or failure.kind in self._quiet:
            # A reset before anything was said is a port scan, or a load balancer that looks whether we live.
            level, log = logging.DEBUG, self._quiet_log
        else:
            level, log = logging.WARNING, self._log
        line = log.line(failure, self._clock.monotonic())
        if line is not None:
            logger.log(level, "%s: %s", self._name, line)
