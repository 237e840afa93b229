import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.protocol import (
    CertificateLoaded,
    CertificateProved,
    CertificateRejected,
    ConnectionFailed,
    ConnectionLost,
    Started,
    details,
    read_event,
)
from defender.causes import Cause, Failure
from defender.chronicle import Chronicle
from defender.settings import Address
from defender.spool import Spool
from tests.defender.pki import Pki

REFUSED = Failure(Cause.UNREACHABLE, "connection refused")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path)
    yield spool
    spool.close()


class Listener:
    """Counts what the agent would send."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self) -> None:
        self.told += 1


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def chronicle(spool: Spool, listener: Listener, caplog: pytest.LogCaptureFixture) -> Chronicle:
    caplog.set_level(logging.INFO)
    return Chronicle(Address("console.example", 8084), spool, SystemClock(), on_event=listener)


def events(spool: Spool) -> list[object]:
    return [details(read_event(body)) for _, body in spool.read(1, 100)]


def test_an_event_is_spooled_and_told(chronicle: Chronicle, spool: Spool, listener: Listener) -> None:
    chronicle.record(Started("1"))
    assert events(spool) == [Started("1")]
    assert listener.told == 1


def test_a_failure_is_a_line_and_an_event_once(
    chronicle: Chronicle, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for now in range(3):
        chronicle.failed(REFUSED, "Cannot connect", float(now))
    (line,) = caplog.messages
    assert line.startswith("Cannot connect: wss://console.example:8084: connection refused; ")
    assert REFUSED.remedy in line
    chronicle.failed(REFUSED, "Cannot connect", 3600.0)
    assert caplog.messages[1].endswith("(2 more times since it was last said)")
    assert events(spool) == [
        ConnectionFailed("unreachable", "connection refused", 1),
        ConnectionFailed("unreachable", "connection refused", 3),
    ]


def test_the_same_cause_is_said_again_when_it_costs_the_connection(
    chronicle: Chronicle, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    chronicle.failed(REFUSED, "Cannot move", 0.0)
    chronicle.failed(REFUSED, "Cannot connect", 1.0)
    assert [line.partition(":")[0] for line in caplog.messages] == ["Cannot move", "Cannot connect"]
    assert len(events(spool)) == 1


def test_after_a_connection_that_lasted_the_next_failure_is_news(
    chronicle: Chronicle, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    chronicle.failed(REFUSED, "Cannot connect", 0.0)
    chronicle.failed(REFUSED, "Cannot connect", 1.0)
    chronicle.settled()
    chronicle.failed(REFUSED, "Cannot connect", 2.0)
    assert len(caplog.messages) == 2
    assert events(spool)[1:] == [ConnectionFailed("unreachable", "and now connected", 1)]


def test_a_lost_connection_is_told_each_time(
    chronicle: Chronicle, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    failure = Failure(Cause.LOST, "the connection broke", code=1006)
    chronicle.lost(failure)
    chronicle.lost(failure)
    assert [line.partition(":")[0] for line in caplog.messages] == ["Lost the Console at wss"] * 2
    assert events(spool) == [ConnectionLost("the connection broke", 1006)] * 2


def test_a_set_is_told_by_its_leaf(
    chronicle: Chronicle, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    pki = Pki.create()
    credentials = pki.credentials(place="a place")
    leaf, ends = pki.client.certificate.fingerprint, credentials.set.not_after
    chronicle.loaded(credentials)
    chronicle.proved(credentials)
    chronicle.rejected("a place", "generated", ["one fault", "another"])
    assert caplog.messages == [
        f"Using certificate {leaf[:16]} from a place, valid until {ends.isoformat()}",
        "New certificates in a place cannot be used: one fault",
        "New certificates in a place cannot be used: another",
    ]
    assert events(spool) == [
        CertificateLoaded("defender-client", "generated", leaf, ends),
        CertificateProved("defender-client", "generated", leaf, ends),
        CertificateRejected("defender-client", "generated", ("one fault", "another")),
    ]
