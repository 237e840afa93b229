"""Read and judge, from a directory."""

from pathlib import Path

from common.certificates import FaultKind, FileSet, Role, Source, judge, load
from tests.common.certificates.pki import NOW, files_for, make_ca, make_client

CA = make_ca("ca")
FILES = files_for(Role.DEFENDER_CLIENT, make_client(CA), [CA])


def test_a_directory_gives_the_same_set_as_its_bytes(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    loaded = load(tmp_path, Role.DEFENDER_CLIENT, now=NOW, source=Source.CUSTOM)
    assert loaded.faults == ()
    assert loaded == judge(FileSet.from_bytes(Role.DEFENDER_CLIENT, FILES), now=NOW, source=Source.CUSTOM)


def test_faults_of_reading_and_of_judging_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "defender-ca.pem").write_bytes(FILES["defender-client-cert.pem"])
    (tmp_path / "defender-client-cert.pem").mkdir()
    (tmp_path / "defender-client-key.pem").write_bytes(b"")
    (tmp_path / "defender-client-key.pem").chmod(0o644)
    judgement = load(tmp_path, Role.DEFENDER_CLIENT, now=NOW, source=Source.CUSTOM)
    assert judgement.set is None
    assert [(fault.file, fault.kind) for fault in judgement.faults] == [
        ("defender-ca.pem", FaultKind.NOT_A_CA),
        ("defender-client-cert.pem", FaultKind.NOT_A_FILE),
        ("defender-client-key.pem", FaultKind.EMPTY),
        ("defender-client-key.pem", FaultKind.EXPOSED_KEY),
    ]


def test_a_warning_does_not_keep_a_set_from_use(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o644)
    judgement = load(tmp_path, Role.DEFENDER_CLIENT, now=NOW, source=Source.CUSTOM)
    assert judgement.set is not None
    assert [fault.kind for fault in judgement.faults] == [FaultKind.EXPOSED_KEY]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    judgement = load(tmp_path / "absent", Role.HTTPS_SERVER, now=NOW, source=Source.CUSTOM)
    assert [fault.kind for fault in judgement.faults] == [FaultKind.MISSING] * 2
