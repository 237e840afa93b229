"""What an operator is told about a directory: per channel its state, its certificates and its faults."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from common.certificates.checks import when
from common.certificates.judging import inspect
from common.certificates.loader import judge_files
from common.certificates.model import Certificate, Fault, Judgement, Role, Source
from common.certificates.reading import FileSet, read_files
from common.certificates.watching import DirectoryState

CUSTOMIZABLE: Final = (Role.HTTPS_SERVER, Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT)
"""The channels that take their sets from the operator's directory (product facts §1)."""

TITLES: Final[Mapping[Role, str]] = {
    Role.HTTPS_SERVER: "Console, web UI and API (8083)",
    Role.DEFENDER_SERVER: "Console, listener for Defenders (8084)",
    Role.DEFENDER_CLIENT: "Defender, connection to the Console",
    Role.ADMISSION_SERVER: "Defender, admission webhook (9998)",
}


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """One channel's share of a directory.

    Attributes:
        role: The channel's side.
        state: What there is for it; never SETTLING: one look is all there is.
        verdict: What the channel would do with this directory, a sentence.
        judgement: The loader's; faults of an incomplete set included.
        certificates: What can be read at all, by file.
    """

    role: Role
    state: DirectoryState
    verdict: str
    judgement: Judgement
    certificates: Mapping[str, tuple[Certificate, ...]]

    @property
    def is_mistake(self) -> bool:
        """Whether somebody meant a set and the channel would not use it."""
        return self.state in (DirectoryState.INCOMPLETE, DirectoryState.BAD)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with what somebody meant: nothing where there is no set."""
        return () if self.state is DirectoryState.ABSENT else self.judgement.faults


def examine(directory: Path, role: Role, *, now: datetime) -> ChannelReport:
    """What `role` would do with `directory`."""
    files = read_files(directory, role)
    judgement = judge_files(files, now=now, source=Source.CUSTOM)
    state = _state(files, judgement)
    return ChannelReport(role, state, _verdict(state, files), judgement, inspect(files))


def _state(files: FileSet, judgement: Judgement) -> DirectoryState:
    if files.absent:
        return DirectoryState.ABSENT
    if not files.complete:
        return DirectoryState.INCOMPLETE
    return DirectoryState.BAD if judgement.set is None else DirectoryState.GOOD


def _verdict(state: DirectoryState, files: FileSet) -> str:
    """Product facts §3, the custom directory's watch logic."""
    match state:
        case DirectoryState.ABSENT:
            return "no set here: uses its generated certificates"
        case DirectoryState.INCOMPLETE:
            missing = ", ".join(files.missing)
            return f"waits for {missing}: until then at start its generated certificates, later what it has"
        case DirectoryState.GOOD:
            return "uses this set"
    return "refuses this set: at start it logs why and exits, later it logs why and keeps what it has"


def remaining(not_after: datetime, now: datetime) -> str:
    """How long something is still valid, or has not been: in days, under a day in hours or minutes."""
    left = not_after - now
    return f"expired {_span(-left)} ago" if left <= timedelta(0) else f"{_span(left)} left"


def _span(span: timedelta) -> str:
    hours, minutes = divmod(span.seconds // 60, 60)
    for count, unit in ((span.days, "day"), (hours, "hour"), (minutes, "minute")):
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def as_json(report: ChannelReport) -> dict[str, object]:
    """The report for programs."""
    found = report.judgement.set
    return {
        "role": report.role.value,
        "state": report.state.value,
        "verdict": report.verdict,
        "set": None
        if found is None
        else {
            "fingerprint": found.fingerprint,
            "notBefore": when(found.not_before),
            "notAfter": when(found.not_after),
            "names": list(found.names),
        },
        "files": {
            file: [_certificate_json(one) for one in held] for file, held in report.certificates.items()
        },
        "faults": [
            {
                "file": fault.file,
                "kind": fault.kind.value,
                "severity": fault.severity.value,
                "what": fault.what,
                "remedy": fault.remedy,
            }
            for fault in report.faults
        ],
    }


def _certificate_json(certificate: Certificate) -> dict[str, object]:
    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": f"{certificate.serial:x}",
        "names": list(certificate.names),
        "notBefore": when(certificate.not_before),
        "notAfter": when(certificate.not_after),
        "fingerprint": certificate.fingerprint,
        "algorithm": certificate.algorithm,
        "isCA": certificate.is_ca,
    }
