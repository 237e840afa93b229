import math

from common.protocol.codes import CloseCode
from common.protocol.end import SILENT_HEARTBEATS, End, Rate, closing, malformed
from common.protocol.messages import Malformed


def test_a_burst_then_the_lasting_rate() -> None:
    end = End(Rate(per_second=2, burst=3))
    assert [end._too_fast(0.0) for _ in range(4)] == [False, False, False, True]
    assert not end._too_fast(0.5)
    assert end._too_fast(0.6)
    assert [end._too_fast(100.0) for _ in range(4)] == [False, False, False, True]


def test_the_lasting_rate_is_never_too_fast() -> None:
    end = End(Rate(per_second=10, burst=2))
    assert not any(end._too_fast(number * 0.1) for number in range(1000))


def test_an_end_that_waits_for_nothing_has_no_deadline() -> None:
    assert End(Rate()).next_deadline == math.inf


def test_silence_is_told_in_seconds() -> None:
    end = End(Rate())
    end.heard = 10.0
    silent, close = end._silence(100.4)
    assert round(silent.seconds, 1) == 90.4
    assert (close.code, close.reason) == (CloseCode.SILENT, "nothing heard for 90 s")


def test_an_end_is_small() -> None:
    assert not hasattr(End(Rate()), "__dict__")
    assert SILENT_HEARTBEATS >= 2


def test_closes_fit_a_frame() -> None:
    assert len(closing(CloseCode.POLICY, "x" * 500).reason) == 123
    close = malformed(Malformed("message: not JSON", CloseCode.INVALID_DATA))
    assert (close.code, close.reason) == (CloseCode.INVALID_DATA, "message: not JSON")
