"""A live page in real Chromium while the Console's certificates are replaced: it stays, and comes back."""

import asyncio
import functools

import pytest
from playwright.async_api import Browser, Response, expect

from common.certificates import CertificateSet, Role
from common.clock import SystemClock
from common.transport import bind
from console.api import build_app
from console.https import HTTPSServer
from console.web.live import Streams
from console.web.pages import EVENTS
from tests.browser.test_pages import Complaints, anyio_backend, browser, log_in, pytestmark, world
from tests.console.api.world import World
from tests.pki import LOCAL, PKI

__all__ = ["anyio_backend", "browser", "pytestmark", "world"]


def named(pki: PKI, name: str) -> CertificateSet:
    issued = pki.authority.issue(Role.HTTPS_SERVER, common_name=name, names=LOCAL, now=pki.now)
    return pki.set(Role.HTTPS_SERVER, issued)


async def stream_on(name: str, streams: asyncio.Queue[Response]) -> None:
    """Wait for the browser to open an event stream, by itself, on that certificate.

    Before it, there may be some on connections that it kept from loading the page.
    """
    async with asyncio.timeout(20):
        while True:
            answer = await streams.get()
            assert answer.status == 200
            details = await answer.security_details()
            if details and details.get("subjectName") == name:
                return


async def test_a_live_page_comes_back_on_the_new_certificate(
    world: World, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.web.pages.Streams", functools.partial(Streams, leave=0.2))
    pki = PKI()
    server = HTTPSServer(build_app(world.services), SystemClock())
    server.use(named(pki, "one"))
    await server.start(await bind("127.0.0.1", 0))
    world.url = f"https://localhost:{server.port}"
    await world.sign_up()
    context = await browser.new_context(base_url=world.url, ignore_https_errors=True)
    page = await context.new_page()
    complaints = Complaints()
    complaints.watch(page, world.url)
    streams: asyncio.Queue[Response] = asyncio.Queue()

    def heard(response: Response) -> None:
        if EVENTS in response.url:
            streams.put_nowait(response)

    page.on("response", heard)
    try:
        await log_in(page)
        state, rows = page.locator("#live-state"), page.get_by_role("row")
        await expect(state).to_have_text("Live")
        await world.connect("web-01")
        await expect(rows).to_have_count(2)
        for name in ("two", "three"):
            server.use(named(pki, name))
            await stream_on(name, streams)
            # What it shows stays, nothing is said of a session, and it is live.
            await expect(state).to_have_text("Live")
            await expect(rows).to_have_count(2)
            await expect(page.get_by_role("link", name="Log in again")).to_have_count(0)
        await world.connect("web-02")
        await expect(rows).to_have_count(3)
    finally:
        await context.close()
        await server.close()
    # htmx's extension logs the event of each stream that ends.
    assert set(complaints.console) <= {"[object Event]"}
    assert (complaints.errors, complaints.strangers) == ([], [])
