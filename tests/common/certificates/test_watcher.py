"""The rows of the issue's table, channel by channel, with real files."""

import asyncio
import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.certificates import (
    CertificateSet,
    Channel,
    DirectoryState,
    Fault,
    FaultKind,
    FileSet,
    Role,
    Source,
    Watcher,
)
from common.certificates import watcher as watcher_module
from common.certificates.checks import when
from common.clock import SystemClock
from common.errors import CertificateSetError, CustomCertificatesError
from tests.common.certificates.followed import (
    CA,
    CLIENT,
    CRITICAL,
    DEBUG,
    ERROR,
    HTTPS,
    INFO,
    SERVER,
    WARNING,
    CountingWatcher,
    Followed,
    copy,
    files,
)
from tests.common.certificates.pki import DAY, NOW, files_for, make_client, make_server

pytestmark = pytest.mark.usefixtures("hasty")


async def start(directory: Path, *roles: Role) -> tuple[Followed, CustomCertificatesError]:
    followed = Followed(directory, *roles)
    with pytest.raises(CustomCertificatesError) as caught:
        await followed.watcher.start()
    return followed, caught.value


def named(followed: Followed) -> str:
    """How a line names the set that it began with."""
    set_ = followed.begun[CLIENT]
    return f"set {set_.fingerprint[:16]}, valid until {when(set_.not_after)}"


async def test_a_directory_that_is_absent_turns_the_feature_off(tmp_path: Path) -> None:
    async with Followed(tmp_path / "absent") as followed:
        assert not followed.watcher.mounted
        assert followed.begun == {}
        copy_to = tmp_path / "absent"
        copy_to.mkdir()
        copy(copy_to, files("a"))
        assert followed.task is not None
        async with asyncio.timeout(10):
            await followed.task  # it ends by itself
        assert followed.watcher.looks == 0
    assert followed.lines == [
        (INFO, "Custom certificates watcher disabled: certificates directory is not mounted")
    ]


async def test_a_good_set_is_there_at_the_start(tmp_path: Path) -> None:
    copy(tmp_path, files("a"))
    async with Followed(tmp_path) as followed:
        await followed.until_decided()
        set_ = followed.begun[CLIENT]
        assert set_.source is Source.CUSTOM
        assert followed.watcher.mounted
        status = followed.watcher.status()[CLIENT]
        assert (status.state, status.fingerprint) == (DirectoryState.GOOD, set_.fingerprint)
    assert followed.lines == [
        (DEBUG, f"Watching custom certificates directory: {tmp_path}"),
        (DEBUG, "Using custom directory certificates"),
        (INFO, f"Defender custom certificates in use: {named(followed)}"),
    ]
    assert not followed.used


async def test_a_link_is_named_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "link").symlink_to("certs")
    async with Followed(tmp_path / "link") as followed:
        assert followed.said(DEBUG) == [f"Watching custom certificates directory: {tmp_path}/certs"]


async def test_warnings_are_told_at_the_start_and_at_a_swap(tmp_path: Path) -> None:
    copy(tmp_path, files("a"))
    (tmp_path / "defender-client-key.pem").chmod(0o644)
    async with Followed(tmp_path) as followed:
        words = f"Defender custom certificates in {tmp_path}: defender-client-key.pem: may be read by others"
        assert len(followed.said(WARNING)) == 1
        assert followed.said(WARNING)[0].startswith(words)
        (tmp_path / "defender-client-key.pem").write_bytes(files("b")["defender-client-key.pem"])
        (tmp_path / "defender-client-cert.pem").write_bytes(make_client(CA, "b").pem)
        await followed.until(lambda: followed.names == ["b"] and len(followed.said(WARNING)) == 2)


async def test_a_bad_set_at_the_start_is_told_file_by_file_and_ends_it(tmp_path: Path) -> None:
    cert, key = tmp_path / "defender-client-cert.pem", tmp_path / "defender-client-key.pem"
    copy(tmp_path, files("a") | {"defender-client-key.pem": b"x", "defender-ca.pem": b""})
    followed, error = await start(tmp_path)
    assert followed.said(DEBUG)[-1] == "Using custom directory certificates"
    lines = followed.said(CRITICAL)
    assert lines == list(error.lines)
    begin = "Failed to construct defender client TLS config error reading"
    pair = f"X509 key pair ({cert}, {key})"
    assert lines == [
        f"{begin} {what}: {fault}"
        for what, fault in zip(
            [f"CA bundle ({tmp_path}/defender-ca.pem)", pair, pair], error.faults, strict=True
        )
    ]
    assert followed.watcher.status()[CLIENT].state is DirectoryState.BAD


