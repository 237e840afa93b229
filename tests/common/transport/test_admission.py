from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.transport.admission import FINALS_PER_TURN, Admission, Limits, Stage

SMALL = Limits(
    max_pending=6, per_address=4, max_concurrent=2, stall=1.0, hello_timeout=10, handshake_timeout=20
)


def admission(**changes: Any) -> Admission:
    return Admission(Limits(**changes))


def shaking(keeper: Admission, keys: range, address: str = "a", now: float = 0.0) -> None:
    """Connections that have had their first step and wait for the peer."""
    for key in keys:
        keeper.arrive(key, address, now)
        keeper.hello(key)
        assert keeper.turn(now) == [key]
        keeper.waiting(key, now)


def test_hellos_take_turns_one_at_a_time_the_newest_and_the_oldest_in_alternation() -> None:
    keeper = admission()
    for key in (1, 2, 3, 4):
        keeper.arrive(key, "a", 0)
        keeper.hello(key)
    assert [keeper.turn(0) for _ in range(5)] == [[4], [1], [3], [2], []]


def test_a_newcomer_is_not_behind_a_burst_of_its_own_address() -> None:
    keeper = admission()
    for key in range(400):
        keeper.arrive(key, "nat", 0)
        keeper.hello(key)
    for _ in range(10):
        keeper.turn(0)
    keeper.arrive(1000, "nat", 0)
    keeper.hello(1000)
    assert 1000 in keeper.turn(0) + keeper.turn(0)


def test_the_oldest_is_served_however_many_newcomers_there_are() -> None:
    keeper = admission(max_concurrent=10_000)
    for key in range(10):
        keeper.arrive(key, "nat", 0)
        keeper.hello(key)
    served = []
    for key in range(100, 140):
        keeper.arrive(key, "nat", 0)
        keeper.hello(key)
        served += keeper.turn(0)
    assert set(range(10)) <= set(served)


def test_final_flights_go_before_new_hellos() -> None:
    keeper = admission()
    shaking(keeper, range(3))
    keeper.arrive(10, "a", 0)
    keeper.hello(10)
    keeper.readable(2)
    keeper.readable(0)
    assert keeper.turn(0) == [2, 0, 10]


def test_while_final_flights_remain_no_hello_starts() -> None:
    keeper = admission(max_concurrent=1000)
    shaking(keeper, range(FINALS_PER_TURN + 1))
    keeper.arrive(1000, "a", 0)
    keeper.hello(1000)
    for key in range(FINALS_PER_TURN + 1):
        keeper.readable(key)
    first = keeper.turn(0)
    assert len(first) == FINALS_PER_TURN
    assert 1000 not in first
    assert keeper.turn(0) == [FINALS_PER_TURN, 1000]


def test_being_readable_twice_is_one_step() -> None:
    keeper = admission()
    shaking(keeper, range(1))
    keeper.readable(0)
    keeper.readable(0)
    assert keeper.turn(0) == [0]
    assert keeper.turn(0) == []


def test_addresses_take_turns() -> None:
    keeper = admission()
    for key in range(100):
        keeper.arrive(key, "flood", 0)
        keeper.hello(key)
    keeper.arrive(500, "honest", 0)
    keeper.hello(500)
    assert 500 in keeper.turn(0) + keeper.turn(0)


def test_a_handshake_that_goes_on_holds_a_slot_and_a_stalled_one_gives_it_back() -> None:
    keeper = Admission(SMALL)
    shaking(keeper, range(2))
    keeper.arrive(9, "b", 0)
    keeper.hello(9)
    assert keeper.next_turn(0.25) == pytest.approx(0.75)
    assert keeper.turn(0.25) == []
    assert keeper.next_turn(1.0) == 0
    assert keeper.turn(1.0) == [9]


def test_a_finished_handshake_frees_its_slot_at_once() -> None:
    keeper = Admission(SMALL)
    shaking(keeper, range(2))
    keeper.arrive(9, "b", 0)
    keeper.hello(9)
    keeper.readable(1)
    assert keeper.turn(0) == [1, 9]


