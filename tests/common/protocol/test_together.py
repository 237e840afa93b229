"""Both ends joined, with faults between them: what holds for the pair, whatever happens."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.protocol import (
    Acknowledged,
    Close,
    CloseCode,
    CommandFinished,
    CommandReceived,
    ConsoleOptions,
    ConsoleState,
    DefenderState,
    Event,
    EventsReceived,
    HeartbeatSeen,
    HelloReceived,
    Limits,
    MoveFailed,
    Outcome,
    ReconnectAsked,
    ReportState,
)
from tests.common.protocol.helpers import (
    EPOCH,
    OTHER_LEAF,
    TIME,
    WALL,
    Pair,
    Side,
    console_end,
    defender_end,
    open_pair,
)


def event(number: int) -> Event:
    return Event(TIME, "counted", {"number": number})


# Scenes


def test_a_conversation() -> None:
    pair = open_pair()
    assert (pair.console.state, pair.defender.state) == (ConsoleState.OPEN, DefenderState.OPEN)
    pair.run_defender(pair.defender.post_events(EPOCH, 1, [event(1), event(2)]))
    pair.settle()
    [received] = pair.seen("console", EventsReceived)
    assert (received.first, received.items) == (1, (event(1), event(2)))
    pair.run_console(pair.console.acknowledge(EPOCH, 2))
    pair.settle()
    assert pair.seen("defender", Acknowledged) == [Acknowledged(EPOCH, 2)]

    pair.run_console(pair.console.send_command("c-1", "reportState", {}, pair.now))
    pair.settle()
    assert pair.seen("defender", CommandReceived) == [CommandReceived("c-1", ReportState())]
    pair.run_defender(pair.defender.result("c-1", ok=True, value={"state": "fine"}))
    pair.settle()
    assert pair.seen("console", CommandFinished) == [CommandFinished("c-1", Outcome.OK, {"state": "fine"})]


def test_an_idle_pair_stays_together_for_a_day() -> None:
    pair = open_pair()
    while (now := min(pair.console.next_deadline, pair.defender.next_deadline)) <= 86_400:
        pair.now = now
        pair.run_console(pair.console.tick(pair.now))
        pair.run_defender(pair.defender.tick(pair.now, WALL))
        pair.settle()
    assert not pair.cut
    assert len(pair.seen("defender", HeartbeatSeen)) == 86_400 // 30
    assert pair.console.skew == 0.0


def test_both_notice_a_network_that_is_gone() -> None:
    pair = open_pair()
    ended: set[Side] = set()
    for now in range(1, 200):
        pair.now = float(now)
        for side in ("console", "defender"):
            tick = pair.console.tick(pair.now) if side == "console" else pair.defender.tick(pair.now)
            if any(isinstance(output, Close) for output in tick):
                ended.add("console" if side == "console" else "defender")
                assert pair.now == 90.0
    assert ended == {"console", "defender"}


def test_a_man_in_the_middle_is_refused() -> None:
    """He holds a certificate that the Defender trusts; the Console serves another one to him."""
    pair = Pair(console_end(), defender_end(leaf=OTHER_LEAF))
    pair.open()
    pair.settle()
    [close] = pair.seen("console", Close)
    assert close.code is CloseCode.IDENTITY_REFUSED
    assert not pair.seen("console", HelloReceived)


def test_a_hello_of_another_connection_is_refused() -> None:
    first = Pair(console_end(), defender_end())
    first.open()
    first.deliver("defender")
    recorded = first.to_console[0]
    second = console_end(nonce=bytes(reversed(range(32))))
    second.opened(0.0)
    [close] = second.receive(recorded, 0.0)
    assert isinstance(close, Close)
    assert close.code is CloseCode.IDENTITY_REFUSED


def test_a_move_that_succeeds() -> None:
    """Make before break: what was on its way arrives on the old connection, the rest on the new."""
    old = open_pair(session=1)
    old.run_defender(old.defender.post_events(EPOCH, 1, [event(1)]))
    old.run_console(old.console.reconnect(1.0, 30.0, "rotated", old.now))
    old.settle()
    [asked] = old.seen("defender", ReconnectAsked)
    assert (asked.at, asked.deadline) == (1.0, 30.0)
    [received] = old.seen("console", EventsReceived)
    new = open_pair(session=2, acked_through=received.first)
    assert new.defender.next_event == 2
    old.run_defender(old.defender.close(CloseCode.NORMAL, "moved"))
    new.run_defender(new.defender.post_events(EPOCH, 2, [event(2)]))
    new.settle()
    assert [batch.first for batch in new.seen("console", EventsReceived)] == [2]


def test_a_move_that_fails_keeps_the_connection() -> None:
    pair = open_pair()
    pair.run_console(pair.console.reconnect(1.0, 30.0, "rotated", pair.now))
    pair.settle()
    pair.run_defender(pair.defender.reconnect_failed("UNKNOWN_CA", "not in defender-ca.pem"))
    pair.settle()
    assert pair.seen("console", MoveFailed) == [MoveFailed("UNKNOWN_CA", "not in defender-ca.pem")]
    pair.now = 31.0
    pair.run_console(pair.console.tick(pair.now))
    assert not pair.cut


def script(pair: Pair) -> None:
    """All that a connection does, until it ends."""
    pair.open()
    pair.settle()
    if pair.seen("console", HelloReceived):
        pair.run_console(pair.console.welcome("d-1", 1, 0, pair.now, WALL))
    pair.settle()
    pair.run_defender(pair.defender.post_events(EPOCH, 1, [event(1)]))
    pair.run_console(pair.console.send_command("c-1", "restart", {}, pair.now))
    pair.settle()


class CutPair(Pair):
    """A pair whose connection is cut after so many deliveries."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(console_end(), defender_end())
        self.left = deliveries

    def deliver(self, side: Side) -> bool:
        if self.left == 0:
            self.end()
            return False
        delivered = super().deliver(side)
        self.left -= delivered
        return delivered


