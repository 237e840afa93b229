"""The load generator: thousands of Defenders in one process, over the real protocol and real TLS.

    python -m tests.bench.load --address localhost:8084 --bundle FILE --defenders 1000 --rate 200

Each Defender has an instance key of its own, says Hello, sends heartbeats at the pace that Welcome asks for,
posts events and takes them as delivered when they are acknowledged, moves when it is asked to reconnect (make
before break), and comes back by itself when it is lost. It has no task and no files: one object with the
protocol's state machine; a few workers open connections, one sweep looks at the time for all.

It prints a JSON object once all are connected and another at the end, and stops when its time is over, its
standard input ends, or on Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import ssl
import statistics
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from common.bundle import decode_bundle
from common.certificates import FileSet, Role, Source, client_context, judge, read_files
from common.protocol import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Acknowledged,
    Claims,
    Close,
    CloseCode,
    CommandReceived,
    DefenderEnd,
    DefenderOutput,
    HeartbeatSeen,
    ReconnectAsked,
    Send,
    SpoolState,
    Started,
    Welcomed,
    leaf_digest,
    report,
)
from common.transport import ConnectionFailed, WebSocketConnection, client_factory, connect
from common.version import VERSION
from tests.bench.errors import BenchError
from tests.bench.loops import LOOPS, input_ended, loop_factory
from tests.bench.machine import raise_file_limit
from tests.bench.workshop import FOLDER, SCALAR_BYTES, ensure_identities

SWEEP_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 5.0
"""A lost Defender comes back after a random part of this."""
SPARE_FILES: Final = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What to generate.

    Attributes:
        host: Where the Console is, and the name that its certificate must bear.
        port: Its port for Defenders.
        context: Built from the Defenders' common certificate set.
        identities: File of instance keys; keys are added as they are needed.
        first: The first key to use, so that several processes can share a file.
        defenders: How many.
        concurrency: Connections being opened at a time.
        rate: Connections begun in a second, at most; 0 for no limit.
        events_per_minute: That each Defender posts.
        patience: Seconds that a connection may take until its Welcome.
    """

    host: str
    port: int
    context: ssl.SSLContext
    identities: Path
    defenders: int
    first: int = 0
    concurrency: int = 32
    rate: float = 0.0
    events_per_minute: float = 0.0
    patience: float = 15.0


