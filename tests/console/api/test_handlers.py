from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.version import VERSION
from console.store import UserRecord
from tests.console.api.test_app import basic
from tests.console.api.world import CHEAP, World, client, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        await running.sign_up()
        yield running


@pytest.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(world, headers=basic()) as session:
        yield session


async def got(http: aiohttp.ClientSession, path: str) -> Any:
    response = await http.get(path)
    assert response.status == 200, await response.text()
    return await response.json()


async def test_a_defender_has_the_products_fields(world: World, http: aiohttp.ClientSession) -> None:
    defender = await world.connect("web-01", arch="aarch64", type_="daemonset")
    assert await got(http, "/api/v1/defenders") == [
        {
            "id": defender,
            "hostname": "web-01",
            "fqdn": "web-01.example.test",
            "version": VERSION,
            "type": "daemonset",
            "category": "container",
            "connected": True,
            "lastModified": "2026-11-21T20:00:00Z",
            "certificateExpiration": "2029-11-20T20:00:00Z",
            "usingOldCA": False,
            "isARM64": True,
            "compatibleVersion": True,
            "features": {"clusterMonitoring": False, "proxyListenerType": "none"},
            "status": {"lastModified": "2026-11-21T20:00:00Z"},
            "address": "192.0.2.7",
            "certificateExpired": False,
            "duplicateHostname": False,
            "locked": False,
            "connectedSince": "2026-11-21T20:00:00Z",
        }
    ]
    await world.disconnect(defender)
    (gone,) = await got(http, "/api/v34.04/defenders?connected=false")
    assert gone["connected"] is False
    assert "connectedSince" not in gone


async def test_pages_carry_the_total(world: World, http: aiohttp.ClientSession) -> None:
    for n in range(7):
        await world.connect(f"web-{n}")
    response = await http.get("/api/v1/defenders?offset=5&limit=5&sort=hostname&reverse=true")
    assert response.headers["Total-Count"] == "7"
    assert [item["hostname"] for item in await response.json()] == ["web-1", "web-0"]


async def test_two_defenders_with_one_name_are_told_apart(world: World, http: aiohttp.ClientSession) -> None:
    ids = {await world.connect("build", key="a"), await world.connect("build", key="b")}
    found = await got(http, "/api/v1/defenders?hostname=BUILD")
    assert {item["id"] for item in found} == ids
    assert all(item["duplicateHostname"] for item in found)
    assert await got(http, "/api/v1/defenders/names") == ["build"]


async def test_summary(world: World, http: aiohttp.ClientSession) -> None:
    gone = await world.connect("a", type_="docker")
    await world.connect("b")
    await world.disconnect(gone)
    assert await got(http, "/api/v1/defenders/summary") == [
        {"category": "container", "deployed": 1, "connected": 0, "licensed": 1},
        {"category": "host", "deployed": 1, "connected": 1, "licensed": 1},
    ]


@pytest.mark.parametrize("query", ["limit=x", "connected=perhaps", "sort=nothing"])
async def test_malformed_queries(http: aiohttp.ClientSession, query: str) -> None:
    for path in ("/api/v1/defenders", "/api/v1/defenders/names"):
        response = await http.get(f"{path}?{query}")
        assert response.status == 400
        assert (await response.json())["err"].startswith(query.split("=", maxsplit=1)[0])


async def test_an_install_bundle(
    world: World, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "console")
    path = "/api/v1/defenders/install-bundle"
    assert await got(http, f"{path}?consoleaddr=console.example&defenderType=daemonset") == {
        "installBundle": "eyJzZWNyZXRzIjp7fX0=",
        "wsAddress": "wss://console.example:8084",
    }
    assert world.certificates.asked == [("console.example", "daemonset")]
    assert "took an install bundle for console.example" in caplog.text
    assert "eyJzZWNyZXRz" not in caplog.text
    response = await http.get(f"{path}?consoleaddr=another.example")
    assert response.status == 400
    assert "is not in the certificate" in (await response.json())["err"]
    err = "consoleaddr is missing; give the name or address by which Defenders reach the Console"
    for query in ("", "?consoleaddr=", "?defenderType=none"):
        response = await http.get(path + query)
        assert (response.status, await response.json()) == (400, {"err": err})


async def test_the_ca_certificate(world: World, http: aiohttp.ClientSession) -> None:
    response = await http.get("/api/v1/certs/ca.pem")
    assert await response.read() == world.certificates.pem
    assert response.content_type == "application/x-pem-file"


async def test_an_auditor_reads_but_takes_no_key(tmp_path: Path) -> None:
    async with running_world(tmp_path) as world, client(world, headers=basic("auditor", "p")) as http:
        now = world.clock.now()
        auditor = UserRecord("auditor", CHEAP.hash("p"), "auditor", "basic", now, now)
        assert await world.store.users.create_first(auditor)
        assert (await http.get("/api/v1/defenders")).status == 200
        assert (await http.get("/api/v1/certs/ca.pem")).status == 200
        refused = await http.get("/api/v1/defenders/install-bundle?consoleaddr=console.example")
        assert (refused.status, await refused.json()) == (403, {"err": "your role does not permit this"})
        assert world.certificates.asked == []
