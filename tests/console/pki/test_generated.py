"""The generated sets, from the first start on, on a real store and in real handshakes."""

import asyncio
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from common.certificates import (
    CertificateSet,
    KeyAlgorithm,
    MintOptions,
    Role,
    Source,
    load,
    publish_generation,
)
from common.certificates.tls import client_context, server_context
from common.errors import CertificateSetError, DataFolderError, StoreError
from console.pki import GeneratedSets, InstallBundle, Refused
from console.pki import generated as module
from console.sealing import MASTER_KEY_NAME, Key, open_data_key
from console.store import Kind, Store
from tests.common.certificates.handshakes import shake
from tests.console.pki.samples import DAY, NOW, YEAR, names, options


@asynccontextmanager
async def console(
    folder: Path, chosen: MintOptions | None = None, now: datetime = NOW
) -> AsyncGenerator[GeneratedSets]:
    """A start of a Console, as far as this room is concerned."""
    async with await Store.open(folder) as store:
        key = await open_data_key(store, folder / MASTER_KEY_NAME)
        sets = GeneratedSets(store, key, chosen or options(), communication_port=8084)
        await sets.ensure(now)
        yield sets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fingerprints(sets: GeneratedSets) -> dict[Role, str]:
    return {role: sets.current(role).fingerprint for role in Role}


def shown(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "certificates").iterdir()}


async def test_a_first_start_makes_shows_and_uses_the_same_sets(folder: Path) -> None:
    async with console(folder) as sets:
        for role in Role:
            used = sets.current(role)
            assert (used.role, used.source) == (role, Source.GENERATED)
            on_disk = load(sets.view, role, now=NOW, source=Source.GENERATED)
            assert on_disk.faults == ()
            assert on_disk.set == used
        assert sets.current(Role.DEFENDER_SERVER).names == names()
        assert sets.ca_pem() == (sets.view / "ca.pem").read_bytes()
    for file in (folder / "certificates").iterdir():
        private = b"PRIVATE KEY" in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if private else 0o644)


