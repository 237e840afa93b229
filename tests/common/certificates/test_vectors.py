"""The loader before cryptography's test vectors (PKITS among them): it judges, it never raises."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.certificates import FILES, FileSet, Role, Source, inspect, judge, server_context
from common.certificates.pem import encode_block
from common.certificates.reading import MAX_FILE_BYTES
from common.errors import CertificateSetError
from tests.common.certificates.pki import NOW, files_for, make_ca, make_server


def folder() -> Path | None:
    """Where they are: CRYPTOGRAPHY_VECTORS, or the installed package."""
    named = os.environ.get("CRYPTOGRAPHY_VECTORS")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("cryptography_vectors")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


FOLDER = folder()
pytestmark = pytest.mark.skipif(
    FOLDER is None,
    reason="cryptography_vectors is not installed, and CRYPTOGRAPHY_VECTORS names no directory",
)

CA = make_ca("ca")
GOOD = files_for(Role.DEFENDER_SERVER, make_server(CA), [CA])
SUFFIXES = (".pem", ".crt", ".der", ".key", ".cer", ".p7b", ".p12", ".csr", ".txt")


def vectors(*parts: str) -> Iterator[bytes]:
    assert FOLDER is not None
    for path in sorted(FOLDER.joinpath(*parts).rglob("*")):
        if path.is_file() and path.suffix in SUFFIXES and path.stat().st_size <= MAX_FILE_BYTES:
            yield path.read_bytes()


def test_every_file_in_every_place_is_judged() -> None:
    names = FILES[Role.DEFENDER_SERVER].all
    count = 0
    for data in (*vectors("x509"), *vectors("asymmetric"), *vectors("pkcs7"), *vectors("pkcs12")):
        for name in names:
            files = FileSet.from_bytes(Role.DEFENDER_SERVER, GOOD | {name: data})
            judgement = judge(files, now=NOW, source=Source.CUSTOM)
            assert judgement.set is None
            assert judgement.errors
            assert all(str(fault).isprintable() for fault in judgement.faults)
        count += 1
    assert count > 500


def test_every_certificate_as_pem_is_read_or_refused_alike() -> None:
    """DER files again, as PEM, so that what is in them is looked at."""
    read = 0
    for data in vectors("x509"):
        if not data.startswith(b"\x30"):
            continue
        pem = encode_block("CERTIFICATE", data)
        for role in (Role.DEFENDER_SERVER, Role.HTTPS_SERVER):
            files = FileSet.from_bytes(role, GOOD | {FILES[role].certificate: pem, "console-key.pem": b"x"})
            assert judge(files, now=NOW, source=Source.CUSTOM).set is None
            read += bool(inspect(files).get(FILES[role].certificate))
    assert read > 100


def test_every_ca_that_passes_as_a_second_anchor_is_taken_by_openssl() -> None:
    passed = 0
    for data in vectors("x509"):
        pem = encode_block("CERTIFICATE", data) if data.startswith(b"\x30") else data
        files = GOOD | {"defender-ca.pem": GOOD["defender-ca.pem"] + pem}
        judgement = judge(FileSet.from_bytes(Role.DEFENDER_SERVER, files), now=NOW, source=Source.CUSTOM)
        if judgement.set is not None and len(judgement.set.anchors) > 1:
            passed += 1
            try:
                server_context(judgement.set)
            except CertificateSetError as error:
                pytest.fail(f"{judgement.set.anchors[1].subject}: {error}")
    assert passed > 20
