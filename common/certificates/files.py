"""Files that are there whole or not at all, and directories that change by one rename (D7).

A generation directory lies in `.<folder>.generations` beside `<folder>`, which is a symlink to it. It is
written under a temporary name and renamed when it is complete and on the disk; then the symlink is replaced
by one rename. Whoever reads through the symlink, at any instant and after any crash, finds one whole
generation. The one before stays, for readers that opened it a moment ago.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from common.errors import DataFolderError

Step = Callable[[str], None]
"""Called before each change of the disk with what is about to happen; raise in it to fail there."""

_KEPT: Final = 2
"""Generations that stay: the visible one and the one before."""

_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_TEMPORARY: Final = ".tmp-"


def _no_step(_: str) -> None:
    """Nothing: the seam is for tests."""


def write_private(path: Path, data: bytes, *, step: Step = _no_step) -> None:
    """Write a file that only its owner may read: all of it or none of it, and on the disk when this returns.

    Raises:
        OSError: if it can't; then `path` is as it was.
    """
    write_file(path, data, mode=_PRIVATE, step=step)


def write_file(path: Path, data: bytes, *, mode: int = _PUBLIC, step: Step = _no_step) -> None:
    """Write a file: all of it or none of it, and on the disk when this returns.

    One writer per path at a time; what a crashed one left beside it is removed.

    Raises:
        OSError: if it can't; then `path` is as it was.
    """
    _clear_temporaries_of(path)
    temporary = _temporary_of(path)
    try:
        _write_new(temporary, data, mode, step)
        step(f"rename {path.name}")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    step(f"sync folder of {path.name}")
    _sync_folder(path.parent)


def publish_generation(folder: Path, name: str, files: Mapping[str, bytes], *, step: Step = _no_step) -> Path:
    """Make `folder` show these files and no others, by one rename.

    Publishing what is visible already changes nothing. Files that hold a private key get mode 0600, the
    others 0644.

    Args:
        folder: The symlink to replace; made if it isn't there.
        name: The generation's name, for people; its contents tell it apart from others of that name.
        files: Plain file names and what goes into them.
        step: The seam for tests.

    Returns:
        The generation's directory.

    Raises:
        DataFolderError: if `folder` is something that Garrison did not make; nothing is changed.
        OSError: if the disk refuses; `folder` still shows what it showed.
        ValueError: if a name isn't a plain one.
    """
    _check_names((name, *files))
    _check_folder(folder)
    store = folder.with_name(f".{folder.name}.generations")
    generation = store / f"{name}-{_digest(files)}"
    if _shows(folder, generation) and _is_whole(generation, files):
        return generation
    step("make store")
    store.mkdir(exist_ok=True)
    _clear_temporaries(store)
    _clear_temporaries_of(folder)
    if not _is_whole(generation, files):
        _write_generation(store, generation, files, step)
    _point(folder, generation, step)
    _prune(store, keep=generation, step=step)
    return generation


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no plain file name")


def _check_folder(folder: Path) -> None:
    """A symlink can't be renamed over a directory. An empty one is in nobody's way."""
    if folder.is_symlink() or not folder.exists():
        return
    try:
        folder.rmdir()
    except OSError:
        fault = "is in the way: Garrison publishes its certificates there and did not make it"
        raise DataFolderError(str(folder), fault, "move it away") from None


def _digest(files: Mapping[str, bytes]) -> str:
    """Enough of SHA-256 over names and contents to tell generations apart."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()[:16]


def _mode(data: bytes) -> int:
    return _PRIVATE if b"PRIVATE KEY-----" in data else _PUBLIC


def _shows(folder: Path, generation: Path) -> bool:
    try:
        return folder.is_symlink() and folder.parent / folder.readlink() == generation
    except OSError:
        return False


def _is_whole(generation: Path, files: Mapping[str, bytes]) -> bool:
    """Whether it holds just these files, with the right modes: somebody may have edited it."""
    try:
        if {entry.name for entry in generation.iterdir()} != set(files):
            return False
        return all(
            stat.S_IMODE((generation / name).lstat().st_mode) == _mode(data)
            and (generation / name).read_bytes() == data
            for name, data in files.items()
        )
    except OSError:
        return False


def _temporary_of(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(8)}")


def _clear_temporaries_of(path: Path) -> None:
    """What a crash left of `path`, and not what somebody is writing of a name that only begins like it."""
    mine = re.compile(re.escape(f"{_TEMPORARY}{path.name}-") + "[0-9a-f]{16}")
    for entry in [entry for entry in path.parent.iterdir() if mine.fullmatch(entry.name)]:
        _remove(entry)


def _clear_temporaries(store: Path) -> None:
    """What a crash left behind of whole generations."""
    for entry in [entry for entry in store.iterdir() if entry.name.startswith(_TEMPORARY)]:
        _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _write_generation(store: Path, generation: Path, files: Mapping[str, bytes], step: Step) -> None:
    step("make generation")
    temporary = store / f"{_TEMPORARY}{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        for name, data in files.items():
            _write_new(temporary / name, data, _mode(data), step)
        step("sync generation")
        _sync_folder(temporary)
        if generation.exists():  # of the same name and not whole: what it holds is nothing that we wrote
            step("move damaged generation away")
            generation.rename(store / f"{_TEMPORARY}{secrets.token_hex(8)}")
        step("rename generation")
        temporary.rename(generation)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    step("sync store")
    _sync_folder(store)


def _point(folder: Path, generation: Path, step: Step) -> None:
    """The one rename that everybody sees. The link is relative, so that the data folder can be moved."""
    temporary = _temporary_of(folder)
    step("make link")
    temporary.symlink_to(generation.relative_to(folder.parent), target_is_directory=True)
    try:
        step("rename link")
        temporary.replace(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    step("sync parent")
    _sync_folder(folder.parent)


def _prune(store: Path, *, keep: Path, step: Step) -> None:
    """Remove all but the newest, by when they were made visible last."""
    step("prune")
    os.utime(keep)
    entries = sorted(store.iterdir(), key=lambda entry: entry.lstat().st_mtime_ns, reverse=True)
    for entry in [entry for entry in entries if entry != keep][_KEPT - 1 :]:
        _remove(entry)


def _write_new(path: Path, data: bytes, mode: int, step: Step) -> None:
    """A file that wasn't there, whatever the umask; never through a symlink."""
    step(f"write {path.name}")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
    try:
        os.fchmod(handle, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        step(f"sync {path.name}")
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
