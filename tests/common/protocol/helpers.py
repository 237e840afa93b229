"""Both ends of the channel, joined without sockets."""

from collections import deque
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from common.protocol import (
    Claims,
    Close,
    ConsoleEnd,
    ConsoleOptions,
    ConsoleOutput,
    DefenderEnd,
    DefenderOptions,
    DefenderOutput,
    HeldSet,
    HelloReceived,
    Send,
    SpoolState,
    leaf_digest,
)
from common.protocol.messages import Direction, FromConsole, FromDefender, Malformed, Unknown, decode

LEAF = leaf_digest(b"the Console's server certificate")
OTHER_LEAF = leaf_digest(b"somebody else's certificate")
NONCE = bytes(range(32))
WALL = 1_795_300_000.0
TIME = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
EPOCH = "epoch-1"

T = TypeVar("T")


@cache
def instance_key(number: int = 1) -> ec.EllipticCurvePrivateKey:
    """A fixed key: tests don't depend on what was random."""
    return ec.derive_private_key(number, ec.SECP256R1())


def claims(*, hostname: str = "web-1", epoch: str = EPOCH, first: int = 1, next_number: int = 1) -> Claims:
    return Claims(
        hostname=hostname,
        fqdn="web-1.example.test",
        version="0.1.0",
        type="serverLinux",
        os="Debian GNU/Linux 12",
        arch="x86_64",
        spool=SpoolState(epoch, first, next_number),
        capabilities=("reconnect",),
        certificates=(HeldSet("defender-client", "ab" * 32, TIME, "generated", 1),),
    )


def console_end(
    options: ConsoleOptions | None = None, *, leaf: bytes = LEAF, nonce: bytes = NONCE
) -> ConsoleEnd:
    return ConsoleEnd(options or ConsoleOptions("0.1.0"), nonce=nonce, leaf=leaf)


def defender_end(
    *,
    key: int = 1,
    leaf: bytes = LEAF,
    jitter: float = 0.5,
    options: DefenderOptions | None = None,
    **said: Any,
) -> DefenderEnd:
    return DefenderEnd(
        instance_key(key), claims(**said), leaf=leaf, jitter=jitter, options=options or DefenderOptions()
    )


def only(kind: type[T], outputs: tuple[object, ...]) -> T:
    """The one output there is, of this kind."""
    assert len(outputs) == 1, outputs
    assert isinstance(outputs[0], kind), outputs
    return outputs[0]


def sent(
    outputs: tuple[object, ...], direction: Direction
) -> list[FromConsole | FromDefender | Unknown | Malformed]:
    """The messages that are sent, decoded."""
    return [decode(output.data, direction) for output in outputs if isinstance(output, Send)]


def from_console(outputs: tuple[object, ...]) -> Any:
    """The one message that the Console sends."""
    [message] = sent(outputs, Direction.FROM_CONSOLE)
    return message


def from_defender(outputs: tuple[object, ...]) -> Any:
    """The one message that the Defender sends."""
    [message] = sent(outputs, Direction.FROM_DEFENDER)
    return message


Side = Literal["console", "defender"]


class Pair:
    """Two ends and the two streams between them; each message is delivered when the test says so.

    What isn't for the network is kept in `console_saw` and `defender_saw`.
    """

    def __init__(self, console: ConsoleEnd, defender: DefenderEnd) -> None:
        self.console = console
        self.defender = defender
        self.to_console: deque[bytes] = deque()
        self.to_defender: deque[bytes] = deque()
        self.console_saw: list[ConsoleOutput] = []
        self.defender_saw: list[DefenderOutput] = []
        self.cut = False
        self.now = 0.0

    def open(self) -> None:
        self.run_console(self.console.opened(self.now))
        self.run_defender(self.defender.opened(self.now))

    def run_console(self, outputs: tuple[ConsoleOutput, ...]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self.to_defender.append(output.data)
            else:
                self.console_saw.append(output)
            if isinstance(output, Close):
                self.end()

    def run_defender(self, outputs: tuple[DefenderOutput, ...]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self.to_console.append(output.data)
            else:
                self.defender_saw.append(output)
            if isinstance(output, Close):
                self.end()

    def end(self) -> None:
        """The connection is gone, with all that was on its way."""
        if self.cut:
            return
        self.cut = True
        self.to_console.clear()
        self.to_defender.clear()
        self.run_console(self.console.lost())
        self.run_defender(self.defender.lost())

    def deliver(self, side: Side) -> bool:
        """Deliver the next message to this side; False if there is none."""
        if side == "console" and self.to_console:
            self.run_console(self.console.receive(self.to_console.popleft(), self.now, WALL))
        elif side == "defender" and self.to_defender:
            self.run_defender(self.defender.receive(self.to_defender.popleft(), self.now))
        else:
            return False
        return True

    def settle(self) -> None:
        """Deliver all there is, and what that makes."""
        while self.deliver("console") or self.deliver("defender"):
            pass

    def seen(self, side: Side, kind: type[T]) -> list[T]:
        """Take what this side saw of this kind."""
        saw: list[Any] = self.console_saw if side == "console" else self.defender_saw
        found = [output for output in saw if isinstance(output, kind)]
        saw[:] = [output for output in saw if not isinstance(output, kind)]
        return found


def open_pair(
    console: ConsoleEnd | None = None,
    defender: DefenderEnd | None = None,
    *,
    acked_through: int = 0,
    session: int = 1,
) -> Pair:
    """Two ends that have welcomed each other at now = 0, and nothing on its way."""
    pair = Pair(console or console_end(), defender or defender_end())
    pair.open()
    pair.settle()
    only(HelloReceived, tuple(pair.console_saw))
    pair.console_saw.clear()
    pair.run_console(pair.console.welcome("d-1", session, acked_through, pair.now, WALL))
    pair.settle()
    return pair