@pytest.mark.parametrize("deliveries", range(7))
def test_a_connection_cut_at_any_point_leaves_nothing_behind(deliveries: int) -> None:
    pair = CutPair(deliveries)
    script(pair)
    pair.end()
    assert (pair.console.state, pair.defender.state) == (ConsoleState.CLOSED, DefenderState.CLOSED)
    assert len(pair.seen("console", CommandFinished)) == 1
    assert pair.console.tick(1e9) == pair.defender.tick(1e9) == ()


# Any history


@dataclass
class Spool:
    """A Defender's spool: bounded, the oldest dropped first."""

    epoch: str
    events: dict[int, Event] = field(default_factory=dict)
    next: int = 1

    @property
    def first(self) -> int:
        return min(self.events, default=self.next)

    def add(self, new: Event) -> None:
        self.events[self.next] = new
        self.next += 1

    def read(self, first: int, count: int) -> list[Event]:
        return [self.events[number] for number in range(first, min(first + count, self.next))]

    def forget(self, through: int) -> None:
        for number in [number for number in self.events if number <= through]:
            del self.events[number]


@dataclass
class Store:
    """A Console's store: applies each event once, in order, fenced by the session (D13)."""

    session: int = 0
    through: dict[str, int] = field(default_factory=dict)
    applied: list[tuple[str, int, Event]] = field(default_factory=list)

    def admit(self, epoch: str, first: int) -> tuple[int, int]:
        self.session += 1
        self.through[epoch] = max(self.through.get(epoch, 0), first - 1)
        return self.session, self.through[epoch]

    def apply(self, session: int, batch: EventsReceived) -> int | None:
        """The last number that is stored, or None if the session is fenced."""
        if session != self.session:
            return None
        through = self.through[batch.epoch]
        assert batch.first - batch.dropped <= through + 1, "a gap that nobody stated"
        for number, item in enumerate(batch.items, batch.first):
            if number > through:
                self.applied.append((batch.epoch, number, item))
        self.through[batch.epoch] = max(through, batch.first + len(batch.items) - 1)
        return self.through[batch.epoch]


