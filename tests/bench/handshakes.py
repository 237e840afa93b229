"""Rows: how many connections a second, from TCP to the last answer, on one core.

Rounds go through all servers in turn, each time beginning with another one; a row's ratio is made within a
round, so that what the machine does meanwhile touches both sides. Where both servers kept their core busy the
ratio is that of the rates; where the driver was the limit, that of the CPU time that a connection cost.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Final

from tests.bench.driver import Sample, measure_rate
from tests.bench.report import Detail, Findings, Row, Target, figure
from tests.bench.scale import Scale
from tests.bench.servers import Depth, Recipe, Server, console, gorilla, lean, nginx
from tests.bench.workshop import Workshop, ensure_identities

IDENTITIES: Final = 2000
CONCURRENCY: Final = 128
"""Connections being opened at a time: a crowd, as after a restart, so that the store writes batches."""
BUSY: Final = 0.95
QUIET_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Runner:
    """One line of the detail table: a server and how far connections to it are taken."""

    key: str
    server: Server
    depth: Depth


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row to be made of two runners' samples."""

    name: str
    ours: tuple[str, Depth]
    peer: tuple[str, Depth]
    target: Target | None


NGINX_TARGET: Final = Target(0.65, 0.80)
GORILLA_TARGET: Final = Target(0.50, 0.65)
RECIPES: Final[dict[str, Recipe]] = {
    "nginx": nginx,
    "gorilla": gorilla,
    "console asyncio": console("asyncio"),
    "console uvloop": console("uvloop"),
    "lean asyncio": lean("asyncio"),
    "lean uvloop": lean("uvloop"),
}


def comparisons() -> list[Comparison]:
    """The rows, those with a target first."""
    found = []
    for subject, title, aimed in (("console", "", True), ("lean", ", transport only", False)):
        for loop in ("asyncio", "uvloop"):
            ours = f"{subject} {loop}"
            found += [
                Comparison(
                    f"handshake + upgrade + Hello{title}, {loop}",
                    (ours, Depth.HELLO),
                    ("nginx", Depth.HTTP),
                    NGINX_TARGET if aimed else None,
                ),
                Comparison(
                    f"handshake + upgrade{title}, {loop}",
                    (ours, Depth.UPGRADE),
                    ("gorilla", Depth.UPGRADE),
                    GORILLA_TARGET if aimed else None,
                ),
            ]
    return found


def measure(workshop: Workshop, scale: Scale) -> Findings:
    """Run all servers, drive them in turn, compare."""
    ensure_identities(workshop.identities, IDENTITIES)
    with ExitStack() as stack:
        servers = {key: stack.enter_context(recipe(workshop)) for key, recipe in RECIPES.items()}
        runners = [Runner(key, server, depth) for key, server in servers.items() for depth in server.depths]
        samples = _rounds(workshop, scale, runners)
    rows = tuple(_row(each, samples) for each in comparisons())
    raw = {f"{key}, {depth}": [asdict(s) for s in found] for (key, depth), found in samples.items()}
    return Findings(rows, _detail(runners, samples), raw)


Samples = dict[tuple[str, Depth], list[Sample]]


def _rounds(workshop: Workshop, scale: Scale, runners: Sequence[Runner]) -> Samples:
    samples: Samples = {(runner.key, runner.depth): [] for runner in runners}
    for number in range(scale.rounds):
        start = number * 3 % len(runners)
        for runner in (*runners[start:], *runners[:start]):
            _until_quiet(runner.server)
            found = measure_rate(
                workshop,
                runner.server,
                runner.depth,
                seconds=scale.seconds,
                warm=scale.warm,
                concurrency=CONCURRENCY,
            )
            samples[runner.key, runner.depth].append(found)
            scale.say(f"round {number + 1}: {runner.server.name}, {runner.depth}: {found.rate:,.0f}/s")
            _until_quiet(runner.server)
    return samples


def _until_quiet(server: Server) -> None:
    """Wait until a server has finished what its last connections left it: the next one shares its core."""
    deadline = time.monotonic() + QUIET_SECONDS
    used = server.program.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        before, used = used, server.program.cpu_seconds()
        if used - before <= 0.01:
            return


def _row(comparison: Comparison, samples: Samples) -> Row:
    ours, peers = samples[comparison.ours], samples[comparison.peer]
    by_rate = all(statistics.median(s.server_busy for s in side) >= BUSY for side in (ours, peers))
    return Row(
        name=comparison.name,
        peer=comparison.peer[0],
        unit="1/s" if by_rate else "µs CPU each",
        ours=tuple(s.rate if by_rate else s.cost for s in ours),
        peers=tuple(s.rate if by_rate else s.cost for s in peers),
        target=comparison.target,
        inverse=not by_rate,
        note=_by_the_other(by_rate, ours, peers),
    )


def _by_the_other(by_rate: bool, ours: Sequence[Sample], peers: Sequence[Sample]) -> str:
    """The ratio by what the row does not show; the two agree where both servers were the limit."""
    pairs = list(zip(ours, peers, strict=True))
    if by_rate:
        return f"by CPU time {statistics.median(peer.cost / our.cost for our, peer in pairs):.2f}"
    return f"by rate {statistics.median(our.rate / peer.rate for our, peer in pairs):.2f}"


def _detail(runners: Sequence[Runner], samples: Samples) -> Detail:
    lines = []
    for runner in runners:
        found = samples[runner.key, runner.depth]
        failed = sum(sum(sample.failed.values()) for sample in found)

        def middle(of: str, found: list[Sample] = found) -> float:
            return float(statistics.median(getattr(sample, of) for sample in found))

        lines.append(
            (
                f"{runner.server.name}, {runner.depth}",
                figure(middle("rate")),
                figure(middle("cost")),
                f"{middle('server_busy'):.0%}",
                f"{middle('driver_busy'):.0%}",
                figure(middle("p50") * 1000),
                figure(middle("p99") * 1000),
                str(failed),
            )
        )
    headings = (
        "server, depth",
        "1/s",
        "µs CPU each",
        "server busy",
        "driver busy",
        "p50 ms",
        "p99 ms",
        "failed",
    )
    return Detail("Connections, one core each for server and driver", headings, tuple(lines))