@pytest.mark.parametrize(
    ("role", "config"), [(HTTPS, "console HTTPS"), (SERVER, "defender server"), (CLIENT, "defender client")]
)
async def test_the_channel_by_its_name(tmp_path: Path, role: Role, config: str) -> None:
    contents = files("a", role)
    key = next(name for name in contents if "key" in name)
    copy(tmp_path, contents | {key: b"x"})
    _, error = await start(tmp_path, role)
    assert error.lines[0].startswith(f"Failed to construct {config} TLS config error reading X509 key pair (")


async def test_one_bad_set_of_two_ends_the_start(tmp_path: Path) -> None:
    copy(tmp_path, files("a", HTTPS) | files("b", SERVER) | {"defender-server-key.pem": b"x"})
    followed, error = await start(tmp_path, HTTPS, SERVER)
    assert len(error.lines) == 1
    assert followed.said(INFO)[0].startswith("Console HTTPS custom certificates in use: set ")


async def test_an_incomplete_set_at_the_start_waits(tmp_path: Path) -> None:
    contents = files("a")
    key = contents.pop("defender-client-key.pem")
    copy(tmp_path, contents)
    async with Followed(tmp_path) as followed:
        assert followed.begun == {}
        [line] = followed.said(WARNING)
        assert line == (
            "Defender custom certificates are incomplete: waiting for defender-client-key.pem in "
            f"{tmp_path}, with the generated certificates in use meanwhile; copy what is missing there"
        )
        copy(tmp_path, {"defender-client-key.pem": key})
        await followed.until_used("a")
    assert "Using custom directory certificates" not in followed.said(DEBUG)


async def test_a_start_in_the_middle_of_copying(tmp_path: Path) -> None:
    """What is bad at the first look and good at the second was only half there."""
    contents = files("a")
    copy(tmp_path, contents | {"defender-client-key.pem": contents["defender-client-key.pem"][:50]})

    class Copying(CountingWatcher):
        async def _read(self) -> object:  # type: ignore[override]
            view = await super()._read()
            copy(tmp_path, contents)
            return view

    watcher = Copying(tmp_path, [Channel(CLIENT, print)], clock=SystemClock())
    assert [set_.leaf.subject for set_ in (await watcher.start()).values()] == ["CN=a"]


async def test_a_start_while_somebody_goes_on_copying(tmp_path: Path) -> None:
    """Each look finds another bad thing: that isn't final until one is seen twice."""
    contents = files("a")
    key = contents["defender-client-key.pem"]
    copy(tmp_path, contents | {"defender-client-key.pem": key[:50]})
    rest = [key[:90], key[:120], key]

    class Copying(CountingWatcher):
        async def _read(self) -> object:  # type: ignore[override]
            view = await super()._read()
            if rest:
                copy(tmp_path, {"defender-client-key.pem": rest.pop(0)})
            return view

    watcher = Copying(tmp_path, [Channel(CLIENT, print)], clock=SystemClock())
    assert [set_.leaf.subject for set_ in (await watcher.start()).values()] == ["CN=a"]


