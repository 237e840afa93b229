from hypothesis import given, settings
from hypothesis import strategies as st

from console.identity.throttle import QUIET, Attempt, LoginThrottle, Rule, origin, whole_seconds

FAR = Rule(free=10_000)


def throttle(**options: object) -> LoginThrottle:
    return LoginThrottle(**({"by_user": Rule(free=2, first=1.0, cap=8.0), "by_address": FAR} | options))  # type: ignore[arg-type]


def test_waiting_doubles_up_to_the_cap() -> None:
    held = throttle()
    waits = []
    for _ in range(8):
        waits.append(held.wait("u", "192.0.2.1", 0.0))
        held.attempt("u", "192.0.2.1", 0.0)
    assert waits == [0, 0, 0, 1, 2, 4, 8, 8]


def test_the_wait_passes() -> None:
    held = throttle()
    for _ in range(3):
        held.attempt("u", "192.0.2.1", 100.0)
    assert held.wait("u", "192.0.2.1", 100.4) == 0.6 or abs(held.wait("u", "192.0.2.1", 100.4) - 0.6) < 1e-9
    assert held.wait("u", "192.0.2.1", 101.0) == 0


def test_others_do_not_wait() -> None:
    held = throttle()
    for _ in range(9):
        held.attempt("u", "192.0.2.1", 0.0)
    assert held.wait("u", "192.0.2.2", 0.0) == 0
    assert held.wait("v", "192.0.2.1", 0.0) == 0


def test_success_forgets_the_user_but_not_the_address() -> None:
    held = throttle(by_address=Rule(free=3))
    for _ in range(4):
        held.attempt("u", "192.0.2.1", 0.0)
    held.succeeded(held.attempt("u", "192.0.2.1", 0.0))
    assert held.wait("u", "192.0.2.1", 0.0) == 1.0


def test_a_try_counts_until_it_is_taken_back() -> None:
    held = throttle()
    tries = [held.attempt("u", "192.0.2.1", 0.0) for _ in range(3)]
    assert held.wait("u", "192.0.2.1", 0.0) == 1.0
    held.take_back(tries[0])
    assert held.wait("u", "192.0.2.1", 0.0) == 0
    for attempt in tries[1:]:
        held.take_back(attempt)
    assert len(held) == 0


def test_what_is_taken_back_makes_nobody_wait_again() -> None:
    held = throttle()
    for _ in range(4):
        held.attempt("u", "192.0.2.1", 0.0)
    attempt = held.attempt("u", "192.0.2.1", 2.0)
    assert held.wait("u", "192.0.2.1", 2.0) == 4.0
    held.take_back(attempt)
    assert held.wait("u", "192.0.2.1", 2.0) == 0


def test_taking_back_what_was_pushed_out_is_nothing() -> None:
    held = throttle(size=2)
    attempt = held.attempt("u", "192.0.2.1", 0.0)
    held.attempt("v", "192.0.2.2", 0.0)
    held.take_back(attempt)
    held.succeeded(attempt)
    assert len(held) == 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
@settings(deadline=None, max_examples=100)
def test_what_is_counted_is_what_was_not_taken_back(steps: list[tuple[bool, int]]) -> None:
    held = throttle()
    tries: list[Attempt] = []
    for now, (begin, which) in enumerate(steps):
        if begin or not tries:
            tries.append(held.attempt("u", "192.0.2.1", now))
        else:
            held.take_back(tries.pop(which % len(tries)))
        assert held._count(("u", "192.0.2.1"), now) == len(tries)


def test_one_address_trying_many_names_waits() -> None:
    held = LoginThrottle(by_address=Rule(free=5, first=1.0))
    for n in range(6):
        held.attempt(f"u{n}", "192.0.2.1", 0.0)
    assert held.wait("another", "192.0.2.1", 0.0) == 1.0


def test_a_quiet_while_forgets() -> None:
    held = throttle()
    for _ in range(9):
        held.attempt("u", "192.0.2.1", 0.0)
    assert held.wait("u", "192.0.2.1", QUIET + 1) == 0
    held.attempt("u", "192.0.2.1", QUIET + 1)
    assert held.wait("u", "192.0.2.1", QUIET + 1) == 0


def test_memory_is_bounded_and_flooding_does_not_help() -> None:
    held = LoginThrottle(by_user=Rule(free=2), by_address=Rule(free=20), size=100)
    for n in range(1000):
        held.attempt(f"u{n}", "192.0.2.1", 0.0)
        held.attempt(f"u{n}", f"198.51.{n // 250}.{n % 250}", 0.0)
    assert len(held) == 100
    assert held.wait("anybody", "192.0.2.1", 0.0) > 0


def test_one_place() -> None:
    assert origin("192.0.2.1") == "192.0.2.1"
    assert origin("::ffff:192.0.2.1") == "192.0.2.1"
    assert origin("2001:db8::1") == origin("2001:db8::ffff:2") == "2001:db8::/64"
    assert origin("fe80::1%eth0") == "fe80::/64"
    assert origin("unknown") == "unknown"


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@settings(deadline=None, max_examples=100)
def test_more_failures_never_wait_less(first: int, second: int) -> None:
    rule = Rule(free=5)
    fewer, more = sorted((first, second))
    assert 0 <= rule.delay(fewer) <= rule.delay(more) <= rule.cap


def test_whole_seconds() -> None:
    assert [whole_seconds(seconds) for seconds in (0.01, 1.0, 1.2)] == [1, 1, 2]
