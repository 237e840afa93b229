"""How fast a drain may go: with synthetic readings, noise included."""

import itertools
import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.fleet.pacing import (
    CROWDED_SHARE,
    DEFAULT_RATE,
    ENOUGH,
    HIGHEST_RATE,
    HORIZON_SECONDS,
    LOWEST_RATE,
    PAUSE_SECONDS,
    SHARE,
    HandshakeRate,
    Slots,
    expected_seconds,
)


class Readings:
    """The counters of a process."""

    def __init__(self, rate: HandshakeRate) -> None:
        self.rate = rate
        self.handshakes, self.cpu = 1000, 50.0
        rate.read(self.handshakes, self.cpu)

    def add(self, handshakes: int, cpu: float) -> float:
        self.handshakes += handshakes
        self.cpu += cpu
        self.rate.read(self.handshakes, self.cpu)
        return self.rate.per_second


@pytest.fixture
def readings() -> Readings:
    return Readings(HandshakeRate())


def test_before_anything_is_measured_it_is_careful(readings: Readings) -> None:
    assert HandshakeRate().per_second == DEFAULT_RATE
    # The first reading says where the counters start, not what a handshake costs.
    assert readings.rate.per_second == DEFAULT_RATE


def test_one_good_reading_is_enough(readings: Readings) -> None:
    assert readings.add(140, 0.28) == pytest.approx(500)


def test_too_few_handshakes_say_nothing(readings: Readings) -> None:
    readings.add(300, 0.6)
    for _ in range(1000):
        assert readings.add(ENOUGH - 1, 0.9) == pytest.approx(500)


def test_a_clock_that_stands_still_says_nothing(readings: Readings) -> None:
    assert readings.add(300, 0.0) == DEFAULT_RATE


def test_it_stays_within_bounds(readings: Readings) -> None:
    assert readings.add(ENOUGH, 100.0) == LOWEST_RATE
    assert Readings(HandshakeRate()).add(10_000, 0.001) == HIGHEST_RATE


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_shake_it(readings: Readings, seed: int) -> None:
    """Every reading off by up to a factor of two, and one in ten hit by a pause that costs half a second."""
    rng = random.Random(seed)
    seen = []
    for _ in range(200):
        handshakes = rng.randrange(150, 350)
        cpu = handshakes / 450 * rng.uniform(0.5, 2.0) + (0.5 if rng.random() < 0.1 else 0.0)
        seen.append(readings.add(handshakes, cpu))
    assert 250 < median(seen[10:]) < 500
    assert all(100 < rate < 900 for rate in seen[10:])


def test_it_follows_what_changes(readings: Readings) -> None:
    for _ in range(50):
        readings.add(300, 0.6)
    for _ in range(6):
        readings.add(150, 0.6)
    assert readings.rate.per_second == pytest.approx(250, rel=0.15)


# Slots


def test_slots_follow_each_other_at_the_pace() -> None:
    slots, rate = Slots(), 100.0
    taken = []
    while (slot := slots.take(10.0, rate, crowded=False)) is not None:
        taken.append(slot)
    assert taken[0] == 10.0
    assert taken[-1] <= 10.0 + HORIZON_SECONDS
    gaps = {round(b - a, 9) for a, b in itertools.pairwise(taken)}
    assert gaps == {round(1 / (SHARE * rate), 9)}
    assert len(taken) == pytest.approx(SHARE * rate * HORIZON_SECONDS, abs=1)
    # A moment later there is room for what that moment is worth; after a long while not for more.
    assert slots.take(10.02, rate, crowded=False) is not None
    assert slots.take(10.02, rate, crowded=False) is None
    assert slots.take(500.0, rate, crowded=False) == 500.0


def test_a_crowd_is_served_first_but_does_not_hold_it_up_for_ever() -> None:
    slots = Slots()
    assert slots.take(0.0, 100.0, crowded=False) == 0.0
    assert slots.take(1.0, 100.0, crowded=True) is None
    assert slots.take(1.0 + PAUSE_SECONDS - 0.1, 100.0, crowded=True) is None
    at = 1.0 + PAUSE_SECONDS
    assert slots.take(at, 100.0, crowded=True) == at
    assert slots.take(at, 100.0, crowded=True) == pytest.approx(at + 1 / (SHARE * CROWDED_SHARE * 100.0))
    # The crowd is gone, and the next one gets its pause again.
    assert slots.take(20.0, 100.0, crowded=False) == 20.0
    assert slots.take(20.1, 100.0, crowded=True) is None


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(50, 5000), st.booleans()), max_size=60))
def test_slots_never_go_back_nor_beyond_the_horizon(steps: list[tuple[float, float, bool]]) -> None:
    slots, now, last = Slots(), 0.0, -1.0
    for step, rate, crowded in steps:
        now += step
        slot = slots.take(now, rate, crowded=crowded)
        if slot is not None:
            assert now <= slot <= now + HORIZON_SECONDS
            assert slot > last
            last = slot


def drained(defenders: int, *, cost: float, base: float, seed: int) -> tuple[float, float]:
    """Simulate a drain; how long it takes, and the rate that it measures at its end.

    Args:
        defenders: How many are asked.
        cost: CPU seconds of a handshake.
        base: What else the process does, CPU seconds per second.
        seed: Of the noise.
    """
    rng = random.Random(seed)
    rate, slots = HandshakeRate(), Slots()
    rate.read(0, 0.0)
    now, done, cpu, queued = 0.0, 0, 0.0, 0
    due: list[float] = []
    while done < defenders:
        # Four ticks a second; the core does what it can, the rest waits at the door.
        while len(due) < defenders and (slot := slots.take(now, rate.per_second, crowded=queued > 200)):
            due.append(slot)
        now += 0.25
        arrived = sum(slot <= now for slot in due)
        spare = max(0.0, 0.25 * (1 - base) * rng.uniform(0.7, 1.0))
        served = min(arrived - done, int(spare / (cost * rng.uniform(0.8, 1.3))))
        done += served
        queued = arrived - done
        cpu += served * cost + base * 0.25
        if now % 1 == 0:
            rate.read(done, cpu)
    return now, rate.per_second


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cost", [0.001, 0.0022, 0.004])
def test_five_thousand_take_less_than_twice_what_the_rate_allows(cost: float, seed: int) -> None:
    seconds, rate = drained(5000, cost=cost, base=0.02, seed=seed)
    assert seconds < 2 * 5000 / rate
    assert expected_seconds(5000, rate) < seconds * 1.2


@pytest.mark.parametrize("base", [0.3, 0.6, 0.9])
def test_a_busy_console_drains_slower_but_drains(base: float) -> None:
    seconds, _ = drained(1000, cost=0.002, base=base, seed=1)
    assert seconds < 1000 / (SHARE * LOWEST_RATE) + 10


def test_no_slot_lies_before_a_lead() -> None:
    slots = Slots()
    slots.not_before(10.5)
    assert slots.take(9.0, 100.0, crowded=False) is None
    assert slots.take(10.0, 100.0, crowded=False) == 10.5
    slots.not_before(10.0)  # of two, the later one counts
    assert slots.take(10.0, 100.0, crowded=False) == pytest.approx(10.5 + 1 / (SHARE * 100))
