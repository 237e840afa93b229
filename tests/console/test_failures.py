import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.transport import FailureKind, HandshakeFailure
from console.failures import ADDRESSES, LINES_PER_MINUTE, FailureLog, Repeats


def failure(
    kind: FailureKind = FailureKind.TIMEOUT, peer: str = "127.0.0.1:5", detail: str = ""
) -> HandshakeFailure:
    return HandshakeFailure(kind, peer, detail, None)


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_is_said_with_its_address(kind: FailureKind) -> None:
    line = FailureLog().line(failure(kind, detail="what OpenSSL said"), 0.0)
    assert line is not None
    assert line.startswith(f"connection from 127.0.0.1:5 failed: {kind}: ")
    assert not line.endswith(": ")


def test_repeats_are_counted_and_said_a_minute_later() -> None:
    log = FailureLog()
    assert log.line(failure(peer="127.0.0.1:5"), 0.0)
    assert [log.line(failure(peer=f"127.0.0.1:{n}"), 1.0) for n in range(7)] == [None] * 7
    line = log.line(failure(peer="127.0.0.1:9"), 61.0)
    assert line is not None
    assert line.endswith("(and 7 more like it)")


def test_another_kind_or_address_is_news() -> None:
    log = FailureLog()
    assert log.line(failure(), 0.0)
    assert log.line(failure(FailureKind.UNKNOWN_CA), 0.0)
    assert log.line(failure(peer="[::1]:5"), 0.0)


def test_repeats_are_of_any_kind() -> None:
    repeats = Repeats()
    assert repeats.tail("a", 0.0) == ""
    assert repeats.tail(("b", 1), 0.0) == ""
    assert repeats.tail("a", 59.0) is None
    assert repeats.tail("a", 60.0) == " (and 1 more like it)"


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(list(FailureKind))), max_size=2000))
def test_nobody_fills_the_disk(attempts: list[tuple[int, FailureKind]]) -> None:
    log = FailureLog()
    lines = [log.line(failure(kind, f"2001:db8::{peer:x}:1"), 30.0) for peer, kind in attempts]
    assert sum(line is not None for line in lines) <= LINES_PER_MINUTE
    assert len(log._repeats._counts) <= ADDRESSES
