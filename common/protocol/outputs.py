"""What the ends of the channel tell their shell: what to do, and what has happened. Values only.

msgspec's Structs and not dataclasses: one is made for each message of each Defender, and a frozen dataclass
costs several times as much.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from common.protocol.codes import CloseCode
from common.protocol.events import Event
from common.protocol.messages import Challenge, Claims, Fields, HostFacts, Welcome
from common.protocol.orders import Order


class Output(Struct, frozen=True, gc=False):
    """Something for the shell."""


class Send(Output, frozen=True):
    """Send this as a text message."""

    data: bytes


class Close(Output, frozen=True):
    """Close the connection with this code and reason (both fit a close frame). Always the last output."""

    code: CloseCode
    reason: str


class PeerSilent(Output, frozen=True):
    """Nothing was heard for these seconds; a Close follows."""

    seconds: float


# of the Console's end


class HelloReceived(Output, frozen=True):
    """A Hello whose signature holds: answer with `welcome` or `refuse`."""

    instance_key: bytes
    claims: Claims


class EventsReceived(Output, frozen=True):
    """Events to be stored in order, `first` and so on; answer with `acknowledge` once they are.

    `dropped` numbers directly before `first` were lost by the spool and will never come.
    """

    epoch: str
    first: int
    items: tuple[Event, ...]
    dropped: int


class FactsReceived(Output, frozen=True):
    """What changed about the host."""

    facts: HostFacts


class Outcome(StrEnum):
    """What became of a command.

    OK, FAILED and UNSUPPORTED are the Defender's answers. BUSY: too many are under way. NOT_SENT: the
    connection isn't open. TIMED_OUT and LOST say that nothing is known: it may have been done.
    """

    OK = "ok"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"
    NOT_SENT = "notSent"
    TIMED_OUT = "timedOut"
    LOST = "lost"


class CommandFinished(Output, frozen=True):
    """The end of a command: exactly one for each `send_command`."""

    id: str
    outcome: Outcome
    value: Fields = {}
    error: str = ""


class MoveFailed(Output, frozen=True):
    """The Defender tried to reconnect as asked and couldn't; it keeps this connection (D4a)."""

    reason: str
    detail: str


# of the Defender's end


class Welcomed(Output, frozen=True):
    """The Console accepted this Defender: post events from `welcome.acked_through + 1` on.

    An Acknowledged follows if there are events that it has stored.
    """

    welcome: Welcome
    challenge: Challenge


class Acknowledged(Output, frozen=True):
    """The Console has stored all events of `epoch` up to `through`: the spool may forget them."""

    epoch: str
    through: int


class HeartbeatSeen(Output, frozen=True):
    """The Console answered a heartbeat.

    `round_trip` is in seconds; `skew` is how far the Console's clock is ahead of ours, in seconds, within
    half a round trip, None if either end told no time.
    """

    round_trip: float
    skew: float | None


class CommandReceived(Output, frozen=True):
    """Do this, then answer with `result` of the same ID."""

    id: str
    order: Order


class ReconnectAsked(Output, frozen=True):
    """Open another connection at `at`, and say so by `reconnect_failed` if it fails, before `deadline`.

    Both are readings of the monotonic clock that `now` is of.
    """

    at: float
    deadline: float
    reason: str


ConsoleOutput: TypeAlias = (
    Send | Close | PeerSilent | HelloReceived | EventsReceived | FactsReceived | CommandFinished | MoveFailed
)
DefenderOutput: TypeAlias = (
    Send | Close | PeerSilent | Welcomed | Acknowledged | HeartbeatSeen | CommandReceived | ReconnectAsked
)
