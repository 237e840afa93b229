"""Reading: every file that is none, without blocking, and all from one moment."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.certificates import FILES, MAX_FILE_BYTES, FaultKind, FileSet, Role, read_files

ROLE = Role.DEFENDER_CLIENT
CA, CERT, KEY = FILES[ROLE].all
CONTENT = {CA: b"ca", CERT: b"cert", KEY: b"key"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read so far has given."""
    real, counts = os.read, list[int]()

    def read(handle: int, count: int) -> bytes:
        data = real(handle, count)
        counts.append(len(data))
        return data

    monkeypatch.setattr(os, "read", read)
    return counts


def kinds(files: FileSet) -> dict[str, FaultKind]:
    return {fault.file: fault.kind for fault in files.faults}


def test_reads_all_of_a_set_and_nothing_else(folder: Path) -> None:
    (folder / "console-key.pem").write_bytes(b"another set's")
    files = read_files(folder, ROLE)
    assert files.contents == CONTENT
    assert files.faults == ()
    assert files.directory == folder
    assert files.complete
    assert not files.absent


def test_what_is_missing(folder: Path) -> None:
    (folder / CA).unlink()
    files = read_files(folder, ROLE)
    assert kinds(files) == {CA: FaultKind.MISSING}
    assert files.missing == (CA,)
    assert not files.complete
    assert not files.absent
    (folder / CERT).unlink()
    assert not read_files(folder, ROLE).absent
    (folder / KEY).unlink()
    assert read_files(folder, ROLE).absent


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    files = read_files(tmp_path / "absent", ROLE)
    assert files.missing == (CA, CERT, KEY)
    assert files.absent


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    files = read_files(path, ROLE)
    assert kinds(files) == {str(path): FaultKind.UNREADABLE}
    assert "Not a directory" in str(files.faults[0])


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (make_directory, FaultKind.NOT_A_FILE, "a directory"),
        (os.mkfifo, FaultKind.NOT_A_FILE, "a FIFO"),
        (make_socket, FaultKind.NOT_A_FILE, "a socket"),
        (link_to("/dev/zero"), FaultKind.NOT_A_FILE, "a device"),
        (link_to("/dev/tty"), FaultKind.NOT_A_FILE, "a device"),
        (link_to("nowhere"), FaultKind.MISSING, "is not there"),
        (link_to(CERT), FaultKind.UNREADABLE, "symbolic links"),
    ],
)
def test_what_is_no_file_is_refused_unread(
    folder: Path, bytes_read: list[int], make: Callable[[Path], None], kind: FaultKind, words: str
) -> None:
    (folder / CERT).unlink()
    make(folder / CERT)
    files = read_files(folder, ROLE)
    assert sum(bytes_read) == len(b"ca" + b"key")
    assert kinds(files) == {CERT: kind}
    assert words in str(files.faults[0])
    assert files.contents == {CA: b"ca", KEY: b"key"}


def test_a_file_as_large_as_allowed_and_one_byte_more(folder: Path) -> None:
    (folder / CA).write_bytes(b"x" * MAX_FILE_BYTES)
    assert read_files(folder, ROLE).faults == ()
    (folder / CA).write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert kinds(read_files(folder, ROLE)) == {CA: FaultKind.TOO_LARGE}


def test_a_huge_file_is_not_read(folder: Path, bytes_read: list[int]) -> None:
    with (folder / CA).open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert kinds(read_files(folder, ROLE)) == {CA: FaultKind.TOO_LARGE}
    assert sum(bytes_read) == len(b"cert" + b"key")


