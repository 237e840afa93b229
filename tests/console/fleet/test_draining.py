import logging

from hypothesis import given, settings
from hypothesis import strategies as st

from console.fleet.draining import Ending, Standing, Tally


def tally(*waiting: str) -> Tally[str]:
    made: Tally[str] = Tally(100.0)
    for key in waiting:
        made.join(key, welcomed=True)
    return made


def test_nobody_to_ask_is_nothing_to_say() -> None:
    made = tally()
    assert made.start_line(1.0) is None
    assert made.end_line(101.0) is None
    assert not made.busy


def test_all_move() -> None:
    made = tally("a", "b")
    assert made.start_line(0.014) == "2 Defenders are asked to reconnect over about 1 s"
    for key in ("a", "b"):
        made.asked(key)
        assert made.end_line(101.0) is None
        assert made.ended(key, Ending.MOVED)
    assert made.end_line(112.2) == (
        logging.INFO,
        "2 of 2 Defenders moved to the new certificates after 12 s",
    )
    assert made.end_line(113.0) is None
    assert not made.ended("a", Ending.GONE)


def test_one_is_asked() -> None:
    assert tally("a").start_line(5.4) == "1 Defender is asked to reconnect over about 5 s"


def test_who_could_not_and_who_did_not_try_are_named_with_a_remedy() -> None:
    made = tally(*"abcdefgh")
    for key in "abcdefg":
        made.asked(key)
    for key in "abcd":
        made.failed(key, f"web-{key}", "unknownCA not in\nthe bundle")
    for key in "ef":
        made.ended(key, Ending.CLOSED, f"web-{key}")
    made.ended("g", Ending.CUT)
    assert made.end_line(110.0) is None
    made.ended("h", Ending.GONE)
    said = made.end_line(160.0)
    assert said is not None
    level, line = said
    assert level == logging.WARNING
    assert line == (
        "0 of 8 Defenders moved to the new certificates after 60 s; 4 could not and keep their connections "
        "(web-a: unknownCA not in?the bundle; web-b: unknownCA not in?the bundle; "
        "web-c: unknownCA not in?the bundle); 2 made no attempt and were closed (web-e, web-f); "
        "1 was closed, since the CA was removed; 1 left; "
        "look at the Defenders' logs, and at garrison console certs"
    )
    counts = made.counts
    assert (counts.failed, counts.left, counts.closed, counts.cut, counts.gone) == (4, 4, 2, 1, 1)
    # They go on trying by themselves: that the last one has moved is news, what is between is not.
    for key in "abc":
        made.ended(key, Ending.MOVED)
        assert made.end_line(200.0) is None
    made.ended("d", Ending.MOVED)
    assert made.end_line(200.0) == (
        logging.INFO,
        "nobody is left on the replaced certificates of the Defenders' port",
    )
    assert made.end_line(201.0) is None


def test_more_than_a_few_are_not_all_named() -> None:
    made = tally(*"abcd")
    for key in "abcd":
        made.ended(key, Ending.CLOSED, key * 500)
    said = made.end_line(101.0)
    assert said is not None
    assert f"4 made no attempt and were closed ({'a' * 199}…, {'b' * 199}…, {'c' * 199}…, …)" in said[1]


def test_one_whose_handshake_was_under_way_is_asked_once_it_is_welcomed() -> None:
    made = tally()
    made.join("late", welcomed=False)
    assert made.busy == 1
    made.asked("late")
    assert made.standing("late") is Standing.OPENING
    assert made.welcomed("late")
    assert not made.welcomed("late")
    assert made.standing("late") is Standing.WAITING
    assert not made.welcomed("somebody else")


def test_a_failure_to_reach_an_earlier_target_is_none_of_this_drain() -> None:
    made = tally("a")
    made.failed("a", "web-a", "unknownCa")
    assert (made.standing("a"), made.failures) == (Standing.WAITING, ())
    made.asked("a")
    made.failed("a", "web-a", "unknownCa")
    assert made.standing("a") is Standing.FAILED


def test_a_defender_with_two_connections_counts_once() -> None:
    made = tally("old")
    made.join("new", welcomed=False)
    made.replaced("old")
    assert made.counts.total == 1
    assert list(made) == ["new"]
    made.replaced("unknown")
    assert made.counts.total == 1


def test_somebody_late_is_said_too() -> None:
    made = tally("a")
    made.ended("a", Ending.MOVED)
    assert made.end_line(101.0)
    made.join("b", welcomed=True)
    assert made.end_line(101.0) is None
    made.ended("b", Ending.MOVED)
    said = made.end_line(102.0)
    assert said is not None
    assert said[1].startswith("2 of 2 Defenders moved")


STEPS = ("join", "late", "welcomed", "asked", "failed", "replaced", *Ending)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=80))
def test_nobody_is_lost_from_the_count(steps: list[tuple[str | Ending, int]]) -> None:
    made: Tally[int] = Tally(0.0)
    for step, key in steps:
        match step:
            case "join" | "late":
                if key not in made:
                    made.join(key, welcomed=step == "join")
            case "welcomed":
                made.welcomed(key)
            case "asked":
                made.asked(key)
            case "failed":
                made.failed(key, "x", "y")
            case "replaced":
                made.replaced(key)
            case Ending():
                made.ended(key, step)
        counts = made.counts
        assert counts.total == counts.left + counts.moved + counts.closed + counts.cut + counts.gone
        assert counts.left == counts.opening + counts.waiting + counts.pending + counts.failed == len([*made])
        assert made.busy == counts.opening + counts.waiting + counts.pending
        assert len(made.failures) == min(3, counts.failed)
        if made.busy:
            assert made.end_line(1.0) is None
