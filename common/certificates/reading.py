"""The bytes of a set's files: the only place where the loader touches the disk."""

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from common.certificates.model import FILES, Fault, FaultKind, Role, SetFiles, Severity

MAX_FILE_BYTES: Final = 1 << 20
"""Bytes of one file: four times a whole public root store, a hundred times a long chain."""

_ATTEMPTS: Final = 5
# A FIFO opens at once, a terminal doesn't become ours, a child doesn't inherit it. No O_NOFOLLOW: Kubernetes
# volumes are made of symlinks.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_PERMIT: Final = "let the user that runs Garrison read it"
_RAISE: Final = "raise the limit of open files (ulimit -n, fs.file-max)"
_REMEDIES: Final[Mapping[int, str]] = {
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EMFILE: _RAISE,
    errno.ENFILE: _RAISE,
    errno.ELOOP: "put a file in its place",
    errno.ENOTDIR: "put a directory in its place",
}

Mark = tuple[int, int, int, int]
"""Of a file: device, inode, size in bytes, time of its last change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """What the files of a set hold, as it was read at one moment.

    Attributes:
        role: The side it is for.
        contents: The bytes of each file that could be read; never shown, one is a key.
        faults: Why the others could not be read, and warnings about those that could.
        directory: Where they lie; None if they come from a bundle or the store.
        marks: What tells each file from one that was written since, even with the same content.
    """

    role: Role
    contents: Mapping[str, bytes] = field(repr=False)
    faults: tuple[Fault, ...] = ()
    directory: Path | None = None
    marks: tuple[Mark | None, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_bytes(cls, role: Role, files: Mapping[str, bytes]) -> "FileSet":
        """A set that lies in memory: from an install bundle or the store.

        Args:
            role: The side it is for.
            files: By their names of product facts §1; names that the set has no use for are left out.
        """
        names = FILES[role].all
        faults = [_missing(name) for name in names if name not in files]
        faults += [_too_large(name) for name in names if len(files.get(name, b"")) > MAX_FILE_BYTES]
        faulty = {fault.file for fault in faults}
        contents = {name: bytes(files[name]) for name in names if name not in faulty}
        return cls(role, MappingProxyType(contents), tuple(faults))

    @property
    def names(self) -> SetFiles:
        """The names of the set's files."""
        return FILES[self.role]

    @property
    def missing(self) -> tuple[str, ...]:
        """The files that are not there: while there is one, the set is incomplete and is not used."""
        absent = {fault.file for fault in self.faults if fault.kind is FaultKind.MISSING}
        return tuple(name for name in self.names.all if name in absent)

    @property
    def complete(self) -> bool:
        """Every file of the set is there, whatever it holds."""
        return not self.missing

    @property
    def absent(self) -> bool:
        """Neither certificate nor key is there: nobody meant this set (the CA file is other sets' too)."""
        return {self.names.certificate, self.names.key} <= set(self.missing)

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, of all that decides about the set but the clock: equal means that nothing changed.

        Warnings don't count: that somebody changed a mode is no reason to load the set again.
        """
        digest = hashlib.sha256(self.role.encode())
        for name in self.names.all:
            data = self.contents.get(name)
            digest.update(b"\0-" if data is None else b"\0+" + hashlib.sha256(data).digest())
        for fault in self.faults:
            if fault.severity is Severity.WARNING:
                continue
            digest.update(f"\0{fault.file}\0{fault.kind}".encode())
        return digest.hexdigest()


def read_files(directory: Path, role: Role) -> FileSet:
    """The files of a set, all from the same moment; it never blocks on what isn't a file.

    They are read through one resolved directory. A volume may swap them meanwhile (Kubernetes moves a
    symlink, a generation is published by one): then what was read is thrown away and read again.
    """
    for _ in range(_ATTEMPTS):
        files, settled = _read_once(directory, role)
        if settled:
            return files
    names = FILES[role].all
    return FileSet(role, MappingProxyType({}), tuple(_changing(name) for name in names), directory)


def _read_once(directory: Path, role: Role) -> tuple[FileSet, bool]:
    """One reading, and whether nothing changed under it."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return _unreadable_directory(directory, role, error), True
    try:
        try:
            opened = os.fstat(folder)
        except OSError as error:  # a network file system whose server has lost it since
            return _unreadable_directory(directory, role, error), True
        found = [_read_file(folder, name) for name in FILES[role].all]
        settled = _is_at(directory, opened) and all(
            _mark_at(folder, file.name) == file.mark for file in found
        )
    finally:
        os.close(folder)
    contents = {file.name: file.data for file in found if file.data is not None}
    faults = [fault for file in found for fault in file.faults]
    faults += _exposure(role, found)
    marks = tuple(file.mark for file in found)
    return FileSet(role, MappingProxyType(contents), tuple(faults), directory, marks), settled


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    mark: Mark | None
    data: bytes | None = field(default=None, repr=False)
    mode: int = 0
    faults: tuple[Fault, ...] = ()


