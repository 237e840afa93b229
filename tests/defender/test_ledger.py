import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from defender.causes import Cause, Failure
from defender.ledger import EVENT_PERIOD, FIRST_SILENCE, LONGEST_SILENCE, Ledger

REFUSED = Failure(Cause.UNREACHABLE, "connection refused")
NO_NAME = Failure(Cause.UNREACHABLE, "name not known")
EXPIRED = Failure(Cause.CONSOLE_EXPIRED, "certificate has expired")
WEEK = 7 * 86400


def test_the_first_of_each_kind_is_said_at_once() -> None:
    ledger = Ledger()
    for failure in (REFUSED, NO_NAME, EXPIRED):
        assert ledger.note(failure, 0.0).log
        assert not ledger.note(failure, 0.0).log


def test_what_costs_more_is_said_again() -> None:
    ledger = Ledger()
    assert ledger.note(REFUSED, 0.0, "cannot move").log
    assert ledger.note(REFUSED, 0.0, "cannot connect").log
    assert not ledger.note(REFUSED, 0.0, "cannot connect").log
    assert not ledger.note(REFUSED, 0.0, "cannot move").log


def test_repeats_are_counted_and_said_ever_more_rarely() -> None:
    ledger = Ledger()
    lines = []
    for now in range(0, WEEK, 10):
        verdict = ledger.note(REFUSED, float(now))
        if verdict.log:
            lines.append((now, verdict.repeats))
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(lines)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= FIRST_SILENCE
    assert gaps[-1] <= LONGEST_SILENCE + 10
    assert len(lines) < 7 * 24 + 10
    # Every repeat is in one line's count, but for those since the last line.
    assert sum(repeats + 1 for _, repeats in lines) >= WEEK // 10 - LONGEST_SILENCE // 10


def test_a_week_offline_makes_an_event_an_hour() -> None:
    ledger = Ledger()
    events = [ledger.note(REFUSED, float(now)).event for now in range(0, WEEK, 10)]
    told = [count for count in events if count]
    assert len(told) == WEEK // EVENT_PERIOD
    assert sum(told) + sum(ledger.settled().values()) == WEEK // 10


@given(st.lists(st.tuples(st.sampled_from([REFUSED, NO_NAME, EXPIRED]), st.floats(0, 5000))))
def test_events_count_every_failure_once(failures: list[tuple[Failure, float]]) -> None:
    ledger, now, told = Ledger(), 0.0, Counter[Cause]()
    for failure, wait in failures:
        now += wait
        told[failure.cause] += ledger.note(failure, now).event
    told.update(ledger.settled())
    assert +told == Counter(failure.cause for failure, _ in failures)


def test_after_a_connection_that_lasted_a_failure_is_news() -> None:
    ledger = Ledger()
    ledger.note(REFUSED, 0.0)
    ledger.note(REFUSED, 1.0)
    assert ledger.settled() == {Cause.UNREACHABLE: 1}
    assert ledger.settled() == {}
    assert ledger.note(REFUSED, 2.0).log


def test_details_without_end_do_not_fill_the_memory() -> None:
    ledger = Ledger()
    for number in range(10_000):
        ledger.note(Failure(Cause.PROTOCOL, str(number)), 0.0)
    assert len(ledger._lines) <= 64
