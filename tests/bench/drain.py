"""Rows: how long a fleet takes to move to new certificates, and what it costs.

Defenders of the load generator post events all the while; their certificates' CA stays, the Console's leaf is
renewed. The peer is the time in which the Console takes as many new connections with Hello at its best, which
is measured just before. At the end every event is compared with the Console's store.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.custom import CustomConsole, Swapper
from tests.bench.defenders import defenders
from tests.bench.driver import Sample, measure_rate
from tests.bench.handshakes import CONCURRENCY, IDENTITIES
from tests.bench.ledger import Account, accounts, wrong
from tests.bench.probes import Channel, percentile
from tests.bench.processes import Program, wait_for_status
from tests.bench.report import Detail, Findings, Row, Target, figure
from tests.bench.scale import Scale
from tests.bench.swaps import console_with_operator
from tests.bench.workshop import Workshop, ensure_identities

DEFENDERS: Final = 5_000
EVENTS_PER_MINUTE: Final = 3
DRAINS: Final = 2
DRAIN_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 60
# A drain takes 0.7 of a core: 1.43 times as long as it would at full speed.
TARGET: Final = Target(2.0, 1.5, smaller=True)


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain.

    Attributes:
        defenders: Moved.
        learned: Seconds from the last file to the swap.
        seconds: From the swap to the last one's Welcome.
        cpu: Seconds of CPU of the Console, until the last replaced connection was gone.
        over: When that was, in seconds from the swap.
        delay_p50: From an event to its acknowledgement meanwhile, in seconds.
        delay_p99: The slowest hundredth.
    """

    defenders: int
    learned: float
    seconds: float
    cpu: float
    over: float
    delay_p50: float
    delay_p99: float


def measure(workshop: Workshop, scale: Scale) -> Findings:
    """Fill a Console, swap, look, and compare the books."""
    count = min(scale.idle, DEFENDERS)
    ensure_identities(workshop.identities, max(count, IDENTITIES))
    ledger = workshop.folder / "run" / "ledger"
    drains: list[Drained] = []
    with console_with_operator(workshop, "drain") as (console, swapper, _, clients):
        rates = _rates(workshop, scale, console, clients)
        more = (
            *("--events-per-minute", str(EVENTS_PER_MINUTE), "--settle", str(SETTLE_SECONDS)),
            *("--ledger", ledger, "--concurrency", "64"),
        )
        with defenders(workshop, console.server, count, *more, certificates=clients) as load:
            # How the connections' own start weighs on the figures has to fade first.
            before = wait_for_status(load, lambda s: s["acknowledged"] >= count // 2, DRAIN_SECONDS)
            for _ in range(min(DRAINS, scale.rounds)):
                drains.append(drain(console, swapper, load, count))
                scale.say(f"drain of {count:,}: {drains[-1].seconds:.1f} s")
            load.close_input()
            told = load.answer(SETTLE_SECONDS + 60)
    books = accounts(ledger, console.data)
    bound = tuple(count / sample.rate for sample in rates[: len(drains)])
    row = Row(
        name=f"drain of {count:,} Defenders",
        peer="as fast as they could connect",
        unit="s",
        ours=tuple(each.seconds for each in drains),
        peers=bound,
        target=TARGET,
        note=_note(told, books),
    )
    raw = {
        "drains": [asdict(each) for each in drains],
        "rates": [asdict(sample) for sample in rates],
        "before": before,
        "told": told,
        "wrong": [asdict(each) for each in wrong(books)[:20]],
    }
    return Findings((row,), _detail(drains, told, books), raw)


def _rates(workshop: Workshop, scale: Scale, console: CustomConsole, clients: Path) -> list[Sample]:
    """How many connections with Hello the Console takes, once for each drain."""
    return [
        measure_rate(
            workshop,
            console.server,
            console.server.depths[-1],
            seconds=scale.seconds,
            warm=scale.warm,
            concurrency=CONCURRENCY,
            certificates=clients,
        )
        for _ in range(DRAINS)
    ]


def drain(console: CustomConsole, swapper: Swapper, load: Program, count: int) -> Drained:
    """Swap, and wait until all have moved and nothing of the old is left.

    Raises:
        BenchError: it takes longer than DRAIN_SECONDS.
    """
    load.ask("fresh")
    cpu = console.server.program.cpu_seconds()
    swapper.swap((Channel.WEBSOCKET,), swapper.operator.move)
    swap = swapper.swaps[Channel.WEBSOCKET][-1]
    there = {swap.leaf: count}
    status = wait_for_status(load, lambda s: s["leaves"] == there and not s["leaving"], DRAIN_SECONDS)
    return Drained(
        defenders=count,
        learned=swap.in_force - swap.complete,
        seconds=status["moved_last"] - swap.in_force,
        cpu=console.server.program.cpu_seconds() - cpu,
        over=time.monotonic() - swap.in_force,
        delay_p50=status["delay_p50"],
        delay_p99=status["delay_p99"],
    )


def gaps(books: Sequence[Account]) -> tuple[int, int]:
    """Events that a Defender's account lacks: of the worst hundredth the least, and the most."""
    each = [account.gap for account in books]
    return int(percentile(each, 0.99)), max(each)


def _note(told: dict[str, Any], books: Sequence[Account]) -> str:
    p99, _ = gaps(books)
    lost = sum(told["lost"].values())
    return f"{lost} lost, p99 gap {p99} events, {len(wrong(books))} accounts wrong"


def _detail(drains: Sequence[Drained], told: dict[str, Any], books: Sequence[Account]) -> Detail:
    lines = [
        (
            f"drain {number}",
            f"{each.defenders:,}",
            figure(each.learned * 1000),
            figure(each.seconds),
            figure(each.over),
            f"{each.cpu:.1f}",
            f"{each.cpu / each.over:.0%}",
            figure(each.delay_p50 * 1000),
            figure(each.delay_p99 * 1000),
        )
        for number, each in enumerate(drains, 1)
    ]
    p99, most = gaps(books)
    facts = (
        f"{told['created']:,} events, acknowledged {told['acknowledged']:,}, "
        f"sent twice {told['posted'] - told['created']:,}, gap p99 {p99}, max {most}, "
        f"accounts wrong {len(wrong(books))} of {len(books):,}, lost {json.dumps(told['lost'])}, "
        f"failed {json.dumps(told['failed'])}, not closed in time {told['overstayed']}"
    )
    headings = (
        *("swap", "Defenders", "in force after ms", "moved s", "old gone s", "Console CPU s", "busy"),
        *("delay p50 ms", "delay p99 ms"),
    )
    return Detail(f"Draining: {facts}", headings, tuple(lines))
