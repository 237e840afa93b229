"""A data folder that is fit and ours, or a sentence that says why not."""

import contextlib
import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import DataFolderError
from console.store.folder import LOCK_NAME, DataFolder, folder_error
from tests.console.store.disks import fill, small_disk


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_missing_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder.hold(tmp_path / "data")
    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / LOCK_NAME) == 0o600
    folder.release()


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o750)
    DataFolder.hold(tmp_path / "data").release()
    assert mode(tmp_path / "data") == 0o750


def test_a_folder_that_everybody_may_write_to_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    DataFolder.hold(tmp_path / "data").release()
    assert "chmod o-w" in caplog.text


def test_a_missing_parent_is_more_likely_a_missing_volume(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match=r"parent folder is missing; create that, or mount its volume"):
        DataFolder.hold(tmp_path / "volume" / "data")
    assert not (tmp_path / "volume").exists()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataFolderError, match=r"is not a folder; move the file away"):
        DataFolder.hold(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "a file"


def test_a_file_in_its_parents_place(tmp_path: Path) -> None:
    (tmp_path / "volume").write_text("a file")
    with pytest.raises(DataFolderError, match="is not a folder"):
        DataFolder.hold(tmp_path / "volume" / "data")


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataFolderError):
        DataFolder.hold(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_is_not_ours_to_write(tmp_path: Path, *, existing: bool) -> None:
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    data = tmp_path / "data"
    if existing:
        data.mkdir(mode=0o755)
    process = multiprocessing.get_context("fork").Process(target=_hold_as_nobody, args=(data,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert list(tmp_path.rglob("*")) == ([data] if existing else [])


def _hold_as_nobody(data: Path) -> None:
    os.setuid(65534)
    with pytest.raises(DataFolderError, match=r"is not writable for this user; give it to the user"):
        DataFolder.hold(data)


def test_a_read_only_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DataFolderError, match="read-only file system; mount it writable"):
            DataFolder.hold(disk)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k,nr_inodes=3") as disk:
        fill(disk)  # with its ballast the second inode is gone, and the folder takes the third
        with pytest.raises(DataFolderError, match="is on a full disk; free some space"):
            DataFolder.hold(disk / "data")
        assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_what_the_system_says_otherwise_is_passed_on() -> None:
    error = folder_error(Path("/data"), OSError(errno.EIO, "Input/output error"))
    assert "Input/output error" in str(error)
    assert error.exit_code == 1


def test_one_console_at_a_time(tmp_path: Path) -> None:
    first = DataFolder.hold(tmp_path)
    with pytest.raises(
        DataFolderError, match=rf"another Console runs on this data folder \(process {os.getpid()}\)"
    ):
        DataFolder.hold(tmp_path)
    first.release()
    first.release()
    DataFolder.hold(tmp_path).release()


def test_a_console_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from console.store.folder import DataFolder;"
        "folder = DataFolder.hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(DataFolderError, match=f"process {other.pid}"):
            DataFolder.hold(tmp_path)
        other.kill()
    DataFolder.hold(tmp_path).release()


def test_discarding_removes_what_this_start_made_and_nothing_else(tmp_path: Path) -> None:
    DataFolder.hold(tmp_path / "fresh").discard()
    assert not (tmp_path / "fresh").exists()
    (tmp_path / "old").mkdir()
    DataFolder.hold(tmp_path / "old").discard()
    assert (tmp_path / "old").exists()
    used = DataFolder.hold(tmp_path / "used")
    (tmp_path / "used" / "file").write_text("somebody's")
    used.discard()
    assert (tmp_path / "used" / "file").exists()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    folder = DataFolder.hold(tmp_path)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        folder.release()
        with contextlib.ExitStack() as stack:
            stack.callback(child.kill)
            DataFolder.hold(tmp_path).release()
