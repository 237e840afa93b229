"""The Defender and its directory of custom certificates: every scenario of the document, and both orders."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from common.certificates import FILES, Role
from tests.operator import Operator, presented
from tests.pki import PKI
from tests.processes import ConsoleProcess, Fleet, Process, run

POLL = {"GARRISON_CUSTOM_CERTIFICATES_POLL": "500ms", "GARRISON_RECONNECT_CAP": "1s"}
DISABLED = "Custom certificates watcher disabled: certificates directory is not mounted"
WATCHING = "Watching custom certificates directory: "
USING = "Using custom directory certificates"
ROTATED = "Defender custom certificates rotated, resetting connection"
CONSOLE_ROTATED = "Console WebSocket custom certificates rotated, resetting listener"
CONNECTED = r"Connected to the Console at .*, ours ([0-9a-f]+)\)"
CLIENT = FILES[Role.DEFENDER_CLIENT]


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """At the directory of the Defender."""
    directory = tmp_path / "one" / "custom-certificates"
    directory.mkdir(parents=True)
    return Operator(directory)


@pytest.fixture
def at_console(tmp_path: Path, operator: Operator) -> Operator:
    """The same operator, at the Console's directory."""
    directory = tmp_path / "console" / "custom-certificates"
    directory.mkdir(parents=True)
    return Operator(directory, operator.pki)


async def connected(process: Process, *, after: int = 0) -> str:
    """The shown part of the client certificate's fingerprint, once it is connected."""
    return (await process.line(CONNECTED, after=after))[1]


