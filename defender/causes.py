"""Why a Defender has no connection, in the few kinds that call for different remedies.

A running Defender logs the cause and goes on trying for ever; `garrison defender check` exits with its code.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class ExitCode(IntEnum):
    """What `garrison defender run` and `check` exit with. Stable: scripts may rely on them."""

    OK = 0
    """Stopped by a signal; or checked, and both directions are proved."""
    FAILED = 1
    """The data folder, the instance key or the certificates cannot be used."""
    USAGE = 2
    """Wrong usage: an option, argument or setting."""
    UNREACHABLE = 10
    """The Console's name is not known, its port is closed or filtered, or it did not answer in time."""
    NOT_A_CONSOLE = 11
    """Something answers there, but speaks no TLS, no WebSocket, or not a Defender's protocol."""
    UNKNOWN_CA = 12
    """The Console's certificate is of a CA that this Defender doesn't trust."""
    CONSOLE_EXPIRED = 13
    """The Console's certificate has expired, or isn't valid yet."""
    OWN_EXPIRED = 14
    """This Defender's certificate has expired, or isn't valid yet."""
    WRONG_NAME = 15
    """The Console's certificate doesn't name the host in WS_ADDRESS."""
    REFUSED = 16
    """The Console refuses this Defender: its certificate or its identity."""
    BUSY = 17
    """The Console has no room now and asks to come back later."""
    PROTOCOL = 18
    """The two sides speak, but one of them broke the protocol, or fell silent."""


class Cause(StrEnum):
    """The kinds of failed or lost connections; the value is what events and logs name."""

    UNREACHABLE = "unreachable"
    NOT_A_CONSOLE = "notAConsole"
    UNKNOWN_CA = "unknownCA"
    CONSOLE_EXPIRED = "consoleExpired"
    OWN_EXPIRED = "ownExpired"
    WRONG_NAME = "wrongName"
    REFUSED = "refused"
    BUSY = "busy"
    PROTOCOL = "protocol"
    CLOSED = "closed"
    """The Console ended a connection that had stood: a restart, a drain, a newer session."""
    LOST = "lost"
    """A connection that had stood ended without a word: the network, or a Console that died."""

    @property
    def exit_code(self) -> ExitCode:
        """What a check that ends with this cause exits with."""
        match self:
            case Cause.CLOSED | Cause.LOST:
                return ExitCode.UNREACHABLE
            case _:
                return ExitCode[self.name]


REMEDIES: Final = {
    Cause.UNREACHABLE: "check the host and port in WS_ADDRESS, the name's DNS entry, firewalls, and that the "
    "Console runs",
    Cause.NOT_A_CONSOLE: "name the Console's Defender channel in WS_ADDRESS (port 8084 by default, "
    "not the web page's 8083), and let nothing in between end its TLS",
    Cause.UNKNOWN_CA: "deploy this Defender anew with the Console's present install bundle (custom "
    "certificates: copy a defender-ca.pem that holds the Console's CA), or correct WS_ADDRESS if it names "
    "another Console, or its web page's port",
    Cause.CONSOLE_EXPIRED: "renew the Console's certificate; if it is valid, correct the clock of this host",
    Cause.OWN_EXPIRED: "deploy this Defender anew with a fresh install bundle (custom certificates: copy "
    "renewed ones); if its certificate is valid, correct the Console's clock",
    Cause.WRONG_NAME: "add the name to the Console's certificate (CONSOLE_SAN, or issue the Console's own "
    "certificate in custom-certificates with this name), or use one that it has in WS_ADDRESS",
    Cause.REFUSED: "look at the Console's log for the reason; deploy this Defender anew with a fresh install "
    "bundle (custom certificates: copy ones of a CA that the Console trusts), or have it admitted there",
    Cause.BUSY: "it tries again when the Console asked it to",
    Cause.PROTOCOL: "run versions of Console and Defender that fit together; the Console's log says more",
    Cause.CLOSED: "it connects again by itself",
    Cause.LOST: "it connects again by itself; if this repeats, look at the network and at the Console",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A connection that didn't come about, or ended.

    Attributes:
        cause: Its kind.
        detail: What happened, for a person; stable for one kind of trouble, so that repeats are seen as such.
        retry_after: Seconds that the Console asked to stay away, if it did.
        code: The WebSocket's close code, 0 if there was none.
    """

    cause: Cause
    detail: str
    retry_after: float | None = None
    code: int = 0

    @property
    def remedy(self) -> str:
        """What an operator can do about it."""
        return REMEDIES[self.cause]

    def __str__(self) -> str:
        return f"{self.detail}; {self.remedy}"
