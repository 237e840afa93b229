"""Rows: how soon new files are what is presented, and what a swap costs those who connect meanwhile.

The operator renames a whole set over the one before; probes open connections on both ports all the while, so
that the first handshake with the new certificate is seen within a few milliseconds. The peer of a latency is
the bound that it must keep.
"""

import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.bench.custom import (
    CustomConsole,
    Swapper,
    all_files,
    ca_file,
    client_folder,
    custom_console,
    custom_folder,
    without_events,
)
from tests.bench.driver import Sample, measure_rate
from tests.bench.errors import BenchError
from tests.bench.handshakes import CONCURRENCY
from tests.bench.prober import attempts, probing
from tests.bench.probes import Channel, Outcome, Timeline, failures, latencies, percentile, strays
from tests.bench.processes import running
from tests.bench.report import Detail, Findings, Row, Target, figure
from tests.bench.scale import Scale
from tests.bench.servers import Depth
from tests.bench.workshop import Workshop
from tests.operator import Operator

THREADS: Final = 2
POLL_SECONDS: Final = 0.5
EVENTS_BOUND: Final = 1.0
CALL_BOUND: Final = 0.005
WITHIN: Final = Target(1.0, 0.5, smaller=True)
UNHURT: Final = Target(0.90, 0.97)


@dataclass(frozen=True, slots=True)
class Latencies:
    """What probes saw of some swaps.

    Attributes:
        name: How the Console learns of the files.
        bound: Seconds that each may take.
        seconds: From the last file to the first handshake, each.
        attempts: Connections opened meanwhile.
        outcomes: Those that failed, by how.
        strays: Those that met a certificate of another time.
    """

    name: str
    bound: float
    seconds: tuple[float, ...]
    attempts: int
    outcomes: dict[str, int]
    strays: int


def measure(workshop: Workshop, scale: Scale) -> Findings:
    """With events, without, under load, and the call alone."""
    found = [watch_swaps(workshop, scale, "with events", EVENTS_BOUND)]
    polling = without_events()
    if polling is not None:
        text = f"polling every {POLL_SECONDS:g} s"
        settings = {"GARRISON_CUSTOM_CERTIFICATES_POLL": f"{POLL_SECONDS:g}s"}
        found.append(watch_swaps(workshop, scale, text, 2 * POLL_SECONDS, prefix=polling, **settings))
    else:
        scale.say("user namespaces are not permitted here: polling is not measured")
    calls = measure_calls(workshop, scale)
    still, swapped, number = measure_rates(workshop, scale)
    rows = [row for each in found for row in _latency_rows(each)]
    rows += [_call_row(channel, pairs) for channel, pairs in calls.items()]
    rows.append(_rate_row(still, swapped, number))
    raw = {
        "latencies": [asdict(each) for each in found],
        "calls": calls,
        "still": [asdict(sample) for sample in still],
        "swapped": [asdict(sample) for sample in swapped],
        "swaps under load": number,
    }
    return Findings(tuple(rows), _detail(found), raw)


@contextmanager
def console_with_operator(
    workshop: Workshop, name: str, prefix: Sequence[str] = (), **settings: str
) -> Iterator[tuple[CustomConsole, Swapper, dict[str, bytes], Path]]:
    """A Console on custom certificates; its operator, the files that it began with, the Defenders' folder."""
    folder = workshop.run_folder(name)
    operator = Operator(custom_folder(folder))
    first = all_files(operator)
    operator.copy(first)
    clients = client_folder(operator, folder / "clients")
    with custom_console(workshop, folder, prefix=prefix, **settings) as console:
        yield console, Swapper(console, operator), first, clients


def watch_swaps(
    workshop: Workshop, scale: Scale, name: str, bound: float, prefix: Sequence[str] = (), **settings: str
) -> Latencies:
    """Swap both channels' sets and see when the new ones are met; at any moment of a polling interval."""
    with console_with_operator(workshop, "swaps", prefix, **settings) as (console, swapper, first, clients):
        record = workshop.folder / "run" / "probes"
        ca = ca_file(clients)
        with probing(
            workshop, console.ports, ca=ca, certificates=clients, record=record, threads=THREADS
        ) as prober:
            for _ in range(scale.swaps):
                time.sleep(random.random() * POLL_SECONDS)
                swapper.swap(tuple(Channel), swapper.operator.move)
            prober.close_input()
            prober.answer(60)
    there = attempts(record)
    wrong = 0
    for channel in Channel:
        timeline = Timeline(swapper.leaf(channel, first), tuple(swapper.swaps[channel]))
        wrong += len(list(strays((a for a in there if a.channel is channel), timeline)))
    seconds = latencies(there, itertools.chain(*swapper.swaps.values()))
    bad = [attempt.outcome for attempt in failures(there)]
    outcomes = {str(outcome): bad.count(outcome) for outcome in Outcome if outcome in bad}
    scale.say(f"swaps, {name}: p50 {figure(statistics.median(seconds) * 1000)} ms")
    return Latencies(name, bound, tuple(seconds), len(there), outcomes, wrong)


