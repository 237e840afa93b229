"""A directory that a Watcher follows in a test, with what comes of it."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from common.certificates import CertificateSet, Channel, Role, Watcher
from common.clock import SystemClock
from tests.common.certificates.pki import Cert, files_for, make_ca, make_client, make_server

CA = make_ca("ca")
CLIENT = Role.DEFENDER_CLIENT
SERVER = Role.DEFENDER_SERVER
HTTPS = Role.HTTPS_SERVER

BOUND = 30.0  # seconds for what takes one


def files(name: str, role: Role = CLIENT, ca: Cert = CA) -> dict[str, bytes]:
    """The files of a good set."""
    leaf = make_server(ca, name) if role.is_server else make_client(ca, name)
    return files_for(role, leaf, [ca] if role is not HTTPS else [])


def copy(folder: Path, contents: Mapping[str, bytes]) -> None:
    """One file after the other, as cp does it."""
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)


class ShiftedClock(SystemClock):
    """A wall clock that is wrong."""

    def __init__(self, shift: timedelta = timedelta(0)) -> None:
        self.shift = shift

    def now(self) -> datetime:
        return super().now() + self.shift


class CountingWatcher(Watcher):
    """One whose looks are counted: nothing that happens between two looks is missed by waiting for some."""

    looks = 0

    async def _look_once(self) -> None:
        await super()._look_once()
        self.looks += 1

    @property
    def decided(self) -> bool:
        """Nothing is pending: all that is to be told of what lies there has been told."""
        return all(watch.due is None for watch in self._watches.values())


class Followed:
    """Starts a watcher of a directory and runs it until the block ends.

    Attributes:
        lines: What it has logged: level and text.
        used: What it has put in force while it ran, by leaf's subject, with the role.
        begun: What it began with.
    """

    def __init__(self, directory: Path, *roles: Role, poll: float = 3600, shift: timedelta = timedelta(0)):
        self.lines: list[tuple[int, str]] = []
        self.used: list[tuple[Role, str]] = []
        self.begun: Mapping[Role, CertificateSet] = {}
        self.clock = ShiftedClock(shift)
        channels = [Channel(role, self._use) for role in roles or (CLIENT,)]
        self.watcher = CountingWatcher(
            directory,
            channels,
            clock=self.clock,
            poll_seconds=poll,
            say=lambda *line: self.lines.append(line),
        )
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.begun = await self.watcher.start()
        self.run()
        return self

    def run(self) -> None:
        self.task = asyncio.create_task(self.watcher.run())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def _use(self, set_: CertificateSet) -> None:
        self.used.append((set_.role, set_.leaf.subject.removeprefix("CN=")))

    def said(self, level: int) -> list[str]:
        """The lines of a level."""
        return [text for found, text in self.lines if found == level]

    @property
    def names(self) -> list[str]:
        """The leaves that were put in force."""
        return [name for _, name in self.used]

    async def until(self, condition: Callable[[], object], *, more: float = 0.0) -> None:
        """Wait for it, within BOUND and `more` seconds."""
        deadline = time.monotonic() + BOUND + more
        while not condition():
            assert self.task is not None
            if self.task.done():
                self.task.result()
            assert time.monotonic() < deadline, (self.used, self.lines, self.watcher.status())
            await asyncio.sleep(0.01)

    async def until_used(self, *names: str) -> None:
        """These and no others have been put in force, in this order."""
        await self.until(lambda: len(self.names) >= len(names))
        assert self.names == list(names)

    async def until_said(self, level: int, words: str) -> str:
        """A line of this level holds these words; returns it."""
        await self.until(lambda: any(words in text for text in self.said(level)))
        return next(text for text in self.said(level) if words in text)

    async def until_decided(self) -> None:
        """It has seen all that lies there by now, and made up its mind."""
        for _ in range(2):
            looks = self.watcher.looks
            self.watcher.look()
            await self.until(lambda looks=looks: self.watcher.looks > looks)  # type: ignore[misc]
        await self.until(lambda: self.watcher.decided)


ERROR, WARNING, INFO, CRITICAL, DEBUG = (
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.CRITICAL,
    logging.DEBUG,
)


async def watch(folder: Path, *more: str, prefix: tuple[str, ...] = ()) -> asyncio.subprocess.Process:
    """`garrison certs watch` in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        "-m",
        "common",
        "certs",
        "watch",
        str(folder),
        *more,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


async def until_printed(process: asyncio.subprocess.Process, words: str) -> str:
    """Its next line with these words."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        async for raw in process.stdout:
            line = raw.decode()
            if words in line:
                return line
    pytest.fail(f"it ended without {words!r}")
