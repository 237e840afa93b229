"""What a Console can tell a Defender to do: typed orders, and the commands that carry them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeAlias

from msgspec import Struct

from common.protocol.messages import MAX_LINES, MAX_MESSAGE_BYTES, Fields

UNSUPPORTED: Final = "unsupported"
BUSY: Final = "busy"

MAX_LINE: Final = 4096
"""Characters of a log line; what is longer is cut."""


class CommandName(StrEnum):
    """The commands known here."""

    RESTART = "restart"
    FETCH_LOGS = "fetchLogs"
    REPORT_STATE = "reportState"


class Restart(Struct, frozen=True, gc=False):
    """Start anew, with the certificates and settings that are there then. Answer first."""


class FetchLogs(Struct, frozen=True, gc=False):
    """Send the last `lines` lines of the log (`log_lines` makes the value)."""

    lines: int = 100


class ReportState(Struct, frozen=True, gc=False):
    """Say what state this Defender is in."""


Order: TypeAlias = Restart | FetchLogs | ReportState


def read_order(name: str, arguments: Fields) -> Order | str:
    """The order in a command, or the error that answers it."""
    match name:
        case CommandName.RESTART:
            return Restart()
        case CommandName.REPORT_STATE:
            return ReportState()
        case CommandName.FETCH_LOGS:
            return _fetch_logs(arguments)
        case _:
            return UNSUPPORTED


def _fetch_logs(arguments: Fields) -> FetchLogs | str:
    lines = arguments.get("lines", FetchLogs().lines)
    # bool is an int in Python, but true is not a number of lines.
    if type(lines) is int and 1 <= lines <= MAX_LINES:
        return FetchLogs(lines)
    return f"lines: 1 to {MAX_LINES}"


def log_lines(lines: Iterable[str]) -> Fields:
    """The value that answers FetchLogs: of these lines, oldest first, the newest that fit a message."""
    kept: list[str] = []
    # A character takes 6 bytes of JSON at most; half of the message is left for what else is in it.
    budget = MAX_MESSAGE_BYTES // 2
    for line in reversed(list(lines)):
        text = line[:MAX_LINE].replace("\0", "�").encode(errors="replace").decode()
        budget -= _json_bytes(text)
        if budget < 0 or len(kept) == MAX_LINES:
            break
        kept.append(text)
    return {"lines": [*reversed(kept)]}


def _json_bytes(text: str) -> int:
    """An upper bound of the bytes of a string in JSON."""
    return len(text.encode()) + 5 * sum(character < " " or character in '"\\' for character in text) + 3