async def test_the_default_ca_is_rsa_3072_over_p256_leaves_and_the_loop_goes_on_meanwhile(
    folder: Path,
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.ensure_future(tick())
    async with console(folder, options(algorithm=KeyAlgorithm.RSA_3072)) as sets:
        server = sets.current(Role.DEFENDER_SERVER)
        assert (server.anchors[0].algorithm, server.leaf.algorithm) == ("RSA 3072", "ECDSA P-256")
    ticking.cancel()
    assert ticks > 10


async def test_a_restart_changes_nothing(folder: Path) -> None:
    async with console(folder) as sets:
        before, target = fingerprints(sets), sets.view.readlink()
    async with console(folder, now=NOW + YEAR) as sets:
        assert fingerprints(sets) == before
        assert sets.view.readlink() == target


async def test_ensure_may_be_called_again(folder: Path) -> None:
    async with console(folder) as sets:
        before = fingerprints(sets)
        await sets.ensure(NOW + DAY)
        assert fingerprints(sets) == before


async def test_the_keys_of_the_cas_are_nowhere_in_the_data_folder(folder: Path) -> None:
    async with console(folder):
        pass
    keys = [file for file in folder.rglob("*key*.pem") if file.is_file()]
    assert sorted({key.name for key in keys}) == [
        "admission-key.pem",
        "console-key.pem",
        "defender-client-key.pem",
        "defender-server-key.pem",
    ]
    assert b"PRIVATE KEY" not in (folder / "console.db").read_bytes()


# The view


@pytest.mark.parametrize(
    "damage", ["delete the link", "delete a file", "edit a file", "add a file", "loosen a key"]
)
async def test_a_view_that_somebody_changed_is_rebuilt(folder: Path, damage: str) -> None:
    async with console(folder) as sets:
        before = fingerprints(sets)
    files = shown(folder)
    view = folder / "certificates"
    match damage:
        case "delete the link":
            view.unlink()
        case "delete a file":
            (view / "defender-ca.pem").unlink()
        case "edit a file":
            (view / "defender-ca.pem").write_bytes(b"edited")
        case "add a file":
            (view / "defender-ca.pem.old").write_bytes(b"added")
        case "loosen a key":
            (view / "console-key.pem").chmod(0o644)
    async with console(folder) as sets:
        assert fingerprints(sets) == before
    assert shown(folder) == files
    assert stat.S_IMODE((view / "console-key.pem").stat().st_mode) == 0o600


async def test_something_else_in_its_place_is_said_and_left(folder: Path) -> None:
    (folder / "certificates").mkdir(parents=True)
    (folder / "certificates" / "mine.pem").write_text("somebody's")
    with pytest.raises(DataFolderError, match=r"certificates: is in the way"):
        async with console(folder):
            pass
    assert (folder / "certificates" / "mine.pem").read_text() == "somebody's"


async def test_a_crash_between_the_commit_and_the_view_is_made_good_by_the_next_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish_generation", fail)
        with pytest.raises(DataFolderError, match="No space left"):
            async with console(folder):
                pass
    assert not (folder / "certificates").exists()
    async with await Store.open(folder) as store:
        (record,) = await store.generations.list(Kind.DEFENDER)
    async with console(folder) as sets:
        assert record.created == NOW
        assert len(shown(folder)) == 10
        assert sets.current(Role.DEFENDER_SERVER).anchors[0].not_after == record.not_after


STARTS = """
import asyncio, sys
from pathlib import Path
from tests.console.pki.test_generated import console

async def main():
    print("go", flush=True)
    async with console(Path(sys.argv[1])):
        print("done", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35])
async def test_a_first_start_that_is_killed_anywhere_is_made_good_by_the_next(
    folder: Path, delay: float
) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS, str(folder)], stdout=subprocess.PIPE) as start:
        assert start.stdout is not None
        assert start.stdout.readline() == b"go\n"
        timer = threading.Timer(delay, start.kill)
        timer.start()
        done = start.stdout.readline() == b"done\n"
        timer.cancel()
        start.kill()
    before = shown(folder) if done else None
    async with console(folder) as sets:
        assert load(sets.view, Role.DEFENDER_SERVER, now=NOW, source=Source.GENERATED).faults == ()
    assert before in (None, shown(folder))


async def test_a_lost_store_is_noticed_by_its_view(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with console(folder) as sets:
        before = fingerprints(sets)
    assert "earlier store" not in caplog.text
    (folder / "console.db").unlink()
    async with console(folder) as sets:
        assert not set(before.values()) & set(fingerprints(sets).values())
    assert "shows the certificates of an earlier store" in caplog.text


# Names


async def test_a_new_name_is_served_by_the_same_ca(folder: Path) -> None:
    async with console(folder) as sets:
        before = {role: sets.current(role) for role in Role}
        assert isinstance(sets.install_bundle("new.test", "docker"), Refused)
    async with console(folder, options(names=names("DNS:new.test"))) as sets:
        after = {role: sets.current(role) for role in Role}
        assert isinstance(sets.install_bundle("new.test", "docker"), InstallBundle)
        assert "-----" in sets.view.joinpath("defender-server-cert.pem").read_text()
    for role in (Role.DEFENDER_SERVER, Role.HTTPS_SERVER):
        assert "DNS:new.test" in set(after[role].names)
        assert after[role].leaf != before[role].leaf
        assert after[role].leaf.aki == before[role].leaf.aki
    for role in (Role.DEFENDER_CLIENT, Role.ADMISSION_SERVER):
        assert after[role] == before[role]
    async with console(folder) as sets:  # with fewer names: nothing is taken away
        assert {role: sets.current(role) for role in Role} == after
    assert meets(after[Role.DEFENDER_SERVER], before[Role.DEFENDER_CLIENT], "new.test") == "ok"


# Time


async def test_an_expired_generation_is_followed_by_another(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with console(folder) as sets:
        before = sets.current(Role.DEFENDER_SERVER)
    async with console(folder, now=NOW + 3 * YEAR) as sets:
        assert sets.current(Role.DEFENDER_SERVER).anchors[0] != before.anchors[0]
    assert "The defender CA has expired; making generation 2" in caplog.text
    # The clock was wrong, and is set right: what was made then doesn't count yet.
    async with console(folder, now=NOW + DAY) as sets:
        assert sets.current(Role.DEFENDER_SERVER) == before


async def test_a_clock_that_is_behind_is_said_and_mints_nothing(folder: Path) -> None:
    async with console(folder):
        pass
    files = shown(folder)
    with pytest.raises(CertificateSetError, match=r"not valid|not yet|valid from"):
        async with console(folder, now=NOW - YEAR):
            pass
    assert shown(folder) == files


# What is sealed


async def test_another_data_key_opens_nothing(folder: Path) -> None:
    async with console(folder):
        pass
    async with await Store.open(folder) as store:
        stranger = GeneratedSets(store, Key.generate(), options(), communication_port=8084)
        with pytest.raises(
            StoreError, match=r"the sealed .*defender-ca-key.pem.* can't be opened; restore the store"
        ):
            await stranger.ensure(NOW)
        assert len(await store.generations.list(Kind.DEFENDER)) == 1


async def test_a_store_that_lost_one_kind_gets_it_anew_and_keeps_the_other(folder: Path) -> None:
    async with console(folder) as sets:
        before = fingerprints(sets)
    async with await Store.open(folder) as store:
        await store.generations.delete(Kind.CONSOLE, 1)
    async with console(folder) as sets:
        after = fingerprints(sets)
    assert {role for role in Role if before[role] != after[role]} == {Role.HTTPS_SERVER}


async def test_who_asks_twice_at_once_gets_one_generation(folder: Path) -> None:
    async with console(folder) as sets, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(sets.ensure(NOW))
    async with await Store.open(folder) as store:
        assert len(await store.generations.list(Kind.DEFENDER)) == 1


async def test_two_consoles_that_mint_at_once_end_with_one_generation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they will on one PostgreSQL; each has a view of its own then, which here they take turns at."""
    turn = threading.Lock()

    def publish(*args: Any) -> Path:
        with turn:
            return publish_generation(*args)

    monkeypatch.setattr(module, "publish_generation", publish)
    async with await Store.open(folder) as store:
        key = await open_data_key(store, folder / MASTER_KEY_NAME)
        both = [GeneratedSets(store, key, options(), communication_port=8084) for _ in range(2)]
        await asyncio.gather(*(sets.ensure(NOW) for sets in both))
        assert fingerprints(both[0]) == fingerprints(both[1])
        assert len(await store.generations.list(Kind.DEFENDER)) == 1


# Trust


def meets(server: CertificateSet, client: CertificateSet, hostname: str = "console.test") -> str:
    """`ok`, or what stood in the way. By the host's clock, as OpenSSL has it."""
    outcome = shake(server_context(server), client_context(client), hostname=hostname)
    return "ok" if outcome.ok else outcome.client.reason


@pytest.fixture
async def today(folder: Path) -> AsyncGenerator[GeneratedSets]:
    async with console(folder) as sets:
        yield sets


async def test_defender_and_console_meet_over_them(today: GeneratedSets) -> None:
    server, client = today.current(Role.DEFENDER_SERVER), today.current(Role.DEFENDER_CLIENT)
    assert meets(server, client) == "ok"
    assert meets(server, client, "127.0.0.1") == "ok"
    assert meets(server, client, "::1") == "ok"


async def test_a_name_that_was_never_configured_is_refused_by_the_defender(today: GeneratedSets) -> None:
    server, client = today.current(Role.DEFENDER_SERVER), today.current(Role.DEFENDER_CLIENT)
    assert meets(server, client, "other.test") == "CERTIFICATE_VERIFY_FAILED"


async def test_another_consoles_defender_is_refused_and_refuses(today: GeneratedSets, tmp_path: Path) -> None:
    async with console(tmp_path / "other") as other:
        server, client = today.current(Role.DEFENDER_SERVER), other.current(Role.DEFENDER_CLIENT)
        assert meets(server, client) == "CERTIFICATE_VERIFY_FAILED"
        # Even if it trusts this Console, it is not trusted by it.
        context = client_context(client)
        context.load_verify_locations(cadata=(today.view / "defender-ca.pem").read_text())
        outcome = shake(server_context(server), context)
        assert not outcome.ok
        assert outcome.server.reason == "CERTIFICATE_VERIFY_FAILED"


async def test_the_admission_certificate_is_no_console_to_a_defender(today: GeneratedSets) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(today.view / "admission-cert.pem", today.view / "admission-key.pem")
    outcome = shake(context, client_context(today.current(Role.DEFENDER_CLIENT)))
    assert outcome.client.reason == "CERTIFICATE_VERIFY_FAILED"


async def test_the_web_certificate_is_trusted_by_ca_pem_and_not_by_the_defenders_ca(
    today: GeneratedSets,
) -> None:
    server = server_context(today.current(Role.HTTPS_SERVER))
    for name, expected in (("ca.pem", True), ("defender-ca.pem", False)):
        browser = ssl.create_default_context(cafile=str(today.view / name))
        assert shake(server, browser).ok is expected


async def test_a_bundle_is_all_that_a_defender_needs(today: GeneratedSets) -> None:
    from common.bundle import decode_bundle
    from common.certificates import FileSet, judge

    made = today.install_bundle("127.0.0.1", "docker")
    assert isinstance(made, InstallBundle)
    assert made.ws_address == "wss://127.0.0.1:8084"
    files = decode_bundle(made.install_bundle).secrets
    judged = judge(FileSet.from_bytes(Role.DEFENDER_CLIENT, files), now=NOW, source=Source.GENERATED)
    assert judged.set == today.current(Role.DEFENDER_CLIENT)
    assert meets(today.current(Role.DEFENDER_SERVER), judged.set, "127.0.0.1") == "ok"
