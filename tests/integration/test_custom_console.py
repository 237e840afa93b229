"""The Console and its directory of custom certificates: every scenario of the document, to the letter."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from common.certificates import FILES, Role
from tests.operator import Operator, presented
from tests.pki import PKI
from tests.processes import ConsoleProcess, Fleet

POLL = {"GARRISON_CUSTOM_CERTIFICATES_POLL": "500ms"}
DISABLED = "Custom certificates watcher disabled: certificates directory is not mounted"
WATCHING = "Watching custom certificates directory: "
USING = "Using custom directory certificates"
ROTATED = {
    Role.HTTPS_SERVER: "Console HTTPS custom certificates rotated, resetting listener",
    Role.DEFENDER_SERVER: "Console WebSocket custom certificates rotated, resetting listener",
}
ANY_ROTATED = r"custom certificates rotated, resetting"
SERVERS = pytest.mark.parametrize("role", list(ROTATED))
# Those that wait for what is told only after a while: one of them in make test, the other in make test-all.
PATIENTLY = pytest.mark.parametrize(
    "role", [Role.DEFENDER_SERVER, pytest.param(Role.HTTPS_SERVER, marks=pytest.mark.slow)]
)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    directory = tmp_path / "console" / "custom-certificates"
    directory.mkdir(parents=True)
    return Operator(directory)


def port(console: ConsoleProcess, role: Role) -> int:
    return console.https_port if role is Role.HTTPS_SERVER else console.websocket_port


def other(role: Role) -> Role:
    return Role.HTTPS_SERVER if role is Role.DEFENDER_SERVER else Role.DEFENDER_SERVER


async def at_both(console: ConsoleProcess) -> Mapping[Role, str]:
    return {role: await presented(port(console, role)) for role in ROTATED}


async def swapped(console: ConsoleProcess, operator: Operator, role: Role, *, after: int) -> None:
    """Once the line is there, the new set is what is presented: nothing is waited for."""
    renewed = operator.renew(role)
    line = await console.process.line(re.escape(ROTATED[role]), after=after)
    assert renewed.fingerprint[:16] in line.string
    assert await presented(port(console, role)) == renewed.leaf.fingerprint


async def test_a_directory_that_is_not_mounted_switches_the_feature_off(fleet: Fleet, tmp_path: Path) -> None:
    off = await fleet.console("off", **POLL)
    await off.process.line(re.escape(DISABLED))
    before = await at_both(off)
    # It stays off until a restart, which another Console proves: same directory, mounted at its start.
    shared = off.data / "custom-certificates"
    shared.mkdir()
    (tmp_path / "on").mkdir()
    (tmp_path / "on" / "custom-certificates").symlink_to(shared)
    on = await fleet.console("on", **POLL)
    operator = Operator(shared)
    for role in ROTATED:
        await swapped(on, operator, role, after=0)
    assert await at_both(off) == before
    assert WATCHING not in off.process.log
    assert not re.search(ANY_ROTATED, off.process.log)
    assert await off.process.stop() == 0
    off = await fleet.console("off", **POLL)
    await off.process.line(re.escape(USING))
    assert await at_both(off) == await at_both(on)


async def test_an_empty_directory_is_watched_and_generated_certificates_are_used(
    fleet: Fleet, operator: Operator
) -> None:
    console = await fleet.console(**POLL)
    await console.process.line(re.escape(f"{WATCHING}{operator.directory}"))
    assert USING not in console.process.log
    assert DISABLED not in console.process.log
    found = await console.ask("certs")
    assert {channel["source"] for channel in found["channels"]} == {"generated"}


@PATIENTLY
async def test_an_incomplete_set_is_completed_later(fleet: Fleet, operator: Operator, role: Role) -> None:
    files = operator.pki.files(role)
    last = FILES[role].key
    operator.copy({name: data for name, data in files.items() if name != last})
    console = await fleet.console(**POLL)
    before = await at_both(console)
    await console.process.line(re.escape(last))  # what is missing is named
    assert not re.search(ANY_ROTATED, console.process.log)
    operator.copy({last: files[last]})
    await console.process.line(re.escape(ROTATED[role]))
    after = await at_both(console)
    assert after[role] == operator.judged(role, files).leaf.fingerprint
    assert after[other(role)] == before[other(role)]
    assert len(re.findall(ANY_ROTATED, console.process.log)) == 1


@PATIENTLY
async def test_a_set_that_is_completed_badly_changes_nothing_until_it_is_mended(
    fleet: Fleet, operator: Operator, role: Role
) -> None:
    console = await fleet.console(**POLL)
    before = await at_both(console)
    files = operator.pki.files(role)
    operator.copy({**files, FILES[role].key: operator.pki.issue(role).key})
    cert, key = (operator.directory / name for name in (FILES[role].certificate, FILES[role].key))
    line = await console.process.line(
        r"^ERRO .* Failed to construct .* TLS config error reading X509 key pair "
        rf"\({re.escape(f'{cert}, {key}')}\): "
    )
    assert "is not the key of" in line.string
    assert await at_both(console) == before
    assert console.process.process.returncode is None
    await swapped(console, operator, role, after=0)


@SERVERS
async def test_a_good_set_at_the_start_is_used_from_the_first_handshake(
    fleet: Fleet, operator: Operator, role: Role
) -> None:
    expected = operator.renew(role)
    console = await fleet.console(**POLL)
    await console.process.line(re.escape(USING))
    assert await presented(port(console, role)) == expected.leaf.fingerprint
    assert not re.search(ANY_ROTATED, console.process.log)
    found = {one["channel"]: one for one in (await console.ask("certs"))["channels"]}
    name = "https" if role is Role.HTTPS_SERVER else "defender"
    assert found[name]["source"] == "custom"
    assert found[name]["fingerprint"] == expected.fingerprint


@SERVERS
async def test_a_bad_set_at_the_start_is_said_and_ends_it(
    fleet: Fleet, operator: Operator, role: Role, tmp_path: Path
) -> None:
    words = {Role.HTTPS_SERVER: "console HTTPS", Role.DEFENDER_SERVER: "defender server"}
    files = operator.pki.files(role)
    operator.copy({**files, FILES[role].key: b"-----BEGIN PRIVATE KEY-----\nMIIB\n"})
    process = await fleet.start(
        *("console", "run"),
        DATA_FOLDER=str(tmp_path / "console"),
        GARRISON_LISTEN_ADDRESS="127.0.0.1",
        MANAGEMENT_PORT_HTTPS="0",
        COMMUNICATION_PORT="0",
    )
    assert await process.ended() == 1
    cert, key = (operator.directory / name for name in (FILES[role].certificate, FILES[role].key))
    pattern = (
        rf"^CRIT .* Failed to construct {words[role]} TLS config error reading X509 key pair "
        rf"\({re.escape(f'{cert}, {key}')}\): .+"
    )
    lines = [line for line in process.lines if re.search(pattern, line)]
    assert lines, process.log
    assert process.lines.index(lines[0]) > next(i for i, line in enumerate(process.lines) if USING in line)
    assert "Traceback" not in process.log
    # What is refused is refused before anything is made.
    assert [path.name for path in (tmp_path / "console").iterdir()] == ["custom-certificates"]


async def test_a_change_restarts_the_channel_it_belongs_to(fleet: Fleet, operator: Operator) -> None:
    for role in ROTATED:
        operator.renew(role)
    console = await fleet.console(**POLL)
    for role in (*ROTATED, *ROTATED):
        before, seen = await at_both(console), len(console.process.lines)
        await swapped(console, operator, role, after=seen)
        assert (await at_both(console))[other(role)] == before[other(role)]
        assert ROTATED[other(role)] not in "\n".join(console.process.lines[seen:])


@PATIENTLY
async def test_a_file_that_disappears_is_warned_of_once_and_costs_nothing(
    fleet: Fleet, operator: Operator, role: Role
) -> None:
    expected = operator.renew(role)
    console = await fleet.console(**POLL)
    operator.remove(role, FILES[role].key)
    line = await console.process.line(rf"^WARN .*{re.escape(FILES[role].key)}")
    assert "restart" in line.string
    assert await presented(port(console, role)) == expected.leaf.fingerprint
    # A swap of the other channel shows that the directory was looked at again.
    seen = len(console.process.lines)
    await swapped(console, operator, other(role), after=seen)
    assert not [text for text in console.process.lines[seen:] if FILES[role].key in text]
    assert await console.process.stop() == 0
    console = await fleet.console(**POLL)
    assert await presented(port(console, role)) != expected.leaf.fingerprint


@SERVERS
async def test_what_changes_nothing_does_nothing(fleet: Fleet, operator: Operator, role: Role) -> None:
    expected = operator.renew(role)
    console = await fleet.console(**POLL)
    seen = len(console.process.lines)
    files = {name: (operator.directory / name).read_bytes() for name in FILES[role].all}
    operator.copy(files)
    operator.move(files)
    for name in FILES[role].all:
        (operator.directory / name).chmod(0o400)
        os.utime(operator.directory / name)
        if os.geteuid() == 0:
            os.chown(operator.directory / name, 0, 12)
    operator.copy({"README": b"hello", "console-cert.pem.bak": b"x", "defender-ca.pem.old": b"y"})
    (operator.directory / "more").mkdir()
    await swapped(console, operator, other(role), after=seen)
    assert await presented(port(console, role)) == expected.leaf.fingerprint
    assert len([text for text in console.process.lines[seen:] if re.search(ANY_ROTATED, text)]) == 1


async def test_read_access_is_enough(fleet: Fleet, operator: Operator) -> None:
    operator.renew(Role.HTTPS_SERVER)
    operator.directory.chmod(0o500)
    before = {path.name: path.stat() for path in operator.directory.iterdir()}
    console = await fleet.console(**POLL)
    await console.process.line(re.escape(USING))
    await console.process.stop()
    assert {path.name: path.stat().st_mtime_ns for path in operator.directory.iterdir()} == {
        name: stat.st_mtime_ns for name, stat in before.items()
    }
    operator.directory.chmod(0o700)


@pytest.mark.slow
async def test_no_key_is_in_any_log(fleet: Fleet, operator: Operator, pki: PKI) -> None:
    operator.renew(Role.HTTPS_SERVER)
    console = await fleet.console(**POLL)
    operator.copy({"console-key.pem": pki.issue(Role.HTTPS_SERVER).key})
    await console.process.line(r"^ERRO .* Failed to construct")
    for path in operator.directory.iterdir():
        for line in path.read_text().splitlines()[1:-1]:
            assert line not in console.process.log


@pytest.fixture
def pki() -> PKI:
    return PKI(name="Another CA")
