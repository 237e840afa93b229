import asyncio
import base64
import contextlib
import gzip
import logging
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from common.errors import StoreError
from common.version import VERSION
from console.api.routes import ROUTES
from console.identity import LoginThrottle, Permission, Principal, Rule
from tests.console.api.world import PASSWORD, USER, World, client, contexts, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        yield running


@pytest.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(world) as session:
        yield session


def basic(username: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


async def token(http: aiohttp.ClientSession) -> dict[str, str]:
    response = await http.post("/api/v1/authenticate", json={"username": USER, "password": PASSWORD})
    assert response.status == 200
    return {"Authorization": f"Bearer {(await response.json())['token']}"}


async def test_ping(http: aiohttp.ClientSession) -> None:
    response = await http.get("/api/v1/_ping")
    assert (response.status, await response.text()) == (200, "OK")


async def test_sign_up_once(http: aiohttp.ClientSession) -> None:
    body = {"username": USER, "password": PASSWORD}
    first = await http.post("/api/v1/signup", json=body)
    assert (first.status, await first.read()) == (200, b"")
    again = await http.post("/api/v1/signup", json=body | {"username": "other"})
    assert (again.status, await again.json()) == (400, {"err": "system already initialized"})


async def test_parallel_sign_ups_make_one_user(world: World, http: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(
        *(http.post("/api/v1/signup", json={"username": f"u{n}", "password": PASSWORD}) for n in range(20))
    )
    assert sorted(answer.status for answer in answers) == [200] + 19 * [400]
    assert await world.store.users.count() == 1


@pytest.mark.parametrize(
    ("body", "err"),
    [
        (b"{", "the request's body is not JSON"),
        (b'{"username": ' + b"[" * 60_000, None),
        (b"\xff", "the request's body is not JSON"),
        (b"[]", "the request's body does not fit: Expected `object`, got `array`"),
        (b'{"username": 1}', "the request's body does not fit: Expected `str`, got `int` - at `$.username`"),
        (b'{"user": "x"}', "the request's body does not fit: Object contains unknown field `user`"),
        (b'{"username": "u"}', "password is empty; choose one"),
        (b'{"username": "u", "password": "x"}', "password is too short; use at least 8 characters"),
        (b'{"password": "p"}', "user name is empty; choose one"),
        (b'{"username": "a:b", "password": "p"}', None),
        (b'{"username": "\\ud800", "password": "p"}', None),
        (b'{"username": "u", "password": "\\ud800"}', None),
    ],
)
async def test_sign_up_refuses(http: aiohttp.ClientSession, body: bytes, err: str | None) -> None:
    response = await http.post("/api/v1/signup", data=body)
    answer = await response.json()
    assert response.status == 400
    assert list(answer) == ["err"]
    assert err is None or answer["err"].startswith(err)


async def test_a_body_that_is_too_large_is_refused(http: aiohttp.ClientSession) -> None:
    response = await http.post("/api/v1/signup", data=b"x" * 100_000)
    assert response.status == 413
    assert list(await response.json()) == ["err"]


async def test_authenticate_gives_a_token_that_opens(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    headers = await token(http)
    version = await http.get("/api/v1/version", headers=headers)
    assert (version.status, await version.json()) == (200, VERSION)


@pytest.mark.parametrize("who", [(USER, "wrong"), ("nobody", PASSWORD), ("", ""), (USER, "")])
async def test_wrong_credentials(world: World, http: aiohttp.ClientSession, who: tuple[str, str]) -> None:
    await world.sign_up()
    response = await http.post("/api/v1/authenticate", json={"username": who[0], "password": who[1]})
    assert (response.status, await response.json()) == (401, {"err": "invalid credentials"})
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    used = await http.get("/api/v1/version", headers=basic(*who))
    assert (used.status, await used.json()) == (401, {"err": "unauthorized"})
    assert "Basic" in used.headers["WWW-Authenticate"]


async def test_basic_credentials_open(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    for _ in range(3):
        assert (await http.get("/api/v1/version", headers=basic())).status == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "Basic",
        "Basic %%%",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Digest x",
    ],
)
async def test_malformed_authorization(world: World, http: aiohttp.ClientSession, value: str) -> None:
    await world.sign_up()
    response = await http.get("/api/v1/version", headers={"Authorization": value})
    assert (response.status, await response.json()) == (401, {"err": "unauthorized"})


async def test_renewed_token_outlives_the_first(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    first = await token(http)
    world.clock.advance(20 * 60)
    renewed = await http.get("/api/v1/authenticate/renew", headers=first)
    second = {"Authorization": f"Bearer {(await renewed.json())['token']}"}
    world.clock.advance(20 * 60)
    assert (await http.get("/api/v1/version", headers=first)).status == 401
    assert (await http.get("/api/v1/version", headers=second)).status == 200


async def test_every_route_asks_for_its_permission(world: World, http: aiohttp.ClientSession) -> None:
    await world.sign_up()
    open_to_all = {route.path for route in ROUTES if route.permission is Permission.NONE}
    assert open_to_all == {"/_ping", "/signup", "/authenticate"}
    for route in ROUTES:
        for version in ("v1", "v34.04"):
            response = await http.request(route.method, f"/api/{version}{route.path}")
            assert (response.status == 401) == (route.path not in open_to_all), route


async def test_no_route_is_outside_the_tables(world: World) -> None:
    patterns = {resource.canonical for resource in world.app.router.resources()}
    api = {f"/api/{{version}}{route.path}" for route in ROUTES}
    pages = {"/", "/login", "/signup", "/logout", "/manage/defenders", "/manage/defenders/events"}
    assert patterns == api | pages | {"/static/{hash}/{name}"}


@pytest.mark.parametrize(
    "path", ["/api/v2/_ping", "/api/v1.x/_ping", "/api/_ping", "/api/v1/nothing", "/api/"]
)
async def test_unknown_paths(http: aiohttp.ClientSession, path: str) -> None:
    response = await http.get(path)
    assert (response.status, await response.json()) == (404, {"err": "not found"})


async def test_other_methods(http: aiohttp.ClientSession) -> None:
    response = await http.delete("/api/v1/_ping")
    assert (response.status, await response.json()) == (405, {"err": "method not allowed"})
    assert response.headers["Allow"] == "GET, HEAD"


async def test_security_headers_are_on_every_answer(world: World, http: aiohttp.ClientSession) -> None:
    for path in ("/api/v1/_ping", "/api/v1/version", "/nothing", "/signup", "/api/v1/nothing"):
        headers = (await http.get(path)).headers
        assert headers["Strict-Transport-Security"] == "max-age=31536000"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Server"] == "Garrison"


async def test_a_page_of_another_site_cannot_sign_up(world: World, http: aiohttp.ClientSession) -> None:
    body = {"username": "evil", "password": "p"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        response = await http.post("/api/v1/signup", json=body, headers=headers)
        assert response.status == 403
    assert await world.store.users.count() == 0


async def test_a_bug_shows_nothing_of_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.sign_up()

    def break_() -> bytes:
        raise RuntimeError("the inside")

    world.certificates.ca_pem = break_  # type: ignore[method-assign]
    async with client(world, headers=basic()) as http:
        for _ in range(5):
            response = await http.get("/api/v1/certs/ca.pem?secret")
            assert (response.status, await response.json()) == (500, {"err": "internal error"})
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.getMessage() == r"GET /api/{version}/certs/ca.pem failed"
    assert caplog.text.count("RuntimeError: the inside") == 1


async def test_a_store_that_fails_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.sign_up()

    def fail() -> bytes:
        raise StoreError("console.db", "the disk is full", "make room")

    world.certificates.ca_pem = fail  # type: ignore[method-assign]
    async with client(world, headers=basic()) as http:
        for _ in range(5):
            response = await http.get("/api/v1/certs/ca.pem")
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert await response.json() == {"err": "the store cannot be used at this moment"}
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert "the disk is full" in record.getMessage()
    assert record.exc_info is None


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.api.calls.BODY_TIMEOUT", 0.2)
    port = world.runner.addresses[0][1]
    reader, writer = await asyncio.open_connection("localhost", port, ssl=contexts()[1])
    writer.write(b"POST /api/v1/signup HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    async with asyncio.timeout(10):
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
    writer.close()
    await writer.wait_closed()


async def test_failed_logins_have_to_wait(tmp_path: Path) -> None:
    throttle = LoginThrottle(by_user=Rule(free=2, first=10.0))
    async with running_world(tmp_path, throttle=throttle) as world, client(world) as http:
        await world.sign_up()
        bad = {"username": USER, "password": "wrong"}
        statuses = [(await http.post("/api/v1/authenticate", json=bad)).status for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        right = await http.get("/api/v1/version", headers=basic())
        assert (right.status, right.headers["Retry-After"]) == (429, "10")
        world.clock.advance(10)
        assert (await http.get("/api/v1/version", headers=basic())).status == 200


async def test_passwords_and_tokens_stay_out_of_the_log(
    world: World, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "console")
    await world.sign_up()
    headers = await token(http)
    await http.get("/api/v1/version", headers=headers)
    await http.get("/api/v1/version", headers=basic(PASSWORD, "typed into the wrong field"))
    await http.post("/api/v1/authenticate", json={"username": USER, "password": "hunter2-hunter2"})
    text = caplog.text
    assert f"User {USER} logged in" in text
    for secret in (PASSWORD, "typed into", "hunter2-hunter2", headers["Authorization"].split()[1]):
        assert secret not in text


async def test_slow_head_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.api.server.KEEP_ALIVE", 0.2)
    from console.api import make_runner

    runner = make_runner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/version",
        "/api//v1/version",
        "/api/v1//version",
        "/api/v1/version/",
        "/API/v1/version",
        "/api/V1/version",
        "/api/v1%2fversion",
        "/api%2fv1/version",
        "/api/v1/%76ersion%00",
        "/api/v1/version;x=1",
        "/api/v1.0.0/version",
        "/api/v1/_ping/../version%2f",
        "/api/v%31%2e%30/../v2/version",
    ],
)
async def test_tricks_with_the_path_lead_nowhere(world: World, path: str) -> None:
    await world.sign_up()
    async with client(world, headers=basic()) as http:
        response = await http.get(URL(world.url + path, encoded=True))
        assert response.status == 404


@pytest.mark.parametrize("path", ["/api/v1/version", "/api/v34.04/version", "/api/v0.0/version"])
async def test_every_version_of_the_path_is_the_same_route(world: World, path: str) -> None:
    await world.sign_up()
    async with client(world) as http:
        assert (await http.get(path)).status == 401
        assert (await http.get(path, headers=basic())).status == 200
        assert (await http.head(path, headers=basic())).status == 200


async def raw(world: World, head: bytes) -> bytes:
    """The status line that answers some bytes."""
    port = world.runner.addresses[0][1]
    reader, writer = await asyncio.open_connection("localhost", port, ssl=contexts()[1])
    writer.write(head)
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return line


@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/v1/signup HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v1/signup HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /api/v1/signup HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/signup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"GET /api/v1/_ping HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET /api/v1/_ping HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/_ping HTTP/9.9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_smuggled_and_oversized_heads_are_refused(world: World, head: bytes) -> None:
    assert re.match(rb"HTTP/1\.[01] 4", await raw(world, head))
    assert await world.store.users.count() == 0


async def test_no_body_makes_it_stumble(http: aiohttp.ClientSession, world: World) -> None:
    chance = random.Random(20261121)
    bodies = [chance.randbytes(chance.randrange(60)) for _ in range(40)]
    good = b'{"username":"operator","password":"a password","token":""}'
    for _ in range(60):
        place = chance.randrange(len(good))
        bodies.append(good[:place] + chance.randbytes(1) + good[place + chance.randrange(3) :])
    await world.sign_up()
    for body in bodies:
        for path in ("/api/v1/signup", "/api/v1/authenticate"):
            response = await http.post(path, data=body)
            assert 400 <= response.status < 500
            assert list(await response.json()) == ["err"]


async def test_another_consoles_tokens_are_not_taken(tmp_path: Path, world: World) -> None:
    await world.sign_up()
    (tmp_path / "another").mkdir()
    async with running_world(tmp_path / "another") as other:
        await other.sign_up()
        async with client(world) as ours, client(other) as theirs:
            assert (await theirs.get("/api/v1/version", headers=await token(ours))).status == 401
            assert (await theirs.get("/api/v1/version", headers=await token(theirs))).status == 200


async def test_a_cookie_is_no_credential_of_the_api(world: World) -> None:
    await world.sign_up()
    principal = Principal(USER, "admin")
    cookie = {"Cookie": f"__Host-garrison-session={world.identity.issue(principal)}"}
    async with client(world) as http:
        for route in ROUTES:
            if route.permission is not Permission.NONE:
                response = await http.request(route.method, f"/api/v1{route.path}", headers=cookie)
                assert response.status == 401


async def test_a_forwarded_address_is_only_a_claim(tmp_path: Path) -> None:
    throttle = LoginThrottle(by_user=Rule(free=1, first=10.0))
    async with running_world(tmp_path, throttle=throttle) as world, client(world) as http:
        await world.sign_up()
        statuses = []
        for n in range(4):
            forwarded = {"X-Forwarded-For": f"198.51.100.{n}", "Forwarded": f"for=198.51.100.{n}"}
            bad = {"username": USER, "password": "wrong"}
            statuses.append((await http.post("/api/v1/authenticate", json=bad, headers=forwarded)).status)
        assert statuses == [401, 401, 429, 429]


async def test_a_packed_body_is_not_unpacked(http: aiohttp.ClientSession) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    response = await http.post("/api/v1/signup", data=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status == 400


async def test_stopping_lets_requests_end(tmp_path: Path) -> None:
    async with running_world(tmp_path) as world, client(world) as http:
        await world.sign_up()
        asked = [asyncio.ensure_future(http.get("/api/v1/version", headers=basic())) for _ in range(5)]
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*asked)
            await world.runner.cleanup()
        assert {answer.status for answer in answers} == {200}