def test_next_turn_is_none_without_work() -> None:
    keeper = admission()
    assert keeper.next_turn(0) is None
    shaking(keeper, range(3))
    assert keeper.next_turn(0) is None
    keeper.readable(1)
    assert keeper.next_turn(0) == 0


def test_the_one_that_has_waited_longest_makes_room() -> None:
    keeper = Admission(SMALL)
    assert [keeper.arrive(key, f"host{key}", key) for key in range(6)] == [None] * 6
    assert keeper.arrive(6, "new", 6) == 0
    keeper.hello(1)  # is work now, so the next one in line goes
    assert keeper.arrive(7, "new", 7) == 2
    assert len(keeper) == 6


def test_progress_puts_a_connection_at_the_end_of_the_line() -> None:
    keeper = Admission(SMALL)
    for key in range(6):
        keeper.arrive(key, f"host{key}", 0)
    keeper.hello(0)
    assert keeper.turn(0) == [0]
    keeper.waiting(0, 0)
    assert keeper.arrive(6, "new", 1) == 1


def test_a_handshake_that_holds_a_slot_is_not_evicted_until_it_stalls() -> None:
    keeper = Admission(Limits(max_pending=2, stall=1.0))
    shaking(keeper, range(1))
    keeper.arrive(1, "b", 0)
    assert keeper.arrive(2, "b", 0.5) == 1
    keeper.hello(2)
    assert keeper.full(0.5)
    assert not keeper.full(1.0)
    assert keeper.arrive(3, "b", 1.0) == 0


def test_an_address_over_its_limit_loses_its_own_oldest() -> None:
    keeper = Admission(SMALL)
    keeper.arrive(100, "honest", 0)
    for key in range(4):
        assert keeper.arrive(key, "flood", 0) is None
    assert keeper.arrive(4, "flood", 0) == 0
    assert keeper.stage(100) is Stage.SILENT


def test_connections_with_work_do_not_count_against_their_address() -> None:
    keeper = admission(per_address=2)
    for key in range(50):
        assert keeper.arrive(key, "nat", 0) is None
        keeper.hello(key)


def test_full_of_work_nothing_is_accepted_and_nothing_evicted() -> None:
    keeper = Admission(SMALL)
    for key in range(6):
        keeper.arrive(key, f"host{key}", 0)
        keeper.hello(key)
    assert keeper.full(0)
    assert keeper.turn(0) == [0], "each address in its turn"
    keeper.leave(0)
    assert not keeper.full(0)


def test_room_is_made_by_who_waits_longest_and_never_by_work() -> None:
    keeper = Admission(SMALL)
    shaking(keeper, range(1))
    keeper.arrive(1, "b", 0)
    keeper.hello(1)
    keeper.arrive(2, "c", 0)
    assert keeper.make_room(0.5) == 2
    assert keeper.make_room(0.5) is None, "one is work, and one holds a slot"
    assert keeper.make_room(1.0) == 0
    assert len(keeper) == 1


def test_waiting_ones_never_make_it_full() -> None:
    keeper = Admission(SMALL)
    for key in range(20):
        keeper.arrive(key, f"host{key}", 0)
    assert not keeper.full(0)


def test_deadlines_by_stage() -> None:
    keeper = Admission(SMALL)
    keeper.arrive(1, "a", 0)
    keeper.arrive(2, "a", 5)
    assert keeper.expired(9.9) == []
    assert keeper.expired(10) == [(1, Stage.SILENT)]
    keeper.hello(1)
    assert keeper.expired(1e9) == [(2, Stage.SILENT)], "who waits for us has no deadline"
    assert keeper.turn(50) == [1]
    keeper.waiting(1, 50)
    keeper.leave(2)
    assert keeper.expired(69.9) == []
    assert keeper.expired(70) == [(1, Stage.SHAKING)]