def _read_file(folder: int, name: str) -> _File:
    """One file; looked at before it is opened, since opening a device can do something."""
    mark = _mark_at(folder, name)
    try:
        before = os.stat(name, dir_fd=folder)
        if not stat.S_ISREG(before.st_mode):
            return _File(name, mark, faults=(_not_a_file(name, before.st_mode),))
        handle = os.open(name, _FLAGS, dir_fd=folder)
        try:
            return _read_open(name, handle)
        finally:
            os.close(handle)
    except OSError as error:
        return _File(name, mark, faults=(_fault_of(name, error),))


def _read_open(name: str, handle: int) -> _File:
    """An open file: it may be another than the one that was looked at."""
    opened = os.fstat(handle)
    if not stat.S_ISREG(opened.st_mode):
        return _File(name, _mark(opened), faults=(_not_a_file(name, opened.st_mode),))
    if opened.st_size > MAX_FILE_BYTES:
        return _File(name, _mark(opened), faults=(_too_large(name),))
    data = _read_all(handle, opened.st_size + 1)
    if len(data) > opened.st_size:
        return _File(name, None, faults=(_changing(name),))  # it grows: this reading counts for nothing
    return _File(name, _mark(opened), data, opened.st_mode)


def _read_all(handle: int, limit: int) -> bytes:
    """Everything up to the limit."""
    parts = []
    while limit and (part := os.read(handle, limit)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _mark(status: os.stat_result) -> Mark:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_at(directory: Path, opened: os.stat_result) -> bool:
    """Whether it is still the directory at its path. Its other numbers change with any file in it."""
    try:
        return os.path.samestat(directory.stat(), opened)
    except OSError:
        return False


def _mark_at(folder: int, name: str) -> Mark | None:
    try:
        return _mark(os.stat(name, dir_fd=folder))
    except OSError:
        return None


def _exposure(role: Role, found: list[_File]) -> list[Fault]:
    """The warning about a key that others may read."""
    return [
        Fault(
            file.name,
            FaultKind.EXPOSED_KEY,
            f"may be read by others (mode {stat.S_IMODE(file.mode):04o})",
            "chmod 600",
            Severity.WARNING,
        )
        for file in found
        if file.name == FILES[role].key and file.mode & 0o077
    ]


def _unreadable_directory(directory: Path, role: Role, error: OSError) -> FileSet:
    faults: tuple[Fault, ...]
    if isinstance(error, FileNotFoundError):
        faults = tuple(_missing(name) for name in FILES[role].all)
    else:
        faults = (_fault_of(str(directory), error),)
    return FileSet(role, MappingProxyType({}), faults, directory)


def _fault_of(name: str, error: OSError) -> Fault:
    if isinstance(error, FileNotFoundError):
        return _missing(name)
    what = f"cannot be read: {os.strerror(error.errno or 0)}"
    remedy = _REMEDIES.get(error.errno or 0, "check the volume it lies on (disk, mount, file server)")
    return Fault(name, FaultKind.UNREADABLE, what, remedy)


def _missing(name: str) -> Fault:
    return Fault(name, FaultKind.MISSING, "is not there", "copy it there; a set is used only when complete")


def _too_large(name: str) -> Fault:
    what = f"has more than {MAX_FILE_BYTES // 1024} KiB"
    return Fault(name, FaultKind.TOO_LARGE, what, "keep only what the channel needs in it")


def _changing(name: str) -> Fault:
    return Fault(name, FaultKind.CHANGING, "changes while it is read", "wait until the copying is done")


def _not_a_file(name: str, mode: int) -> Fault:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    what = f"is {kinds.get(stat.S_IFMT(mode), 'a device')}"
    return Fault(name, FaultKind.NOT_A_FILE, what, "put a file in its place")