class Link(Pair):
    """One connection, with what its shells do."""

    def __init__(self, spool: Spool, store: Store, stale: int) -> None:
        super().__init__(
            console_end(ConsoleOptions("1", limits=Limits(event_window=5))),
            defender_end(epoch=spool.epoch, first=spool.first, next_number=spool.next),
        )
        self.spool = spool
        self.store = store
        self.stale = stale
        self.pending: list[EventsReceived] = []
        self.open()

    def judge(self) -> None:
        """The Console's shell: admit who said Hello, take batches."""
        for hello in self.seen("console", HelloReceived):
            spool = hello.claims.spool
            session, through = self.store.admit(spool.epoch, spool.first)
            # A Console that remembers too little makes the Defender send again; it must not matter.
            told = max(spool.first - 1, through - self.stale)
            self.run_console(self.console.welcome("d-1", session, told, self.now))
        self.pending.extend(self.seen("console", EventsReceived))

    def flush(self) -> None:
        """The store's transaction: all batches so far, then the acknowledgements."""
        pending, self.pending = self.pending, []
        for batch in pending:
            through = self.store.apply(self.console.session, batch)
            if through is None:
                self.run_console(self.console.close(CloseCode.SUPERSEDED, "a newer session took over"))
                return
            self.run_console(self.console.acknowledge(batch.epoch, through))

    def post(self) -> None:
        """The Defender's shell: forget what is acknowledged, post what there is room for."""
        for acknowledged in self.seen("defender", Acknowledged):
            if acknowledged.epoch == self.spool.epoch:
                self.spool.forget(acknowledged.through)
        if self.defender.room and self.defender.epoch == self.spool.epoch:
            first = max(self.defender.next_event, self.spool.first)
            items = self.spool.read(first, self.defender.room)
            self.run_defender(self.defender.post_events(self.spool.epoch, first, items))


class EventsAreAppliedOnce(RuleBasedStateMachine):
    """Whatever happens to connections and spool: each event once, in order, none lost unsaid."""

    def __init__(self) -> None:
        super().__init__()
        self.spool = Spool("epoch-0")
        self.store = Store()
        self.links: list[Link] = []
        self.posted = 0
        self.gone: set[int] = set()
        self.epochs = 1

    def live(self) -> list[Link]:
        self.links = [link for link in self.links if not link.cut]
        return self.links

    @rule(count=st.integers(1, 8))
    def something_happens(self, count: int) -> None:
        for _ in range(count):
            self.posted += 1
            self.spool.add(event(self.posted))

    @rule(stale=st.integers(0, 3), deliveries=st.sampled_from([9, 6, 3, 2, 1, 0]))
    def connect(self, stale: int, deliveries: int) -> None:
        """Another connection, in whatever state: make before break has two, a quick restart three."""
        if len(self.live()) == 3:
            self.links.pop(0).end()
        link = Link(self.spool, self.store, stale)
        self.links.append(link)
        for _ in range(deliveries):
            link.deliver("defender")
            link.deliver("console")
            link.judge()

    @precondition(lambda self: self.live())
    @rule(choice=st.integers(0, 2), steps=st.integers(1, 12), first=st.sampled_from(["console", "defender"]))
    def deliver(self, choice: int, steps: int, first: Side) -> None:
        """Some messages arrive, on one connection, on both sides or more on one."""
        link = self.links[choice % len(self.links)]
        other: Side = "defender" if first == "console" else "console"
        for _ in range(steps):
            if not link.deliver(first):
                link.deliver(other)
            link.judge()

    @precondition(lambda self: self.live())
    @rule(choice=st.integers(0, 2))
    def flush(self, choice: int) -> None:
        self.links[choice % len(self.links)].flush()

    @precondition(lambda self: self.live())
    @rule(turns=st.sampled_from([4, 2, 1]), deliveries=st.sampled_from([9, 4, 1, 0]))
    def carry_on(self, turns: int, deliveries: int) -> None:
        """The newest welcomed connection is where a Defender's traffic is; it works for a while."""
        welcomed = [link for link in self.links if link.defender.state is DefenderState.OPEN]
        for _ in range(turns if welcomed else 0):
            link = welcomed[-1]
            link.post()
            for _ in range(deliveries):
                link.deliver("console")
                link.judge()
            link.flush()
            for _ in range(deliveries):
                link.deliver("defender")

    @precondition(lambda self: self.live())
    @rule(choice=st.integers(0, 5))
    def cut(self, choice: int) -> None:
        if choice < len(self.links):
            self.links[choice].end()

    @precondition(lambda self: self.spool.events)
    @rule(count=st.sampled_from([1, 1, 1, 6]))
    def overflow(self, count: int) -> None:
        through = self.spool.first + count - 1
        self.gone |= {self.number(item) for number, item in self.spool.events.items() if number <= through}
        self.spool.forget(through)

    @rule(unlikely=st.integers(0, 9))
    def lose_the_spool(self, unlikely: int) -> None:
        if unlikely != 7:
            return
        self.gone |= {self.number(item) for item in self.spool.events.values()}
        self.spool = Spool(f"epoch-{self.epochs}")
        self.epochs += 1
        for link in self.live():
            link.run_defender(link.defender.close(CloseCode.GOING_AWAY, "a new spool"))
            link.seen("defender", Close)

    @staticmethod
    def number(item: Event) -> int:
        number = item.fields["number"]
        assert isinstance(number, int)
        return number

    @invariant()
    def each_once_in_order(self) -> None:
        numbers = [self.number(item) for _, _, item in self.store.applied]
        assert numbers == sorted(set(numbers))

    @invariant()
    def nobody_broke_the_protocol(self) -> None:
        for link in self.links:
            for close in (*link.seen("console", Close), *link.seen("defender", Close)):
                assert close.code is CloseCode.SUPERSEDED, close
            assert link.console.stray == link.console.unknown == link.defender.unknown == 0

    def teardown(self) -> None:
        """When the faults end, all that wasn't said to be lost arrives."""
        for link in self.live():
            link.end()
        link = Link(self.spool, self.store, 0)
        for _ in range(1000):
            link.settle()
            link.judge()
            link.flush()
            link.settle()
            link.post()
            if link.defender.welcomed and not self.spool.events:
                break
        self.each_once_in_order()
        applied = {self.number(item) for _, _, item in self.store.applied}
        assert set(range(1, self.posted + 1)) - applied <= self.gone
        assert not self.spool.events


