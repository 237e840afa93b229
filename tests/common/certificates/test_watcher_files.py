"""However files come and whatever comes instead of them: only whole good sets are used."""

import asyncio
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from common.certificates import DirectoryState, FaultKind, watching
from tests.common.certificates.followed import CA, CLIENT, ERROR, WARNING, Followed, copy, files
from tests.common.certificates.pki import make_ca, make_client

pytestmark = pytest.mark.usefixtures("hasty")

CA_FILE, CERT, KEY = "defender-ca.pem", "defender-client-cert.pem", "defender-client-key.pem"

A = files("a")
B = files("b")


def by_cp(folder: Path) -> None:
    copy(folder, B)


def by_mv(folder: Path, contents: Mapping[str, bytes] = B) -> None:
    beside = folder.with_name("incoming")
    beside.mkdir(exist_ok=True)
    copy(beside, contents)
    for name in contents:
        (beside / name).rename(folder / name)


def by_editor(folder: Path) -> None:
    """Written beside, the old one kept as a backup."""
    for name, data in B.items():
        copy(folder, {f".{name}.swp": data})
        (folder / name).rename(folder / f"{name}~")
        (folder / f".{name}.swp").rename(folder / name)


def by_install(folder: Path) -> None:
    """Removed, then made anew."""
    for name, data in B.items():
        (folder / name).unlink()
        copy(folder, {name: data})


def by_links(folder: Path) -> None:
    """As certbot does it: links to files elsewhere, replaced one after the other."""
    elsewhere = folder.with_name("archive")
    elsewhere.mkdir()
    copy(elsewhere, B)
    for name in B:
        (folder / "new").symlink_to(elsewhere / name)
        (folder / "new").rename(folder / name)


def as_another_directory(folder: Path) -> None:
    new = folder.with_name("new")
    new.mkdir()
    copy(new, B)
    folder.rename(folder.with_name("old"))
    new.rename(folder)


def removed_and_made_again(folder: Path) -> None:
    """The new directory often gets the old one's inode."""
    shutil.rmtree(folder)
    folder.mkdir()
    copy(folder, B)


