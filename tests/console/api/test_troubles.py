import logging

import pytest

from common.errors import StoreError
from console.api.troubles import Troubles, place
from console.failures import LINES_PER_MINUTE
from tests.console.api.world import SetClock


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def raised_elsewhere(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_strangers_are_not_quoted(clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    Troubles(clock).unreadable(ValueError("Authorization: Basic c2VjcmV0"), "192.0.2.1")
    assert caplog.messages == ["A request from 192.0.2.1 cannot be read: ValueError"]


def test_each_kind_at_once_then_a_count_a_minute(clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(clock)
    for _ in range(5):
        troubles.unreadable(ValueError(), "192.0.2.1")
    troubles.unreadable(KeyError(), "192.0.2.1")
    troubles.unreadable(ValueError(), "192.0.2.2")
    assert len(caplog.messages) == 3
    clock.advance(60)
    troubles.unreadable(ValueError(), "192.0.2.1")
    assert caplog.messages[3].endswith("ValueError (and 4 more like it)")


def test_strangers_noise_hides_no_bug(clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(clock)
    for n in range(10 * LINES_PER_MINUTE):
        troubles.unreadable(ValueError(), f"2001:db8::{n:x}")
    assert len(caplog.messages) == LINES_PER_MINUTE
    troubles.bug(raised(RuntimeError("why")), "GET /")
    assert caplog.messages[-1] == "GET / failed"


def test_a_bug_has_its_traceback_once_for_each_place(
    clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles(clock)
    for n in range(50):
        troubles.bug(raised(RuntimeError(str(n))), "GET /")
        troubles.bug(raised_elsewhere(RuntimeError(str(n))), "GET /")
    assert caplog.messages == ["GET / failed"] * 2
    assert all(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)
    clock.advance(60)
    troubles.bug(raised(RuntimeError()), "POST /")
    assert caplog.messages[2] == "POST / failed (and 49 more like it)"


def test_the_store_speaks_for_itself(clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(clock)
    for _ in range(9):
        troubles.store(StoreError("console.db", "the disk is full", "make room"), "GET /defenders")
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("The store failed at GET /defenders: ")
    assert "the disk is full" in record.getMessage()
    troubles.store(StoreError("console.db", "is locked", "wait"), "GET /defenders")
    assert len(caplog.records) == 2


def test_what_was_never_raised_has_no_place() -> None:
    assert place(ValueError()) == ("", 0)
    assert place(raised(ValueError())) != place(raised_elsewhere(ValueError()))
