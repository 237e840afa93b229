"""Console and Defenders end to end: real processes, real TLS, the real store."""

import asyncio
import json
import signal
import ssl
import stat
import urllib.request
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from common.certificates import Role, Source, load
from common.clock import SystemClock
from tests.processes import ConsoleProcess, Fleet, run


def https(console: ConsoleProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(console.data / "certificates" / "ca.pem"))


def call(
    console: ConsoleProcess, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """One request as a script makes it; the CA is the Console's own, the name is verified."""
    request = urllib.request.Request(
        f"https://localhost:{console.https_port}{path if path.startswith('/') else '/api/v1/' + path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | (headers or {}),
    )
    try:
        with urllib.request.urlopen(request, context=https(console), timeout=20) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    try:
        return status, json.loads(content) if content else None
    except ValueError:
        return status, content


async def ask(console: ConsoleProcess, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    return await asyncio.to_thread(call, console, path, body, headers)


async def signed_up(console: ConsoleProcess) -> dict[str, str]:
    """The headers of the first user."""
    credentials = {"username": "admin", "password": "correct horse battery"}
    assert await ask(console, "signup", credentials) == (200, None)
    status, answer = await ask(console, "authenticate", credentials)
    assert status == 200
    return {"Authorization": f"Bearer {answer['token']}"}


def both_connected(found: list[dict[str, Any]]) -> bool:
    return [d["connected"] for d in found] == [True, True]


async def test_two_defenders_are_connected_and_shown(fleet: Fleet) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    one = await fleet.defender("one", bundle)
    two = await fleet.defender("two", bundle)
    await console.until(both_connected)

    token = await signed_up(console)
    status, shown = await ask(console, "defenders", None, **token)
    assert status == 200
    assert [d["hostname"] for d in shown] == ["one", "two"]
    for defender in shown:
        assert defender["connected"] is True
        assert defender["usingOldCA"] is False
        assert defender["category"] == "host"
        assert defender["certificateExpiration"].endswith("Z")
        assert defender["compatibleVersion"] is True
    _, summary = await ask(console, "defenders/summary", None, **token)
    assert summary == [{"category": "host", "deployed": 2, "connected": 2, "licensed": 2}]

    assert await one.stop() == 0
    assert await two.stop(signal.SIGINT) == 0
    found = await console.until(lambda found: not any(d["connected"] for d in found))
    assert len(found) == 2
    assert await console.process.stop() == 0


async def test_a_defender_that_was_killed_is_the_same_afterwards(fleet: Fleet) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    defender = await fleet.defender("one", bundle)
    before = await console.until(lambda found: any(d["connected"] for d in found))
    await defender.stop(signal.SIGKILL)
    await console.until(lambda found: not any(d["connected"] for d in found))
    await fleet.defender("one", bundle)
    after = await console.until(lambda found: any(d["connected"] for d in found))
    assert [d["id"] for d in after] == [d["id"] for d in before]


async def test_two_that_claim_one_host_are_told_apart(fleet: Fleet) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    await fleet.defender("a", bundle, GARRISON_HOSTNAME="same")
    await fleet.defender("b", bundle, GARRISON_HOSTNAME="same")
    found = await console.until(both_connected)
    assert len({d["id"] for d in found}) == 2
    assert all(d["duplicateHostname"] for d in found)
    code, _, errors = await run("console", "state", "same", DATA_FOLDER=str(console.data))
    assert code == 1
    assert "is claimed by several Defenders; name one by its ID" in errors


async def test_commands_reach_a_defender(fleet: Fleet) -> None:
    console = await fleet.console()
    defender = await fleet.defender("one", await console.bundle())
    await console.until(lambda found: any(d["connected"] for d in found))
    code, output, errors = await run("console", "state", "one", DATA_FOLDER=str(console.data))
    assert code == 0, errors
    assert json.loads(output)["version"]
    code, output, errors = await run("console", "logs", "one", DATA_FOLDER=str(console.data))
    assert code == 0, errors
    assert output.strip()
    seen = len(defender.lines)
    code, output, errors = await run("console", "restart", "one", DATA_FOLDER=str(console.data))
    assert code == 0, errors
    await defender.line(r"Connected to the Console", after=seen)
    await console.until(lambda found: any(d["connected"] for d in found))
    code, _, errors = await run("console", "restart", "nobody", DATA_FOLDER=str(console.data))
    assert code == 1
    assert "nobody: is no Defender's ID or host name; see garrison console defenders" in errors


async def test_a_restarted_console_is_the_same(fleet: Fleet) -> None:
    console = await fleet.console()
    ports = {
        "MANAGEMENT_PORT_HTTPS": str(console.https_port),
        "COMMUNICATION_PORT": str(console.websocket_port),
    }
    defender = await fleet.defender("one", await console.bundle())
    before = await console.until(lambda found: any(d["connected"] for d in found))
    shown = load(
        console.data / "certificates", Role.DEFENDER_SERVER, now=SystemClock().now(), source=Source.GENERATED
    )
    assert await console.process.stop() == 0
    assert not (console.data / "console.sock").exists()

    console = await fleet.console(**ports)
    after = await console.until(lambda found: any(d["connected"] for d in found))
    assert [d["id"] for d in after] == [d["id"] for d in before]
    again = load(
        console.data / "certificates", Role.DEFENDER_SERVER, now=SystemClock().now(), source=Source.GENERATED
    )
    assert shown.set is not None
    assert again.set is not None
    assert again.set.fingerprint == shown.set.fingerprint
    assert await defender.stop() == 0


async def test_the_view_shows_sets_that_the_loader_passes(fleet: Fleet) -> None:
    console = await fleet.console()
    view = console.data / "certificates"
    assert sorted(path.name for path in view.iterdir()) == [
        "admission-cert.pem",
        "admission-key.pem",
        "ca.pem",
        "console-cert.pem",
        "console-key.pem",
        "defender-ca.pem",
        "defender-client-cert.pem",
        "defender-client-key.pem",
        "defender-server-cert.pem",
        "defender-server-key.pem",
    ]
    for role in (Role.HTTPS_SERVER, Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT):
        assert load(view, role, now=SystemClock().now(), source=Source.GENERATED).faults == ()
    for path in [*view.iterdir(), *console.data.rglob("*.key"), *console.data.rglob("*.db")]:
        if b"PRIVATE KEY" in path.read_bytes() or path.suffix in (".key", ".db"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    code, output, errors = await run("certs", "check", str(view))
    assert code == 0, output + errors


async def test_no_private_key_is_on_disk_but_those_of_leaves(fleet: Fleet) -> None:
    console = await fleet.console()
    await console.process.stop()
    for path in console.data.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert path.name in {
                "admission-key.pem",
                "console-key.pem",
                "defender-client-key.pem",
                "defender-server-key.pem",
            }


async def test_nothing_with_a_key_is_served_without_the_right_to_it(fleet: Fleet) -> None:
    console = await fleet.console()
    bundle_path = "defenders/install-bundle?consoleaddr=localhost&defenderType=serverLinux"
    guarded = ("defenders", "defenders/summary", "defenders/names", bundle_path)
    wrong = "Basic " + b64encode(b"admin:wrong").decode()
    for path in guarded:
        for headers in ({}, {"Authorization": "Bearer abc.def.ghi"}, {"Authorization": wrong}):
            status, answer = await ask(console, path, None, **headers)
            assert status == 401, path
            assert set(answer) == {"err"}
    token = await signed_up(console)
    status, bundle = await ask(console, bundle_path, None, **token)
    assert status == 200
    assert bundle["wsAddress"] == f"wss://localhost:{console.websocket_port}"
    secrets = json.loads(b64decode(bundle["installBundle"]))["secrets"]
    assert {"defender-ca.pem", "defender-client-cert.pem", "defender-client-key.pem"} <= set(secrets)
    assert "defender-server-key.pem" not in secrets
    # The positive control: basic authentication has the same right.
    basic = "Basic " + b64encode(b"admin:correct horse battery").decode()
    assert (await ask(console, "defenders", None, Authorization=basic))[0] == 200


async def test_the_api_under_a_version_is_the_same(fleet: Fleet) -> None:
    console = await fleet.console()
    assert (await ask(console, "_ping"))[0] == 200
    assert (await ask(console, "/api/v34.04/_ping"))[0] == 200
    await signed_up(console)
    again = {"username": "other", "password": "another password"}
    assert await ask(console, "signup", again) == (400, {"err": "system already initialized"})


async def test_an_address_that_the_certificate_does_not_name_is_refused(fleet: Fleet) -> None:
    console = await fleet.console()
    code, output, errors = await run(
        "console", "install-bundle", "--address", "elsewhere.example", DATA_FOLDER=str(console.data)
    )
    assert code != 0
    assert output == ""
    assert "elsewhere.example" in errors
    assert "CONSOLE_SAN" in errors


async def test_commands_without_a_console_say_so(tmp_path: Path) -> None:
    code, _, errors = await run("console", "defenders", DATA_FOLDER=str(tmp_path))
    assert code == 1
    assert f"the Console of {tmp_path}: does not run; start it with garrison console run" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_console_with_live_defenders_stops_cleanly(fleet: Fleet, number: signal.Signals) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    await fleet.defender("one", bundle)
    await console.until(lambda found: any(d["connected"] for d in found))
    assert await console.process.stop(number) == 0
    assert "Traceback" not in console.process.log
    assert console.process.lines[-1].endswith("stopped")
