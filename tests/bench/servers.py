"""The servers under test: the Console, its stand-in without a store, nginx, Go gorilla/websocket.

Each is a context manager that yields it running, alone on the servers' core, and ends it.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.bench.machine import raise_file_limit
from tests.bench.processes import START_SECONDS, Program, running, wait_until
from tests.bench.workshop import HERE, Workshop

NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "nginx"
SERVER_FILES: Final = ("defender-ca.pem", "defender-server-cert.pem", "defender-server-key.pem")
CLIENT_FILES: Final = ("defender-client-cert.pem", "defender-client-key.pem")
# A Console without uvloop where uvloop is installed: its import fails, as if it weren't.
_WITHOUT_UVLOOP: Final = (
    "import sys; sys.modules['uvloop'] = None; from common.cli import main; main(['console', 'run'])"
)
_WITH_UVLOOP: Final = "from common.cli import main; main(['console', 'run'])"


class Depth(StrEnum):
    """How far a connection is taken."""

    HTTP = "http"
    UPGRADE = "upgrade"
    HELLO = "hello"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs.

    Attributes:
        name: In tables.
        program: Its process.
        port: On 127.0.0.1.
        depths: How far connections to it can be taken.
        collect: Has it collect its garbage; for those that do that by themselves, does nothing.
    """

    name: str
    program: Program
    port: int
    depths: tuple[Depth, ...]
    collect: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


Recipe = Callable[[Workshop], "contextlib.AbstractContextManager[Server]"]


@contextlib.contextmanager
def nginx(workshop: Workshop) -> Iterator[Server]:
    """nginx with one worker: TLS as ours, one HTTP answer."""
    folder, port = workshop.run_folder("nginx"), free_port()
    text = (HERE / "peers" / "nginx.conf").read_text(encoding="utf-8")
    values = {
        "PORT": port,
        "FOLDER": folder,
        "CERTIFICATES": workshop.certificates,
        "FILES": raise_file_limit(0),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    configuration = folder / "nginx.conf"
    configuration.write_text(text, encoding="utf-8")
    command = (NGINX, "-p", folder, "-c", configuration)
    with running("nginx", command, core=workshop.cores.server, log=folder / "log") as program:
        wait_until(lambda: listens(port), program)
        yield Server("nginx", program, port, (Depth.HTTP,))


@contextlib.contextmanager
def gorilla(workshop: Workshop) -> Iterator[Server]:
    """Go gorilla/websocket, on one core."""
    folder = workshop.run_folder("gorilla")
    command = (workshop.gorilla, "-certificates", workshop.certificates)
    environment = os.environ | {"GOMAXPROCS": "1"}
    core = workshop.cores.server
    with running("gorilla", command, core=core, log=folder / "log", environment=environment) as program:
        port = program.answer(START_SECONDS)["port"]
        yield Server("Go gorilla", program, port, (Depth.UPGRADE,), lambda: _collect(program, signal.SIGUSR1))


def collect_and_return(program: Program) -> None:
    """Have the gorilla peer collect its garbage and give the memory back to the system, which Go delays."""
    _collect(program, signal.SIGUSR2)


def _collect(program: Program, number: signal.Signals) -> None:
    program.signal(number)
    program.line(START_SECONDS)


def lean(loop: str) -> Recipe:
    """The stand-in: the Console's transport and protocol without fleet and store."""

    @contextlib.contextmanager
    def recipe(workshop: Workshop) -> Iterator[Server]:
        folder = workshop.run_folder(f"lean-{loop}")
        command = (
            *(sys.executable, "-m", "tests.bench.lean", "--loop", loop),
            *("--certificates", workshop.certificates),
        )
        with running(f"lean {loop}", command, core=workshop.cores.server, log=folder / "log") as program:
            port = program.answer(START_SECONDS)["port"]
            yield Server(f"transport only, {loop}", program, port, (Depth.UPGRADE, Depth.HELLO))

    return recipe


def console(loop: str) -> Recipe:
    """The Console itself, with a store of its own that begins empty."""

    @contextlib.contextmanager
    def recipe(workshop: Workshop) -> Iterator[Server]:
        folder, port = workshop.run_folder(f"console-{loop}"), free_port()
        with console_program(workshop, folder, loop, {"COMMUNICATION_PORT": str(port)}) as program:
            wait_until(lambda: listens(port), program)
            yield Server(f"Console, {loop}", program, port, (Depth.UPGRADE, Depth.HELLO))

    return recipe


@contextlib.contextmanager
def console_program(
    workshop: Workshop,
    folder: Path,
    loop: str,
    settings: Mapping[str, str],
    *,
    prefix: Sequence[str] = (),
) -> Iterator[Program]:
    """A Console's process in a folder of its own: its data in `data`, its log in `log`.

    Args:
        workshop: Whose template it begins with, if there is one.
        folder: May hold a data folder already, which is kept.
        loop: asyncio or uvloop.
        settings: Options that differ from the bench's.
        prefix: A command that starts it.
    """
    data = folder / "data"
    if workshop.template.exists():
        shutil.copytree(workshop.template, data, symlinks=True, dirs_exist_ok=True)
    command = (*prefix, sys.executable, "-c", _WITH_UVLOOP if loop == "uvloop" else _WITHOUT_UVLOOP)
    core, log, environment = workshop.cores.server, folder / "log", _console_environment(data, settings)
    with running(f"Console {loop}", command, core=core, log=log, environment=environment) as program:
        yield program


def bare_environment() -> dict[str, str]:
    """Nothing of the caller's environment configures what is measured behind our back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}


def _console_environment(data: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """As an operator would run it."""
    ours = {
        "DATA_FOLDER": str(data),
        "MANAGEMENT_PORT_HTTPS": "0",
        "COMMUNICATION_PORT": "0",
        "CONSOLE_CN": "localhost",
        "CONSOLE_SAN": "DNS:localhost IP:127.0.0.1",
        "GARRISON_LISTEN_ADDRESS": "127.0.0.1",
        "LOG_PROD": "true",
    }
    return {**bare_environment(), **ours, **settings}


def make_template(workshop: Workshop) -> None:
    """Let a Console make its certificates, once: every server in this bench uses them.

    What it leaves is the data folder that each Console of this bench begins with, and the files of the
    Defender channel in the workshop's certificate folder.
    """
    shutil.rmtree(workshop.template, ignore_errors=True)
    shutil.rmtree(workshop.certificates, ignore_errors=True)
    workshop.certificates.mkdir(parents=True, mode=0o700)
    data = workshop.folder / "run" / "console-asyncio" / "data"
    with console("asyncio")(workshop):
        for name in (*SERVER_FILES, *CLIENT_FILES):
            shutil.copy2(data / "certificates" / name, workshop.certificates / name)
    # Sockets and locks are the dead Console's.
    left = shutil.ignore_patterns("*.sock", "*.lock")
    shutil.copytree(data, workshop.template, symlinks=True, ignore=left)


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
