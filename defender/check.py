"""One connection to the Console that proves both directions of TLS, and changes nothing on either side.

The first message of a Console comes after it has accepted our certificate (in TLS 1.3 the handshake alone
doesn't show that), so its Challenge is the proof. No Hello is sent unless asked for: it would end the session
of a Defender that runs beside this, and make a new Defender known to the Console.
"""

import asyncio
from dataclasses import dataclass

from common.protocol import Order, ReconnectAsked, Welcome, leaf_digest
from common.protocol.messages import Challenge, decode_from_console
from common.transport import WebSocketConnection
from defender.causes import Cause, Failure
from defender.classify import close_failure
from defender.connection import Dialer, Link, console_certificate
from defender.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Proof:
    """What a connection showed.

    Attributes:
        leaf: SHA-256 of the Console's certificate, hex.
        version: The Console's version.
    """

    leaf: str
    version: str


class _Probe:
    """A WebSocket's handler that waits for the Console's first message."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Proof | Failure] = asyncio.get_running_loop().create_future()
        self._leaf = ""

    def on_open(self, connection: WebSocketConnection) -> None:
        self._leaf = leaf_digest(console_certificate(connection)).hex()

    def on_message(self, data: bytes) -> None:
        message = decode_from_console(data)
        if isinstance(message, Challenge):
            self._settle(Proof(self._leaf, message.version))
        else:
            self._settle(Failure(Cause.NOT_A_CONSOLE, "what answered does not begin as a Console does"))

    def on_writable(self) -> None:
        pass

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        self._settle(close_failure(code, reason, exc, welcomed=False))

    def _settle(self, outcome: Proof | Failure) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


async def prove(dialer: Dialer, credentials: Credentials, *, patience: float) -> Proof | Failure:
    """Connect once, up to the Console's Challenge.

    Args:
        dialer: To where.
        credentials: With what.
        patience: Seconds that the upgrade and the Challenge may take after TLS.
    """
    probe = _Probe()
    connection = await dialer.dial(credentials.context, probe)
    if isinstance(connection, Failure):
        return connection
    try:
        async with asyncio.timeout(patience):
            return await probe.outcome
    except TimeoutError:
        return Failure(Cause.NOT_A_CONSOLE, "what answered speaks TLS, but not as a Console does")
    finally:
        connection.abort()


class Bystander:
    """The observer of a link that is opened only to be welcomed."""

    def on_welcome(self, link: Link, welcome: Welcome) -> None:
        """Nothing follows."""

    def on_room(self, link: Link) -> None:
        """Nothing is posted."""

    def on_acknowledged(self, link: Link, epoch: str, through: int) -> None:
        """Nothing was posted."""

    def on_heartbeat(self, link: Link) -> None:
        """It goes on."""

    def on_order(self, link: Link, command_id: str, order: Order) -> None:  # noqa: ARG002 - the protocol's
        """Nothing is done for the moment that this lasts."""
        link.answer(command_id, ok=False, error="busy")

    def on_move(self, link: Link, asked: ReconnectAsked) -> None:
        """It ends anyway."""
