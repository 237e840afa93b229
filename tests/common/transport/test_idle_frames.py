import pytest
from websockets.frames import Frame, Opcode

from common.transport.idle_frames import (
    IDLE_FRAME_SECONDS,
    IDLE_FRAMES,
    TINY_FRAGMENT,
    is_idle,
    is_too_busy,
    spend,
)


@pytest.mark.parametrize(
    ("opcode", "size", "fin", "idle"),
    [
        (Opcode.PING, 125, True, True),
        (Opcode.PONG, 0, True, True),
        (Opcode.CLOSE, 2, True, True),
        (Opcode.CONT, 0, False, True),
        (Opcode.TEXT, 0, False, True),
        (Opcode.BINARY, TINY_FRAGMENT - 1, False, True),
        (Opcode.CONT, TINY_FRAGMENT, False, False),
        (Opcode.CONT, 0, True, False),
        (Opcode.TEXT, 0, True, False),
        (Opcode.BINARY, 1, True, False),
    ],
)
def test_what_carries_next_to_nothing(opcode: Opcode, size: int, fin: bool, idle: bool) -> None:
    assert is_idle(Frame(opcode, bytes(size), fin)) == idle


def test_so_many_may_come_at_once_and_then_at_a_rate() -> None:
    busy = spend(IDLE_FRAMES, 0.0, 1000.0)
    assert not is_too_busy(busy, 1000.0)
    assert is_too_busy(spend(1, busy, 1000.0), 1000.0)
    later = 1000.0 + 2 * IDLE_FRAME_SECONDS
    assert not is_too_busy(spend(1, busy, later), later)
    assert is_too_busy(spend(3, busy, later), later)


def test_rest_is_not_saved_up() -> None:
    busy = spend(1, 0.0, 10**6)
    assert is_too_busy(spend(IDLE_FRAMES, busy, 10**6), 10**6)
