"""The Console's HTTPS listener: API and pages on the transport that the Defenders' channel uses too."""

import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from common.certificates import CertificateSet, Role, server_context
from common.clock import Clock
from common.transport import FailureKind, Generation, Limits
from console.api import make_runner
from console.door import Door

CLOSE_SECONDS: Final = 5.0

# Browsers open connections ahead of need and drop them, and refuse our certificate until somebody trusts it:
# that is their user's business, not news for an operator.
EVERYDAY: Final = frozenset(
    {FailureKind.TIMEOUT, FailureKind.ALERT_UNKNOWN_CA, FailureKind.ALERT_BAD_CERTIFICATE}
)

# Whoever can reach the port can hold connections open, and each takes a file descriptor that a Defender may
# need. A page holds one or two.
LIMITS: Final = Limits(max_connections=1000, max_per_address=250)


class HTTPSServer:
    """Serves an application by HTTPS.

    Args:
        app: What answers.
        clock: Of this host.
    """

    def __init__(self, app: web.Application, clock: Clock) -> None:
        self._runner = make_runner(app)
        self._door: Door[Generation] = Door("HTTPS", clock, quiet=EVERYDAY, limits=LIMITS)

    @property
    def port(self) -> int:
        """The port that clients come to."""
        return self._door.port

    def use(self, certificates: CertificateSet) -> None:
        """Answer the next ClientHello with this set.

        Raises:
            CertificateSetError: OpenSSL refuses the set; the one before stays.
        """
        assert certificates.role is Role.HTTPS_SERVER
        self._door.generation = Generation(certificates.fingerprint, server_context(certificates))

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on these bound sockets. `use` must have been called."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        await self._door.open(sockets, server)

    async def close(self) -> None:
        """Stop accepting, let requests end with a bound."""
        self._door.shut()
        await self._runner.cleanup()
        await self._door.close(CLOSE_SECONDS)
