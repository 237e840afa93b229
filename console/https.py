"""The Console's HTTPS listener: API and pages on the transport that the Defenders' channel uses too."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from common.certificates import CertificateSet, Role, server_context
from common.clock import Clock
from common.transport import FailureKind, Limits
from console.api import KEEP_ALIVE, is_answering, make_runner
from console.door import Door
from console.turnover import HTTPS_DRAIN_SECONDS, Drain, DrainBounds, HTTPSGeneration

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0

# Browsers open connections ahead of need and drop them, and refuse our certificate until somebody trusts it:
# that is their user's business, not news for an operator.
EVERYDAY: Final = frozenset(
    {FailureKind.TIMEOUT, FailureKind.ALERT_UNKNOWN_CA, FailureKind.ALERT_BAD_CERTIFICATE}
)

# Whoever can reach the port can hold connections open, and each takes a file descriptor that a Defender may
# need. A page holds one or two.
LIMITS: Final = Limits(max_connections=1000, max_per_address=250)

BOUNDS: Final = DrainBounds(
    # A sweep ends them, so up to one later than their time-out.
    handshakes=LIMITS.handshake_timeout + LIMITS.sweep,
    requests=HTTPS_DRAIN_SECONDS,
    waiting=KEEP_ALIVE + 60.0,
)
LOOK_SECONDS: Final = 0.5
"""How often replaced generations are looked at: the grain of their bounds."""


class HTTPSServer:
    """Serves an application by HTTPS.

    Args:
        app: What answers.
        clock: Of this host.
        bounds: What connections made before a swap are given after it.
    """

    def __init__(self, app: web.Application, clock: Clock, *, bounds: DrainBounds = BOUNDS) -> None:
        self._runner = make_runner(app)
        self._door: Door[HTTPSGeneration] = Door("HTTPS", clock, quiet=EVERYDAY, limits=LIMITS)
        self._bounds = bounds
        self._certificates: CertificateSet | None = None
        self._drains: list[Drain] = []
        self._look_handle: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def port(self) -> int:
        """The port that clients come to."""
        return self._door.port

    @property
    def certificates(self) -> CertificateSet | None:
        """What the next ClientHello is answered with."""
        return self._certificates

    @property
    def draining(self) -> int:
        """Connections that were made with certificates which have been replaced since."""
        return sum(drain.left for drain in self._drains)

    def use(self, certificates: CertificateSet) -> None:
        """Answer the next ClientHello with this set; nothing if it is what we answer with already.

        Who is connected keeps that connection for as long as `console.turnover` says.

        Raises:
            CertificateSetError: OpenSSL refuses the set; the one before stays.
        """
        assert certificates.role is Role.HTTPS_SERVER
        before = self._door.generation
        if before is not None and before.name == certificates.fingerprint:
            self._certificates = certificates  # it may come from another source
            return
        self._door.generation = HTTPSGeneration(certificates.fingerprint, server_context(certificates))
        self._certificates = certificates
        if before is not None:
            before.replace(asyncio.get_running_loop().time())
            self._drains.append(Drain(before, self._bounds))
            self._look_later()

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on these bound sockets. `use` must have been called."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        await self._door.open(sockets, server)

    async def close(self) -> None:
        """Stop accepting, let requests end with a bound."""
        self._closing = True
        if self._look_handle is not None:
            self._look_handle.cancel()
        self._door.shut()
        await self._runner.cleanup()
        await self._door.close(CLOSE_SECONDS)

    def _look_later(self) -> None:
        if self._look_handle is None and not self._closing:
            self._look_handle = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """End what has had its time, and say which generations are done with."""
        self._look_handle = None
        now = asyncio.get_running_loop().time()
        for drain in self._drains:
            for transport in drain.due(now, is_answering):
                transport.abort()
            if drain.over(now):
                logger.info("%s", drain.line(now))
        self._drains = [drain for drain in self._drains if not drain.over(now)]
        if self._drains:
            self._look_later()