def measure_calls(workshop: Workshop, scale: Scale) -> dict[str, list[tuple[float, float]]]:
    """The swap itself, in one process; see `instant`."""
    command = (sys.executable, "-m", "tests.bench.instant", "--swaps", str(scale.swaps))
    log = workshop.folder / "run" / "instant.log"
    with running("instant", command, core=workshop.cores.server, log=log) as program:
        return program.answer(120)


def measure_rates(workshop: Workshop, scale: Scale) -> tuple[list[Sample], list[Sample], int]:
    """New connections a second on the Defenders' port, without swaps and with them; and how many swaps."""
    still, swapped = [], []
    with console_with_operator(workshop, "swaps") as (console, swapper, _, clients):

        def sample() -> Sample:
            return measure_rate(
                workshop,
                console.server,
                Depth.UPGRADE,
                seconds=scale.seconds,
                warm=scale.warm,
                concurrency=CONCURRENCY,
                certificates=clients,
            )

        for number in range(scale.rounds):
            for kind in ("still", "swapped") if number % 2 else ("swapped", "still"):
                if kind == "still":
                    still.append(sample())
                else:
                    with swapping(swapper):
                        swapped.append(sample())
            scale.say(f"round {number + 1}: {still[-1].rate:,.0f}/s, swapped {swapped[-1].rate:,.0f}/s")
        return still, swapped, len(swapper.swaps[Channel.WEBSOCKET])


@contextmanager
def swapping(swapper: Swapper) -> Iterator[None]:
    """Swap all the while, as fast as files are taken for whole.

    Raises:
        BenchError: a swap did not come.
    """
    stop = threading.Event()
    failed: list[BenchError] = []

    def work() -> None:
        try:
            while not stop.is_set():
                swapper.swap((Channel.WEBSOCKET,), swapper.operator.move)
        except BenchError as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="operator")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def _latency_rows(found: Latencies) -> Iterator[Row]:
    bad = sum(found.outcomes.values()) + found.strays
    note = f"{bad} of {found.attempts:,} connections failed or met another certificate"
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        value, bound = percentile(found.seconds, part) * 1000, found.bound * 1000
        yield Row(
            f"files to first handshake, {found.name}, {name}",
            "bound",
            "ms",
            (value,),
            (bound,),
            WITHIN,
            note=note,
        )


def _call_row(channel: str, pairs: list[tuple[float, float]]) -> Row:
    """Of the medians: among so few, the 99th percentile is the one that something else interrupted."""
    calls, firsts = ([pair[n] * 1000 for pair in pairs] for n in (0, 1))
    note = f"p99 {figure(percentile(firsts, 0.99))} ms; the call alone {figure(statistics.median(calls))} ms"
    name, bound = f"swap call to first handshake, {channel}", (CALL_BOUND * 1000,)
    return Row(name, "bound", "ms", (statistics.median(firsts),), bound, WITHIN, note=note)


def _rate_row(still: Sequence[Sample], swapped: Sequence[Sample], number: int) -> Row:
    failed = sum(sum(sample.failed.values()) for sample in (*still, *swapped))
    return Row(
        name="connections while certificates are swapped",
        peer="no swaps",
        unit="1/s",
        ours=tuple(sample.rate for sample in swapped),
        peers=tuple(sample.rate for sample in still),
        target=UNHURT,
        note=f"{number} swaps; {failed} connections failed",
    )


def _detail(found: Sequence[Latencies]) -> Detail:
    lines = []
    for each in found:
        figures = [percentile(each.seconds, part) * 1000 for part in (0.5, 0.99)] + [max(each.seconds) * 1000]
        bad = ", ".join(f"{number} {outcome}" for outcome, number in each.outcomes.items()) or "0"
        row = (
            each.name,
            str(len(each.seconds)),
            *map(figure, figures),
            f"{each.attempts:,}",
            bad,
            str(each.strays),
        )
        lines.append(row)
    headings = (
        *("the Console learns", "swaps", "p50 ms", "p99 ms", "max ms", "probes", "failed"),
        "another certificate",
    )
    return Detail("From the last file to the first handshake with it, both ports", headings, tuple(lines))
