"""The pages in real Chromium: what a person sees and does, with no complaint in the browser's console."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.console.api.world import PASSWORD, USER, World, running_world

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="needs Chromium at /usr/bin/chromium: apt-get install chromium"
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for all of them, so that they can share one browser, which takes a while to start."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        await chromium.close()


@dataclass
class Complaints:
    """What the browser said against a page, and whom else it spoke to."""

    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def watch(self, page: Page, url: str) -> None:
        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.console.append(message.text)

        def asked(request: Request) -> None:
            if not request.url.startswith(url):
                self.strangers.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", asked)


@asynccontextmanager
async def opened(
    browser: Browser, world: World, *, expected: str | None = None, **options: Any
) -> AsyncIterator[Page]:
    """A page of a fresh profile; fails if the browser complained of anything but what is expected."""
    settings: dict[str, Any] = {"viewport": DESKTOP, "ignore_https_errors": True} | options
    context = await browser.new_context(base_url=world.url, **settings)
    context.set_default_timeout(10_000)
    page = await context.new_page()
    complaints = Complaints()
    complaints.watch(page, world.url)
    yield page
    await context.close()
    assert complaints == Complaints(console=[] if expected is None else [expected])


async def log_in(page: Page) -> None:
    await page.goto("/")
    await page.get_by_label("User name").fill(USER)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/manage/defenders")


async def picture(page: Page, name: str) -> None:
    """Keep what the page looks like, where somebody wants to look."""
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


async def accessible(page: Page, name: str) -> None:
    """No rule of axe is broken, light or dark, and nothing is wider than the window."""
    schemes: tuple[Literal["dark"], Literal["light"]] = ("dark", "light")
    for scheme in schemes:
        await page.emulate_media(color_scheme=scheme)
        results = await Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        await picture(page, f"{name}-{scheme}")
    assert not await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


async def fleet(world: World) -> None:
    """Defenders of every kind that a row can show."""
    await world.connect("web-01")
    await world.connect("db-01", type_="daemonset", arch="aarch64")
    gone = await world.connect("cache-07", type_="docker")
    await world.connect("build-3", key="build-a", fqdn="build-3")
    await world.connect("build-3", key="build-b", fqdn="build-3")
    await world.connect("edge-12", not_after=world.clock.now(), using_old_ca=True)
    await world.connect("old-22", version="9.1.0", using_old_ca=True)
    world.clock.advance(60)
    await world.disconnect(gone)


async def test_from_sign_up_to_log_out(world: World, browser: Browser) -> None:
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    async with opened(browser, world, expected=refused) as page:
        await page.goto("/")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Create the first user")
        await picture(page, "signup")
        await page.get_by_label("User name").fill(USER)
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_label("Password again").fill("something else")
        await page.get_by_role("button", name="Create user").click()
        await expect(page.get_by_role("alert")).to_contain_text("The two passwords differ")
        await expect(page.get_by_label("User name")).to_have_value(USER)
        await picture(page, "signup-fault")
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_label("Password again").fill(PASSWORD)
        await page.get_by_role("button", name="Create user").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Defenders")
        await expect(page.get_by_text("garrison console install-bundle --address HOST")).to_be_visible()
        await expect(page.locator("#live-state")).to_have_text("Live")
        await picture(page, "empty")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        await page.go_back()
        await expect(page.get_by_role("heading", level=1)).not_to_have_text("Defenders")


async def test_defenders_appear_and_go_without_a_reload(world: World, browser: Browser) -> None:
    await world.sign_up()
    async with opened(browser, world) as page:
        await log_in(page)
        await expect(page.locator("#live-state")).to_have_text("Live")
        await page.evaluate("window.neverReloaded = true")
        defender = await world.connect("web-01")
        row = page.get_by_role("row", name="web-01")
        await expect(row).to_contain_text("Connected")
        await expect(row).to_contain_text(defender)
        await expect(page.locator(".counts")).to_have_text("1 connected, 0 disconnected, 1 in all")
        await world.disconnect(defender)
        await expect(row).to_contain_text("Disconnected")
        await world.connect("web-01", key="another")
        await expect(row.get_by_text("Another Defender claims this name")).to_have_count(2)
        assert await page.evaluate("window.neverReloaded") is True


@pytest.mark.parametrize(("size", "viewport"), [("desktop", DESKTOP), ("phone", PHONE)])
async def test_pages_are_accessible(
    world: World, browser: Browser, size: str, viewport: dict[str, int]
) -> None:
    async with opened(browser, world, viewport=viewport) as page:
        await page.goto("/signup")
        await accessible(page, f"signup-{size}")
        await world.sign_up()
        await page.goto("/login")
        await accessible(page, f"login-{size}")
        await log_in(page)
        await accessible(page, f"empty-{size}")
        await fleet(world)
        await expect(page.get_by_role("row", name="cache-07")).to_contain_text("Disconnected")
        await accessible(page, f"defenders-{size}")


async def test_keyboard_only(world: World, browser: Browser) -> None:
    await world.sign_up()
    await fleet(world)
    async with opened(browser, world) as page:
        await page.goto("/login")
        await expect(page.get_by_label("User name")).to_be_focused()
        await page.keyboard.type(USER)
        await page.keyboard.press("Tab")
        await expect(page.get_by_label("Password")).to_be_focused()
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/manage/defenders")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("region", name="Defenders")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(page.get_by_role("button", name="Log out")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/login")


async def test_without_javascript(world: World, browser: Browser) -> None:
    await world.sign_up()
    async with opened(browser, world, java_script_enabled=False) as page:
        await log_in(page)
        await expect(page.get_by_text("Not live: reload to see changes")).to_be_visible()
        await fleet(world)
        await page.reload()
        await expect(page.get_by_role("row", name="web-01")).to_contain_text("Connected")
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_url("**/login")


async def test_a_session_that_ends_says_so(world: World, browser: Browser) -> None:
    await world.sign_up()
    async with opened(browser, world) as page:
        await log_in(page)
        await expect(page.locator("#live-state")).to_have_text("Live")
        world.clock.advance(31 * 60)
        await world.connect("web-01")
        await expect(page.get_by_role("alert")).to_contain_text("Your session has ended")
        await expect(page.locator("#live-state")).to_have_text("Not live: log in again")
        await picture(page, "ended")


async def test_hostile_names_are_text(world: World, browser: Browser) -> None:
    await world.sign_up()
    names = ["<img src=x onerror=alert(1)>", "\u202egnp.exe", "x" * 250, "\U0001f600" * 30, "a&amp;b'\"`"]
    async with opened(browser, world) as page:
        await log_in(page)
        for name in names:
            await world.connect(name, fqdn=name)
        await expect(page.get_by_role("row")).to_have_count(len(names) + 1)
        shown = [r"\u202egnp.exe" if name.startswith("\u202e") else name for name in names]
        assert sorted(await page.locator(".host").all_inner_texts()) == sorted(shown)
        await picture(page, "hostile")
