"""How many frames that carry next to nothing a WebSocket peer may send: decided without I/O.

They are pings, pongs, and fragments that hardly bring their message on. Each costs its sender six octets, and
us a parse and perhaps an answer. No honest peer sends many: a heartbeat is a message here.
"""

from typing import Final

from websockets.frames import Frame, Opcode

IDLE_FRAMES: Final = 500
"""How many may come at once."""
IDLE_FRAME_SECONDS: Final = 0.02
"""Time after which one more of them may come."""
FRAMES_PER_READ: Final = 256
"""After so many of one read the connection waits until the others had their turn."""
PIECE: Final = 2048
"""Octets that are parsed before the bounds are looked at: 341 frames at most."""
TINY_FRAGMENT: Final = 128
"""Octets below which a fragment that does not end its message counts."""
TOO_MANY_FRAMES: Final = "too many frames without data"


class TooManyFrames(Exception):  # noqa: N818 - says what is the matter
    """The peer sent more of them."""


def is_idle(frame: Frame) -> bool:
    """Whether it is a control frame, or a fragment that brings its message on by next to nothing."""
    if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
        return not frame.fin and len(frame.data) < TINY_FRAGMENT
    return True


def spend(count: int, busy_until: float, now: float) -> float:
    """When so many more of them will be forgotten: a bucket that leaks, of which only its end is kept.

    Args:
        count: How many came.
        busy_until: What this said before; 0 at first.
        now: The time in seconds.
    """
    return max(busy_until, now) + count * IDLE_FRAME_SECONDS


def is_too_busy(busy_until: float, now: float) -> bool:
    """Whether more have come than may."""
    return busy_until > now + IDLE_FRAMES * IDLE_FRAME_SECONDS
