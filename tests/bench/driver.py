"""Runs the Go driver: the same client for every server."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.processes import Program, running
from tests.bench.servers import Depth, Server
from tests.bench.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Sample:
    """What one window of a closed loop saw. Seconds; CPU is that of one process, its threads together.

    Attributes:
        opened: Connections taken to their depth.
        failed: Those that were not, by reason.
        seconds: The window.
        server_cpu: Of the server within the window.
        driver_cpu: Of the driver within the window.
        p50: Median time from TCP connect to the last answer.
        p99: The slowest hundredth.
    """

    opened: int
    seconds: float
    server_cpu: float
    driver_cpu: float
    p50: float
    p99: float
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Connections a second."""
        return self.opened / self.seconds

    @property
    def cost(self) -> float:
        """CPU of the server for a connection, in microseconds."""
        return self.server_cpu / self.opened * 1e6

    @property
    def server_busy(self) -> float:
        """How much of the window the server was running: 1 is a whole core."""
        return self.server_cpu / self.seconds

    @property
    def driver_busy(self) -> float:
        return self.driver_cpu / self.seconds

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Sample":
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})


def measure_rate(
    workshop: Workshop,
    server: Server,
    depth: Depth,
    *,
    seconds: float,
    warm: float,
    concurrency: int,
    certificates: Path | None = None,
) -> Sample:
    """Open connections in a closed loop and count; `certificates` by default are the workshop's."""
    arguments = (
        *("-warm", f"{warm}s", "-window", f"{seconds}s"),
        *("-server", str(server.program.pid)),
        *("-concurrency", str(concurrency)),
    )
    with _driving(workshop, server, depth, arguments, certificates) as program:
        return Sample.from_json(program.answer(warm + seconds + 30))


@contextlib.contextmanager
def holding(workshop: Workshop, server: Server, depth: Depth, count: int) -> Iterator[None]:
    """Keep that many connections open and idle."""
    with _driving(workshop, server, depth, ("-hold", str(count))) as program:
        program.answer(30 + count / 50)
        yield


@contextlib.contextmanager
def _driving(
    workshop: Workshop,
    server: Server,
    depth: Depth,
    arguments: tuple[str, ...],
    certificates: Path | None = None,
) -> Iterator[Program]:
    command: tuple[str | Path, ...] = (
        *(workshop.driver, "-address", server.address, "-depth", depth),
        *("-certificates", certificates or workshop.certificates, "-identities", workshop.identities),
        *arguments,
    )
    environment = os.environ | {"GOMAXPROCS": "1"}
    log = workshop.folder / "run" / "driver.log"
    with running("driver", command, core=workshop.cores.load, log=log, environment=environment) as program:
        yield program