def test_dribbling_does_not_move_the_deadline() -> None:
    keeper = Admission(SMALL)
    shaking(keeper, range(1))
    for now in range(1, 20):
        keeper.readable(0)
        assert keeper.turn(now) == [0]
        keeper.waiting(0, now)
    assert keeper.expired(20) == [(0, Stage.SHAKING)]


def test_who_was_refused_lingers_for_a_while_and_makes_room_first_come() -> None:
    keeper = Admission(SMALL)
    shaking(keeper, range(1))
    keeper.linger(0, 3)
    assert keeper.stage(0) is Stage.LINGERING
    assert keeper.expired(3 + SMALL.linger_timeout) == [(0, Stage.LINGERING)]
    keeper.readable(0)
    assert keeper.turn(3) == []


def test_refused_while_queued_leaves_the_queue() -> None:
    keeper = admission()
    for key in (1, 2):
        keeper.arrive(key, "a", 0)
        keeper.hello(key)
    keeper.linger(1, 0)
    assert keeper.turn(0) == [2]
    keeper.leave(2)
    keeper.leave(1)
    assert len(keeper) == 0


def test_a_step_that_was_not_done_is_done_next() -> None:
    keeper = admission()
    shaking(keeper, range(2))
    keeper.readable(0)
    assert keeper.turn(0) == [0]
    keeper.retry(0)
    assert keeper.turn(0) == [0]


class Storm(RuleBasedStateMachine):
    """Random arrivals, progress and stalling; what must hold at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = Admission(SMALL)
        self.now = 0.0
        self.next = 0
        self.live: dict[int, Stage] = {}

    @rule(address=st.sampled_from("abc"))
    def arrive(self, address: str) -> None:
        if self.keeper.full(self.now):
            return
        victim = self.keeper.arrive(self.next, address, self.now)
        if victim is not None:
            assert self.live.pop(victim) not in (Stage.HELLO, Stage.FINAL), "work was evicted"
        self.live[self.next] = Stage.SILENT
        self.next += 1

    def pick(self, data: st.DataObject, stage: Stage) -> int | None:
        keys = [key for key, at in self.live.items() if at is stage]
        return data.draw(st.sampled_from(keys)) if keys else None

    @rule(data=st.data())
    def hello(self, data: st.DataObject) -> None:
        if (key := self.pick(data, Stage.SILENT)) is not None:
            self.keeper.hello(key)
            self.live[key] = Stage.HELLO

    @rule(data=st.data())
    def readable(self, data: st.DataObject) -> None:
        if (key := self.pick(data, Stage.SHAKING)) is not None:
            self.keeper.readable(key)
            self.live[key] = Stage.FINAL

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        finals = [key for key, at in self.live.items() if at is Stage.FINAL]
        keys = self.keeper.turn(self.now)
        assert keys[: len(finals)] == sorted(keys[: len(finals)], key=keys.index)
        assert set(finals) <= set(keys), "a final flight was left out"
        assert len(keys) <= len(finals) + 1, "two hellos in a turn"
        for key in keys:
            what = data.draw(st.sampled_from(["waiting", "leave", "linger"]))
            if what == "waiting":
                self.keeper.waiting(key, self.now)
                self.live[key] = Stage.SHAKING
            elif what == "linger":
                self.keeper.linger(key, self.now)
                self.live[key] = Stage.LINGERING
            else:
                self.keeper.leave(key)
                del self.live[key]

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for key, stage in self.keeper.expired(self.now):
            assert self.live.pop(key) is stage
            assert stage is not Stage.HELLO
            self.keeper.leave(key)

    @invariant()
    def bounded_and_agreed(self) -> None:
        assert len(self.keeper) == len(self.live) <= SMALL.max_pending
        assert all(self.keeper.stage(key) is stage for key, stage in self.live.items())

    @invariant()
    def work_is_never_forgotten(self) -> None:
        wait = self.keeper.next_turn(self.now)
        work = [at for at in self.live.values() if at in (Stage.HELLO, Stage.FINAL)]
        assert (wait is not None) == bool(work)
        if wait is not None:
            assert 0 <= wait <= SMALL.stall + 1e-9


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
