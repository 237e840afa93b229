"""Events: each once, in order, without gaps, whatever happens in between (D13)."""

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from console.store import Applied, EventBatch, Outcome, Store, defender_id, models
from console.store.database import Database
from tests.console.store.disks import fill, small_disk
from tests.console.store.samples import LATER, NOW, Happening, batch, request

DEEP: dict[str, object] = {}
for _ in range(5000):
    DEEP = {"deeper": DEEP}

ONE, TWO = defender_id(b"key one"), defender_id(b"key two")


@pytest.fixture
async def admitted(store: Store) -> Store:
    """A store that has admitted two Defenders, each in its first session."""
    await store.defenders.admit_all([request(b"key one"), request(b"key two")], NOW)
    return store


async def numbers(store: Store, key: str = ONE) -> list[int]:
    """What was applied, oldest first; each event says the number that it was sent under."""
    records = await store.events.list(key, limit=1_000_000)
    assert all(record.fields == {"number": record.number, "epoch": record.epoch} for record in records)
    return [record.number for record in reversed(records)]


async def apply(store: Store, *batches: EventBatch) -> list[tuple[Outcome, int, int]]:
    return [(a.outcome, a.through, a.added) for a in await store.events.apply(batches, NOW)]


async def test_events_are_kept_as_they_were_reported(admitted: Store) -> None:
    zone = timezone(timedelta(hours=-5))
    item = Happening(
        "certificateLoaded", LATER.astimezone(zone), {"channel": "defender-client", "n": [1, None, "ü"]}
    )
    assert await admitted.events.apply([EventBatch(ONE, 1, "e1", 1, [item])], NOW) == (
        Applied(ONE, "e1", Outcome.APPLIED, 1, 1),
    )
    (record,) = await admitted.events.list(ONE)
    assert (record.number, record.epoch, record.type, record.fields) == (1, "e1", item.type, item.fields)
    assert (record.time, record.received, record.defender_id) == (LATER, NOW, ONE)
    assert record.time.tzinfo is UTC


async def test_what_is_sent_again_is_passed_over(admitted: Store) -> None:
    assert await apply(admitted, batch(ONE, 1, 1, 3)) == [(Outcome.APPLIED, 3, 3)]
    assert await apply(admitted, batch(ONE, 1, 1, 3)) == [(Outcome.APPLIED, 3, 0)]
    assert await apply(admitted, batch(ONE, 1, 2, 4)) == [(Outcome.APPLIED, 5, 2)]
    assert await numbers(admitted) == [1, 2, 3, 4, 5]


async def test_a_gap_says_what_is_expected_and_changes_nothing(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 3))
    (answer,) = await admitted.events.apply([batch(ONE, 1, 5, 2)], NOW)
    assert (answer.outcome, answer.expected, answer.added) == (Outcome.GAP, 4, 0)
    assert await numbers(admitted) == [1, 2, 3]


async def test_a_stated_drop_is_no_gap_and_is_counted(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 3))
    assert await apply(admitted, batch(ONE, 1, 6, 2, dropped=2)) == [(Outcome.APPLIED, 7, 2)]
    assert await numbers(admitted) == [1, 2, 3, 6, 7]
    (spool,) = await admitted.events.spools(ONE)
    assert (spool.through, spool.missing) == (7, 2)


async def test_an_older_session_is_fenced(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 3))
    await admitted.defenders.admit(request(first=4, next=9), LATER)
    assert await apply(admitted, batch(ONE, 1, 4, 3)) == [(Outcome.FENCED, 3, 0)]
    assert await apply(admitted, batch(ONE, 3, 4, 3)) == [(Outcome.FENCED, 3, 0)]
    assert await apply(admitted, batch(ONE, 2, 4, 3)) == [(Outcome.APPLIED, 6, 3)]
    assert await numbers(admitted) == [1, 2, 3, 4, 5, 6]


