"""Volumes that come and go, tell nothing or don't answer; and a kernel that has no watch to give."""

import asyncio
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from tests.common.certificates.followed import ERROR, WARNING, Followed, copy, files, until_printed, watch
from tests.volumes import Bindfs, needs_fuse

pytestmark = pytest.mark.usefixtures("hasty")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

KEY = "defender-client-key.pem"


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


async def unmount(folder: Path) -> None:
    """A look may have the directory open at this moment."""
    for _ in range(500):
        if works("umount", str(folder)):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{folder} stays busy")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mount point; whatever is mounted there is unmounted in the end."""
    path = tmp_path / "certs"
    path.mkdir()
    yield path
    while works("umount", "-l", str(path)):  # not until it is no mount: a bind mount doesn't look like one
        pass


@pytest.fixture
def behind(tmp_path: Path) -> Path:
    path = tmp_path / "behind"
    path.mkdir()
    return path


@pytest.fixture
def bindfs(behind: Path, folder: Path) -> Iterator[Bindfs]:
    bindfs = Bindfs(behind, folder)
    yield bindfs
    bindfs.die()


@needs_fuse
async def test_a_file_system_without_events_is_polled(behind: Path, bindfs: Bindfs) -> None:
    copy(behind, files("a"))
    async with Followed(bindfs.folder, poll=0.3) as followed:
        for turn, name in enumerate("bcd"):
            copy(behind, files(name))
            await followed.until_used(*"bcd"[: turn + 1])
        (behind / KEY).unlink()
        await followed.until_said(WARNING, f"{KEY} is gone")
        copy(behind, files("e"))
        await followed.until_used(*"bcde")


@needs_fuse
async def test_a_file_server_that_does_not_answer(
    behind: Path, bindfs: Bindfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs one line and one thread; the loop goes on, and so does the watcher once it answers."""
    monkeypatch.setattr("common.certificates.watcher.NO_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("common.certificates.watcher._NAP", 0.05)
    copy(behind, files("a"))
    async with Followed(bindfs.folder, poll=0.2) as followed:
        bindfs.stop_answering()
        line = await followed.until_said(WARNING, "has not answered for 0.3 s")
        assert line.endswith("check its volume (mount, network, file server)")
        naps = 0
        while naps < 20:
            naps += 1
            followed.watcher.look()
            await asyncio.sleep(0.02)
        assert [thread.name for thread in threading.enumerate()].count("certificates") == 1
        assert len(followed.said(WARNING)) == 1
        copy(behind, files("b"))
        bindfs.answer_again()
        await followed.until_used("b")


def waits_for_fuse(task: Path) -> bool:
    """Whether the kernel holds this thread until a file system in user space answers."""
    return (task / "wchan").read_text() == "request_wait_answer"


@needs_fuse
async def test_a_dead_file_server_does_not_hold_up_the_exit(behind: Path, bindfs: Bindfs) -> None:
    copy(behind, files("a"))
    process = await watch(bindfs.folder, "--poll", "0.2")
    await until_printed(process, "Defender custom certificates in use")
    bindfs.stop_answering()
    copy(behind, files("b"))
    async with asyncio.timeout(20):
        while not any(map(waits_for_fuse, Path(f"/proc/{process.pid}/task").iterdir())):
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await process.wait() == 0


@needs_fuse
async def test_a_file_server_that_died(behind: Path, bindfs: Bindfs) -> None:
    copy(behind, files("a"))
    async with Followed(bindfs.folder, poll=0.2) as followed:
        bindfs.die()
        line = await followed.until_said(ERROR, "cannot be read")
        assert "Transport endpoint is not connected" in line
        await followed.until_said(ERROR, "what is in use is kept")
        assert works("umount", "-l", str(bindfs.folder))
        again = Bindfs(behind, bindfs.folder)
        try:
            copy(behind, files("b"))
            await followed.until_used("b")
        finally:
            again.die()


@needs_root
async def test_unmounted_and_mounted_again(folder: Path) -> None:
    mount("-t", "tmpfs", "none", str(folder))
    copy(folder, files("a"))
    async with Followed(folder, poll=0.3) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        await unmount(folder)
        assert "are gone from" in await followed.until_said(WARNING, "gone")
        mount("-t", "tmpfs", "none", str(folder))
        copy(folder, files("b"))
        await followed.until_used("b")
        await unmount(folder)
        mount("-t", "tmpfs", "none", str(folder))  # often with the numbers of the one before
        copy(folder, files("c"))
        await followed.until_used("b", "c")
        assert not followed.said(ERROR)


@needs_root
async def test_events_are_back_after_a_volume_was_replaced(folder: Path) -> None:
    """The first change is found by polling; by then the watch is armed on what is mounted now."""
    mount("-t", "tmpfs", "none", str(folder))
    copy(folder, files("a"))
    async with Followed(folder, poll=1.0) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        await unmount(folder)
        mount("-t", "tmpfs", "none", str(folder))
        copy(folder, files("b"))
        await followed.until_used("b")
        await followed.until_decided()
        followed.watcher._poll_seconds = 3600
        await followed.until_decided()
        copy(folder, files("c"))
        await followed.until_used("b", "c")


@needs_root
async def test_a_bind_mount_that_is_laid_over_the_directory(behind: Path, folder: Path) -> None:
    copy(folder, files("a"))
    copy(behind, files("b"))
    async with Followed(folder, poll=0.3) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        mount("--bind", str(behind), str(folder))
        await followed.until_used("b")
        copy(behind, files("c"))
        await followed.until_used("b", "c")


@needs_root
async def test_a_read_only_mount_is_enough(behind: Path, folder: Path) -> None:
    copy(behind, files("a"))
    mount("--bind", str(behind), str(folder))
    mount("-o", "remount,bind,ro", str(folder))
    async with Followed(folder) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        copy(behind, files("b"))
        await followed.until_used("b")


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
async def test_limits_of_inotify_that_are_used_up(tmp_path: Path, limit: str) -> None:
    """In a user namespace of its own, whose limits are nobody else's."""
    script = f'echo 0 > /proc/sys/user/{limit} && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    if which("unshare") is None or not works(*prefix, "true"):
        pytest.skip("user namespaces are not permitted here")
    process = await watch(tmp_path, "--poll", "0.5", prefix=prefix)
    line = await until_printed(process, "gives no events")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARN ", line)
    assert line.endswith("raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)\n")
    assert "reading it every 0.5 s instead" in line
    copy(tmp_path, files("a"))
    assert "set " in await until_printed(process, "rotated, resetting connection")
    copy(tmp_path, files("b"))
    await until_printed(process, "rotated, resetting connection")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert b"gives no events" not in await process.stdout.read()
    assert await process.wait() == 0