def test_a_file_that_the_system_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so that the refusal comes from the seam; EIO is what a broken disk says."""
    real = os.open

    def refuse(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if path == CERT:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    files = read_files(folder, ROLE)
    assert kinds(files) == {CERT: FaultKind.UNREADABLE}
    assert str(files.faults[0]) == (
        f"{CERT}: cannot be read: Permission denied; let the user that runs Garrison read it"
    )


def test_a_disk_that_fails_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, count: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    assert set(kinds(read_files(folder, ROLE)).values()) == {FaultKind.UNREADABLE}


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_key_that_others_may_read_is_a_warning(folder: Path, mode: int, exposed: bool) -> None:
    (folder / KEY).chmod(mode)
    (folder / CERT).chmod(0o644)
    files = read_files(folder, ROLE)
    assert kinds(files) == ({KEY: FaultKind.EXPOSED_KEY} if exposed else {})
    assert files.contents == CONTENT
    if exposed:
        assert f"mode 0{mode:o}" in str(files.faults[0])


def test_kubernetes_volumes_are_read_through_their_symlinks(tmp_path: Path) -> None:
    (tmp_path / "..2026_1").mkdir()
    (tmp_path / "..data").symlink_to("..2026_1")
    for name, data in CONTENT.items():
        (tmp_path / "..2026_1" / name).write_bytes(data)
        (tmp_path / name).symlink_to(f"..data/{name}")
        (tmp_path / "..2026_1" / name).chmod(0o600)
    assert read_files(tmp_path, ROLE).contents == CONTENT


@pytest.mark.parametrize("how", ["inner", "outer"])
def test_a_volume_that_swaps_is_never_mixed(tmp_path: Path, how: str) -> None:
    """Kubernetes swaps a symlink inside the directory, a generation one above it."""
    for generation in (b"1", b"2"):
        made = tmp_path / f"g{generation.decode()}"
        made.mkdir()
        for name in CONTENT:
            (made / name).write_bytes(generation)
    current = tmp_path / "current"
    current.symlink_to("g1")
    folder = current
    if how == "inner":
        folder = tmp_path / "mount"
        folder.mkdir()
        for name in CONTENT:
            (folder / name).symlink_to(f"../current/{name}")
    done = threading.Event()

    def swap() -> None:
        number = 0
        while not done.is_set():
            number += 1
            (tmp_path / "next").symlink_to(f"g{1 + number % 2}")
            (tmp_path / "next").replace(current)
            done.wait(0.002)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    try:
        count, end = 0, time.monotonic() + 30
        while (count < 300 or len(seen) < 2) and time.monotonic() < end:
            count += 1
            files = read_files(folder, ROLE)
            # Whole from one generation, or refused as changing: never some of each.
            assert len(set(files.contents.values())) == (0 if files.faults else 1) or kinds(files) == {
                KEY: FaultKind.EXPOSED_KEY
            }
            seen |= set(files.contents.values())
            if files.contents:
                assert len(set(files.contents.values())) == 1
    finally:
        done.set()
        thread.join(10)
    assert seen == {b"1", b"2"}


def test_a_file_that_changes_all_the_time_is_said_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.read

    def grow(handle: int, count: int) -> bytes:
        data = real(handle, count)
        with (folder / CERT).open("ab") as file:
            file.write(b"x")
        return data

    monkeypatch.setattr(os, "read", grow)
    files = read_files(folder, ROLE)
    assert set(kinds(files).values()) == {FaultKind.CHANGING}
    assert files.contents == {}
    assert files.complete


def test_descriptors_are_closed(folder: Path) -> None:
    (folder / CA).unlink()
    os.mkfifo(folder / CA)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        read_files(folder, ROLE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- from memory


def test_from_bytes_takes_what_the_role_needs() -> None:
    files = FileSet.from_bytes(ROLE, CONTENT | {"other.pem": b"x"})
    assert files.contents == CONTENT
    assert files.faults == ()
    assert files.directory is None


def test_from_bytes_says_what_is_missing_or_too_large() -> None:
    files = FileSet.from_bytes(ROLE, {CA: b"x" * (MAX_FILE_BYTES + 1), CERT: b"cert"})
    assert kinds(files) == {CA: FaultKind.TOO_LARGE, KEY: FaultKind.MISSING}
    assert files.contents == {CERT: b"cert"}


def test_https_has_no_bundle() -> None:
    files = FileSet.from_bytes(Role.HTTPS_SERVER, {"console-cert.pem": b"c", "console-key.pem": b"k"})
    assert files.complete
    assert files.faults == ()


def test_the_fingerprint_is_of_the_contents(folder: Path) -> None:
    first = read_files(folder, ROLE).fingerprint
    assert read_files(folder, ROLE).fingerprint == first
    assert FileSet.from_bytes(ROLE, CONTENT).fingerprint == first
    (folder / CERT).write_bytes(b"cert")  # rewritten, the same
    assert read_files(folder, ROLE).fingerprint == first
    (folder / CERT).write_bytes(b"changed")
    changed = read_files(folder, ROLE).fingerprint
    (folder / CERT).unlink()
    assert len({first, changed, read_files(folder, ROLE).fingerprint}) == 3


def during_the_first_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something happens while the first file is read."""
    real, acts = os.read, [act]

    def read(handle: int, count: int) -> bytes:
        data = real(handle, count)
        if acts:
            acts.pop()()
        return data

    monkeypatch.setattr(os, "read", read)


