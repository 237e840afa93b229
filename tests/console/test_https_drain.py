"""What takes long across a swap of the HTTPS certificates, what it is given, and a load without pause."""

import asyncio
import hashlib
import logging
import ssl
from dataclasses import dataclass

import aiohttp
import pytest

from common.certificates import CertificateSet, Role
from console.https import HTTPSServer
from console.turnover import DrainBounds
from tests.console.raw_http import RawClient
from tests.console.swapping import (
    PIECE,
    Work,
    anyio_backend,
    looks,
    pki,
    server,
    serving,
    swap,
    until_gone,
    until_said,
    work,
)
from tests.console.test_https import trusting
from tests.pki import PKI

__all__ = ["anyio_backend", "looks", "pki", "server", "work"]

AT_ONCE = DrainBounds(handshakes=0.0, requests=0.0, waiting=3600.0)


async def test_a_download_across_a_swap_arrives_whole(server: HTTPSServer, pki: PKI, work: Work) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.send("/download")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(client.answer())
        await work.arrived.wait()
        for _ in range(3):
            swap(server, pki)
        work.may_go_on.set()
    assert reading.result().body == PIECE * 128
    # Its head was sent before the swap; what is asked next is answered, and that is the last.
    assert not reading.result().last
    assert (await client.ask()).last
    assert await client.ended()


async def test_an_upload_across_a_swap_arrives_whole(server: HTTPSServer, pki: PKI, work: Work) -> None:
    client = await RawClient.open(server.port, trusting(pki))
    client.send("/upload", "POST", f"Content-Length: {128 * len(PIECE)}")
    for n in range(128):
        if n == 64:
            await work.arrived.wait()
            swap(server, pki)
        client.writer.write(PIECE)
        await client.writer.drain()
    answer = await client.answer()
    assert answer.body.decode() == hashlib.sha256(PIECE * 128).hexdigest()
    assert answer.last
    assert await client.ended()


async def test_what_outlasts_the_bound_is_cut_and_who_waits_is_not(
    pki: PKI, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "console.https")
    async with serving(pki, work.app(), bounds=AT_ONCE) as server:
        busy = await RawClient.open(server.port, trusting(pki))
        waiting = await RawClient.open(server.port, trusting(pki))
        await waiting.ask()
        busy.send("/download")
        await work.arrived.wait()
        swap(server, pki)
        # Neither an end in order nor one that would pass for the answer's.
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)):
            await busy.answer()
        busy.drop()
        assert server.draining == 1
        assert "nobody is connected" not in caplog.text
        assert (await waiting.ask()).last
        assert await waiting.ended()
        await until_said(caplog, "1 request that was still under way was cut off after 0 s")
        work.may_go_on.set()
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_a_client_sees_that_it_was_cut(pki: PKI, work: Work) -> None:
    async with serving(pki, work.app(), bounds=AT_ONCE) as server, aiohttp.ClientSession() as session:
        async with session.get(f"https://localhost:{server.port}/download", ssl=trusting(pki)) as response:
            await work.arrived.wait()
            swap(server, pki)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        work.may_go_on.set()


async def test_one_that_never_asks_again_ends_by_its_time_out(
    pki: PKI, work: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "console.https")
    monkeypatch.setattr("console.api.server.KEEP_ALIVE", 0.2)
    bounds = DrainBounds(handshakes=0.0, requests=300.0, waiting=135.0)
    async with serving(pki, work.app(), bounds=bounds) as server:
        name = server.certificates.fingerprint if server.certificates else ""
        client = await RawClient.open(server.port, trusting(pki))
        assert not (await client.ask()).last
        swap(server, pki)
        assert await client.ended()
        line = f"nobody is connected on the replaced certificates ({name[:16]}) any more"
        await until_said(caplog, line)
        # And that is all: nothing looks any more.
        assert server._look_handle is None
    assert caplog.text.count("nobody is connected") == 1


async def test_the_server_stops_in_the_middle_of_a_drain(pki: PKI, work: Work) -> None:
    async with serving(pki, work.app()) as server:
        client = await RawClient.open(server.port, trusting(pki))
        await client.ask()
        swap(server, pki)
    assert await client.ended()


@dataclass
class Load:
    """Clients that ask without pause, and retry nothing.

    Attributes:
        sets: All that have been used, in order.
        done: Requests that were answered as they should be.
        opened: Connections.
    """

    server: HTTPSServer
    context: ssl.SSLContext
    sets: list[CertificateSet]
    done: int = 0
    opened: int = 0
    stop: bool = False

    async def keep_alive(self) -> None:
        """Ask on one connection until the server says that it is the last answer; then on a new one."""
        while not self.stop:
            oldest = len(self.sets) - 1
            client = await RawClient.open(self.server.port, self.context)
            self.opened += 1
            # What it is shown was in use between the beginning and the end of the handshake.
            assert client.shown in [one.leaf.der for one in self.sets[oldest:]]
            last = False
            while not last and not self.stop:
                answer = await client.ask("/", "POST", body=b"x" * 1000)
                assert (answer.status, answer.body) == (200, b"hello")
                last = answer.last
                self.done += 1
            if last:
                assert await client.ended()
            client.drop()

    async def pooled(self, session: aiohttp.ClientSession) -> None:
        """By a client with a pool, which would retry a GET by itself, but no POST."""
        url = f"https://localhost:{self.server.port}/"
        while not self.stop:
            async with session.post(url, data=b"x", ssl=self.context) as response:
                assert (response.status, await response.text()) == (200, "hello")
            self.done += 1


async def test_no_request_fails_in_fifty_swaps_under_load(server: HTTPSServer, pki: PKI, work: Work) -> None:
    assert server.certificates is not None
    load = Load(server, trusting(pki), [server.certificates])
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(load.keep_alive())
            tasks.create_task(load.pooled(session))
        for _ in range(50):
            seen = load.done
            while load.done < seen + 12:
                await asyncio.sleep(0)
            new = pki.set(Role.HTTPS_SERVER)
            # No await in between: what is shown from here on is in the list.
            server.use(new)
            load.sets.append(new)
        load.stop = True
    assert len(load.sets) == 51
    assert load.opened > 50
    assert load.done == work.answered
    await until_gone(server)
