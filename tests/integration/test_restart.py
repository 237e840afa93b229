"""The Console is killed under load: Defenders come back, no event is lost, none is there twice (D13)."""

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from common.clock import SystemClock
from common.logging import TextFormatter
from common.protocol import encode_event, read_event
from console.store import Store
from defender.agent import Agent
from defender.journal import Journal
from defender.service import _dialer, _folder, _source
from defender.settings import DefenderSettings
from tests.peers import event
from tests.processes import ConsoleProcess, Fleet

DEFENDERS = 8
KILLS = 4


class Loaded:
    """A real agent with a real spool on disk, to which events are added without pause.

    Attributes:
        appended: How many of our events the spool has taken.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.appended = 0

    async def report(self, stop: asyncio.Event) -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            spool = self.agent._spool
            assert spool.append(encode_event(event(f"{number}"))) is not None
            self.appended = number
            if self.agent._link:
                self.agent.on_room(self.agent._link)
            # A rate of its own: some hundred events a second over all.
            await asyncio.sleep(0.02)

    async def delivered(self) -> None:
        async with asyncio.timeout(40):
            while self.agent._spool.held:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(folder: Path, bundle: dict[str, str], count: int) -> AsyncIterator[list[Loaded]]:
    with ExitStack() as stack:
        agents = []
        for number in range(count):
            environment = {
                "DATA_FOLDER": str(folder / f"defender-{number}"),
                "GARRISON_HOSTNAME": f"host-{number}",
                "GARRISON_RECONNECT_CAP": "1s",
            }
            settings = DefenderSettings.read({**bundle, **environment})
            key, spool = stack.enter_context(_folder(settings))
            source = _source(settings)
            agent = Agent(
                settings,
                key=key,
                spool=spool,
                source=source,
                credentials=source.load(SystemClock().now()),
                journal=Journal(TextFormatter()),
                dialer=_dialer(settings),
                clock=SystemClock(),
                rng=random.Random(number),
            )
            agents.append(Loaded(agent))
        async with asyncio.TaskGroup() as tasks:
            for loaded in agents:
                tasks.create_task(loaded.agent.run())
            try:
                yield agents
            finally:
                for loaded in agents:
                    loaded.agent.stop("the test is over")


async def killed_and_back(fleet: Fleet, console: ConsoleProcess) -> ConsoleProcess:
    await console.process.stop(signal.SIGKILL)
    return await fleet.console(
        MANAGEMENT_PORT_HTTPS=str(console.https_port), COMMUNICATION_PORT=str(console.websocket_port)
    )


async def test_events_survive_a_console_that_is_killed(fleet: Fleet, tmp_path: Path) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    stop = asyncio.Event()
    async with running(tmp_path, bundle, DEFENDERS) as agents:
        async with asyncio.TaskGroup() as load:
            for loaded in agents:
                load.create_task(loaded.report(stop))
            for _ in range(KILLS):
                # Killed in the middle of the traffic: when each Defender has added a good number of events.
                goals = [loaded.appended + 40 for loaded in agents]
                async with asyncio.timeout(30):
                    while any(a.appended < goal for a, goal in zip(agents, goals, strict=True)):
                        await asyncio.sleep(0.01)
                console = await killed_and_back(fleet, console)
            stop.set()
        for loaded in agents:
            await loaded.delivered()
        appended = [loaded.appended for loaded in agents]
    assert await console.process.stop() == 0

    async with await Store.open(console.data) as store:
        records = {record.facts.hostname: record for record in await store.defenders.list()}
        assert len(records) == DEFENDERS
        for number, count in enumerate(appended):
            record = records[f"host-{number}"]
            stored = await store.events.list(record.id, limit=100_000)
            texts = [e.fields["text"] for e in reversed(stored) if e.type == "test"]
            assert texts == [str(n) for n in range(1, count + 1)]
            numbers = [e.number for e in reversed(stored)]
            assert numbers == list(range(1, len(numbers) + 1))
            (spool,) = await store.events.spools(record.id)
            assert (spool.missing, spool.dropped) == (0, 0)
    # The control: what the test compares is what was sent.
    assert read_event(encode_event(event("7"))).fields == {"text": "7"}
    assert sum(appended) > DEFENDERS * KILLS * 40