async def test_a_fenced_epoch_leaves_no_trace(admitted: Store) -> None:
    assert await apply(admitted, batch(ONE, 9, 1, 3, epoch="forged")) == [(Outcome.FENCED, 0, 0)]
    assert [spool.epoch for spool in await admitted.events.spools(ONE)] == ["e1"]


async def test_nobody_knows_a_defender_that_was_never_admitted(admitted: Store) -> None:
    answers = await apply(admitted, batch("d-unknown", 1, 1, 3), batch(ONE, 1, 1, 1))
    assert answers == [(Outcome.UNKNOWN, 0, 0), (Outcome.APPLIED, 1, 1)]


async def test_a_new_epoch_starts_at_one_or_says_what_it_dropped(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 3))
    assert await apply(admitted, batch(ONE, 1, 5, 1, epoch="e2")) == [(Outcome.GAP, 0, 0)]
    assert await apply(admitted, batch(ONE, 1, 5, 1, epoch="e2", dropped=4)) == [(Outcome.APPLIED, 5, 1)]
    assert await apply(admitted, batch(ONE, 1, 1, 2, epoch="e3")) == [(Outcome.APPLIED, 2, 2)]
    # The old epochs are still known, and what was applied of them still is.
    assert await apply(admitted, batch(ONE, 1, 1, 4)) == [(Outcome.APPLIED, 4, 1)]
    spools = await admitted.events.spools(ONE)
    assert [(s.epoch, s.through, s.missing) for s in spools] == [("e3", 2, 0), ("e2", 5, 4), ("e1", 4, 0)]


async def test_batches_of_one_defender_build_on_each_other(admitted: Store) -> None:
    answers = await apply(
        admitted, batch(ONE, 1, 1, 2), batch(TWO, 1, 1, 1), batch(ONE, 1, 3, 2), batch(ONE, 1, 6, 1)
    )
    assert answers == [
        (Outcome.APPLIED, 2, 2),
        (Outcome.APPLIED, 1, 1),
        (Outcome.APPLIED, 4, 2),
        (Outcome.GAP, 4, 0),
    ]


async def test_empty_batches_are_answered(admitted: Store) -> None:
    assert await admitted.events.apply([], NOW) == ()
    assert await apply(admitted, batch(ONE, 1, 1, 0)) == [(Outcome.APPLIED, 0, 0)]


async def test_many_callers_share_transactions_and_each_gets_its_own_answers(store: Store) -> None:
    requests = [request(b"key %d" % number) for number in range(300)]
    ids = [admission.record.id for admission in await store.defenders.admit_all(requests, NOW)]
    calls = [
        store.events.apply([batch(key, 1, first, 5), batch(key, 1, first, 5)], NOW)
        for first in (1, 6)
        for key in ids
    ]
    answers = await asyncio.gather(*calls)
    assert [[a.defender_id for a in answer] for answer in answers] == [[key, key] for key in ids * 2]
    assert [[a.added for a in answer] for answer in answers] == [[5, 0]] * 600
    assert await numbers(store, ids[7]) == list(range(1, 11))


@pytest.mark.parametrize(
    "item",
    [
        Happening(time=datetime(2026, 1, 1)),  # noqa: DTZ001
        Happening(time=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))),
        Happening(fields={"a": object()}),
        Happening(fields={"a": "\ud800"}),
        Happening(fields=DEEP),
    ],
)
async def test_an_event_that_cannot_be_kept_fails_its_own_batch_only(
    admitted: Store, item: Happening
) -> None:
    bad = EventBatch(ONE, 1, "e1", 1, [Happening(), item])
    answers = await admitted.events.apply([batch(TWO, 1, 1, 1), bad, batch(TWO, 1, 2, 1)], NOW)
    assert [(a.outcome, a.through) for a in answers] == [
        (Outcome.APPLIED, 1),
        (Outcome.REFUSED, 0),
        (Outcome.APPLIED, 2),
    ]
    assert answers[1].fault
    assert not answers[0].fault
    assert await numbers(admitted, TWO) == [1, 2]
    assert await admitted.events.list(ONE) == ()
    # It stays where it was: what is good goes on from there.
    assert await apply(admitted, batch(ONE, 1, 1, 2)) == [(Outcome.APPLIED, 2, 2)]


