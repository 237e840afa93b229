"""Rows: what it costs to watch a directory in which nothing happens, and one in which much happens in vain.

Four idle processes run side by side on the server's core: a Console and a Defender that have a directory of
custom certificates, and a pair without. What is read of each is its CPU time over a while, and its memory.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from common.certificates import Role
from console.control import ask
from tests.bench.custom import CustomConsole, Log, Swapper, all_files, custom_console, custom_folder
from tests.bench.processes import Program, running
from tests.bench.report import Detail, Findings, Row, figure
from tests.bench.scale import Scale
from tests.bench.servers import bare_environment
from tests.bench.workshop import Workshop
from tests.operator import Operator

WRITES: Final = 10_000
AFTER_SECONDS: Final = 4.0
"""What is done about the last write is done by then: settling, and a look."""
SETTLE_SECONDS: Final = 5.0
LEAST_MS: Final = 1.0
"""A process that does nothing between two heartbeats has no cost that another could be divided by."""
_DEFENDER: Final = "from common.cli import main; main(['defender', 'run'])"


@dataclass(frozen=True, slots=True)
class Reading:
    """An idle process.

    Attributes:
        seconds: How long it was looked at.
        cpu: Seconds of CPU that it used then.
        memory: Bytes that are its own.
    """

    seconds: float
    cpu: float
    memory: int

    @property
    def cost(self) -> float:
        """Milliseconds of CPU in a minute."""
        return self.cpu / self.seconds * 60_000


@dataclass(frozen=True, slots=True)
class Storm:
    """Many writes of what is there already.

    Attributes:
        writes: How many.
        seconds: How long they took.
        cpu: Seconds of CPU that the Console used until all was quiet.
        swaps: That came of it.
    """

    writes: int
    seconds: float
    cpu: float
    swaps: int


def measure(workshop: Workshop, scale: Scale) -> Findings:
    """Look at them, then write."""
    with ExitStack() as stack:
        watching, swapper, files = stack.enter_context(_watching_console(workshop))
        bare = stack.enter_context(custom_console(workshop, workshop.run_folder("bare")))
        programs = {
            "Console, watching": watching.server.program,
            "Console": bare.server.program,
            "Defender, watching": stack.enter_context(_defender(workshop, watching, swapper.operator)),
            "Defender": stack.enter_context(_defender(workshop, bare, None)),
        }
        scale.say(f"watching: {scale.watch:g} s")
        readings = look(programs, scale.watch)
        storm = write_in_vain(swapper, files)
    rows = [row for who in ("Console", "Defender") for row in _rows(who, readings)]
    raw = {**{name: asdict(each) for name, each in readings.items()}, "storm": asdict(storm)}
    return Findings(tuple(rows), _detail(readings, storm), raw)


@contextmanager
def _watching_console(workshop: Workshop) -> Iterator[tuple[CustomConsole, Swapper, dict[str, bytes]]]:
    folder = workshop.run_folder("watching")
    operator = Operator(custom_folder(folder))
    files = all_files(operator)
    operator.copy(files)
    with custom_console(workshop, folder) as console:
        yield console, Swapper(console, operator), files


@contextmanager
def _defender(workshop: Workshop, console: CustomConsole, operator: Operator | None) -> Iterator[Program]:
    """A Defender, connected; with the operator's directory, if there is one."""
    name = "defender" if operator is None else "defender-watching"
    folder = workshop.run_folder(name)
    data = folder / "data"
    if operator is not None:
        operator.copy(operator.pki.files(Role.DEFENDER_CLIENT), to=data / "custom-certificates")
    bundle = asyncio.run(ask(console.data, "install-bundle", address="localhost", type="daemonset"))
    environment = bare_environment() | {
        "DATA_FOLDER": str(data),
        "GARRISON_HOSTNAME": name,
        "WS_ADDRESS": bundle["wsAddress"],
        "INSTALL_BUNDLE": bundle["installBundle"],
        "LOG_PROD": "true",
    }
    command, log = (sys.executable, "-c", _DEFENDER), folder / "log"
    core = workshop.cores.server
    with running(name, command, core=core, log=log, environment=environment) as program:
        Log(log, program).wait("Connected to the Console")
        yield program


def look(programs: dict[str, Program], seconds: float) -> dict[str, Reading]:
    """What each of them uses, all in the same seconds."""
    time.sleep(SETTLE_SECONDS)
    before = {name: (time.monotonic(), program.cpu_seconds()) for name, program in programs.items()}
    time.sleep(seconds)
    after = {name: (time.monotonic(), program.cpu_seconds()) for name, program in programs.items()}
    return {
        name: Reading(after[name][0] - began, after[name][1] - cpu, programs[name].settled_memory())
        for name, (began, cpu) in before.items()
    }


def write_in_vain(swapper: Swapper, files: dict[str, bytes], writes: int = WRITES) -> Storm:
    """Write the files that are there once more, in place and by renames in turn."""
    program, rounds = swapper.console.server.program, writes // len(files)
    swaps, cpu, began = swapper.rotated(), program.cpu_seconds(), time.monotonic()
    for number in range(rounds):
        (swapper.operator.move if number % 2 else swapper.operator.copy)(files)
    ended = time.monotonic()
    time.sleep(AFTER_SECONDS)
    return Storm(rounds * len(files), ended - began, program.cpu_seconds() - cpu, swapper.rotated() - swaps)


def _rows(who: str, readings: dict[str, Reading]) -> Iterator[Row]:
    ours, peer = readings[f"{who}, watching"], readings[who]
    more = (ours.memory - peer.memory) / 2**20
    costs = [max(each.cost, LEAST_MS) for each in (ours, peer)]
    yield Row(f"CPU of an idle {who}, watching", "not watching", "ms a minute", (costs[0],), (costs[1],))
    sizes = [each.memory / 2**20 for each in (ours, peer)]
    note = f"{more:+.1f} MiB"
    yield Row(
        f"memory of an idle {who}, watching", "not watching", "MiB", (sizes[0],), (sizes[1],), note=note
    )


def _detail(readings: dict[str, Reading], storm: Storm) -> Detail:
    lines = [
        (name, f"{each.seconds:.0f}", figure(each.cost), figure(each.memory / 2**20), "")
        for name, each in readings.items()
    ]
    share = f"{storm.swaps} swaps; {storm.cpu * 1000:.0f} ms CPU in all"
    lines.append((f"{storm.writes:,} writes of the same", f"{storm.seconds:.1f}", "", "", share))
    headings = ("process", "seconds", "ms CPU a minute", "MiB", "what came of it")
    return Detail("Watching custom certificates", headings, tuple(lines))