def test_other_files_that_come_and_go_are_nobody_s_business(
    folder: Path, bytes_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.read

    def read(handle: int, count: int) -> bytes:
        (folder / f"other{len(bytes_read)}").touch()
        return real(handle, count)

    monkeypatch.setattr(os, "read", read)
    assert read_files(folder, ROLE).contents == CONTENT
    assert sum(bytes_read) == len(b"ca" + b"cert" + b"key")  # at the first attempt


def test_a_directory_that_is_replaced_meanwhile_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is whole, but nobody finds it at that path any more."""
    for generation in ("1", "2"):
        (tmp_path / generation).mkdir()
        for name in CONTENT:
            (tmp_path / generation / name).write_bytes(generation.encode())
    link = tmp_path / "link"
    link.symlink_to("1")

    def point_elsewhere() -> None:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").replace(link)

    during_the_first_read(monkeypatch, point_elsewhere)
    assert set(read_files(link, ROLE).contents.values()) == {b"2"}


def test_a_directory_that_is_gone_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during_the_first_read(monkeypatch, lambda: folder.rename(folder.with_name("away")))
    assert read_files(folder, ROLE).absent


def test_a_file_that_holds_more_than_it_says_is_not_cut(folder: Path) -> None:
    """The kernel's own say that they hold nothing; on others it is somebody who appends."""
    (folder / CERT).unlink()
    (folder / CERT).symlink_to("/proc/self/status")
    files = read_files(folder, ROLE)
    assert files.contents == {}
    assert set(kinds(files).values()) == {FaultKind.CHANGING}


def test_a_file_that_grew_and_was_removed_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow_and_vanish() -> None:
        with (folder / CA).open("ab") as file:
            file.write(b"x")
        during_the_first_read(monkeypatch, (folder / CA).unlink)

    during_the_first_read(monkeypatch, grow_and_vanish)
    assert kinds(read_files(folder, ROLE)) == {CA: FaultKind.CHANGING}


def test_what_is_swapped_for_a_fifo_before_it_is_opened_is_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def swap(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if path == CERT:
            (folder / CERT).unlink()
            os.mkfifo(folder / CERT)
        return real(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap)
    assert kinds(read_files(folder, ROLE)) == {CERT: FaultKind.NOT_A_FILE}


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "let the user that runs Garrison read it"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n, fs.file-max)"),
        (errno.EIO, "check the volume it lies on (disk, mount, file server)"),
        (errno.ELOOP, "put a file in its place"),
    ],
)
def test_the_remedy_is_for_the_cause(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "read", fail)
    assert {fault.remedy for fault in read_files(folder, ROLE).faults} == {remedy}


def test_a_changed_mode_is_no_change(folder: Path) -> None:
    first = read_files(folder, ROLE).fingerprint
    (folder / KEY).chmod(0o644)
    changed = read_files(folder, ROLE)
    assert changed.faults
    assert changed.fingerprint == first


def test_a_key_does_not_show(folder: Path) -> None:
    (folder / KEY).write_bytes(b"very secret")
    assert "very secret" not in repr(read_files(folder, ROLE))


def test_a_directory_that_its_server_has_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens, and then is stale (NFS)."""
    handles: list[int] = []
    real_open, real_fstat = os.open, os.fstat

    def open_(path: str, flags: int, **more: int) -> int:
        handles.append(real_open(path, flags, **more))
        return handles[-1]

    def fstat(handle: int) -> os.stat_result:
        if handle == handles[0]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real_fstat(handle)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fstat", fstat)
    files = read_files(folder, ROLE)
    assert kinds(files) == {str(folder): FaultKind.UNREADABLE}
    assert "Stale file handle" in str(files.faults[0])


def test_marks_tell_that_a_file_was_written_though_it_holds_the_same(folder: Path) -> None:
    first = read_files(folder, ROLE)
    os.utime(folder / KEY, ns=(1, 1))
    second = read_files(folder, ROLE)
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert first.marks[:2] == second.marks[:2]
    assert first.marks[2] != second.marks[2]
