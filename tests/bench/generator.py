"""Thousands of Defenders in one process, over the real protocol and real TLS.

A Defender here has no task and no files: one object with the protocol's state machine; a few workers open
connections, one sweep looks at the time for all. Each makes before it breaks: what it moves away from stays
until the Console closes it, or LEAVE_SECONDS.
"""

import asyncio
import random
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.protocol import MAX_MESSAGE_BYTES, SUBPROTOCOL, CloseCode, Welcome
from common.transport import ConnectionFailed, client_factory, connect
from tests.bench.simulated import Defender, Line
from tests.bench.tally import Tally
from tests.bench.wallet import Credentials, Wallet
from tests.bench.workshop import SCALAR_BYTES, ensure_identities

SWEEP_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 1.0
"""Between two looks at the folder of the operator's set."""
OFFER_SECONDS: Final = 1.0
"""Defenders on many hosts see new files within about this."""
LEAVE_SECONDS: Final = 10.0
"""How long a replaced connection waits for the Console to close it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to generate.

    Attributes:
        host: Where the Console is, and the name that its certificate must bear.
        port: Its port for Defenders.
        wallet: The Defenders' common certificate sets.
        identities: File of instance keys; keys are added as they are needed.
        first: The first key to use, so that several processes can share a file.
        defenders: How many.
        concurrency: Connections being opened at a time.
        rate: Connections begun in a second, at most; 0 for no limit.
        events_per_minute: That each Defender posts.
        patience: Seconds that a connection may take until its Welcome.
        settle: At the end: seconds for what is posted to be acknowledged; 0: none of it is waited for.
    """

    host: str
    port: int
    wallet: Wallet
    identities: Path
    defenders: int
    first: int = 0
    concurrency: int = 32
    rate: float = 0.0
    events_per_minute: float = 0.0
    patience: float = 15.0
    settle: float = 0.0


