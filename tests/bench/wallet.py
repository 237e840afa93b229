"""What the load generator's Defenders can show: the set that they were given, and a folder's."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.certificates import FileSet, Role, Source, client_context, judge, read_files
from tests.bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A set, ready to be shown.

    Attributes:
        name: Its fingerprint.
        context: Built from it.
    """

    name: str
    context: ssl.SSLContext


def credentials(files: FileSet) -> Credentials:
    """From the files of a set.

    Raises:
        BenchError: with all that is wrong with them.
    """
    judged = judge(files, now=datetime.now(UTC), source=Source.CUSTOM)
    if judged.set is None:
        raise BenchError("\n".join(map(str, judged.faults)))
    return Credentials(judged.set.fingerprint, client_context(judged.set))


class Wallet:
    """What all Defenders of a process share, as they do on a volume; `newest` is what they should use.

    Args:
        given: What they came with.
        folder: Where an operator may put another set; it wins once it is complete and good.

    Raises:
        BenchError: there is nothing to begin with.
    """

    def __init__(self, given: FileSet | None, folder: Path | None = None) -> None:
        self._folder = folder
        self._seen: FileSet | None = None
        self._newest: Credentials | None = None
        if not self.look():
            if given is None:
                raise BenchError(f"no complete set of {Role.DEFENDER_CLIENT} in {folder}")
            self._newest = credentials(given)

    @property
    def newest(self) -> Credentials:
        """The set to use from now on."""
        assert self._newest is not None
        return self._newest

    def look(self) -> bool:
        """Read the folder. Half a set, or a bad one, is passed over: a Defender keeps what it has.

        Returns:
            Whether there is another set now.
        """
        if self._folder is None:
            return False
        files = read_files(self._folder, Role.DEFENDER_CLIENT)
        if not files.complete or (self._seen is not None and files.contents == self._seen.contents):
            return False
        self._seen = files
        try:
            found = credentials(files)
        except BenchError:
            return False
        if self._newest is not None and found.name == self._newest.name:
            return False
        self._newest = found
        return True
