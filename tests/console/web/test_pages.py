import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from console.identity import LoginThrottle, Rule
from console.store import UserRecord
from console.web.session import FORM_FIELD, SESSION_COOKIE
from tests.console.api.world import CHEAP, PASSWORD, USER, World, client, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        yield running


@pytest.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(world) as session:
        yield session


def form_token(html: str) -> str:
    found = re.search(rf'name="{FORM_FIELD}" value="([0-9a-f]+)"', html)
    assert found is not None
    return found[1]


async def post(http: aiohttp.ClientSession, path: str, **fields: str) -> aiohttp.ClientResponse:
    """Post the form of a page, as a browser does that has loaded it."""
    page = await http.get("/manage/defenders" if path == "/logout" else path)
    token = form_token(await page.text())
    return await http.post(path, data={FORM_FIELD: token} | fields, allow_redirects=False)


async def log_in(http: aiohttp.ClientSession, username: str = USER, password: str = PASSWORD) -> str:
    """Log in; the Defenders page."""
    answer = await post(http, "/login", username=username, password=password)
    assert (answer.status, answer.headers["Location"]) == (303, "/manage/defenders")
    return await (await http.get("/manage/defenders")).text()


async def test_a_new_console_leads_to_sign_up(world: World, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/login"):
        assert str((await http.get(path)).url).endswith("/signup")
    answer = await post(http, "/signup", username=USER, password=PASSWORD, repeated=PASSWORD)
    assert (answer.status, answer.headers["Location"]) == (303, "/manage/defenders")
    assert await world.store.users.count() == 1
    page = await http.get("/")
    assert str(page.url).endswith("/manage/defenders")
    assert "garrison console install-bundle --address HOST" in await page.text()


async def test_sign_up_is_over_once_there_is_a_user(world: World, http: aiohttp.ClientSession) -> None:
    token = form_token(await (await http.get("/signup")).text())
    await world.sign_up()
    assert str((await http.get("/signup")).url).endswith("/login")
    late = {FORM_FIELD: token, "username": "late", "password": "p", "repeated": "p"}
    answer = await http.post("/signup", data=late, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert await world.store.users.get("late") is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"username": "u", "password": "a", "repeated": "b"}, "The two passwords differ"),
        ({"username": "", "password": "a", "repeated": "a"}, "User name is empty"),
        ({"username": "u", "password": "", "repeated": ""}, "Password is empty"),
        ({"username": "u", "password": "x", "repeated": "x"}, "Password is too short; use at least 8"),
        ({"username": "<b>:", "password": "a", "repeated": "a"}, "colon"),
    ],
)
async def test_sign_up_faults(
    world: World, http: aiohttp.ClientSession, fields: dict[str, str], words: str
) -> None:
    answer = await post(http, "/signup", **fields)
    html = await answer.text()
    assert answer.status == 400
    assert words in html
    assert "<b>" not in html
    assert await world.store.users.count() == 0


