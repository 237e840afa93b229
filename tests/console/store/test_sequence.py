"""What may be applied next, as a pure function."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.store.sequence import Position, Step, resume, step


def test_the_first_event_is_number_one() -> None:
    assert step(Position(), first=1, count=3, dropped=0) == Step(0, Position(through=3))
    assert step(Position(), first=2, count=3, dropped=0) is None


def test_the_next_batch_follows() -> None:
    assert step(Position(through=3), first=4, count=2, dropped=0) == Step(0, Position(through=5))


def test_what_was_applied_is_passed_over() -> None:
    assert step(Position(through=5), first=1, count=3, dropped=0) == Step(3, Position(through=5))
    assert step(Position(through=5), first=4, count=4, dropped=0) == Step(2, Position(through=7))
    assert step(Position(through=5), first=1, count=5, dropped=0) == Step(5, Position(through=5))


def test_no_events_change_nothing() -> None:
    assert step(Position(through=5), first=6, count=0, dropped=0) == Step(0, Position(through=5))
    assert step(Position(through=5), first=2, count=0, dropped=0) == Step(0, Position(through=5))
    assert step(Position(through=5), first=7, count=0, dropped=0) is None


def test_a_gap_needs_a_stated_drop_that_covers_it() -> None:
    assert step(Position(through=5), first=9, count=2, dropped=2) is None
    assert step(Position(through=5), first=9, count=2, dropped=3) == Step(0, Position(10, missing=3))
    # Some of what it says it dropped was applied before that.
    assert step(Position(through=5), first=9, count=2, dropped=8) == Step(0, Position(10, missing=3))


@pytest.mark.parametrize(("first", "through", "missing"), [(1, 5, 0), (6, 5, 0), (9, 8, 3)])
def test_a_hello_settles_what_will_never_come(first: int, through: int, missing: int) -> None:
    assert resume(Position(through=5), first=first, dropped=0) == Position(through, missing)


def test_the_count_of_drops_never_goes_back() -> None:
    assert resume(Position(dropped=7), first=1, dropped=3).dropped == 7
    assert resume(Position(dropped=7), first=1, dropped=9).dropped == 9


@settings(deadline=None, max_examples=100)
@given(
    batches=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 10), st.integers(0, 5)), max_size=30),
)
def test_each_number_is_settled_once_and_in_order(batches: list[tuple[int, int, int]]) -> None:
    position = Position()
    settled: list[int] = []
    for first, count, dropped in batches:
        todo = step(position, first=first, count=count, dropped=dropped)
        if todo is None:
            assert first > position.through + 1 + dropped
            continue
        given_up = todo.position.missing - position.missing
        settled += range(position.through + 1, position.through + 1 + given_up)
        settled += range(first + todo.skip, first + count)
        assert given_up <= dropped
        position = todo.position
        assert settled == list(range(1, position.through + 1))
