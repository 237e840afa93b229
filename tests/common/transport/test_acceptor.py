import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.transport import acceptor as module
from common.transport.acceptor import Acceptor
from tests.common.transport.helpers import eventually


class Faulty(socket.socket):
    """A listening socket whose next accepts fail with these errors."""

    errors: list[int]

    def accept(self) -> Any:
        if self.errors:
            raise OSError(self.errors.pop(0), "made by the test")
        return super().accept()


class Gate:
    """What an acceptor gave us."""

    def __init__(self) -> None:
        self.listening = Faulty()
        self.listening.errors = []
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.listening.setblocking(False)
        self.accepted: list[socket.socket] = []
        self.open = True
        self.room = 0
        self.asked = 0
        self.acceptor = Acceptor(
            asyncio.get_running_loop(),
            [self.listening],
            accepted=lambda sock, _: self.accepted.append(sock),
            may_accept=lambda: self.open,
            make_room=self.make_room,
        )

    def make_room(self) -> bool:
        self.asked += 1
        return self.asked <= self.room

    def dial(self) -> socket.socket:
        return socket.create_connection(self.listening.getsockname())

    async def count(self, count: int) -> None:
        await eventually(lambda: len(self.accepted) == count, f"{count} accepted")


@asynccontextmanager
async def gate() -> AsyncIterator[Gate]:
    it = Gate()
    it.acceptor.resume()
    try:
        yield it
    finally:
        it.acceptor.close()
        it.acceptor.close()
        for sock in it.accepted:
            sock.close()
        assert it.listening.fileno() == -1


async def test_accepted_sockets_are_non_blocking() -> None:
    async with gate() as it:
        with it.dial():
            await it.count(1)
            assert it.accepted[0].gettimeout() == 0


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_a_fault_of_one_connection_concerns_nobody_else(
    error: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with gate() as it:
        it.listening.errors = [error] * 3
        with it.dial():
            await it.count(1)
        assert not caplog.records


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_where_there_is_no_room_it_waits_and_says_so_once(
    error: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXHAUSTED_PAUSE", 0.01)
    async with gate() as it:
        it.listening.errors = [error] * 3
        with it.dial():
            await it.count(1)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "made by the test; raise the limit" in caplog.text
        it.listening.errors = [error]
        with it.dial():
            await it.count(2)
        assert len(caplog.records) == 2, "a new shortage is news"


async def test_where_room_can_be_made_it_goes_on_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with gate() as it:
        it.listening.errors = [errno.EMFILE] * 2
        it.room = 2
        with it.dial():
            await it.count(1)
        assert it.asked == 2
        assert not caplog.records


async def test_resuming_does_not_end_a_pause_that_the_kernel_forced() -> None:
    async with gate() as it:
        it.listening.errors = [errno.EMFILE]
        with it.dial():
            await eventually(lambda: not it.listening.errors)
            it.acceptor.resume()
            await asyncio.sleep(0.05)
            assert not it.accepted


async def test_while_nothing_may_be_accepted_the_kernel_holds_them() -> None:
    async with gate() as it:
        it.open = False
        with it.dial(), it.dial():
            await asyncio.sleep(0.02)
            assert not it.accepted
            it.acceptor.resume()
            await asyncio.sleep(0.02)
            assert not it.accepted
            it.open = True
            it.acceptor.resume()
            it.acceptor.resume()
            await it.count(2)


async def test_pause_and_resume() -> None:
    async with gate() as it:
        it.acceptor.pause()
        it.acceptor.pause()
        with it.dial():
            await asyncio.sleep(0.02)
            assert not it.accepted
            it.acceptor.resume()
            await it.count(1)


async def test_after_close_nothing_starts_again() -> None:
    async with gate() as it:
        it.listening.errors = [errno.EMFILE]
        with it.dial():
            await eventually(lambda: not it.listening.errors)
            it.acceptor.close()
            it.acceptor.resume()
            await asyncio.sleep(0.02)
            assert not it.accepted