EventsAreAppliedOnce.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=50)
TestEventsAreAppliedOnce = EventsAreAppliedOnce.TestCase


@pytest.mark.parametrize("seed", range(10))
def test_a_long_history(seed: int) -> None:
    """The same, deep instead of broad: hypothesis' histories are short, and each leaves out some rules."""
    machine, chance = EventsAreAppliedOnce(), random.Random(seed)
    for _ in range(400):
        step = chance.choices(
            ["happen", "connect", "deliver", "flush", "carry on", "fault"], [4, 1, 3, 2, 6, 1]
        )[0]
        some = chance.randrange(3)
        match step:
            case "happen":
                machine.something_happens(chance.randint(1, 4))
            case "connect":
                machine.connect(some, chance.choice([9, 2, 1, 0]))
            case "deliver" if machine.live():
                machine.deliver(some, chance.randint(1, 6), chance.choice(["console", "defender"]))
            case "flush" if machine.live():
                machine.flush(some)
            case "carry on" if machine.live():
                machine.carry_on(chance.randint(1, 3), chance.randint(0, 6))
            case "fault" if machine.live() and machine.spool.events:
                chance.choice([machine.cut, machine.overflow, lambda _: machine.lose_the_spool(7)])(some)
        machine.each_once_in_order()
        machine.nobody_broke_the_protocol()
    assert len(machine.store.applied) > 100
    assert machine.store.session > 10
    machine.teardown()


def test_the_model_would_notice_an_event_applied_twice() -> None:
    """The negative control of the property above: its store and its invariants are not blind."""
    machine = EventsAreAppliedOnce()
    machine.store.applied = [(EPOCH, 1, event(1)), (EPOCH, 1, event(1))]
    with pytest.raises(AssertionError):
        machine.each_once_in_order()
    store = Store()
    store.admit(EPOCH, 1)
    with pytest.raises(AssertionError, match="gap"):
        store.apply(1, EventsReceived(EPOCH, 3, (event(3),), 1))
    assert store.apply(0, EventsReceived(EPOCH, 1, (event(1),), 0)) is None
