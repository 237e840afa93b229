"""The data folder: fit to be used, and used by one Console at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import Final, Self

from common.errors import DataFolderError

LOCK_NAME: Final = "console.lock"

_log = logging.getLogger(__name__)

_FAULTS: Final = {
    errno.EACCES: (
        "is not writable for this user",
        "give it to the user that runs the Console (chown, chmod 700)",
    ),
    errno.EPERM: (
        "is not writable for this user",
        "give it to the user that runs the Console (chown, chmod 700)",
    ),
    errno.EROFS: ("is on a read-only file system", "mount it writable, or set DATA_FOLDER to another folder"),
    errno.ENOSPC: ("is on a full disk", "free some space there, then start again"),
    errno.EDQUOT: ("is over its disk quota", "free some space there or raise the quota, then start again"),
    errno.ENOENT: ("cannot be made because its parent folder is missing", "create that, or mount its volume"),
    errno.ENOTDIR: ("is not a folder", "move the file away, or set DATA_FOLDER to a folder"),
    errno.EEXIST: ("is not a folder", "move the file away, or set DATA_FOLDER to a folder"),
    errno.ENOLCK: ("is on a file system without file locks", "use a local disk: the store needs locks"),
}


def folder_error(path: Path, error: OSError) -> DataFolderError:
    """What the system refused, in an operator's words."""
    fault, remedy = _FAULTS.get(
        error.errno or 0,
        (f"cannot be used ({error.strerror})", "correct that, or set DATA_FOLDER to another one"),
    )
    return DataFolderError(str(path), fault, remedy)


class DataFolder:
    """The data folder, held by this process until `release`.

    A missing folder is made (0700) if its parent exists: a missing parent more likely is a volume that isn't
    mounted, and a Console that started afresh there would strand every Defender. An existing folder keeps its
    mode (a volume's group access is the operator's business); the files in it that matter are 0600 each.
    """

    def __init__(self, path: Path, lock: int, *, made: bool) -> None:
        self.path = path
        self._lock: int | None = lock
        self._made = made

    @classmethod
    def hold(cls, path: Path) -> Self:
        """Make sure of the folder and lock it.

        Raises:
            DataFolderError: if it can't be made or written to, or another Console holds it.
        """
        try:
            made = _make(path)
        except OSError as error:
            raise folder_error(path, error) from error
        try:
            return cls(path, _lock(path), made=made)
        except OSError as error:
            if made:
                _unmake(path)
            raise folder_error(path, error) from error

    def release(self) -> None:
        """Let another Console have it. The lock file stays: if it went, two of them could hold one each."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Release it and, if this process made it and nothing else is in it, remove it again."""
        self.release()
        if self._made:
            _unmake(self.path)


def _make(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise
        if mode & stat.S_IWOTH:
            _log.warning("%s is writable for everybody on this host; chmod o-w it", path)
        return False
    return True


def _unmake(path: Path) -> None:
    # Only what this start made is removed; a folder that something else has come to use stays.
    with contextlib.suppress(OSError):
        (path / LOCK_NAME).unlink(missing_ok=True)
        path.rmdir()


def _lock(path: Path) -> int:
    descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise DataFolderError(
            str(path),
            "another Console runs on this data folder" + (f" (process {holder})" if holder else ""),
            "stop it first, or set DATA_FOLDER to another folder",
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    # The number is for people only; the lock holds without it, on a full disk too.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor
