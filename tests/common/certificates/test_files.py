"""Files whole or not at all, and generations that change by one rename, through every crash."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.certificates import publish_generation, write_file, write_private
from common.errors import DataFolderError

KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
ONE = {"cert.pem": b"cert 1", "key.pem": KEY + b"1", "ca.pem": b"ca 1"}
TWO = {"cert.pem": b"cert 2", "key.pem": KEY + b"2", "ca.pem": b"ca 2"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shown(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def steps_of(action: Callable[[Callable[[str], None]], object]) -> list[str]:
    seen: list[str] = []
    action(seen.append)
    return seen


class Failing:
    """Raises at the n-th step, as a disk does."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left = at
        self.error = error

    def __call__(self, name: str) -> None:
        if self.left == 0:
            raise self.error
        self.left -= 1


# --- single files


def test_write_private_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(old)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert mode(tmp_path / "key") == 0o600


def test_write_file_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_file(tmp_path / "cert", b"public")
    finally:
        os.umask(old)
    assert mode(tmp_path / "cert") == 0o644


def test_writing_again_replaces_and_tightens(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_large_file_is_written_whole(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    write_file(tmp_path / "large", data)
    assert (tmp_path / "large").read_bytes() == data


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, before: bytes | None
) -> None:
    def action(step: Callable[[str], None]) -> None:
        write_private(tmp_path / "key", b"new", step=step)

    count = len(steps_of(action))
    for at in range(count):
        path = tmp_path / "key"
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(OSError, match="No space"):
            action(Failing(at, OSError(errno.ENOSPC, "No space left on device")))
        found = path.read_bytes() if path.exists() else None
        assert found == (b"new" if at == count - 1 else before)
        assert not [entry for entry in tmp_path.iterdir() if entry != path]


def test_what_a_crash_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-key-0123456789abcdef"
    others = tmp_path / ".tmp-key-2-0123456789abcdef"
    for path in (left, others):
        path.write_bytes(b"half")
    write_private(tmp_path / "key", b"whole")
    assert not left.exists()
    assert others.exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "absent" / "key", b"")


# --- generations


def test_publish_shows_the_files_through_a_symlink(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    made = publish_generation(folder, "1", ONE)
    assert shown(folder) == ONE
    assert folder.is_symlink()
    assert not folder.readlink().is_absolute()
    assert folder.resolve() == made
    assert {name: mode(folder / name) for name in ONE} == {
        "cert.pem": 0o644,
        "key.pem": 0o600,
        "ca.pem": 0o644,
    }


def test_publish_again_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    made = publish_generation(folder, "1", ONE)
    before = folder.lstat().st_ino, made.stat().st_ino, made.stat().st_mtime_ns
    assert steps_of(lambda step: publish_generation(folder, "1", ONE, step=step)) == []
    assert (folder.lstat().st_ino, made.stat().st_ino, made.stat().st_mtime_ns) == before


def test_publish_replaces_and_prunes(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    for number in range(6):
        publish_generation(folder, str(number), {"cert.pem": str(number).encode()})
        assert shown(folder) == {"cert.pem": str(number).encode()}
    store = tmp_path / ".certificates.generations"
    assert sorted(entry.name.partition("-")[0] for entry in store.iterdir()) == ["4", "5"]


def test_going_back_to_an_older_generation_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    publish_generation(folder, "1", ONE)
    publish_generation(folder, "2", TWO)
    publish_generation(folder, "1", ONE)
    assert shown(folder) == ONE
    publish_generation(folder, "2", TWO)
    assert shown(folder) == TWO


@pytest.mark.parametrize("damage", ["edit", "mode", "extra", "remove", "link"])
def test_a_damaged_view_is_rebuilt(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "certificates"
    made = publish_generation(folder, "1", ONE)
    match damage:
        case "edit":
            (made / "cert.pem").write_bytes(b"edited")
        case "mode":
            (made / "key.pem").chmod(0o644)
        case "extra":
            (made / "other").write_bytes(b"")
        case "remove":
            (made / "ca.pem").unlink()
        case "link":
            folder.unlink()
    publish_generation(folder, "1", ONE)
    assert shown(folder) == ONE
    assert mode(folder / "key.pem") == 0o600


def test_a_moved_data_folder_still_shows_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    publish_generation(tmp_path / "a" / "certificates", "1", ONE)
    (tmp_path / "a").rename(tmp_path / "b")
    assert shown(tmp_path / "b" / "certificates") == ONE


def test_an_empty_directory_gives_way(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    publish_generation(folder, "1", ONE)
    assert shown(folder) == ONE


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_garrison_did_not_make_stays(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "certificates"
    if kind == "directory":
        folder.mkdir()
        (folder / "mine").write_bytes(b"mine")
    else:
        folder.write_bytes(b"mine")
    with pytest.raises(DataFolderError, match="is in the way") as caught:
        publish_generation(folder, "1", ONE)
    assert str(folder) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["certificates"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\0b"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no plain file name"):
        publish_generation(tmp_path / "certificates", "1", {name: b""})
    with pytest.raises(ValueError, match="no plain file name"):
        publish_generation(tmp_path / "certificates", name, ONE)
    assert list(tmp_path.iterdir()) == []


def publishing(folder: Path) -> Callable[[Callable[[str], None]], object]:
    return lambda step: publish_generation(folder, "2", TWO, step=step)


def test_a_full_disk_at_any_step_leaves_one_whole_generation(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    publish_generation(tmp_path / "probe" / "certificates", "1", ONE)
    steps = steps_of(publishing(tmp_path / "probe" / "certificates"))
    assert {"rename generation", "rename link", "prune"} <= set(steps)
    for at, step in enumerate(steps):
        folder = tmp_path / str(at) / "certificates"
        folder.parent.mkdir()
        publish_generation(folder, "1", ONE)
        with pytest.raises(OSError, match="No space"):
            publishing(folder)(Failing(at, OSError(errno.ENOSPC, "No space left on device")))
        assert shown(folder) == (TWO if at > steps.index("rename link") else ONE), step
        publishing(folder)(lambda _: None)
        assert shown(folder) == TWO
        left = [entry.name for entry in folder.parent.rglob(".tmp-*")]
        assert left == [], step


def killed_at(step: int, action: Callable[[Callable[[str], None]], object]) -> bool:
    """Run the action in a process that ends at the given step, without any handler; whether it did."""
    left = step

    def count(_: str) -> None:
        nonlocal left
        if left == 0:
            os._exit(9)
        left -= 1

    child = os.fork()
    if child == 0:
        try:
            action(count)
        finally:
            os._exit(0 if left >= 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_process_killed_at_any_step_leaves_one_whole_generation(tmp_path: Path) -> None:
    """No handler runs here, as after kill -9: what it leaves is what the next start finds."""
    seen: list[bool] = []
    killed = True
    while killed:
        folder = tmp_path / str(len(seen)) / "certificates"
        folder.parent.mkdir()
        publish_generation(folder, "1", ONE)
        killed = killed_at(len(seen), publishing(folder))
        assert shown(folder) in (ONE, TWO)
        assert mode(folder / "key.pem") == 0o600
        seen.append(shown(folder) == TWO)
        publish_generation(folder, "2", TWO)
        publish_generation(folder, "3", ONE | {"ca.pem": b"ca 3"})
        store = folder.parent / ".certificates.generations"
        assert sorted(entry.name for entry in folder.parent.iterdir()) == [store.name, "certificates"]
        assert len(list(store.iterdir())) == 2
    assert len(seen) > 12
    assert seen[-1]
    assert seen == sorted(seen)  # once it is visible it stays visible


def test_a_process_killed_while_it_writes_a_key_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    step, killed = 0, True
    while killed:
        write_private(path, b"old")
        assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
        killed = killed_at(step, lambda seam: write_private(path, b"new", step=seam))
        assert path.read_bytes() in (b"old", b"new")
        step += 1
    assert path.read_bytes() == b"new"
    assert step == 5


def test_a_reader_never_sees_a_mix(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    generations = [{"a": bytes([n]) * 100, "b": bytes([n]) * 100, "c": bytes([n]) * 100} for n in range(2)]
    publish_generation(folder, "0", generations[0])
    done = threading.Event()
    mixes: list[list[bytes]] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                content = []
                for name in ("a", "b", "c"):
                    file = os.open(name, os.O_RDONLY, dir_fd=handle)
                    content.append(os.read(file, 200))
                    os.close(file)
            finally:
                os.close(handle)
            if len(set(content)) != 1:
                mixes.append(content)
            reads += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(60):
            publish_generation(folder, str(number % 2), generations[number % 2])
    finally:
        done.set()
        thread.join(10)
    assert mixes == []
    assert reads > 60
