"""The data folder: usable, and used by one Defender only.

Two processes on one folder would be one Defender twice: the same instance key, the same event numbers. The
lock is the kernel's (flock), so nothing has to be cleaned up after a kill -9.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from common.errors import DataFolderError

LOCK_NAME: Final = "defender.lock"


class DataFolder:
    """A data folder that is ours until it is closed.

    Args:
        path: The folder; made if its parent exists, since a first start has none yet.

    Raises:
        DataFolderError: if it cannot be used, or another Defender uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _make(path)
        self._lock = _take_lock(path)
        try:
            _prove_writable(path)
        except DataFolderError:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder up. The file stays: removing it would let two processes lock two files."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def look(path: Path) -> None:
    """Refuse what `DataFolder` would refuse, as far as that shows without changing anything.

    That is: what is there, and permissions. A full disk or a Defender that runs there doesn't show.

    Raises:
        DataFolderError: if it cannot be used.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():  # to nowhere: mkdir doesn't follow it
            raise _not_a_folder(path) from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise _cannot_be_made(path, f"{path.parent} is missing or not writable") from None
        return
    except OSError as error:
        raise _cannot_be_made(path, error.strerror) from None
    if not is_folder:
        raise _not_a_folder(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_writable(path, "by its mode or its file system")


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise _not_a_folder(path) from None
    except OSError as error:
        raise _cannot_be_made(path, error.strerror) from None


def _take_lock(path: Path) -> int:
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _not_writable(path, error.strerror) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise _error(
            path,
            f"is in use by another Defender (process {holder or 'unknown'})",
            "stop that one, or give this one a folder of its own with DATA_FOLDER",
        ) from None
    # On a full disk the number is missing from a message, no more.
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _prove_writable(path: Path) -> None:
    """Write and sync a few bytes: permissions alone don't show a full disk or a read-only mount."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _error(
            path, f"cannot be written to ({error.strerror})", "make room or make it writable for this user"
        ) from None


def _not_a_folder(path: Path) -> DataFolderError:
    return _error(path, "is not a folder", "name a folder in DATA_FOLDER")


def _cannot_be_made(path: Path, why: str | None) -> DataFolderError:
    return _error(path, f"cannot be made ({why})", "make it, or name another in DATA_FOLDER")


def _not_writable(path: Path, why: str | None) -> DataFolderError:
    return _error(path, f"is not writable ({why})", "make it writable for this user")


def _error(path: Path, fault: str, remedy: str) -> DataFolderError:
    return DataFolderError(f"data folder {path}", fault, remedy)