@pytest.mark.parametrize("how", ["changing", "rewritten"])
async def test_a_start_beside_a_writer_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Two looks that saw somebody write have not seen the same, though there was nothing else to see."""
    copy(tmp_path, files("a"))
    looks = 0

    def view(directory: Path, roles: Iterable[Role]) -> watcher_module._View:
        nonlocal looks
        looks += 1
        found = real(directory, roles)
        if looks > 4:
            return found
        files = found.files[CLIENT]
        if how == "changing":
            faults = tuple(Fault(name, FaultKind.CHANGING, "changes", "wait") for name in files.names.all)
            files = FileSet(CLIENT, {}, faults, directory, files.marks)
        else:
            marks = tuple((1, 2, 3, looks) for _ in files.marks)
            files = FileSet(CLIENT, {**files.contents, files.names.key: b""}, (), directory, marks)
        return replace(found, files={CLIENT: files})

    real = watcher_module._view
    monkeypatch.setattr(watcher_module, "SETTLE", 20.0)
    monkeypatch.setattr(watcher_module, "_view", view)
    watcher = Watcher(tmp_path, [Channel(CLIENT, print)], clock=SystemClock())
    assert [set_.leaf.subject for set_ in (await watcher.start()).values()] == ["CN=a"]
    assert looks == 5


async def test_a_start_beside_a_writer_that_never_ends(tmp_path: Path) -> None:
    contents = files("a")
    copy(tmp_path, {name: data for name, data in contents.items() if "key" not in name})
    (tmp_path / "defender-client-key.pem").symlink_to("/proc/self/status")  # never holds what it says
    _, error = await start(tmp_path)
    assert {fault.kind for fault in error.faults if isinstance(fault, Fault)} == {FaultKind.CHANGING}


async def test_a_start_beside_a_writer_of_other_files(tmp_path: Path) -> None:
    copy(tmp_path, files("a"))
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            (tmp_path / "other").touch()
            (tmp_path / "other").unlink()

    writing = asyncio.create_task(asyncio.to_thread(churn))
    try:
        for _ in range(5):
            followed = Followed(tmp_path)
            assert CLIENT in await followed.watcher.start()
    finally:
        over.set()
        await writing


async def test_the_swap_is_in_force_when_its_line_is_logged(tmp_path: Path) -> None:
    events: list[str] = []
    watcher = Watcher(
        tmp_path,
        [Channel(CLIENT, lambda set_: events.append(f"use {set_.fingerprint[:16]}"))],
        clock=SystemClock(),
        say=lambda level, text: events.append(text) if level >= INFO else None,
    )
    await watcher.start()
    task = asyncio.create_task(watcher.run())
    copy(tmp_path, files("a"))
    async with asyncio.timeout(30):
        while len(events) < 2:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    fingerprint = watcher.status()[CLIENT].fingerprint
    assert fingerprint is not None
    assert events[0] == f"use {fingerprint[:16]}"
    rotated = "Defender custom certificates rotated, resetting connection: "
    assert events[1].startswith(f"{rotated}set {fingerprint[:16]}, valid until 20")
    assert len(events) == 2


async def test_a_change_is_its_channel_s_only(tmp_path: Path) -> None:
    copy(tmp_path, files("a", HTTPS) | files("b", SERVER))
    async with Followed(tmp_path, HTTPS, SERVER) as followed:
        copy(tmp_path, files("c", HTTPS))
        await followed.until_used("c")
        line = await followed.until_said(INFO, "rotated")
        assert line.startswith("Console HTTPS custom certificates rotated, resetting listener: set ")
        copy(tmp_path, files("d", SERVER))
        await followed.until_used("c", "d")
        await followed.until_said(
            INFO, "Console WebSocket custom certificates rotated, resetting listener: set "
        )
        await followed.until_decided()
        assert followed.used == [(HTTPS, "c"), (SERVER, "d")]


async def test_a_bad_set_later_keeps_what_runs(tmp_path: Path) -> None:
    copy(tmp_path, files("a"))
    async with Followed(tmp_path) as followed:
        copy(tmp_path, {"defender-client-key.pem": b"x"})
        await followed.until_said(ERROR, "refused")
        await followed.until_decided()
        first, last = followed.said(ERROR)
        assert first.startswith("Failed to construct defender client TLS config error reading X509 key pair")
        assert last == (
            "Defender custom certificates refused, what is in use is kept: "
            f"{named(followed)}; a restart now would fail: copy "
            f"corrected files to {tmp_path}, they are used as soon as they are there"
        )
        copy(tmp_path, {"defender-client-key.pem": b"x"})
        await followed.until_decided()
        assert len(followed.said(ERROR)) == 2
        assert not followed.used
        copy(tmp_path, files("b"))
        await followed.until_used("b")


async def test_a_bad_set_later_keeps_the_generated_one(tmp_path: Path) -> None:
    async with Followed(tmp_path) as followed:
        copy(tmp_path, files("a") | {"defender-client-key.pem": b"x"})
        line = await followed.until_said(ERROR, "refused")
        assert "the generated ones stay in use" in line
        assert not followed.used


async def test_a_file_that_disappears_later_keeps_what_runs(tmp_path: Path) -> None:
    copy(tmp_path, files("a"))
    async with Followed(tmp_path) as followed:
        (tmp_path / "defender-client-key.pem").unlink()
        line = await followed.until_said(WARNING, "gone")
        assert line == (
            f"Defender custom certificates: defender-client-key.pem is gone from {tmp_path}; what is loaded "
            f"is kept: {named(followed)}; a restart would use the "
            "generated ones: copy the files back, or restart if that is what you want"
        )
        await followed.until_decided()
        assert len(followed.said(WARNING)) == 1
        copy(tmp_path, files("a"))
        await followed.until_used("a")  # issued anew, so another one


async def test_what_changes_nothing_does_nothing(tmp_path: Path) -> None:
    contents = files("a")
    copy(tmp_path, contents)
    async with Followed(tmp_path) as followed:
        for _ in range(3):
            copy(tmp_path, contents)
        for name in contents:
            (tmp_path / name).chmod(0o644)
            (tmp_path / name).touch()
        (tmp_path / "README").write_bytes(b"other")
        (tmp_path / "console-cert.pem").write_bytes(b"another channel's")
        (tmp_path / "folder").mkdir()
        await followed.until_decided()
        assert not followed.used
        assert [level for level, _ in followed.lines] == [DEBUG, DEBUG, INFO]


async def test_a_set_that_can_t_be_put_in_force_counts_as_bad(tmp_path: Path) -> None:
    lines: list[str] = []

    def refuse(set_: CertificateSet) -> None:
        raise CertificateSetError("the set", ["OpenSSL is out of sorts"])

    watcher = Watcher(
        tmp_path, [Channel(CLIENT, refuse)], clock=SystemClock(), say=lambda _, text: lines.append(text)
    )
    await watcher.start()
    task = asyncio.create_task(watcher.run())
    copy(tmp_path, files("a"))
    async with asyncio.timeout(30):
        while not any("refused" in line for line in lines):
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert any(line.endswith("OpenSSL is out of sorts; issue the set again") for line in lines)
    assert watcher.status()[CLIENT].state is DirectoryState.BAD
    assert watcher.status()[CLIENT].fingerprint is None


async def test_the_clock_before_not_before_then_after(tmp_path: Path) -> None:
    async with Followed(tmp_path, shift=-2 * DAY) as followed:
        copy(tmp_path, files_for(CLIENT, make_client(CA, "a", begin=NOW - timedelta(hours=1)), [CA]))
        line = await followed.until_said(ERROR, "is not valid before")
        assert "this host's clock" in line
        errors = len(followed.said(ERROR))
        followed.clock.shift = timedelta(0)
        await followed.until_used("a")
        assert len(followed.said(ERROR)) == errors


async def test_a_set_that_grows_old_is_told_of_and_one_that_expires_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.certificates.watcher._NAP", 0.05)
    begin, end = NOW - 30 * DAY, NOW + 30 * DAY
    copy(tmp_path, files_for(HTTPS, make_server(None, "a", begin=begin, end=end)))
    async with Followed(tmp_path, HTTPS) as followed:
        await followed.until_decided()
        assert not followed.said(WARNING)
        followed.clock.shift = 20 * DAY
        line = await followed.until_said(WARNING, "expire soon (9 days left)")
        assert line.endswith(f"; copy renewed files to {tmp_path}, they are used at once")
        followed.clock.shift = 40 * DAY
        line = await followed.until_said(ERROR, "have expired")
        assert line.endswith(f"; copy renewed files to {tmp_path}, they are used at once")
        await followed.until_decided()
        assert len(followed.said(WARNING)) == len(followed.said(ERROR)) == 1


async def test_an_old_set_is_told_of_at_the_start(tmp_path: Path) -> None:
    leaf = make_server(None, "a", begin=NOW - 30 * DAY, end=NOW + DAY)
    copy(tmp_path, files_for(HTTPS, leaf))
    async with Followed(tmp_path, HTTPS) as followed:
        assert "expire soon" in followed.said(WARNING)[0]


async def test_when_it_ends_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with Followed(tmp_path) as followed:
        copy(tmp_path, files("a"))
        await followed.until_used("a")
    ours = set(threading.enumerate()) - before
    for thread in ours:
        await asyncio.to_thread(thread.join, 10)  # the last steps of one that has said good-bye
    assert not [thread for thread in ours if thread.name.startswith("certificate") and thread.is_alive()]


async def test_by_itself_it_says_everything_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="common")
    await Watcher(tmp_path, [], clock=SystemClock()).start()
    assert caplog.messages == [f"Watching custom certificates directory: {tmp_path}"]
