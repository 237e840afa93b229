"""What a probe may meet when, and what is said when it met something else. Times are made up."""

import pytest

from tests.bench.errors import BenchError
from tests.bench.probes import (
    Attempt,
    Channel,
    Outcome,
    Swap,
    Timeline,
    failures,
    latencies,
    percentile,
    strays,
)

# Replaced from 10 to 11, used from 12 on; replaced again from 20 to 21, used from 22 on.
SWAPS = (Swap(Channel.HTTPS, "b", 10, 11, 12), Swap(Channel.HTTPS, "c", 20, 21, 22))
TIMELINE = Timeline("a", SWAPS)


def met(leaf: str, began: float, shaken: float | None = None) -> Attempt:
    shaken = began if shaken is None else shaken
    return Attempt(Channel.HTTPS, began, shaken, shaken + 0.1, Outcome.OK, leaf)


@pytest.mark.parametrize(
    ("began", "shaken", "leaves"),
    [
        (1, 2, "a"),
        (1, 10.5, "ab"),
        (11.5, 11.6, "ab"),
        (12.5, 13, "b"),
        (11.5, 20.5, "abc"),
        (12.5, 20.5, "bc"),
        (23, 24, "c"),
    ],
)
def test_between_the_files_and_the_log_line_both_are_right(began: float, shaken: float, leaves: str) -> None:
    assert "".join(TIMELINE.permitted(met("x", began, shaken))) == leaves


def test_the_old_certificate_after_the_line_is_a_stray() -> None:
    good, late, early = met("b", 12.5), met("a", 12.5), met("c", 13)
    assert list(strays([good], TIMELINE)) == []
    first, second = strays([late, early], TIMELINE)
    assert first.startswith("set 0 instead of set 1: https\t12.5")
    assert second.startswith("set 2 instead of set 1")


def test_a_certificate_that_nobody_put_there_is_a_stray() -> None:
    assert next(strays([met("x", 11.5)], TIMELINE)).startswith("x instead of set 0 or set 1")


def test_a_swap_takes_from_its_last_file_to_the_first_that_meets_it() -> None:
    seen = [met("a", 11, 11.2), met("b", 11.1, 11.5), met("b", 11.2, 11.4), met("c", 21, 21.125)]
    assert latencies(seen, SWAPS) == pytest.approx([0.4, 0.125])


def test_a_swap_that_nobody_saw_is_no_figure() -> None:
    with pytest.raises(BenchError, match="no probe met the certificate c"):
        latencies([met("b", 12)], SWAPS)


def test_failures_are_all_but_those_that_came_to_their_end() -> None:
    bad = Attempt(Channel.WEBSOCKET, 1, 0, 2, Outcome.RESET, "", "gone")
    assert failures([met("a", 1), bad]) == [bad]
    # One without a handshake has met no certificate.
    assert list(strays([bad], TIMELINE)) == []


def test_an_attempt_is_read_as_it_was_written() -> None:
    bad = Attempt(Channel.WEBSOCKET, 1.25, 0.0, 2.0, Outcome.WRONG_ANSWER, "", "b'HTTP/1.1 503 '")
    for attempt in (bad, met("a", 0.1, 0.3)):
        assert Attempt.parse(f"{attempt}\n") == attempt


def test_percentiles_are_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (51, 100, 7)
