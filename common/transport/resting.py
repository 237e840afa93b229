"""What a WebSocket connection does without between two frames: its parser."""

import uuid
from collections.abc import Generator
from typing import Final

from websockets.protocol import Protocol as WSProtocol
from websockets.protocol import State
from websockets.streams import StreamReader

_AT_EOF: Final = StreamReader.at_eof.__code__


def _resting() -> Generator[None, None, None]:
    yield


RESTING: Final = _resting()
RESTING.close()  # whoever steps it is told so, by StopIteration
NO_ID: Final = uuid.UUID(int=0)
"""For all of them: websockets gives each one of its own, for logs that we do not write."""


def rest(protocol: WSProtocol) -> None:
    """Do without the parser between two frames: it has no state there, and it and its last frame are 0.6 KiB.

    It is between two frames where it asks whether the stream has ended, and nothing has come since.
    """
    waiting = getattr(protocol.parser, "gi_yieldfrom", None)
    if getattr(waiting, "gi_code", None) is _AT_EOF and protocol.state is State.OPEN:
        protocol.parser.close()
        protocol.parser = RESTING


def wake(protocol: WSProtocol) -> None:
    """Have a parser again, before octets or the end of the stream come; a new one begins with a frame."""
    if protocol.parser is RESTING:
        protocol.parser = WSProtocol.parse(protocol)
        next(protocol.parser)
