"""Every exception that ends a command, in one place.

::

    GarrisonError                 thing, fault, remedy; exit code 1
    ├── UsageError                wrong usage: an option, argument or setting; exit code 2
    │   ├── SettingsError         options that are unknown or malformed, all of them together
    │   └── BundleError           an install bundle that cannot be read
    ├── CertificateSetError       a set that must not be used, with every fault of it
    │   ├── ExpiredError          a set that would do, but for its dates
    │   └── CustomCertificatesError  complete but bad sets in the operator's directory, at the start
    ├── NoCertificatesError       there is no certificate set at all
    ├── ListenError               a port that is taken or not permitted
    ├── DataFolderError           a data folder that cannot be used
    ├── StoreError                a store that is corrupt, locked or of a newer version
    └── MasterKeyError            a master key that is missing, malformed or another one

An expected failure inside the program is a value, not one of these; they are for what ends a command, and
their text is for the person who typed it. None of them may carry a secret.
"""

from collections.abc import Sequence
from typing import ClassVar


class GarrisonError(Exception):
    """Something that ends a command, said so that the person who typed it can act.

    Args:
        thing: What is wrong, by the name the operator knows it by (a path, an option, a port).
        fault: What is wrong with it.
        remedy: What to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, thing: str, fault: str, remedy: str) -> None:
        super().__init__(thing, fault, remedy)
        self.thing = thing
        self.fault = fault
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.thing}: {self.fault}; {self.remedy}"


class UsageError(GarrisonError):
    """Wrong usage: an option, argument or setting."""

    exit_code = 2


class SettingsError(UsageError):
    """Options that are unknown or malformed: all of them, one line each.

    Args:
        faults: One sentence for each option, with its remedy; never its value where it may be a secret.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("settings", "; ".join(faults), "see garrison --help")
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)


class CertificateSetError(GarrisonError):
    """A certificate set that must not be used, with every fault of it.

    Args:
        thing: The set, as its channel and directory.
        faults: Each is one sentence as text: file, fault and remedy. The loader's `Fault`, where it is one,
            has these as fields.
    """

    def __init__(self, thing: str, faults: Sequence[object]) -> None:
        said = "; ".join(map(str, faults))
        super().__init__(thing, said, "correct the files; garrison certs check DIR judges them")
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join([f"{self.thing} cannot be used:", *(f"  {fault}" for fault in self.faults)])


class ExpiredError(CertificateSetError):
    """A certificate set that would do, but for its dates."""


class CustomCertificatesError(CertificateSetError):
    """Sets in the operator's directory that are complete but bad when a process starts: it must not run.

    Args:
        thing: The directory.
        faults: Those of all its channels.
        lines: What the log has said of it already, one line per fault: whoever catches this exits with its
            code and says nothing more.
    """

    def __init__(self, thing: str, faults: Sequence[object], lines: Sequence[str]) -> None:
        super().__init__(thing, faults)
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class NoCertificatesError(GarrisonError):
    """There is no certificate set at all."""


class ListenError(GarrisonError):
    """A port that is taken or not permitted."""


class DataFolderError(GarrisonError):
    """A data folder that cannot be used."""


class StoreError(GarrisonError):
    """A store that is corrupt, locked or of a newer version."""


class MasterKeyError(GarrisonError):
    """A master key that is missing, malformed or another one."""


class BundleError(UsageError):
    """An install bundle that cannot be read."""
