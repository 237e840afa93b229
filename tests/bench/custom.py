"""A Console with a directory of custom certificates, and an operator who replaces what is in it."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from common.certificates import FILES, CertificateSet, Role
from tests.bench.errors import BenchError
from tests.bench.probes import Channel, Swap
from tests.bench.processes import START_SECONDS, Program
from tests.bench.servers import Depth, Server, console_program
from tests.bench.workshop import Workshop
from tests.operator import Operator

LOOK_SECONDS: Final = 0.002
"""Between two looks at a log: what a time read from it may be late by."""
SWAP_SECONDS: Final = 30.0
ROLES: Final = {Channel.HTTPS: Role.HTTPS_SERVER, Channel.WEBSOCKET: Role.DEFENDER_SERVER}
_LINES: Final = {
    Channel.HTTPS: "Console HTTPS custom certificates rotated, resetting listener",
    Channel.WEBSOCKET: "Console WebSocket custom certificates rotated, resetting listener",
}
_NO_INOTIFY: Final = (
    *("unshare", "--map-root-user", "sh", "-c"),
    'echo 0 >/proc/sys/user/max_inotify_instances && exec setpriv --pdeathsig KILL "$@"',
    "sh",
)


class Log:
    """A program's log file, read as it grows."""

    def __init__(self, path: Path, program: Program) -> None:
        self._path = path
        self._program = program

    @property
    def end(self) -> int:
        """How long it is now, in bytes."""
        return self._path.stat().st_size

    def text(self, after: int = 0) -> str:
        """All of it from a byte on."""
        with self._path.open("rb") as file:
            file.seek(after)
            return file.read().decode(errors="replace")

    def wait(self, pattern: str, *, after: int = 0, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first match of a pattern in what is logged from a byte on.

        Raises:
            BenchError: there is none in time, or the program ended.
        """
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text(after))) is None:
            if self._program.ended() or time.monotonic() > deadline:
                raise BenchError(f"{self._program.name}: no line like {pattern!r}{self._program.told()}")
            time.sleep(LOOK_SECONDS)
        return found


@dataclass(frozen=True, slots=True)
class CustomConsole:
    """A Console that runs.

    Attributes:
        server: As the other measurements know it; its port is the Defenders'.
        https_port: Of its web UI.
        data: Its data folder.
        log: Its standard error.
    """

    server: Server
    https_port: int
    data: Path
    log: Log

    @property
    def ports(self) -> dict[Channel, int]:
        return {Channel.HTTPS: self.https_port, Channel.WEBSOCKET: self.server.port}


def custom_folder(folder: Path) -> Path:
    """The directory of the Console in this folder, made: one that is missing at its start stays unread."""
    made = folder / "data" / "custom-certificates"
    made.mkdir(parents=True, exist_ok=True)
    return made


@contextlib.contextmanager
def custom_console(
    workshop: Workshop,
    folder: Path,
    *,
    loop: str = "uvloop",
    prefix: Sequence[str] = (),
    **settings: str,
) -> Iterator[CustomConsole]:
    """Run a Console in a folder; see `custom_folder`."""
    with console_program(workshop, folder, loop, settings, prefix=prefix) as program:
        log = Log(folder / "log", program)
        ports = log.wait(r"serving HTTPS on port (\d+), Defenders on port (\d+)")
        server = Server(f"Console, {loop}", program, int(ports[2]), (Depth.UPGRADE, Depth.HELLO))
        yield CustomConsole(server, int(ports[1]), folder / "data", log)


def without_events() -> tuple[str, ...] | None:
    """A command that starts a program for which no directory can be watched; None where that isn't permitted.

    The limit of inotify instances is a user namespace's own, so that nobody else notices.
    """
    try:
        done = subprocess.run((*_NO_INOTIFY, "true"), capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return _NO_INOTIFY if done.returncode == 0 else None


Replace = Callable[[Mapping[str, bytes]], None]
"""A way in which an operator puts files in place."""


@dataclass
class Volume:
    """A directory laid out as Kubernetes lays out a Secret: links by way of `..data`, which is swapped."""

    directory: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Put files in place, seen together by one rename; what was published before stays beside them."""
        before = self.directory / "..data"
        current = before.resolve() if before.is_symlink() else None
        for stale in self.directory.glob("..version_*"):
            if stale.resolve() != current:
                shutil.rmtree(stale)
        holder = self.directory / f"..version_{next(self._numbers)}"
        holder.mkdir()
        kept = {path.name: path.read_bytes() for path in current.iterdir()} if current else {}
        for name, data in {**kept, **files}.items():
            (holder / name).write_bytes(data)
            (holder / name).chmod(0o600)
        for name in files:
            if not (self.directory / name).is_symlink():
                self._link(self.directory / name, f"..data/{name}")
        self._link(before, holder.name)

    def _link(self, path: Path, target: str) -> None:
        beside = self.directory / f"..new_{path.name}"
        beside.symlink_to(target)
        beside.replace(path)


@dataclass
class Swapper:
    """An operator who puts one set after the other in place, and what came of it.

    Attributes:
        console: Whose.
        operator: With one CA for all sets, so that clients' trust stays.
        swaps: What was put in place and used, by channel.
    """

    console: CustomConsole
    operator: Operator
    swaps: dict[Channel, list[Swap]] = field(default_factory=lambda: {channel: [] for channel in Channel})

    def made(self, channel: Channel) -> tuple[dict[str, bytes], CertificateSet]:
        """A new set: as files, and as the Console will judge it."""
        files = self.operator.pki.files(ROLES[channel])
        return files, self.operator.judged(ROLES[channel], files)

    def leaf(self, channel: Channel, files: Mapping[str, bytes]) -> str:
        """The leaf of a channel's set among these files: SHA-256, hex."""
        return self.operator.judged(ROLES[channel], files).leaf.fingerprint

    def swap(self, channels: Sequence[Channel], replace: Replace) -> None:
        """Replace the sets of these channels together and wait until all of them are used.

        Raises:
            BenchError: the log doesn't say so within SWAP_SECONDS.
        """
        made = {channel: self.made(channel) for channel in channels}
        files = {name: data for each, _ in made.values() for name, data in each.items()}
        after, touched = self.console.log.end, time.monotonic()
        replace(files)
        complete = time.monotonic()
        for channel, (_, judged) in made.items():
            line = f"{re.escape(_LINES[channel])}: .*{judged.fingerprint[:16]}"
            self.console.log.wait(line, after=after, seconds=SWAP_SECONDS)
            swap = Swap(channel, judged.leaf.fingerprint, touched, complete, time.monotonic())
            self.swaps[channel].append(swap)

    def rotated(self) -> int:
        """How many swaps the log tells of."""
        text = self.console.log.text()
        return sum(text.count(line) for line in _LINES.values())


def all_files(operator: Operator) -> dict[str, bytes]:
    """A set for each side of both channels."""
    roles = (Role.DEFENDER_SERVER, Role.HTTPS_SERVER, Role.DEFENDER_CLIENT)
    return {name: data for role in roles for name, data in operator.pki.files(role).items()}


def client_folder(operator: Operator, folder: Path) -> Path:
    """A folder with the Defenders' set and the CA, for those who connect."""
    files = operator.pki.files(Role.DEFENDER_CLIENT)
    operator.copy(files, to=folder)
    return folder


def ca_file(folder: Path) -> Path:
    """The CA in a folder of `client_folder`."""
    name = FILES[Role.DEFENDER_CLIENT].ca
    assert name is not None
    return folder / name
