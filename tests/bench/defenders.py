"""Runs the load generator as a process: real Defenders, connected."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.processes import Program, running
from tests.bench.servers import Server
from tests.bench.workshop import Workshop


@contextlib.contextmanager
def defenders(
    workshop: Workshop, server: Server, count: int, *more: str | Path, certificates: Path | None = None
) -> Iterator[Program]:
    """That many Defenders, all of them welcomed; idle, unless the generator is told more.

    Args:
        workshop: Whose identities they take.
        server: Where they connect.
        count: How many.
        more: Options of `tests.bench.load`.
        certificates: The folder of their set; by default the workshop's.
    """
    command = (
        *(sys.executable, "-m", "tests.bench.load", "--address", f"localhost:{server.port}"),
        *("--certificates", certificates or workshop.certificates, "--identities", workshop.identities),
        *("--defenders", str(count)),
        *more,
    )
    log = workshop.folder / "run" / "load.log"
    with running("load generator", command, core=workshop.cores.load, log=log) as program:
        program.answer(60 + count / 50)
        yield program
