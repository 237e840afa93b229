"""Rows: what an idle connection costs a server's process, all its session state included.

Each server starts anew, serves a few connections (so that what is made once is made), settles and is read;
then it holds many, settles and is read again. What is read is the proportional set size: memory that is its
own, and a share of what it shares. Buffers of the kernel are nobody's here; they are the same for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from tests.bench.defenders import defenders
from tests.bench.driver import holding, measure_rate
from tests.bench.report import Detail, Findings, Row, Target, figure
from tests.bench.scale import Scale
from tests.bench.servers import Depth, Recipe, Server, collect_and_return, console, gorilla, lean, nginx
from tests.bench.workshop import Workshop, ensure_identities

TARGET: Final = Target(0.65, 0.50, smaller=True)
WARM_SECONDS: Final = 0.5
WARM_CONCURRENCY: Final = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """A server's memory, in bytes.

    Attributes:
        count: Connections held.
        before: With none.
        after: With all of them.
        returned: With all of them, once a server that keeps freed memory was told to give it back.
    """

    count: int
    before: int
    after: int
    returned: int

    @property
    def each(self) -> float:
        """KiB for a connection."""
        return (self.after - self.before) / self.count / 1024

    @property
    def each_returned(self) -> float:
        return (self.returned - self.before) / self.count / 1024


RECIPES: Final[dict[str, Recipe]] = {
    "nginx": nginx,
    "gorilla": gorilla,
    "console asyncio": console("asyncio"),
    "console uvloop": console("uvloop"),
    "lean asyncio": lean("asyncio"),
    "lean uvloop": lean("uvloop"),
}


def measure(workshop: Workshop, scale: Scale) -> Findings:
    """Fill one server after the other."""
    ensure_identities(workshop.identities, scale.idle)
    readings = {}
    for key, recipe in RECIPES.items():
        with recipe(workshop) as server:
            readings[key] = reading = read(workshop, server, scale.idle)
        scale.say(f"memory: {server.name}: {reading.each:.1f} KiB for each of {reading.count:,}")
    return Findings(tuple(_rows(readings)), _detail(readings), {k: asdict(r) for k, r in readings.items()})


def read(workshop: Workshop, server: Server, count: int) -> Reading:
    """A server's memory without connections, and with `count` of them."""
    depth = server.depths[-1]
    measure_rate(workshop, server, depth, seconds=WARM_SECONDS, warm=0, concurrency=WARM_CONCURRENCY)
    server.collect()
    before = server.program.settled_memory()
    with _idle(workshop, server, depth, count):
        server.collect()
        after = returned = server.program.settled_memory()
        if server.name == "Go gorilla":
            collect_and_return(server.program)
            returned = server.program.settled_memory()
    return Reading(count, before, after, returned)


@contextmanager
def _idle(workshop: Workshop, server: Server, depth: Depth, count: int) -> Iterator[None]:
    """Real Defenders, which send heartbeats, where the server knows them; silent connections elsewhere."""
    held = (
        defenders(workshop, server, count)
        if depth is Depth.HELLO
        else holding(workshop, server, depth, count)
    )
    with held:
        yield


def _rows(readings: dict[str, Reading]) -> Iterator[Row]:
    for subject, title, target in (
        ("console", "idle Defender", TARGET),
        ("lean", "idle Defender, transport only", None),
    ):
        for loop in ("asyncio", "uvloop"):
            ours = readings[f"{subject} {loop}"].each
            yield _row(f"memory per {title}, {loop}", ours, "gorilla", readings["gorilla"].each, target)
    ours = readings["console asyncio"].each
    yield _row("… when Go has returned all it can", ours, "gorilla", readings["gorilla"].each_returned, None)
    yield _row("… and nginx (HTTP keep-alive)", ours, "nginx", readings["nginx"].each, None)


def _row(name: str, ours: float, peer: str, theirs: float, target: Target | None) -> Row:
    return Row(name, peer, "KiB", (ours,), (theirs,), target)


def _detail(readings: dict[str, Reading]) -> Detail:
    lines = tuple(
        (
            key,
            f"{reading.count:,}",
            figure(reading.before / 2**20),
            figure(reading.after / 2**20),
            figure(reading.each),
            figure(reading.each_returned),
        )
        for key, reading in readings.items()
    )
    headings = ("server", "connections", "MiB before", "MiB after", "KiB each", "memory returned")
    return Detail("Memory of the server's process (PSS)", headings, lines)
