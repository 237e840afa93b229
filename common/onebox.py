"""`garrison onebox`: a Console and Defenders on this machine, as processes, to look around.

It knows only the commands of the two sides, as an operator does: it starts them, waits until every Defender
is connected, shows their logs with a name before each line, and stops all of them in order. State stays in
its folder, so that the next start goes on from there.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from common.errors import GarrisonError, UsageError
from common.product import CUSTOM_CERTIFICATES

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
PREDEFINED: Final = Path("/var/lib/twistlock", CUSTOM_CERTIFICATES)
"""The directory of the product's documents: whoever made it before the onebox means it to be used."""


@dataclass(slots=True)
class Onebox:
    """What runs, and where.

    Attributes:
        folder: Holds a data folder for each process.
        custom_certificates: The one directory that all of them share as `custom-certificates`.
        defenders: How many Defenders.
        https_port: The Console's web page and API.
        websocket_port: Where it takes Defenders.
    """

    folder: Path
    custom_certificates: Path
    defenders: int
    https_port: int
    websocket_port: int
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def run(self) -> None:
        """Start all, stay until a signal or until one of them ends, stop all.

        Raises:
            GarrisonError: one of them ended by itself, or did not come up in time.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        # The group that shows the logs outlives everything else: the last lines are the ones that matter.
        async with asyncio.TaskGroup() as logs:
            failure = await self._until(stop, logs)
            await self._stop()
        if failure is not None:
            raise failure

    async def _until(self, stop: asyncio.Event, logs: asyncio.TaskGroup) -> GarrisonError | None:
        failure = None
        try:
            async with asyncio.TaskGroup() as tasks:
                living = tasks.create_task(self._live(logs), name="onebox")
                await stop.wait()
                living.cancel()
        except* GarrisonError as group:
            failure = _first(group)
        return failure

    async def _live(self, logs: asyncio.TaskGroup) -> None:
        try:
            await asyncio.wait_for(self._start(logs), START_SECONDS)
        except TimeoutError:
            remedy = "read the log lines above"
            raise GarrisonError("onebox", f"not up after {START_SECONDS:.0f} s", remedy) from None
        async with asyncio.TaskGroup() as tasks:
            for name, process in self.processes.items():
                tasks.create_task(_fail_at_end(name, process), name=f"end of {name}")

    async def _start(self, logs: asyncio.TaskGroup) -> None:
        self.custom_certificates.mkdir(parents=True, exist_ok=True)
        await self._spawn(logs, "console", ["console", "run"], self._console_environment())
        bundle = await self._bundle()
        names = [f"defender-{n}" for n in range(1, self.defenders + 1)]
        for name in names:
            await self._spawn(logs, name, ["defender", "run"], self._defender_environment(name, bundle))
        await self._until_connected(names)
        found = json.loads(await self._ask_console("certs", "--json") or b'{"channels": []}')
        custom = any(one["channel"] == "https" and one["source"] == "custom" for one in found["channels"])
        click.echo(self._welcome(custom=custom), err=True)

    def _console_environment(self) -> dict[str, str]:
        return {
            "MANAGEMENT_PORT_HTTPS": str(self.https_port),
            "COMMUNICATION_PORT": str(self.websocket_port),
            "CONSOLE_SAN": "DNS:localhost IP:127.0.0.1",
        }

    def _defender_environment(self, name: str, bundle: Mapping[str, str]) -> dict[str, str]:
        return {
            "WS_ADDRESS": bundle["wsAddress"],
            "INSTALL_BUNDLE": bundle["installBundle"],
            "GARRISON_HOSTNAME": f"{name}.onebox",
        }

    def _data_folder(self, name: str) -> Path:
        """The process's data folder, in which `custom-certificates` is the shared directory."""
        data = self.folder / name
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        link = data / CUSTOM_CERTIFICATES
        if link.is_symlink():
            link.unlink()
        if link.exists():
            raise UsageError(str(link), "is not a link to the shared directory", "move it away")
        link.symlink_to(self.custom_certificates, target_is_directory=True)
        return data

    async def _spawn(
        self, logs: asyncio.TaskGroup, name: str, arguments: list[str], environment: dict[str, str]
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "common", *arguments),
            env=_clean_environment() | environment | {"DATA_FOLDER": str(self._data_folder(name))},
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A Ctrl-C reaches the whole foreground group; the order of the stop is ours.
            start_new_session=True,
        )
        self.processes[name] = process
        logs.create_task(_show(name, process), name=f"log of {name}")

    async def _ask_console(self, *arguments: str) -> bytes:
        """One command against the running Console; empty while it is not up.

        A command's end, well or ill, takes a Python start: the loop that asks again needs no sleep.

        Raises:
            GarrisonError: the Console refuses, such as an address that its certificate doesn't name.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "common", "console", *arguments),
            env=_clean_environment() | {"DATA_FOLDER": str(self.folder / "console")},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode == UsageError.exit_code:
            said = errors.decode(errors="replace").strip().removeprefix("garrison: ")
            raise GarrisonError("onebox", said, "mend that and start it again")
        return output if process.returncode == 0 else b""

    async def _bundle(self) -> dict[str, str]:
        while True:
            output = await self._ask_console("install-bundle", "--address", "localhost", "--json")
            if output:
                return {str(k): str(v) for k, v in json.loads(output).items()}
            self._fail_if_ended()

    async def _until_connected(self, names: list[str]) -> None:
        wanted = {f"{name}.onebox" for name in names}
        while True:
            output = await self._ask_console("defenders", "--json")
            found = json.loads(output) if output else []
            if wanted <= {d["hostname"] for d in found if d["connected"]}:
                return
            self._fail_if_ended()

    def _fail_if_ended(self) -> None:
        for name, process in self.processes.items():
            if process.returncode is not None:
                raise _ended_by_itself(name, process)

    async def _stop(self) -> None:
        """Defenders first, so that each says good-bye to a Console that still listens."""
        names = sorted(self.processes, key=lambda name: name == "console")
        for batch in ([n for n in names if n != "console"], [n for n in names if n == "console"]):
            for name in batch:
                with contextlib.suppress(ProcessLookupError):
                    self.processes[name].terminate()
            await asyncio.gather(*(_ended(self.processes[name]) for name in batch))

    def _welcome(self, *, custom: bool) -> str:
        url = f"https://localhost:{self.https_port}"
        ca = "YOUR-CA.pem" if custom else str(self.folder / "console" / "certificates" / "ca.pem")
        trust = (
            "            its certificate is your own, from the directory below."
            if custom
            else "            the browser warns, because the Console made its certificate itself."
        )
        return "\n".join(
            [
                "",
                f"  {self.defenders} Defenders are connected to the Console over mutual TLS.",
                "",
                f"  Open      {url}",
                "            The first visit asks you to choose the administrator's name and password;",
                trust,
                f"  Trust     {ca}",
                f"  API       curl --cacert {ca} {url}/api/v1/_ping",
                f"  Files     {Path(sys.argv[0])} certs show {self.folder / 'console' / 'certificates'}",
                "  Yours     Copy your own certificates into the directory that all of them watch:",
                f"            {self.custom_certificates}",
                "  Stop      Ctrl-C; the state stays, the next start goes on from it",
                "",
            ]
        )


def _clean_environment() -> dict[str, str]:
    """The caller's environment without what would configure a Console or a Defender behind our back."""
    ours = {"WS_ADDRESS", "INSTALL_BUNDLE", "CONSOLE_CN", "DEFENDER_CN", "CONSOLE_SAN", "DATA_FOLDER"}
    kept = {"GARRISON_LOG_FORMAT"}
    return {
        k: v for k, v in os.environ.items() if k in kept or (k not in ours and not k.startswith("GARRISON_"))
    }


