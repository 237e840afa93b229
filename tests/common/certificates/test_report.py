"""What is said of a directory: states, verdicts, and OpenSSL's second opinion."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.certificates import FILES, DirectoryState, Fault, FaultKind, Role, server_context, tls
from common.certificates.report import as_json, examine, remaining
from common.errors import CertificateSetError
from tests.common.certificates.pki import DAY, NOW, files_for, make_ca, make_server

CA = make_ca("ca")
GOOD = files_for(Role.DEFENDER_SERVER, make_server(CA), [CA])
ROLE = Role.DEFENDER_SERVER


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def test_states(tmp_path: Path) -> None:
    assert examine(tmp_path, ROLE, now=NOW).state is DirectoryState.ABSENT
    names = FILES[ROLE]
    assert names.ca is not None
    write(tmp_path, {names.ca: GOOD[names.ca]})
    assert examine(tmp_path, ROLE, now=NOW).state is DirectoryState.ABSENT  # the bundle is other sets', too
    write(tmp_path, {names.certificate: GOOD[names.certificate]})
    incomplete = examine(tmp_path, ROLE, now=NOW)
    assert incomplete.state is DirectoryState.INCOMPLETE
    assert incomplete.is_mistake
    assert names.key in incomplete.verdict
    write(tmp_path, GOOD)
    good = examine(tmp_path, ROLE, now=NOW)
    assert good.state is DirectoryState.GOOD
    assert not good.is_mistake
    late = examine(tmp_path, ROLE, now=NOW + 60 * DAY)
    assert late.state is DirectoryState.BAD
    assert {fault.kind for fault in late.faults} == {FaultKind.EXPIRED}


def test_no_faults_are_told_of_a_set_that_nobody_meant(tmp_path: Path) -> None:
    report = examine(tmp_path, ROLE, now=NOW)
    assert report.judgement.errors
    assert report.faults == ()
    assert as_json(report)["set"] is None


def test_openssl_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader foretells OpenSSL; if it were wrong, the command would still say what the channel does."""

    fault = Fault("defender-server-cert.pem", FaultKind.UNTRUSTED, "is refused (a: b; c)", "issue it; again")

    def refuse(*_: object) -> None:
        raise CertificateSetError("set", [fault])

    monkeypatch.setattr(tls, "server_context", refuse)
    report = examine(write(tmp_path, GOOD), ROLE, now=NOW)
    assert report.state is DirectoryState.BAD
    assert report.faults == (fault,)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=90, hours=5), "90 days left"),
        (timedelta(days=2), "2 days left"),
        (timedelta(hours=47), "1 day left"),
        (timedelta(hours=23, minutes=59), "23 hours left"),
        (timedelta(minutes=119), "1 hour left"),
        (timedelta(minutes=59), "59 minutes left"),
        (timedelta(seconds=60), "1 minute left"),
        (timedelta(seconds=30), "less than a minute left"),
        (timedelta(0), "expired less than a minute ago"),
        (timedelta(minutes=-1, seconds=-1), "expired 1 minute ago"),
        (timedelta(hours=-5), "expired 5 hours ago"),
        (timedelta(days=-1), "expired 1 day ago"),
        (timedelta(days=-3), "expired 3 days ago"),
    ],
)
def test_what_remains(left: timedelta, words: str) -> None:
    assert remaining(NOW + left, NOW) == words


def test_what_openssl_refuses_comes_as_a_fault_with_its_fields(tmp_path: Path) -> None:
    found = examine(write(tmp_path, GOOD), ROLE, now=NOW).judgement.set
    assert found is not None
    stranger = make_ca("stranger")
    write(tmp_path, files_for(ROLE, make_server(stranger), [stranger]))
    other = examine(tmp_path, ROLE, now=NOW).judgement.set
    assert other is not None
    with pytest.raises(CertificateSetError) as caught:
        server_context(replace(found, anchors=other.anchors))
    (fault,) = caught.value.faults
    assert isinstance(fault, Fault)
    assert (fault.file, fault.kind) == ("defender-server-cert.pem", FaultKind.UNTRUSTED)
    assert fault.what.startswith("OpenSSL refuses it (")
