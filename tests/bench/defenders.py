"""Runs the load generator as a process: real Defenders, connected and idle."""

import contextlib
import sys
from collections.abc import Iterator

from tests.bench.processes import Program, running
from tests.bench.servers import Server
from tests.bench.workshop import Workshop


@contextlib.contextmanager
def defenders(workshop: Workshop, server: Server, count: int) -> Iterator[Program]:
    """That many Defenders, all of them welcomed."""
    command = (
        *(sys.executable, "-m", "tests.bench.load", "--address", f"localhost:{server.port}"),
        *("--certificates", workshop.certificates, "--identities", workshop.identities),
        *("--defenders", str(count)),
    )
    log = workshop.folder / "run" / "load.log"
    with running("load generator", command, core=workshop.cores.load, log=log) as program:
        program.answer(60 + count / 50)
        yield program
