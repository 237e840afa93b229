import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import DataFolderError
from defender.folder import LOCK_NAME, DataFolder, look


def test_a_first_start_makes_the_folder(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "data") as folder:
        assert folder.path.is_dir()
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert (folder.path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
        assert (folder.path / LOCK_NAME).stat().st_mode & 0o777 == 0o600


def test_a_second_defender_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with DataFolder(tmp_path):
        with pytest.raises(DataFolderError) as caught:
            DataFolder(tmp_path)
        assert f"in use by another Defender (process {os.getpid()})" in str(caught.value)
        assert "DATA_FOLDER" in str(caught.value)


def test_a_closed_folder_can_be_taken_again(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.close()
    folder.close()
    DataFolder(tmp_path).close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, signal, defender.folder\n"
        "folder = defender.folder.DataFolder(pathlib.Path(sys.argv[1]))\n"
        "print('taken', flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"taken\n"
        with pytest.raises(DataFolderError, match=str(process.pid)):
            DataFolder(tmp_path)
        process.kill()
    DataFolder(tmp_path).close()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataFolderError, match="is not a folder"):
        DataFolder(tmp_path / "data")


def test_a_missing_parent_is_refused_and_nothing_made(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="cannot be made"):
        DataFolder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataFolderError, match="not writable"):
        DataFolder(tmp_path)


def test_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(DataFolderError, match="not writable"):
        DataFolder(Path("/proc/self/fdinfo"))


def test_a_full_disk_is_refused_and_the_lock_given_back(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, resource\n"
        "from common.errors import DataFolderError\n"
        "from defender.folder import DataFolder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "try: DataFolder(pathlib.Path(sys.argv[1]))\n"
        "except DataFolderError as error: sys.stderr.write(str(error))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "DataFolder(pathlib.Path(sys.argv[1]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True
    )
    assert "cannot be written to" in result.stderr
    assert result.returncode == 0


# A look, which changes nothing


def refusal(take: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(DataFolderError) as caught:
        take(path)
    return str(caught.value)


def test_a_look_takes_what_can_be_used_and_makes_nothing(tmp_path: Path) -> None:
    look(tmp_path)
    look(tmp_path / "data")
    assert not list(tmp_path.iterdir())
    with DataFolder(tmp_path):  # in use: a check may run beside it
        look(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "is not a folder"),
        ("link", "is not a folder"),
        ("file/data", "cannot be made"),
        ("a/b", "cannot be made"),
    ],
)
def test_a_look_refuses_what_a_start_would(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    assert said in refusal(look, tmp_path / name)
    assert said in refusal(DataFolder, tmp_path / name)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "link"}


def test_a_look_refuses_what_this_user_may_not_write_to(tmp_path: Path) -> None:
    """As another user, since root may write anywhere."""
    code = (
        "import os, pathlib, sys\n"
        "from common.errors import DataFolderError\n"
        "from defender.folder import look\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "for name in ('closed', 'closed/data'):\n"
        "    try: look(pathlib.Path(name))\n"
        "    except DataFolderError as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o555)
    output = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True
    )
    first, second = output.stdout.splitlines()
    assert "is not writable" in first
    assert "closed is missing or not writable" in second
