from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.messages import MAX_NUMBER
from common.protocol.window import OUT_OF_ORDER, TOO_MANY, Window


def test_starts_after_what_is_stored() -> None:
    window = Window(7, 10)
    assert (window.next, window.room) == (8, 10)


def test_takes_in_order_up_to_its_size() -> None:
    window = Window(0, 3)
    assert window.take(1, 2, 0) is None
    assert window.room == 1
    assert window.take(3, 2, 0) == TOO_MANY
    assert window.take(3, 1, 0) is None
    assert window.room == 0


def test_refuses_gaps_and_repetitions() -> None:
    window = Window(0, 10)
    assert window.take(2, 1, 0) == OUT_OF_ORDER
    assert window.take(1, 1, 0) is None
    assert window.take(1, 1, 0) == OUT_OF_ORDER
    assert window.next == 2


def test_refuses_numbers_that_json_does_not_keep() -> None:
    window = Window(MAX_NUMBER - 2, 10)
    assert window.take(MAX_NUMBER - 1, 2, 0) == OUT_OF_ORDER
    assert window.take(MAX_NUMBER - 1, 1, 0) is None


def test_a_stated_gap_takes_no_room() -> None:
    window = Window(0, 4)
    assert window.take(1, 2, 0) is None
    assert window.take(1003, 2, 1000) is None
    assert (window.next, window.room) == (1005, 0)
    assert window.ack(2)
    assert window.ack(1004)
    assert window.room == 4


def test_an_ack_gets_on_or_is_nothing() -> None:
    window = Window(5, 4)
    window.take(6, 3, 0)
    assert not window.ack(5)
    assert window.ack(7)
    assert not window.ack(7)
    assert not window.ack(9)
    assert (window.acked, window.room) == (7, 3)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "ack"]), st.integers(1, 6), st.integers(0, 50)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(_STEPS)
def test_two_windows_agree_and_never_hold_more_than_their_size(steps: list[tuple[str, int, int]]) -> None:
    """The receiver never refuses what the sender had room for, however late acknowledgements are."""
    sender, receiver = Window(0, 8), Window(0, 8)
    outstanding: list[int] = []
    late: list[int] = []
    for step, count, gap in steps:
        if step == "take" and sender.room >= count:
            first = sender.next + gap
            assert sender.take(first, count, gap) is None
            assert receiver.take(first, count, gap) is None
            outstanding.extend(range(first, first + count))
        elif step == "ack" and outstanding:
            through = outstanding[min(count, len(outstanding)) - 1]
            assert receiver.ack(through)
            late.append(through)
            if gap % 2:  # deliver what is on its way now, or later
                for number in late:
                    sender.ack(number)
                late.clear()
            outstanding = [number for number in outstanding if number > through]
        assert len(outstanding) <= 8
        assert 0 <= sender.room <= 8