async def _show(name: str, process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        click.echo(f"{name:<11}| {line.decode(errors='replace').rstrip()}", err=True)


def _first(group: BaseExceptionGroup[GarrisonError]) -> GarrisonError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _fail_at_end(name: str, process: asyncio.subprocess.Process) -> None:
    await process.wait()
    raise _ended_by_itself(name, process)


def _ended_by_itself(name: str, process: asyncio.subprocess.Process) -> GarrisonError:
    return GarrisonError(name, f"ended with code {process.returncode}", "read its last log lines above")


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@click.command(short_help="A Console and Defenders on this machine, to look around.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".onebox"),
    show_default=True,
    help="Where their state lies; kept between starts.",
)
@click.option(
    "--custom-certificates",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The directory that all of them share for your own certificates.  "
    f"[default: {PREDEFINED} where it exists, else FOLDER/{CUSTOM_CERTIFICATES}]",
)
@click.option("--defenders", type=click.IntRange(1, 50), default=2, show_default=True)
@click.option("--https-port", type=click.IntRange(1, 65535), default=8083, show_default=True)
@click.option("--websocket-port", type=click.IntRange(1, 65535), default=8084, show_default=True)
def onebox(
    folder: Path, custom_certificates: Path | None, defenders: int, https_port: int, websocket_port: int
) -> None:
    """Run a Console and Defenders on this machine until Ctrl-C, and show their logs."""
    folder = folder.resolve()
    shared = custom_certificates or (PREDEFINED if PREDEFINED.is_dir() else folder / CUSTOM_CERTIFICATES)
    asyncio.run(Onebox(folder, shared.resolve(), defenders, https_port, websocket_port).run())