async def test_wrong_logins(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    for name, password in [(USER, "hunter2"), ("nobody", PASSWORD)]:
        answer = await post(http, "/login", username=name, password=password)
        html = await answer.text()
        assert answer.status == 401
        assert "User name or password is wrong." in html
        assert f'value="{name}"' in html
        assert password not in html
        assert SESSION_COOKIE not in answer.cookies


async def test_logins_that_have_to_wait(tmp_path: Path) -> None:
    throttle = LoginThrottle(by_user=Rule(free=0, first=7.0))
    async with running_world(tmp_path, throttle=throttle) as world, client(world) as http:
        await world.sign_up()
        await post(http, "/login", username=USER, password="wrong")
        answer = await post(http, "/login", username=USER, password=PASSWORD)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert "Try again in 7 seconds." in await answer.text()


async def test_the_session_cookie_is_the_browsers_alone(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    answer = await post(http, "/login", username=USER, password=PASSWORD)
    cookie = answer.cookies[SESSION_COOKIE]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Strict")
    # The API takes no cookie, so that no page can use one for it.
    assert (await http.get("/api/v1/defenders")).status == 401


async def test_pages_need_a_session(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    answer = await http.get("/manage/defenders", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    forged = {"Cookie": f"{SESSION_COOKIE}=a.b.c"}
    answer = await http.get("/manage/defenders", headers=forged, allow_redirects=False)
    assert answer.status == 303


async def test_logged_in_needs_no_login_page(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    await log_in(http)
    assert str((await http.get("/login")).url).endswith("/manage/defenders")


async def test_log_out_ends_the_token_too(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    login = await post(http, "/login", username=USER, password=PASSWORD)
    token = login.cookies[SESSION_COOKIE].value
    assert world.identity.verify_token(token) is not None
    answer = await post(http, "/logout")
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert world.identity.verify_token(token) is None
    assert (await http.get("/manage/defenders", allow_redirects=False)).status == 303


async def test_log_out_ends_what_the_session_was_renewed_from(
    world: World, http: aiohttp.ClientSession
) -> None:
    await world.sign_up()
    login = await post(http, "/login", username=USER, password=PASSWORD)
    first = login.cookies[SESSION_COOKIE].value
    world.clock.advance(16 * 60)
    second = (await http.get("/manage/defenders")).cookies[SESSION_COOKIE].value
    assert first != second
    for token in (first, second):
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await http.get("/api/v1/version", headers=bearer)).status == 200
    await post(http, "/logout")
    for token in (first, second):
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await http.get("/api/v1/version", headers=bearer)).status == 401
        assert (await http.get("/api/v1/authenticate/renew", headers=bearer)).status == 401


@pytest.mark.parametrize("path", ["/login", "/signup", "/logout"])
async def test_forms_of_others_change_nothing(world: World, http: aiohttp.ClientSession, path: str) -> None:
    if path != "/signup":
        await world.sign_up()
    page = await http.get("/login")
    token = form_token(await page.text())
    fields = {"username": USER, "password": PASSWORD, "repeated": PASSWORD}
    for data, headers in [
        (fields, {}),
        (fields | {FORM_FIELD: "0" * 64}, {}),
        (fields | {FORM_FIELD: token}, {"Sec-Fetch-Site": "cross-site"}),
        (fields | {FORM_FIELD: token}, {"Origin": "https://evil.example"}),
    ]:
        answer = await http.post(path, data=data, headers=headers, allow_redirects=False)
        assert answer.status == 403
        assert SESSION_COOKIE not in answer.cookies
    async with client(world) as stranger:
        answer = await stranger.post(path, data=fields | {FORM_FIELD: token}, allow_redirects=False)
        assert answer.status == 403
    assert await world.store.users.count() == (path != "/signup")


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"x", "multipart/form-data; boundary=x", 415),
        (b"a=" + b"x" * 100_000, "application/x-www-form-urlencoded", 413),
        (b"a=\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"a=b", "application/x-www-form-urlencoded; charset=utf-99", 400),
        (b"username=\\ud800", "application/x-www-form-urlencoded; charset=unicode_escape", 400),
        (b"username=+2AA-", "application/x-www-form-urlencoded; charset=utf-7", 400),
        (b"a=b", "application/x-www-form-urlencoded; charset=latin-1", 400),
    ],
)
async def test_what_is_no_form(http: aiohttp.ClientSession, data: bytes, kind: str, status: int) -> None:
    answer = await http.post("/login", data=data, headers={"Content-Type": kind})
    assert answer.status == status
    assert answer.content_type == "text/html"


async def test_the_session_is_renewed_when_half_of_it_is_over(
    world: World, http: aiohttp.ClientSession
) -> None:
    await world.sign_up()
    await log_in(http)
    assert SESSION_COOKIE not in (await http.get("/manage/defenders")).cookies
    world.clock.advance(16 * 60)
    assert SESSION_COOKIE in (await http.get("/manage/defenders")).cookies
    world.clock.advance(20 * 60)
    assert (await http.get("/manage/defenders", allow_redirects=False)).status == 200
    world.clock.advance(31 * 60)
    assert (await http.get("/manage/defenders", allow_redirects=False)).status == 303


async def test_the_table(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    first = await world.connect("<b>build</b>", key="a", not_after=world.clock.now())
    second = await world.connect("<b>build</b>", key="b", using_old_ca=True)
    await world.disconnect(first)
    html = await log_in(http)
    assert "<b>build" not in html
    assert html.count("&lt;b&gt;build&lt;/b&gt;") >= 2
    assert html.count("Another Defender claims this name") == 2
    assert "Using old certificate" in html
    for text in (first, second, "Connected", "Disconnected", "2026-11-21"):
        assert text in html
    world.clock.advance(1)
    assert "Certificate expired" in await (await http.get("/manage/defenders")).text()


async def test_pages_of_the_table(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    for n in range(103):
        await world.connect(f"web-{n:03}")
    html = await log_in(http)
    assert "1 to 100 of 103" in html
    assert 'href="/manage/defenders?offset=100"' in html
    html = await (await http.get("/manage/defenders?offset=100")).text()
    assert "101 to 103 of 103" in html
    assert "web-102" in html
    assert "no Defenders this far down" in await (await http.get("/manage/defenders?offset=500")).text()
    for nonsense in ("-1", "x", "9" * 100):
        assert "1 to 100 of 103" in await (await http.get(f"/manage/defenders?offset={nonsense}")).text()


async def test_who_has_no_role_sees_nothing(world: World, http: aiohttp.ClientSession) -> None:
    now = world.clock.now()
    user = UserRecord("guest", CHEAP.hash("p"), "accessUser", "basic", now, now)
    await world.store.users.create_first(user)
    await post(http, "/login", username="guest", password="p")
    answer = await http.get("/manage/defenders")
    assert answer.status == 403
    assert "Your role does not permit this" in await answer.text()
    stream = await (await http.get("/manage/defenders/events")).text()
    assert "event: fleet" not in stream


async def test_unknown_pages(http: aiohttp.ClientSession) -> None:
    answer = await http.get("/nothing/<b>")
    assert (answer.status, answer.content_type) == (404, "text/html")
    html = await answer.text()
    assert "Not found" in html
    assert "<b>" not in html


async def test_the_host_header_leads_nowhere(world: World, http: aiohttp.ClientSession) -> None:
    answer = await http.get("/", headers={"Host": "evil.example"}, allow_redirects=False)
    assert answer.headers["Location"] == "/signup"
    assert "evil" not in await (await http.get("/signup", headers={"Host": "evil.example"})).text()


async def test_two_browsers_have_a_session_each(world: World) -> None:
    await world.sign_up()
    async with client(world) as one, client(world) as two:
        await log_in(one)
        await log_in(two)
        await post(one, "/logout")
        assert (await one.get("/manage/defenders", allow_redirects=False)).status == 303
        assert (await two.get("/manage/defenders", allow_redirects=False)).status == 200


async def test_a_restart_logs_everybody_out(tmp_path: Path) -> None:
    async with running_world(tmp_path) as world, client(world) as http:
        await world.sign_up()
        login = await post(http, "/login", username=USER, password=PASSWORD)
        cookie = login.cookies[SESSION_COOKIE].value
    async with running_world(tmp_path) as world, client(world) as http:
        headers = {"Cookie": f"{SESSION_COOKIE}={cookie}"}
        answer = await http.get("/manage/defenders", headers=headers, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/login")


async def test_a_form_from_before_a_restart_keeps_the_name(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    data = {FORM_FIELD: "f" * 64, "username": USER, "password": PASSWORD}
    answer = await http.post("/login", data=data)
    html = await answer.text()
    assert answer.status == 403
    assert "This form was out of date" in html
    assert f'value="{USER}"' in html
    assert PASSWORD not in html


async def test_parallel_sign_ups_make_one_user(world: World) -> None:
    async with AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(client(world)) for _ in range(6)]
        tokens = [form_token(await (await browser.get("/signup")).text()) for browser in browsers]
        answers = await asyncio.gather(
            *(
                browser.post(
                    "/signup",
                    data={FORM_FIELD: token, "username": f"u{n}", "password": PASSWORD, "repeated": PASSWORD},
                    allow_redirects=False,
                )
                for n, (browser, token) in enumerate(zip(browsers, tokens, strict=True))
            )
        )
        places = sorted(answer.headers["Location"] for answer in answers)
        assert places == 5 * ["/login"] + ["/manage/defenders"]
    assert await world.store.users.count() == 1


async def test_pages_are_never_kept(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    await log_in(http)
    for path in ("/manage/defenders", "/login", "/nothing"):
        assert (await http.get(path, allow_redirects=False)).headers["Cache-Control"] == "no-store"


async def test_a_page_is_well_formed_for_who_listens(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    await world.connect("web-01")
    html = await log_in(http)
    for part in (
        '<html lang="en">',
        '<a class="skip" href="#main">',
        '<main id="main"',
        '<nav aria-label="Manage">',
        'aria-live="polite"',
        "<caption",
        'scope="col"',
        'scope="row"',
    ):
        assert part in html
    assert html.count("aria-live") == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods(http: aiohttp.ClientSession, method: str) -> None:
    answer = await http.request(method, "/login")
    assert (answer.status, answer.content_type) == (405, "text/html")
    assert "Method not allowed" in await answer.text()


async def test_what_is_typed_never_breaks_out(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    for name in ('"><script>alert(1)</script>', "{{ 7 * 7 }}", "' onfocus='x", "\u202ex", "x" * 3000):
        html = await (await post(http, "/login", username=name, password="p")).text()
        assert "<script>alert" not in html
        assert "49" not in html.split('id="username"')[1].split(">")[0]
        assert "' onfocus" not in html


async def test_page_weight(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    for n in range(100):
        await world.connect(f"host-number-{n:03}")
    html = await log_in(http)
    weight = len(html.encode())
    for url in re.findall(r'(?:href|src)="(/static/[^"]+)"', html):
        weight += len(await (await http.get(url)).read())
    assert weight < 200_000
