"""Event streams across a swap of the HTTPS certificates: they end in order, and come back."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from console.https import HTTPSServer
from console.web.live import Fragment, Streams
from tests.console.api.world import Fleet
from tests.console.raw_http import RawClient
from tests.console.swapping import anyio_backend, looks, pki, serving, swap
from tests.console.test_https import trusting
from tests.pki import PKI

__all__ = ["anyio_backend", "looks", "pki"]


@dataclass
class Live:
    """Event streams alone, which leave within `leave` seconds, the n-th at the n-th of `chances`."""

    leave: float
    chances: list[float]
    shown: str = "one"
    fleet: Fleet = field(default_factory=Fleet)
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        self.streams = Streams(
            self.fleet, self._render, leave=self.leave, chance=lambda: self.chances.pop(0), heartbeat=3600.0
        )

    async def _render(self, _: int) -> tuple[Fragment, ...]:
        return (Fragment("fleet", self.shown),)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        return await self.streams.serve(request, 0, lambda: 3600.0, (Fragment("session", "log in again"),))

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self._serve)
        return app


async def stream(server: HTTPSServer, pki: PKI) -> RawClient:
    """Open a stream and read its beginning."""
    client = await RawClient.open(server.port, trusting(pki))
    client.send()
    status, headers = await client.head()
    # Said at once: nothing else may be sent on it, whenever it ends.
    assert (status, headers["connection"]) == (200, "close")
    assert await anext(client) == b"retry: 2000\n\n"
    return client


async def test_a_stream_ends_in_order_and_comes_back_on_the_new_certificate(pki: PKI) -> None:
    live = Live(leave=0.2, chances=[0.5, 0.5])
    async with serving(pki, live.app()) as server:
        client = await stream(server, pki)
        assert await anext(client) == b"event: fleet\ndata: one\n\n"
        new = swap(server, pki)
        live.shown = "two"
        live.streams.pulse.beat += 1
        async with asyncio.timeout(10):
            rest = b"".join([chunk async for chunk in client])
        # What the browser shows stays: it isn't told that its session is over.
        assert b"session" not in rest
        assert await client.ended()
        back = await stream(server, pki)
        assert back.shown == new.leaf.der
        assert await anext(back) == b"event: fleet\ndata: two\n\n"
        assert server.draining == 0
        live.streams.pulse.close()
        assert [chunk async for chunk in back] == []
        assert await back.ended()


async def test_streams_end_one_after_the_other(pki: PKI) -> None:
    live = Live(leave=1000.0, chances=[0.0, 0.0001, 1.0])
    async with serving(pki, live.app()) as server:
        clients = [await stream(server, pki) for _ in range(3)]
        for client in clients:
            await anext(client)
        swap(server, pki)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(10):
            ended = []
            for client in clients[:2]:
                rest = b"".join([chunk async for chunk in client])
                assert rest.replace(b": still here\n\n", b"") == b""
                ended.append(loop.time() - began)
        assert ended[1] >= 0.09
        assert server.draining >= 1
        # The third has its time still.
        assert await anext(clients[2]) == b": still here\n\n"
        live.streams.pulse.close()
        for client in clients:
            client.drop()


async def test_a_stream_that_begins_on_a_replaced_set_has_no_more_time_than_the_others(pki: PKI) -> None:
    live = Live(leave=0.0, chances=[1.0, 1.0])
    async with serving(pki, live.app()) as server:
        client = await RawClient.open(server.port, trusting(pki))
        swap(server, pki)
        client.send()
        answer = await client.answer()
        # A browser may keep several such connections, and tries them first: it has not to wait for each.
        assert (answer.body, answer.last) == (b"retry: 100\n\n", True)
        assert await client.ended()
        back = await stream(server, pki)
        live.streams.pulse.close()
        back.drop()