class Fleet:
    """The Defenders of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run = uuid.uuid4().hex[:8]
        self.tally = Tally()
        self.connected = 0
        self.posting = True
        self.post_seconds = 60 / plan.events_per_minute if plan.events_per_minute else float("inf")
        self.all_connected = asyncio.Event()
        self._waiting: asyncio.Queue[Defender] = asyncio.Queue()
        self._leaving: dict[Line, float] = {}
        self._commands: set[str] = set()
        self._next_start = 0.0
        self._stopping = False
        ensure_identities(plan.identities, plan.first + plan.defenders)
        scalars = plan.identities.read_bytes()
        numbers = range(plan.first, plan.first + plan.defenders)
        self.defenders = [
            Defender(self, number, scalars[number * SCALAR_BYTES : (number + 1) * SCALAR_BYTES])
            for number in numbers
        ]

    async def keep(self, stop: asyncio.Event) -> None:
        """Connect all and keep them connected until `stop`."""
        for defender in self.defenders:
            self._queue(defender)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._work(), name=f"worker {n}") for n in range(self.plan.concurrency)
            ]
            running.append(tasks.create_task(self._sweep(), name="sweep"))
            running.append(tasks.create_task(self._look(), name="look"))
            await stop.wait()
            await self._settle()
            self._stopping = True
            for task in running:
                task.cancel()
        self._leave()

    async def cycle(self, seconds: float) -> None:
        """Connect, be welcomed and leave, over and over, each Defender once at a time."""
        idle = deque(self.defenders)
        end = time.monotonic() + seconds

        async def work() -> None:
            while time.monotonic() < end and idle:
                defender = idle.popleft()
                await self._connect(defender)
                if defender.line is not None:
                    defender.line.close(CloseCode.NORMAL, "done")
                    defender.line = None
                idle.append(defender)

        self._stopping = True  # nobody comes back by itself
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.plan.concurrency):
                tasks.create_task(work(), name=f"cycle {number}")

    def status(self) -> dict[str, Any]:
        """How it stands now: the tally, and what the Defenders are connected by."""
        lines = [defender.line for defender in self.defenders if defender.line is not None]
        return self.tally.as_json() | {
            "now": time.monotonic(),
            "connected": self.connected,
            "leaving": len(self._leaving),
            "newest": sum(line.credentials is self.plan.wallet.newest for line in lines),
            "leaves": dict(Counter(line.leaf.hex() for line in lines)),
        }

    def ledger(self) -> list[dict[str, Any]]:
        """What each Defender reported, for whoever compares it with what a Console has stored."""
        return [
            {"name": d.name, "id": d.id, "epoch": d.epoch, "created": d.next_event - 1, "through": d.through}
            for d in self.defenders
        ]

    def again(self, defender: Defender, seconds: float) -> None:
        """Have a Defender connect in so many seconds, or earlier if it would anyhow."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, seconds)
        if defender.timer is not None:
            if defender.timer.when() <= at:
                return
            defender.timer.cancel()
        defender.timer = loop.call_at(at, self._queue, defender)

    def ordered(self, command_id: str) -> None:
        """A command came."""
        self.tally.commands += 1
        self.tally.repeated += command_id in self._commands
        self._commands.add(command_id)

    def welcomed(self, line: Line, welcome: Welcome) -> None:
        """A connection is its Defender's from here on; the one before it waits for its end."""
        defender, tally = line.defender, self.tally
        before, defender.line = defender.line, line
        defender.id, defender.proved = welcome.defender_id, line.credentials
        tally.welcomed += 1
        now = time.monotonic()
        tally.waits.append(now - line.began)
        defender.acknowledged(welcome.acked_through)
        if before is None:
            self.connected += 1
        else:
            tally.moved += 1
            tally.moved_last = now
            self._leaving[before] = now + LEAVE_SECONDS
        if self.connected == len(self.defenders):
            self.all_connected.set()
        line.settle("")
        defender.post()

    def ended(self, line: Line, code: int, why: str) -> None:
        """A connection is gone: one that was not finished, one that was left, or the Defender's own."""
        self._leaving.pop(line, None)
        if line.settled is not None:
            self.tally.failed[why] += 1
            line.settle(why)
        if line.defender.line is not line:
            return
        line.defender.line = None
        self.connected -= 1
        # The Console ends what is replaced once the new one is welcomed: that Welcome may be read after this.
        if self._stopping or (code == CloseCode.SUPERSEDED and line.defender.opening is not None):
            return
        self.tally.lost[why] += 1
        self.again(line.defender, line.defender.retry_seconds)

    def _queue(self, defender: Defender) -> None:
        defender.timer = None
        if defender.opening is not None:  # never two attempts at a time
            self.again(defender, SWEEP_SECONDS)
        elif not defender.queued:
            defender.queued = True
            self._waiting.put_nowait(defender)

    async def _work(self) -> None:
        while True:
            defender = await self._waiting.get()
            await self._pace()
            defender.queued = False
            await self._try(defender)

    async def _try(self, defender: Defender) -> None:
        """One attempt, and what follows from it."""
        why = await self._connect(defender)
        if why:
            if defender.asked_by is not None and defender.line is not None:
                defender.line.do(defender.line.end.reconnect_failed("failed", why))
            self.again(defender, defender.retry_seconds)
            defender.failures += 1
        else:
            defender.failures = 0
            if defender.proved is not self.plan.wallet.newest:
                self.again(defender, defender.retry_seconds)
        defender.asked_by = None

    async def _pace(self) -> None:
        if self.plan.rate:
            now = time.monotonic()
            self._next_start = max(now, self._next_start + 1 / self.plan.rate)
            await asyncio.sleep(self._next_start - now)

    def _chosen(self, defender: Defender) -> Credentials:
        """The newest set; in turn with the one that was proved, while there is no connection."""
        if defender.proved is not None and defender.line is None and defender.failures % 2:
            return defender.proved
        return self.plan.wallet.newest

    async def _connect(self, defender: Defender) -> str:
        """Open a connection and wait until it is welcomed or gone.

        Returns:
            Why it was not welcomed; empty if it was.
        """
        plan, now = self.plan, time.monotonic()
        patience = plan.patience
        if defender.asked_by is not None:
            patience = min(patience, max(SWEEP_SECONDS, defender.asked_by - now))
        settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        line = defender.opening = Line(defender, self._chosen(defender), settled)
        factory = client_factory(
            f"wss://{plan.host}:{plan.port}/",
            line,
            subprotocols=(SUBPROTOCOL,),
            max_size=MAX_MESSAGE_BYTES,
        )
        try:
            async with asyncio.timeout(patience):
                await connect(
                    plan.host,
                    plan.port,
                    context=line.credentials.context,
                    server_hostname=plan.host,
                    protocol_factory=factory,
                    timeout=patience,
                )
                return await settled
        except ConnectionFailed as failure:
            self.tally.failed[failure.kind] += 1
            return str(failure)
        except TimeoutError:
            self.tally.failed["no Welcome in time"] += 1
            return "no Welcome in time"
        finally:
            defender.opening = None
            if line.settled is not None:
                line.settled = None
                line.abort()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for defender in self.defenders:
                defender.tick(now)
            for line, by in tuple(self._leaving.items()):
                line.tick(now)
                if now >= by:
                    self.tally.overstayed += 1
                    self._leaving.pop(line, None)
                    line.close(CloseCode.NORMAL, "moved")

    async def _look(self) -> None:
        """Move to a set that an operator brings, without being asked."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.plan.wallet.look():
                for defender in self.defenders:
                    self.again(defender, random.random() * OFFER_SECONDS)

    async def _settle(self) -> None:
        """No more events; wait until the Console has those that there are, and until all have moved."""
        self.posting = False
        end = time.monotonic() + self.plan.settle
        while time.monotonic() < end and (self.tally.acknowledged < self.tally.created or self._leaving):
            await asyncio.sleep(SWEEP_SECONDS / 5)

    def _leave(self) -> None:
        for line in (*self._leaving, *(d.line for d in self.defenders if d.line is not None)):
            line.abort()