async def test_who_is_fenced_or_unknown_hears_that_first(admitted: Store) -> None:
    odd = [Happening(fields={"a": object()})]
    answers = await admitted.events.apply(
        [EventBatch(ONE, 9, "e1", 1, odd), EventBatch("d-unknown", 1, "e1", 1, odd)], NOW
    )
    assert [a.outcome for a in answers] == [Outcome.FENCED, Outcome.UNKNOWN]


@pytest.mark.parametrize("place", [0, 3, 6])
async def test_what_only_the_engine_refuses_fails_its_own_batch_only(
    store: Store, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    """A position that went back, as in a store that was repaired by hand: its numbers are there already."""
    ids = [
        a.record.id for a in await store.defenders.admit_all([request(b"key %d" % n) for n in range(7)], NOW)
    ]
    await apply(store, batch(ids[place], 1, 1, 3))
    database = Database.sqlite(store.data_folder / "console.db")
    async with database.writing() as connection:
        await connection.execute(update(models.Spool).values(through=0))
    await database.close()
    answers = await store.events.apply([batch(key, 1, 1, 2) for key in ids], NOW)
    expected = [Outcome.APPLIED] * 7
    expected[place] = Outcome.REFUSED
    assert [a.outcome for a in answers] == expected
    assert "IntegrityError" in answers[place].fault
    assert [a.through for a in answers if a.outcome is Outcome.APPLIED] == [2] * 6
    assert await numbers(store, ids[place]) == [1, 2, 3]
    for key in {*ids} - {ids[place]}:
        assert await numbers(store, key) == [1, 2]
    assert ids[place] in caplog.text


async def test_pages_cover_everything_once_newest_first(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 5), batch(TWO, 1, 1, 5))
    await apply(admitted, batch(ONE, 1, 1, 3, epoch="e2"))
    await apply(admitted, batch(ONE, 1, 6, 2))  # an old epoch that goes on
    seen: list[tuple[str, int]] = []
    before = None
    while page := await admitted.events.list(ONE, limit=3, before=before):
        assert len(page) <= 3
        seen += [(record.epoch, record.number) for record in page]
        before = page[-1].id
    expected = (
        [("e1", n) for n in (1, 2, 3, 4, 5)] + [("e2", n) for n in (1, 2, 3)] + [("e1", n) for n in (6, 7)]
    )
    assert seen == expected[::-1]
    assert await admitted.events.list("d-unknown") == ()


async def test_many_defenders_at_once(store: Store) -> None:
    requests = [request(b"key %d" % number) for number in range(100)]
    ids = [admission.record.id for admission in await store.defenders.admit_all(requests, NOW)]
    for first in range(1, 101, 10):
        await asyncio.gather(*(store.events.apply([batch(key, 1, first, 10)], NOW) for key in ids))
    for key in ids:
        stored = await store.events.list(key, limit=1000)
        assert [record.number for record in reversed(stored)] == list(range(1, 101))


async def test_a_full_disk_applies_nothing_and_the_same_batch_goes_through_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "600k") as disk:
        async with await Store.open(disk / "data") as store:
            await store.defenders.admit(request(), NOW)
            await apply(store, batch(ONE, 1, 1, 10))
            ballast = fill(disk)
            first = 11
            with contextlib.suppress(Exception):
                while True:  # what is left in the log's last pages is used up
                    first = (await apply(store, batch(ONE, 1, first, 200)))[0][1] + 1
            ballast.unlink()
            assert await numbers(store) == list(range(1, first))
            assert await apply(store, batch(ONE, 1, first, 200)) == [(Outcome.APPLIED, first + 199, 200)]
            assert await numbers(store) == list(range(1, first + 200))