async def custom_pair(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> tuple[ConsoleProcess, Process]:
    """A Console and a Defender that began with the operator's certificates."""
    at_console.renew(Role.DEFENDER_SERVER)
    expected = operator.renew(Role.DEFENDER_CLIENT)
    console = await fleet.console(**POLL)
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    assert expected.leaf.fingerprint.startswith(await connected(defender))
    return console, defender


async def test_a_directory_that_is_not_mounted_switches_the_feature_off(fleet: Fleet) -> None:
    console = await fleet.console()
    defender = await fleet.defender("bare", await console.bundle(), **POLL)
    await defender.line(re.escape(DISABLED))
    await connected(defender)
    assert WATCHING not in defender.log


async def test_an_incomplete_set_leaves_the_generated_in_use(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console = await fleet.console(**POLL)
    files = operator.pki.files(Role.DEFENDER_CLIENT)
    # The document's own example: the bundle is missing.
    operator.copy({name: data for name, data in files.items() if name != CLIENT.ca})
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    await defender.line(re.escape(f"{WATCHING}{operator.directory}"))
    generated = await connected(defender)
    assert not operator.judged(Role.DEFENDER_CLIENT, files).leaf.fingerprint.startswith(generated)
    at_console.renew(Role.DEFENDER_SERVER)
    await console.process.line(re.escape(CONSOLE_ROTATED))
    seen = len(defender.lines)
    operator.copy({str(CLIENT.ca): files[str(CLIENT.ca)]})
    await defender.line(re.escape(ROTATED))
    ours = await connected(defender, after=seen)
    assert operator.judged(Role.DEFENDER_CLIENT, files).leaf.fingerprint.startswith(ours)
    assert "Lost the Console" not in defender.log


async def test_a_set_that_is_completed_badly_changes_nothing_until_it_is_mended(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console, defender = await custom_pair(fleet, operator, at_console)
    operator.copy({CLIENT.key: operator.pki.issue(Role.DEFENDER_CLIENT).key})
    cert, key = (operator.directory / name for name in (CLIENT.certificate, CLIENT.key))
    line = await defender.line(
        r"^ERRO .* Failed to construct defender client TLS config error reading X509 key pair "
        rf"\({re.escape(f'{cert}, {key}')}\): "
    )
    assert "is not the key of" in line.string
    assert (await console.defenders())[0]["connected"]
    seen = len(defender.lines)
    mended = operator.renew(Role.DEFENDER_CLIENT)
    await defender.line(re.escape(ROTATED), after=seen)
    assert mended.leaf.fingerprint.startswith(await connected(defender, after=seen))
    assert "Lost the Console" not in defender.log


async def test_a_good_set_at_the_start_is_used_from_the_first_handshake(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console, defender = await custom_pair(fleet, operator, at_console)
    await defender.line(re.escape(USING))
    assert "Cannot connect" not in defender.log
    (known,) = await console.defenders()
    assert known["connected"]
    # The negative control: what the Console generated itself is not let in.
    refused = await fleet.defender("refused", await console.bundle(), **POLL)
    await refused.line(r"Cannot connect: .* CA ")
    assert len(await console.defenders()) == 1


async def test_neither_bundle_nor_generated_files_are_needed_beside_a_good_set(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    at_console.renew(Role.DEFENDER_SERVER)
    operator.renew(Role.DEFENDER_CLIENT)
    console = await fleet.console(**POLL)
    address = (await console.bundle())["WS_ADDRESS"]
    defender = await fleet.defender("one", {"WS_ADDRESS": address}, **POLL)
    await connected(defender)
    code, output, errors = await run(
        *("defender", "check"), WS_ADDRESS=address, DATA_FOLDER=str(operator.directory.parent)
    )
    assert code == 0, errors
    assert "both directions are proved" in output


async def test_a_bad_set_at_the_start_is_said_and_ends_it(fleet: Fleet, operator: Operator) -> None:
    """The document's own example."""
    console = await fleet.console()
    operator.copy(
        {**operator.pki.files(Role.DEFENDER_CLIENT), CLIENT.key: b"-----BEGIN PRIVATE KEY-----\nMIIB\n"}
    )
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    assert await defender.ended() == 1
    cert, key = (operator.directory / name for name in (CLIENT.certificate, CLIENT.key))
    using = next(i for i, line in enumerate(defender.lines) if USING in line)
    pattern = (
        r"^CRIT .* Failed to construct defender client TLS config error reading X509 key pair "
        rf"\({re.escape(f'{cert}, {key}')}\): .+"
    )
    assert [i for i, line in enumerate(defender.lines) if re.search(pattern, line) and i > using]
    assert "Traceback" not in defender.log
    assert await console.defenders() == []


async def test_a_file_that_disappears_is_warned_of_once_and_costs_nothing(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console, defender = await custom_pair(fleet, operator, at_console)
    operator.remove(Role.DEFENDER_CLIENT, CLIENT.key)
    line = await defender.line(rf"^WARN .*{re.escape(CLIENT.key)}")
    assert "restart" in line.string
    seen = len(defender.lines)
    operator.renew(Role.DEFENDER_CLIENT)
    await defender.line(re.escape(ROTATED), after=seen)
    await connected(defender, after=seen)
    assert "Lost the Console" not in defender.log
    assert (await console.defenders())[0]["connected"]


async def test_what_changes_nothing_does_nothing(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    _, defender = await custom_pair(fleet, operator, at_console)
    files = {name: (operator.directory / name).read_bytes() for name in CLIENT.all}
    operator.copy(files)
    operator.move(files)
    for name in CLIENT.all:
        (operator.directory / name).chmod(0o400)
        os.utime(operator.directory / name)
    operator.copy({"console-cert.pem": b"the Console's", "defender-server-key.pem": b"too"})
    assert ROTATED not in defender.log
    operator.renew(Role.DEFENDER_CLIENT)
    await defender.line(re.escape(ROTATED))
    await connected(defender, after=len(defender.lines) - 1)
    assert defender.log.count(ROTATED) == 1


async def test_the_console_gets_its_files_first(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console = await fleet.console(**POLL)
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    await connected(defender)
    server = at_console.renew(Role.DEFENDER_SERVER)
    await console.process.line(re.escape(CONSOLE_ROTATED))
    assert await presented(console.websocket_port) == server.leaf.fingerprint
    # It is asked to move, can't yet, says so and keeps what it has.
    await defender.line(r"Cannot move to a new connection, the present one is kept")
    assert (await console.defenders())[0]["connected"]
    seen = len(defender.lines)
    client = operator.renew(Role.DEFENDER_CLIENT)
    assert client.leaf.fingerprint.startswith(await connected(defender, after=seen))
    assert "Lost the Console" not in defender.log
    assert len(await console.defenders()) == 1


async def test_the_defender_gets_its_files_first(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console = await fleet.console(**POLL)
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    await connected(defender)
    client = operator.renew(Role.DEFENDER_CLIENT)
    await defender.line(re.escape(ROTATED))
    await defender.line(r"Cannot move to a new connection, the present one is kept")
    assert (await console.defenders())[0]["connected"]
    seen = len(defender.lines)
    at_console.renew(Role.DEFENDER_SERVER)
    await console.process.line(re.escape(CONSOLE_ROTATED))
    assert client.leaf.fingerprint.startswith(await connected(defender, after=seen))
    assert "Lost the Console" not in defender.log


async def test_a_shared_directory_moves_both(fleet: Fleet, tmp_path: Path) -> None:
    """As on a network volume: all of it at once, for everybody."""
    shared = tmp_path / "shared"
    operator = Operator(shared)
    shared.mkdir()
    for name in ("console", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "custom-certificates").symlink_to(shared)
    console = await fleet.console(**POLL)
    defenders = [await fleet.defender(name, await console.bundle(), **POLL) for name in ("one", "two")]
    await asyncio.gather(*map(connected, defenders))
    for round_ in range(3):
        seen = [len(defender.lines) for defender in defenders]
        if round_ == 2:
            operator.pki = PKI(name="The next CA")
        files = {
            name: data
            for role in (Role.HTTPS_SERVER, Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT)
            for name, data in operator.pki.files(role).items()
        }
        operator.copy(files)
        expected = operator.judged(Role.DEFENDER_CLIENT, files).leaf.fingerprint
        for defender, after in zip(defenders, seen, strict=True):
            await defender.line(re.escape(f"ours {expected[:16]}"), after=after)
        await console.until(lambda found: all(one["connected"] for one in found))
    for defender in defenders:
        assert "Lost the Console" not in defender.log
    assert len(await console.defenders()) == 2


async def test_a_removed_ca_ends_what_rests_on_it_after_its_grace(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    at_console.renew(Role.DEFENDER_SERVER)
    operator.renew(Role.DEFENDER_CLIENT)
    console = await fleet.console(**POLL, GARRISON_REMOVED_TRUST_GRACE="3s")
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    await connected(defender)
    # The Console moves to another CA; the Defender stays behind with the one that was removed.
    at_console.pki = PKI(name="The next CA")
    at_console.renew(Role.DEFENDER_SERVER)
    await console.process.line(re.escape(CONSOLE_ROTATED))
    assert (await console.defenders())[0]["connected"]
    await defender.line(r"Lost the Console at .*removed")
    await defender.line(r"Cannot connect")
    assert not (await console.defenders())[0]["connected"]
    seen = len(defender.lines)
    operator.pki = at_console.pki
    operator.renew(Role.DEFENDER_CLIENT)
    await connected(defender, after=seen)


async def test_a_removed_ca_ends_at_once_by_command(
    fleet: Fleet, operator: Operator, at_console: Operator
) -> None:
    console, defender = await custom_pair(fleet, operator, at_console)
    at_console.pki = PKI(name="The next CA")
    at_console.renew(Role.DEFENDER_SERVER)
    await console.process.line(re.escape(CONSOLE_ROTATED))
    code, output, errors = await run("console", "end-removed-trust", DATA_FOLDER=str(console.data))
    assert code == 0, errors
    assert "1 " in output
    await defender.line(r"Lost the Console at .*removed")