@pytest.mark.parametrize(
    "change",
    [by_cp, by_mv, by_editor, by_install, by_links, as_another_directory, removed_and_made_again],
    ids=lambda change: change.__name__,
)
async def test_new_files_come(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Found by events: the next poll is an hour away."""
    folder = tmp_path / "certs"
    folder.mkdir()
    copy(folder, A)
    async with Followed(folder) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        change(folder)
        await followed.until_used("b")
        by_mv(folder, files("c"))
        await followed.until_used("b", "c")
        assert not followed.said(ERROR)
        assert not followed.said(WARNING)


async def test_a_kubernetes_volume(tmp_path: Path) -> None:
    """Links to `..data`, a link to a directory of the moment, which is replaced by one rename."""

    def publish(name: str, contents: dict[str, bytes]) -> None:
        (tmp_path / name).mkdir()
        copy(tmp_path / name, contents)
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("..2026_1", A)
    for name in A:
        (tmp_path / name).symlink_to(f"..data/{name}")
    async with Followed(tmp_path) as followed:
        assert followed.begun[CLIENT].leaf.subject == "CN=a"
        await followed.until(lambda: followed.watcher.looks >= 2)
        for turn, name in enumerate("bcd"):
            publish(f"..2026_{turn + 2}", files(name))
            shutil.rmtree(tmp_path / f"..2026_{turn + 1}")
            await followed.until_used(*"bcd"[: turn + 1])
        assert not followed.said(ERROR)


@pytest.mark.parametrize("poll", [0.2])
async def test_what_no_event_tells_of_is_found_by_polling(tmp_path: Path, poll: float) -> None:
    """The directory is a link that is pointed elsewhere; then files below it change that links lead to."""
    for name, contents in {"1": A, "2": B}.items():
        (tmp_path / name).mkdir()
        copy(tmp_path / name, contents)
    link = tmp_path / "certs"
    link.symlink_to("1")
    async with Followed(link, poll=poll) as followed:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(link)
        await followed.until_used("b")
        deep = tmp_path / "2" / "deep"
        deep.mkdir()
        for name in B:
            (tmp_path / "2" / name).rename(deep / name)
            (tmp_path / "2" / name).symlink_to(deep / name)
        copy(deep, files("c"))
        await followed.until_used("b", "c")


async def test_the_directory_is_away_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    copy(folder, A)
    async with Followed(folder) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        folder.rename(tmp_path / "away")
        assert "defender-client-key.pem are gone from" in await followed.until_said(WARNING, "gone")
        (tmp_path / "away").rename(folder)
        copy(folder, B)
        await followed.until_used("b")
        copy(folder, files("c"))
        await followed.until_used("b", "c")


def a_directory(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def an_input_output_error(path: Path) -> None:
    """The kernel answers a read of unmapped memory with EIO, as a dying disk does."""
    path.symlink_to("/proc/self/mem")


def a_key_of_another(path: Path) -> None:
    path.write_bytes(B[KEY])


def the_certificate(path: Path) -> None:
    path.write_bytes(A[CERT])


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (a_directory, FaultKind.NOT_A_FILE),
        (a_fifo, FaultKind.NOT_A_FILE),
        (a_loop, FaultKind.UNREADABLE),
        (a_gigabyte, FaultKind.TOO_LARGE),
        (an_input_output_error, FaultKind.UNREADABLE),
        (a_key_of_another, FaultKind.KEY_MISMATCH),
        (the_certificate, FaultKind.WRONG_BLOCK),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_bad_input_leaves_the_old_set_running(
    tmp_path: Path, mistake: Callable[[Path], None], kind: FaultKind
) -> None:
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        (tmp_path / KEY).unlink()
        mistake(tmp_path / KEY)
        await followed.until_said(ERROR, "refused, what is in use is kept")
        status = followed.watcher.status()[CLIENT]
        assert status.state is DirectoryState.BAD
        assert kind in [fault.kind for fault in status.faults]
        assert status.fingerprint == followed.begun[CLIENT].fingerprint
        assert not followed.used
        if (tmp_path / KEY).is_dir():
            (tmp_path / KEY).rmdir()
        else:
            (tmp_path / KEY).unlink()
        copy(tmp_path, B)
        await followed.until_used("b")


async def test_a_dangling_link_is_a_file_that_is_gone(tmp_path: Path) -> None:
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        (tmp_path / KEY).unlink()
        (tmp_path / KEY).symlink_to("nowhere")
        await followed.until_said(WARNING, f"{KEY} is gone")
        assert not followed.used


async def test_certificate_and_key_swapped(tmp_path: Path) -> None:
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        copy(tmp_path, {CERT: B[KEY], KEY: B[CERT]})
        await followed.until_said(ERROR, "refused")
        assert not followed.used
        assert len(followed.said(ERROR)) >= 3  # one for each file, and what becomes of it


async def test_one_bad_certificate_among_good_ones(tmp_path: Path) -> None:
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        other = make_ca("other").pem
        copy(tmp_path, {CA_FILE: A[CA_FILE] + other[:100] + b"!" + other[101:]})
        line = await followed.until_said(ERROR, "error reading CA bundle")
        assert f"({tmp_path}/{CA_FILE}): {CA_FILE}: " in line
        assert not followed.used


async def test_a_key_that_comes_byte_by_byte(tmp_path: Path) -> None:
    async with Followed(tmp_path) as followed:
        copy(tmp_path, {CA_FILE: A[CA_FILE], CERT: A[CERT]})
        with (tmp_path / KEY).open("wb", buffering=0) as file:
            for byte in A[KEY]:
                file.write(bytes([byte]))
                await asyncio.sleep(0)
        await followed.until_used("a")
        await followed.until_decided()
        assert followed.names == ["a"]


async def test_poisoned_names(tmp_path: Path) -> None:
    """Names that are no UTF-8, or look like lines of a log: they are nobody's, and do no harm."""
    copy(tmp_path, A)
    poison = [b"\xff\xfe", b"a\nCRIT 2026 forged", b"\x1b[2J", b"..", b"-rf", b"x" * 255, "ü\u202e".encode()]
    async with Followed(tmp_path) as followed:
        await followed.until(lambda: followed.watcher.looks >= 2)
        for name in poison:
            if name != b"..":
                (tmp_path / os.fsdecode(name)).write_bytes(A[KEY])
        copy(tmp_path, B)
        await followed.until_used("b")
        copy(tmp_path, files("c"))
        await followed.until_used("b", "c")
        assert not followed.said(ERROR)
        assert not followed.said(WARNING)


async def test_a_directory_whose_own_name_is_poisoned(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"certs\xff\n")
    folder.mkdir()
    async with Followed(folder, poll=0.2) as followed:
        copy(folder, A)
        await followed.until_used("a")


WRITER = """
import sys
path, times = sys.argv[1], int(sys.argv[2])
data = open(path, "rb").read()
for _ in range(times):
    open(path, "wb").write(data)
"""


async def test_ten_thousand_identical_writes_are_no_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leaves the file empty for a moment; another process writes, as it would."""
    monkeypatch.setattr(watching, "SETTLE", 3.0)
    monkeypatch.setattr(watching, "CHANGING", 30.0)
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(tmp_path / KEY), "10000"
        )
        assert await writer.wait() == 0
        await followed.until_decided()
        assert not followed.used
        assert (tmp_path / KEY).read_bytes() == A[KEY]
        assert not followed.said(ERROR)


@pytest.mark.parametrize(
    "lasting", [2.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(120)])]
)
async def test_a_storm_of_writes_costs_a_few_looks_and_ends_well(tmp_path: Path, lasting: float) -> None:
    copy(tmp_path, A)
    over = threading.Event()

    def storm() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            name = (CA_FILE, CERT, KEY)[turn % 3]
            (tmp_path / name).write_bytes((A, B)[turn // 3 % 2][name])

    async with Followed(tmp_path, poll=0.1) as followed:
        begun = time.monotonic()
        looks = followed.watcher.looks
        writing = asyncio.create_task(asyncio.to_thread(storm))
        await followed.until(lambda: time.monotonic() > begun + lasting, more=lasting)
        seconds = time.monotonic() - begun
        assert followed.watcher.looks - looks <= seconds / watching.QUIET + 1
        over.set()
        await writing
        copy(tmp_path, files("c"))
        await followed.until(lambda: followed.names[-1:] == ["c"])
        assert set(followed.names) <= {"a", "b", "c"}


async def test_a_renewed_certificate_for_the_same_key(tmp_path: Path) -> None:
    copy(tmp_path, A)
    async with Followed(tmp_path) as followed:
        copy(tmp_path, {CERT: make_client(CA, "a").pem})
        await followed.until_used("a")