async def test_a_call_that_is_cancelled_anywhere_is_applied_once_when_sent_again(admitted: Store) -> None:
    first = 1
    for turns in range(80):
        task = asyncio.ensure_future(admitted.events.apply([batch(ONE, 1, first, 3)], NOW))
        other = asyncio.ensure_future(admitted.events.apply([batch(TWO, 1, turns + 1, 1)], NOW))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await other)[0].through == turns + 1
        (answer,) = await admitted.events.apply([batch(ONE, 1, first, 3)], NOW)
        assert (answer.outcome, answer.through) == (Outcome.APPLIED, first + 2)
        first += 3
    assert await numbers(admitted) == list(range(1, first))
    assert await numbers(admitted, TWO) == list(range(1, 81))


# Against a model


@dataclass
class Agent:
    """A Defender's spool: what happened, what it still holds, what it believes is settled."""

    epoch: int = 1
    next: int = 1
    first: int = 1
    dropped: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"e{self.epoch}"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["happen", "send", "resend", "overflow", "lose", "reconnect", "stale", "restart"]),
        st.integers(1, 8),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_whatever_happens_every_event_is_applied_once_and_in_order(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _shared(tmp_path_factory)
    asyncio.run(_live(folder, steps))


_FOLDERS: list[Path] = []
_KEYS = itertools.count()


def _shared(factory: pytest.TempPathFactory) -> Path:
    """One store for all examples: each is a Defender of its own in it."""
    if not _FOLDERS:
        _FOLDERS.append(factory.mktemp("model"))
    return _FOLDERS[0]


async def _live(folder: Path, steps: list[tuple[str, int]]) -> None:
    life = Life(folder, b"agent %d" % next(_KEYS))
    await life.open()
    try:
        await life.connect()
        for step, size in steps:
            await life.step(step, size)
        await life.check()
    finally:
        await life.store.close()


class Life:
    """A Defender against a Console, step by step, with what has to be in the store in the end."""

    store: Store

    def __init__(self, folder: Path, key: bytes) -> None:
        self.folder = folder
        self.key = key
        self.id = defender_id(key)
        self.agent = Agent()
        self.applied: dict[str, list[int]] = defaultdict(list)
        self.session = 0

    async def open(self) -> None:
        self.store = await Store.open(self.folder)

    async def connect(self) -> None:
        agent = self.agent
        hello = request(
            self.key, epoch=agent.name, first=agent.first, next=agent.next, dropped=len(agent.dropped)
        )
        admission = await self.store.defenders.admit(hello, NOW)
        done = max(self.applied[agent.name], default=0)
        assert admission.applied_through == max(done, agent.first - 1)
        # The Welcome acknowledges what was applied: the spool lets go of it.
        agent.first = admission.applied_through + 1
        self.session = admission.session

    async def send(self, count: int, *, acknowledged: bool) -> None:
        agent = self.agent
        count = min(count, agent.next - agent.first)
        sent = batch(self.id, self.session, agent.first, count, epoch=agent.name)
        (answer,) = await self.store.events.apply([sent], NOW)
        assert answer.outcome is Outcome.APPLIED
        fresh = range(answer.through - answer.added + 1, answer.through + 1)
        assert set(fresh) <= set(range(sent.first, sent.first + count))
        self.applied[agent.name] += fresh
        if acknowledged:
            agent.first = answer.through + 1

    async def step(self, step: str, size: int) -> None:
        agent = self.agent
        match step:
            case "happen":
                agent.next += size
            case "send":
                await self.send(size, acknowledged=True)
            case "resend":  # the acknowledgement is lost
                await self.send(size, acknowledged=False)
            case "overflow":
                end = min(agent.next, agent.first + size)
                agent.dropped |= set(range(agent.first, end)) - set(self.applied[agent.name])
                agent.first = end
                await self.connect()
            case "lose":
                self.agent = Agent(agent.epoch + 1)
                await self.connect()
            case "reconnect":
                await self.connect()
            case "stale":
                stale = batch(self.id, self.session - 1, agent.first, size, epoch=agent.name)
                (answer,) = await self.store.events.apply([stale], NOW)
                assert answer.outcome is Outcome.FENCED
            case "restart":
                await self.store.close()
                await self.open()

    async def check(self) -> None:
        records = await self.store.events.list(self.id, limit=10_000)
        for epoch, expected in self.applied.items():
            assert sorted(set(expected)) == expected
            assert [r.number for r in reversed(records) if r.epoch == epoch] == expected
        (current,) = [s for s in await self.store.events.spools(self.id) if s.epoch == self.agent.name]
        assert current.missing == len(self.agent.dropped)


WRITER = """
import asyncio, sys
from pathlib import Path
from console.store import EventBatch, Store
from tests.console.store.samples import NOW, batch, request

async def main():
    store = await Store.open(Path(sys.argv[1]))
    admission = await store.defenders.admit(request(), NOW)
    print("welcome", admission.applied_through, flush=True)
    first = admission.applied_through + 1
    while True:
        (answer,) = await store.events.apply([batch(admission.record.id, admission.session, first, 7)], NOW)
        print("ack", answer.through, flush=True)
        first = answer.through + 1

asyncio.run(main())
"""


async def test_a_console_that_is_killed_has_all_that_it_acknowledged_and_goes_on(folder: Path) -> None:
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            welcome = int(writer.stdout.readline().split()[1])
            # At most the batch on its way, whose acknowledgement nobody saw, may be there beyond.
            assert acknowledged <= welcome <= acknowledged + 7
            for _ in range(chance.randrange(1, 20)):
                acknowledged = int(writer.stdout.readline().split()[1])
            writer.kill()
            for line in writer.stdout:
                acknowledged = int(line.split()[1])
    async with await Store.open(folder) as store:
        found = await numbers(store)
        assert acknowledged <= len(found) <= acknowledged + 7
        assert found == list(range(1, len(found) + 1))


async def test_a_session_that_ends_between_two_batches_applies_one_of_them(admitted: Store) -> None:
    """The last batch races with the next admission: whichever wins, nothing is lost or doubled."""
    for session in range(1, 20):
        first = 3 * (session - 1) + 1
        hello = request(first=first, next=first + 3)
        answers, admission = await asyncio.gather(
            admitted.events.apply([batch(ONE, session, first, 3)], NOW), admitted.defenders.admit(hello, NOW)
        )
        assert admission.session == session + 1
        assert answers[0].outcome in {Outcome.APPLIED, Outcome.FENCED}
        if answers[0].outcome is Outcome.FENCED:
            assert admission.applied_through == first - 1
        again = await admitted.events.apply([batch(ONE, admission.session, first, 3)], NOW)
        assert (again[0].outcome, again[0].through) == (Outcome.APPLIED, first + 2)
    assert await numbers(admitted) == list(range(1, 58))


async def test_events_of_a_defender_that_is_deleted_meanwhile_are_nobodys(admitted: Store) -> None:
    await apply(admitted, batch(ONE, 1, 1, 3))
    await admitted.defenders.delete(ONE)
    assert await apply(admitted, batch(ONE, 1, 4, 3)) == [(Outcome.UNKNOWN, 0, 0)]
    assert await admitted.events.list(ONE) == ()


async def test_readers_see_whole_batches_while_many_are_applied(admitted: Store) -> None:
    done = False

    async def read() -> list[int]:
        seen = []
        while not done:
            seen.append(len(await admitted.events.list(ONE, limit=10_000)))
        return seen

    reading = asyncio.ensure_future(read())
    for first in range(1, 500, 10):
        await apply(admitted, batch(ONE, 1, first, 10))
    done = True
    seen = await reading
    assert seen == sorted(seen)
    assert all(count % 10 == 0 for count in seen)


async def test_a_batch_larger_than_a_transaction_should_be_is_applied_all_the_same(admitted: Store) -> None:
    assert await apply(admitted, batch(ONE, 1, 1, 12_000)) == [(Outcome.APPLIED, 12_000, 12_000)]
    page = await admitted.events.list(ONE, limit=1)
    assert page[0].number == 12_000
