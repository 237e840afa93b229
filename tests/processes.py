"""Real processes of the product, for tests: started as an operator starts them, read by their logs."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from console.control import ask

PATIENCE = 30.0


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that configures the product."""
    ours = ("GARRISON_", "CONSOLE_", "DEFENDER_", "WS_", "INSTALL_", "DATA_", "MANAGEMENT_", "COMMUNICATION_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | more


@dataclass
class Process:
    """A process of the product, its log kept line by line."""

    process: asyncio.subprocess.Process
    is_onebox: bool = False
    lines: list[str] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, *arguments: str, **environment: str) -> Self:
        """Run `garrison ARGUMENTS`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "common", *arguments),
            env=clean_environment(**environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started = cls(process, is_onebox=arguments[0] == "onebox")
        started._reader = asyncio.create_task(started._read())
        return started

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._news:
                self.lines.append(line.decode().rstrip())
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return "\n".join(self.lines)

    async def line(self, pattern: str, *, after: int = 0, timeout: float = PATIENCE) -> re.Match[str]:
        """The first log line (from number `after` on) in which the pattern is found."""

        def found() -> re.Match[str] | None:
            return next((m for line in self.lines[after:] if (m := re.search(pattern, line))), None)

        async with self._news:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: found() or self._over()), timeout)
        match = found()
        assert match is not None, f"no line like {pattern!r} in:\n{self.log}"
        return match

    def _over(self) -> bool:
        return self._reader is not None and self.process.returncode is not None and self._reader.done()

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            code = await asyncio.wait_for(self.process.wait(), timeout)
        except TimeoutError:
            raise AssertionError(f"still running:\n{self.log}") from None
        assert self._reader is not None
        await self._reader
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    async def clean_up(self) -> None:
        """End it, however it stands; an onebox in order, since it ends what it started."""
        if self.is_onebox and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self.process.terminate()
                await asyncio.wait_for(self.process.wait(), PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self._reader is not None:
            await self._reader
        # Its transport closes with the pipes; a warning of one that is not is an error here.
        transport = getattr(self.process, "_transport", None)
        if transport is not None:
            transport.close()


@dataclass
class ConsoleProcess:
    """A Console with its ports and data folder."""

    process: Process
    data: Path
    https_port: int
    websocket_port: int

    async def ask(self, command: str, **arguments: str) -> Any:
        """What `garrison console COMMAND --json` prints, asked as it asks, but without a Python start."""
        return await ask(self.data, command, **arguments)

    async def bundle(self, address: str = "localhost") -> dict[str, str]:
        """WS_ADDRESS and INSTALL_BUNDLE for a Defender."""
        answer = await self.ask("install-bundle", address=address, type="serverLinux")
        return {"WS_ADDRESS": answer["wsAddress"], "INSTALL_BUNDLE": answer["installBundle"]}

    async def defenders(self) -> list[dict[str, Any]]:
        """What the Console knows of its Defenders."""
        found: list[dict[str, Any]] = await self.ask("defenders")
        return found

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The Defenders, once they meet the condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition(found := await self.defenders()):
                await asyncio.sleep(0.05)
        return found


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """`garrison ARGUMENTS` to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "common", *arguments),
        env=clean_environment(**environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


class Fleet:
    """Starts Consoles and Defenders in a folder, and ends all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[Process] = []

    async def start(self, *arguments: str, **environment: str) -> Process:
        """Start `garrison ARGUMENTS`; it ends with the test."""
        process = await Process.start(*arguments, **environment)
        self._processes.append(process)
        return process

    async def console(self, name: str = "console", **environment: str) -> ConsoleProcess:
        """Start a Console and wait until it listens."""
        data = self.folder / name
        settings: Mapping[str, str] = {
            "DATA_FOLDER": str(data),
            "MANAGEMENT_PORT_HTTPS": "0",
            "COMMUNICATION_PORT": "0",
            "GARRISON_LISTEN_ADDRESS": "127.0.0.1",
            "CONSOLE_SAN": "DNS:localhost IP:127.0.0.1",
        }
        process = await self.start("console", "run", **{**settings, **environment})
        ports = await process.line(r"serving HTTPS on port (\d+), Defenders on port (\d+)")
        return ConsoleProcess(process, data, int(ports[1]), int(ports[2]))

    async def defender(self, name: str, bundle: Mapping[str, str], **environment: str) -> Process:
        """Start a Defender with a data folder of its own."""
        settings = {"DATA_FOLDER": str(self.folder / name), "GARRISON_HOSTNAME": name}
        return await self.start("defender", "run", **{**settings, **bundle, **environment})

    @contextlib.asynccontextmanager
    async def cleaned_up(self) -> AsyncIterator[Self]:
        """Ends every process at the end."""
        try:
            yield self
        finally:
            for process in self._processes:
                await process.clean_up()
