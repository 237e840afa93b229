"""The load generator's command line: thousands of Defenders in one process; see `generator`.

    python -m tests.bench.load --address localhost:8084 --bundle FILE --defenders 1000 --rate 200

It prints a JSON object once all are connected and another at the end, and one for each line `status` that it
reads, or `fresh`, from which on waits and delays are counted anew. It stops when its time is over, its
standard input ends, or on Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from common.bundle import decode_bundle
from common.certificates import FileSet, Role, read_files
from tests.bench.errors import BenchError
from tests.bench.generator import Fleet, Plan
from tests.bench.loops import LOOPS, input_ended, loop_factory
from tests.bench.machine import raise_file_limit
from tests.bench.wallet import Wallet
from tests.bench.workshop import FOLDER

SPARE_FILES: Final = 256


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
            tasks.create_task(_stop_in_time(fleet, stop, options.seconds), name="end"),
            tasks.create_task(_announce(fleet, began), name="announcement"),
        ]
        await fleet.keep(stop)
        for helper in helpers:
            helper.cancel()
    if options.ledger is not None:
        options.ledger.write_text(json.dumps(fleet.ledger()), encoding="utf-8")
    _say(fleet.tally.as_json() | {"seconds": time.monotonic() - began})


async def _stop_in_time(fleet: Fleet, stop: asyncio.Event, seconds: float) -> None:
    def hear(line: str) -> None:
        if line == "fresh":
            fleet.tally.waits.clear()
            fleet.tally.delays.clear()
        if line in ("status", "fresh"):
            _say(fleet.status())

    if seconds:
        await asyncio.sleep(seconds)
    else:
        await input_ended(hear)
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
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help="file with an INSTALL_BUNDLE, - for standard input")
    source.add_argument("--certificates", type=Path, help="folder with the Defender's files")
    parser.add_argument(
        "--custom", type=Path, help="folder where an operator puts another set, which wins; read every second"
    )
    parser.add_argument(
        "--identities", type=Path, default=FOLDER / "identities", help="file of instance keys"
    )
    parser.add_argument("--first", type=int, default=0, help="the first key to use")
    parser.add_argument("--defenders", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32, help="connections being opened at a time")
    parser.add_argument("--rate", type=float, default=0.0, help="connections begun in a second, at most")
    parser.add_argument("--events-per-minute", type=float, default=0.0, help="of each Defender")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop then; 0: when standard input ends")
    parser.add_argument("--settle", type=float, default=0.0, help="at the end, wait so long for the Console")
    parser.add_argument("--ledger", type=Path, help="file to write at the end: what each Defender reported")
    parser.add_argument("--cycle", type=float, default=0.0, help="connect and leave over and over, so long")
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    options = parser.parse_args(arguments)
    if not (options.bundle or options.certificates or options.custom):
        parser.error("give --bundle, --certificates or --custom")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        BenchError: its certificates are no set.
    """
    host, _, port = options.address.rpartition(":")
    return Plan(
        host=host,
        port=int(port),
        wallet=Wallet(_given(options), options.custom),
        identities=options.identities,
        first=options.first,
        defenders=options.defenders,
        concurrency=options.concurrency,
        rate=options.rate,
        events_per_minute=options.events_per_minute,
        settle=options.settle,
    )


def _given(options: argparse.Namespace) -> FileSet | None:
    if options.certificates is not None:
        return read_files(options.certificates, Role.DEFENDER_CLIENT)
    if options.bundle is None:
        return None
    text = sys.stdin.read() if str(options.bundle) == "-" else options.bundle.read_text(encoding="utf-8")
    return FileSet.from_bytes(Role.DEFENDER_CLIENT, decode_bundle(text.strip()).secrets)


def main() -> None:
    options = parse()
    # While it moves, a Defender has two connections.
    raise_file_limit(2 * options.defenders + SPARE_FILES)
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
