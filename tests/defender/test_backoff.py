import random

from hypothesis import given
from hypothesis import strategies as st

from defender.backoff import LONGEST_RETRY, RETRY_SPREAD, STABLE_AFTER, Backoff


def backoff(seed: int = 1, cap: float = 60.0) -> Backoff:
    return Backoff(cap, random.Random(seed))


def test_the_window_doubles_up_to_the_cap() -> None:
    delays = backoff()
    windows = []
    for _ in range(9):
        windows.append(delays.window())
        delays.next_delay()
    assert windows == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(st.integers(), st.floats(1, 86400), st.integers(0, 10_000))
def test_a_delay_lies_in_its_window_for_ever(seed: int, cap: float, failures: int) -> None:
    delays = Backoff(cap, random.Random(seed), failures=failures)
    assert 0 <= delays.next_delay() <= cap


def test_a_fleet_that_lost_its_console_at_once_comes_back_spread() -> None:
    delays = sorted(backoff(seed).next_delay() for seed in range(1000))
    in_tenths = [sum(tenth <= delay * 10 < tenth + 1 for delay in delays) for tenth in range(10)]
    assert min(in_tenths) > 60


@given(st.integers(), st.floats(0, LONGEST_RETRY))
def test_what_the_console_asks_for_is_never_cut_short(seed: int, asked: float) -> None:
    delay = backoff(seed).next_delay(retry_after=asked)
    assert asked <= delay <= max(1.0, asked * (1 + RETRY_SPREAD))


def test_a_mistyped_wait_strands_nobody() -> None:
    assert backoff().next_delay(retry_after=1e9) <= LONGEST_RETRY * (1 + RETRY_SPREAD)


def test_a_short_connection_does_not_reset() -> None:
    delays = backoff()
    delays.next_delay()
    delays.next_delay()
    delays.lived(STABLE_AFTER - 0.1)
    assert delays.window() == 4


def test_a_welcome_shortens_the_next_delay() -> None:
    delays = backoff()
    for _ in range(10):
        delays.next_delay()
    delays.welcomed()
    assert delays.window() == 8


def test_a_connection_that_lived_does() -> None:
    delays = backoff()
    delays.next_delay()
    delays.lived(STABLE_AFTER)
    assert delays.window() == 1