@dataclass(slots=True)
class Tally:
    """What happened so far; `waits` are seconds from the start of a connection to its Welcome."""

    welcomed: int = 0
    moved: int = 0
    heartbeats: int = 0
    posted: int = 0
    acknowledged: int = 0
    commands: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        waits = sorted(self.waits) or [0.0]
        return {
            "welcomed": self.welcomed,
            "moved": self.moved,
            "heartbeats": self.heartbeats,
            "posted": self.posted,
            "acknowledged": self.acknowledged,
            "commands": self.commands,
            "failed": dict(self.failed),
            "lost": dict(self.lost),
            "p50": statistics.median(waits),
            "p99": waits[len(waits) * 99 // 100],
        }


class Defender:
    """One Defender: who it is, its spool in memory, and the connection that it has."""

    __slots__ = ("epoch", "fleet", "key", "line", "name", "next_event", "next_post", "through")

    def __init__(self, fleet: "Fleet", number: int, scalar: bytes) -> None:
        self.fleet = fleet
        self.key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
        self.name = f"bench-{number:05d}"
        self.epoch = f"{self.name}-{fleet.run}"
        self.line: Line | None = None
        self.next_event = 1
        self.through = 0
        self.next_post = time.monotonic() + random.random() * fleet.post_seconds

    def claims(self) -> Claims:
        spool = SpoolState(self.epoch, first=self.through + 1, next=self.next_event)
        return Claims(self.name, f"{self.name}.bench.test", VERSION, "daemonset", "linux", "amd64", spool)

    def tick(self, now: float) -> None:
        if now >= self.next_post:
            self.next_post = now + self.fleet.post_seconds
            self.next_event += 1
            self.post()
        if self.line is not None:
            self.line.tick(now)

    def post(self) -> None:
        """Post what the spool holds and the window has room for."""
        if self.line is None:
            return
        end = self.line.end
        count = min(end.room, self.next_event - end.next_event)
        if count > 0:
            events = [report(Started(VERSION), datetime.now(UTC))] * count
            self.fleet.tally.posted += count
            self.line.do(end.post_events(self.epoch, end.next_event, events))


class Line:
    """A connection of a Defender; implements common.transport.WebSocketHandler."""

    __slots__ = ("_connection", "began", "defender", "end", "settled")

    def __init__(self, defender: Defender, settled: "asyncio.Future[None]") -> None:
        self.defender = defender
        self.end: DefenderEnd
        self.began = time.monotonic()
        self.settled: asyncio.Future[None] | None = settled
        self._connection: WebSocketConnection | None = None

    def on_open(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        assert connection.transport is not None
        leaf = leaf_digest(connection.transport.get_extra_info("peer_chain")[0])
        defender = self.defender
        self.end = DefenderEnd(defender.key, defender.claims(), leaf=leaf, jitter=random.random())
        self.do(self.end.opened(time.monotonic()))

    def on_message(self, data: bytes) -> None:
        self.do(self.end.receive(data, time.monotonic()))

    def on_writable(self) -> None:
        pass

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        if self._connection is not None:
            self.end.lost()
        self._connection = None
        why = f"{code} {reason or exc or ''}".strip()
        self.defender.fleet.ended(self, why)

    def tick(self, now: float) -> None:
        if now >= self.end.next_deadline:
            self.do(self.end.tick(now, time.time()))

    def close(self, code: CloseCode, reason: str) -> None:
        self.do(self.end.close(code, reason))

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def do(self, outputs: Iterable[DefenderOutput]) -> None:
        for output in outputs:
            if self._connection is not None:
                self._do(self._connection, output)

    def _do(self, connection: WebSocketConnection, output: DefenderOutput) -> None:
        fleet = self.defender.fleet
        match output:
            case Send(data):
                connection.send(data)
            case Close(code, reason):
                connection.close(code, reason)
            case Welcomed(welcome):
                fleet.welcomed(self, welcome.acked_through)
            case HeartbeatSeen():
                fleet.tally.heartbeats += 1
            case Acknowledged(_, through):
                fleet.tally.acknowledged += through - self.defender.through
                self.defender.through = through
                self.defender.post()
            case CommandReceived(command_id):
                fleet.tally.commands += 1
                self.do(self.end.result(command_id, ok=False, error="a Defender of the load generator"))
            case ReconnectAsked(at):
                fleet.again(self.defender, at - time.monotonic())


class Fleet:
    """The Defenders of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run = uuid.uuid4().hex[:8]
        self.tally = Tally()
        self.connected = 0
        self.post_seconds = 60 / plan.events_per_minute if plan.events_per_minute else float("inf")
        self.all_connected = asyncio.Event()
        self._waiting: asyncio.Queue[Defender] = asyncio.Queue()
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
            self._waiting.put_nowait(defender)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._work(), name=f"worker {n}") for n in range(self.plan.concurrency)
            ]
            running.append(tasks.create_task(self._sweep(), name="sweep"))
            await stop.wait()
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

    def again(self, defender: Defender, seconds: float) -> None:
        """Have a Defender connect in so many seconds."""
        asyncio.get_running_loop().call_later(max(0.0, seconds), self._waiting.put_nowait, defender)

    def welcomed(self, line: Line, acked_through: int) -> None:
        """A connection is its Defender's from here on; one before it is closed (make before break)."""
        defender, tally = line.defender, self.tally
        before, defender.line = defender.line, line
        tally.welcomed += 1
        tally.waits.append(time.monotonic() - line.began)
        defender.through = max(defender.through, acked_through)
        if before is None:
            self.connected += 1
        else:
            tally.moved += 1
            before.close(CloseCode.NORMAL, "moved")
        if self.connected == len(self.defenders):
            self.all_connected.set()
        _settle(line)
        defender.post()

    def ended(self, line: Line, why: str) -> None:
        """A connection is gone: one that was not finished, one that was left, or the Defender's own."""
        if line.settled is not None:
            self.tally.failed[why] += 1
            _settle(line)
        if line.defender.line is not line:
            return
        line.defender.line = None
        self.connected -= 1
        if not self._stopping:
            self.tally.lost[why] += 1
            self.again(line.defender, random.random() * RETRY_SECONDS)

    async def _work(self) -> None:
        while True:
            defender = await self._waiting.get()
            before = defender.line
            await self._pace()
            await self._connect(defender)
            if defender.line is None:
                self.again(defender, random.random() * RETRY_SECONDS)
            elif defender.line is before:
                before.do(before.end.reconnect_failed("failed", "see the load generator's tally"))

    async def _pace(self) -> None:
        if self.plan.rate:
            now = time.monotonic()
            self._next_start = max(now, self._next_start + 1 / self.plan.rate)
            await asyncio.sleep(self._next_start - now)

    async def _connect(self, defender: Defender) -> None:
        """Open a connection and wait until it is welcomed or gone."""
        plan = self.plan
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = Line(defender, settled)
        factory = client_factory(
            f"wss://{plan.host}:{plan.port}/",
            line,
            subprotocols=(SUBPROTOCOL,),
            max_size=MAX_MESSAGE_BYTES,
        )
        try:
            async with asyncio.timeout(plan.patience):
                await connect(
                    plan.host,
                    plan.port,
                    context=plan.context,
                    server_hostname=plan.host,
                    protocol_factory=factory,
                    timeout=plan.patience,
                )
                await settled
        except ConnectionFailed as failure:
            self.tally.failed[failure.kind] += 1
        except TimeoutError:
            self.tally.failed["no Welcome in time"] += 1
        finally:
            if line.settled is not None:
                line.settled = None
                line.abort()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for defender in self.defenders:
                defender.tick(now)

    def _leave(self) -> None:
        for defender in self.defenders:
            if defender.line is not None:
                defender.line.abort()


def _settle(line: Line) -> None:
    if line.settled is not None and not line.settled.done():
        line.settled.set_result(None)
    line.settled = None


def defender_context(files: FileSet) -> ssl.SSLContext:
    """The Defenders' context from their certificate set."""
    judged = judge(files, now=datetime.now(UTC), source=Source.CUSTOM)
    if judged.set is None:
        raise BenchError("\n".join(map(str, judged.faults)))
    return client_context(judged.set)


async def run(plan: Plan, options: argparse.Namespace) -> None:
    """What the command line asks for, with its report on standard output."""
    fleet = Fleet(plan)
    began = time.monotonic()
    if options.cycle:
        await fleet.cycle(options.cycle)
        _say(fleet.tally.as_json() | {"seconds": time.monotonic() - began})
        return
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(_stop_in_time(stop, options.seconds), name="end"),
            tasks.create_task(_announce(fleet, began), name="announcement"),
        ]
        await fleet.keep(stop)
        for helper in helpers:
            helper.cancel()
    _say(fleet.tally.as_json() | {"seconds": time.monotonic() - began})


async def _stop_in_time(stop: asyncio.Event, seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)
    else:
        await input_ended()
    stop.set()


async def _announce(fleet: Fleet, began: float) -> None:
    await fleet.all_connected.wait()
    _say({"held": fleet.connected, "seconds": time.monotonic() - began, "failed": dict(fleet.tally.failed)})


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.load", description="Many Defenders in one process."
    )
    parser.add_argument("--address", required=True, help="HOST:PORT; the host is verified")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, help="file with an INSTALL_BUNDLE, - for standard input")
    source.add_argument("--certificates", type=Path, help="folder with the Defender's files")
    parser.add_argument(
        "--identities", type=Path, default=FOLDER / "identities", help="file of instance keys"
    )
    parser.add_argument("--first", type=int, default=0, help="the first key to use")
    parser.add_argument("--defenders", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32, help="connections being opened at a time")
    parser.add_argument("--rate", type=float, default=0.0, help="connections begun in a second, at most")
    parser.add_argument("--events-per-minute", type=float, default=0.0, help="of each Defender")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop then; 0: when standard input ends")
    parser.add_argument("--cycle", type=float, default=0.0, help="connect and leave over and over, so long")
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    host, _, port = options.address.rpartition(":")
    role = Role.DEFENDER_CLIENT
    if options.certificates is not None:
        files = read_files(options.certificates, role)
    else:
        text = sys.stdin.read() if str(options.bundle) == "-" else options.bundle.read_text(encoding="utf-8")
        files = FileSet.from_bytes(role, decode_bundle(text.strip()).secrets)
    return Plan(
        host=host,
        port=int(port),
        context=defender_context(files),
        identities=options.identities,
        first=options.first,
        defenders=options.defenders,
        concurrency=options.concurrency,
        rate=options.rate,
        events_per_minute=options.events_per_minute,
    )


def main() -> None:
    options = parse()
    raise_file_limit(options.defenders + SPARE_FILES)
    try:
        plan = plan_of(options)
    except BenchError as error:
        sys.exit(f"load: {error}")
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner,
    ):
        runner.run(run(plan, options))


if __name__ == "__main__":
    main()
