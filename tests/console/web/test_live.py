import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StoreError
from console.api import build_app, make_runner
from console.web.live import Fragment, Pulse, Renderings, Streams, event
from console.web.pages import EVENTS
from tests.console.api.world import Fleet, World, client, running_world
from tests.console.web.test_pages import log_in, post


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        await running.sign_up()
        yield running


class Reader:
    """Reads a stream's events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def block(self) -> str:
        lines = []
        async with asyncio.timeout(10):
            while (line := await self._response.content.readline()) not in (b"\n", b""):
                lines.append(line.decode())
        return "".join(lines)

    async def until(self, text: str) -> str:
        while text not in (block := await self.block()):
            assert block, "the stream has ended"
        return block

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            await self._response.content.read()
        return True


async def test_a_stream_tells_what_changes(world: World) -> None:
    async with client(world) as http:
        await log_in(http)
        async with http.get(EVENTS) as response:
            assert response.content_type == "text/event-stream"
            assert response.headers["Connection"] == "close"
            reader = Reader(response)
            assert await reader.block() == "retry: 2000\n"
            assert (await reader.until("No Defender")).startswith("event: counts\n")
            assert "Add a Defender" in await reader.until("event: fleet")
            defender = await world.connect("web-01")
            assert "<b>1</b> connected" in await reader.until("event: counts")
            assert defender in await reader.until("event: fleet")
            await world.disconnect(defender)
            assert "Disconnected" in await reader.until("event: fleet")


async def test_what_the_page_shows_is_not_sent_again(world: World) -> None:
    await world.connect("web-01")
    async with client(world) as http:
        page = await log_in(http)
        path = page.split('sse-connect="')[1].split('"')[0].replace("&amp;", "&")
        async with http.get(path) as response:
            reader = Reader(response)
            await reader.block()
            assert await reader.block() == ": still here\n"


async def test_a_stream_without_a_session_ends_at_once(world: World) -> None:
    async with client(world) as http, http.get(EVENTS) as response:
        text = await response.text()
        assert response.status == 200
        assert "event: session" in text
        assert "Log in again" in text
        assert text.endswith("event: ended\ndata: \n\n")


async def test_a_stream_ends_with_its_session(world: World) -> None:
    async with client(world) as http:
        await log_in(http)
        async with http.get(EVENTS) as response:
            reader = Reader(response)
            await reader.until("event: fleet")
            world.clock.advance(1801)
            await world.connect("web-01")
            await reader.until("event: ended")
            assert await reader.ended()


async def test_a_log_out_ends_the_streams_of_its_session_at_once(world: World) -> None:
    async with client(world) as http, client(world) as other:
        await log_in(http)
        await log_in(other)
        async with http.get(EVENTS) as response, other.get(EVENTS) as another:
            reader, stays = Reader(response), Reader(another)
            await reader.until("event: fleet")
            await stays.until("event: fleet")
            await post(http, "/logout")
            # Long before the next sign of life would be due.
            async with asyncio.timeout(5):
                assert "Log in again" in await reader.until("event: session")
                assert await reader.block() == "event: ended\ndata: \n"
                assert await reader.ended()
            await world.connect("web-01")
            await stays.until("web-01")


async def test_pages_that_cannot_follow_say_so_and_are_not_live(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_world(tmp_path) as world, client(world) as http:
        await world.sign_up()
        await log_in(http)
        async with http.get(EVENTS) as response:
            reader = Reader(response)
            await reader.until("event: fleet")

            async def fail(version: int) -> int:
                raise RuntimeError("the inside")

            world.fleet.wait_for_change = fail  # type: ignore[method-assign]
            await world.connect("web-01")
            assert await reader.ended()
        assert (await http.get(EVENTS)).status == 503
        assert (await http.get("/manage/defenders")).status == 200
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.levelno == logging.CRITICAL
    assert "the inside" in caplog.text


async def test_a_stream_whose_store_fails_is_broken_off(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(world) as http:
        await log_in(http)
        async with http.get(EVENTS) as response:
            reader = Reader(response)
            await reader.until("event: fleet")

            async def fail(_: object) -> None:
                raise StoreError("console.db", "the disk is full", "make room")

            world.directory.list = fail  # type: ignore[assignment,method-assign]
            await world.connect("web-01")
            with pytest.raises(aiohttp.ClientPayloadError):
                await reader.ended()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert "the disk is full" in caplog.text


async def test_streams_end_when_the_console_stops(tmp_path: Path) -> None:
    async with running_world(tmp_path) as world, client(world) as http:
        await world.sign_up()
        await log_in(http)
        async with http.get(EVENTS) as response:
            reader = Reader(response)
            await reader.until("event: fleet")
            async with asyncio.timeout(5):
                stopping = asyncio.ensure_future(world.runner.cleanup())
                assert await reader.ended()
                await stopping


async def test_streams_are_bounded_and_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(world) as http:
        await log_in(http)
        async with http.get(EVENTS) as first:
            await Reader(first).until("event: fleet")
            monkeypatch.setattr("console.web.live.Streams.full", property(lambda streams: streams.open >= 1))
            async with http.get(EVENTS) as second:
                assert (second.status, second.headers["Retry-After"]) == (503, "30")
        # The Console learns that a browser is gone when it writes to it.
        async with asyncio.timeout(20):
            while True:
                await world.connect("web-01")
                async with http.get(EVENTS) as third:
                    if third.status == 200:
                        break


async def test_a_pulse_is_not_faster_than_its_interval() -> None:
    fleet = Fleet()
    pulse = Pulse(fleet, interval=0.2)
    running = asyncio.ensure_future(pulse.run())
    await asyncio.sleep(0)
    for _ in range(50):
        fleet.change()
        await asyncio.sleep(0.001)
    assert pulse.beat == 1
    await pulse.wait(1, 10)
    assert pulse.beat == 2
    running.cancel()


async def test_a_pulse_waits_no_longer_than_asked_and_lets_go_when_closed() -> None:
    pulse = Pulse(Fleet())
    await pulse.wait(0, 0.01)
    waiting = asyncio.ensure_future(pulse.wait(0, 100))
    await asyncio.sleep(0)
    pulse.close()
    async with asyncio.timeout(5):
        await waiting
        await pulse.wait(pulse.beat, 100)


async def test_many_browsers_share_one_rendering() -> None:
    made: list[int] = []

    async def render(offset: int) -> tuple[Fragment, ...]:
        made.append(offset)
        await asyncio.sleep(0)
        return (Fragment("fleet", str(len(made))),)

    renderings = Renderings(render, size=2)
    await asyncio.gather(*(renderings.at(0, 1) for _ in range(50)))
    assert made == [0]
    await renderings.at(0, 2)
    await renderings.at(0, 1)
    assert made == [0, 0]
    for offset in (100, 200, 0):
        await renderings.at(offset, 2)
    assert made == [0, 0, 100, 200, 0]


async def test_a_rendering_grows_old() -> None:
    made = 0

    async def render(_: int) -> tuple[Fragment, ...]:
        nonlocal made
        made += 1
        return ()

    renderings = Renderings(render, age=-1.0)
    await renderings.at(0, 1)
    await renderings.at(0, 1)
    assert made == 2


@given(st.text(st.characters(codec="utf-8"), max_size=60))
@settings(deadline=None, max_examples=100)
def test_any_content_arrives_as_one_event(html: str) -> None:
    block = event(Fragment("fleet", html))
    # As a browser reads it (HTML, server-sent events): lines end at CRLF, CR or LF only.
    lines = block.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines[0] == "event: fleet"
    assert lines[-2:] == ["", ""]
    data = "\n".join(line.removeprefix("data: ") for line in lines[1:-2])
    assert data == html.replace("\r\n", "\n").replace("\r", "\n")
    assert all(line.startswith("data: ") for line in lines[1:-2])


async def test_every_browser_is_told(world: World) -> None:
    async with client(world) as http:
        await log_in(http)
        async with AsyncExitStack() as stack:
            readers = [Reader(await stack.enter_async_context(http.get(EVENTS))) for _ in range(12)]
            await asyncio.gather(*(reader.until("event: fleet") for reader in readers))
            defender = await world.connect("web-01")
            for block in await asyncio.gather(*(reader.until("event: fleet") for reader in readers)):
                assert defender in block


async def test_each_browser_sees_its_part_of_the_table(world: World) -> None:
    for n in range(101):
        await world.connect(f"web-{n:03}")
    async with client(world) as http:
        await log_in(http)
        async with http.get(EVENTS) as first, http.get(f"{EVENTS}?offset=100") as second:
            one = await Reader(first).until("event: fleet")
            two = await Reader(second).until("event: fleet")
            assert "web-099" in one
            assert "web-100" not in one
            assert "web-100" in two
            assert "web-099" not in two


async def test_a_quiet_stream_shows_that_it_lives(world: World) -> None:
    streams = Streams(world.fleet, nothing_to_show, heartbeat=0.05)
    async with serving(streams) as url, aiohttp.ClientSession() as http, http.get(url) as response:
        reader = Reader(response)
        assert await reader.block() == "retry: 2000\n"
        for _ in range(3):
            assert await reader.block() == ": still here\n"
    assert streams.open in (0, 1)


async def test_a_browser_that_reads_nothing_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.web.live.WRITE_TIMEOUT", 0.2)
    count = 0

    async def much(_: int) -> tuple[Fragment, ...]:
        nonlocal count
        count += 1
        return (Fragment("fleet", f"{count}" * 1_000_000),)

    streams = Streams(world.fleet, much, heartbeat=0.01)
    async with serving(streams) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1].rstrip("/")))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while streams.open:
                await asyncio.sleep(0.01)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_streams_say_when_they_are_full(world: World) -> None:
    streams = Streams(world.fleet, nothing_to_show, most=1)
    assert not streams.full
    async with serving(streams) as url, aiohttp.ClientSession() as http, http.get(url) as response:
        await Reader(response).block()
        assert streams.full
        streams.pulse.close()
        assert await Reader(response).ended()
    assert streams.open == 0
    # Nobody joins what is closing.
    assert streams.full


async def test_pages_that_stand_still_are_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(version: int) -> int:
        raise RuntimeError("the fleet is broken")

    world.fleet.wait_for_change = fail  # type: ignore[method-assign]
    broken = make_runner(build_app(world.services))
    await broken.setup()
    async with asyncio.timeout(10):
        while "Pages don't follow the fleet any more" not in caplog.text:
            await asyncio.sleep(0)
    await broken.cleanup()
    assert "the fleet is broken" in caplog.text


async def nothing_to_show(_: int) -> tuple[Fragment, ...]:
    return ()


@asynccontextmanager
async def serving(streams: Streams) -> AsyncIterator[str]:
    """Streams alone, in plain HTTP, for a session that doesn't end."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return await streams.serve(request, 0, lambda: 3600.0)

    app = web.Application()
    app.router.add_get("/", serve)
    runner = make_runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        streams.pulse.close()
        await runner.cleanup()
