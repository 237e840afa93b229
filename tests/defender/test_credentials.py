import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.bundle import Bundle, encode_bundle
from common.certificates import Fault, FaultKind, Judgement, Role, Source, loader
from common.errors import BundleError, CertificateSetError, ExpiredError, NoCertificatesError
from defender.credentials import Credentials, CredentialSource
from tests.defender.pki import DAY, Pki

NOW = datetime.now(UTC)


def test_files_are_judged_and_made_a_context(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    credentials = CredentialSource("", tmp_path).load(NOW)
    assert credentials.set.role is Role.DEFENDER_CLIENT
    assert credentials.set.leaf.fingerprint == pki.client.certificate.fingerprint
    assert credentials.context.check_hostname
    assert "PRIVATE" not in repr(credentials)


def test_sets_are_the_same_by_what_they_hold(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    loaded = CredentialSource("", tmp_path).load(NOW)
    assert loaded.place == str(tmp_path / "certificates")
    custom = Credentials.of(pki.credentials(Source.CUSTOM).set, tmp_path / "custom-certificates")
    assert custom.place == str(tmp_path / "custom-certificates")
    assert loaded.same(custom)
    assert loaded != custom
    assert not loaded.same(pki.reissued().credentials())


def test_a_held_set_is_told_by_its_leaf(pki: Pki) -> None:
    credentials = pki.credentials(Source.CUSTOM)
    held = credentials.held(proved=True)
    assert (held.channel, held.source, held.proved) == ("defender-client", "custom", True)
    assert (held.fingerprint, held.not_after) == (
        pki.client.certificate.fingerprint,
        credentials.set.not_after,
    )


def test_the_oldest_version_is_as_asked(pki: Pki) -> None:
    set_ = pki.credentials().set
    versions = [
        Credentials.of(set_, "here", tls_minimum=oldest).context.minimum_version for oldest in ("1.3", "1.2")
    ]
    assert versions == [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2]


def test_a_bundle_wins_over_files(pki: Pki, tmp_path: Path) -> None:
    Pki.create().deploy(tmp_path)
    source = CredentialSource(pki.bundle(), tmp_path)
    assert source.place == "INSTALL_BUNDLE"
    assert source.load(NOW).set.leaf.fingerprint == pki.client.certificate.fingerprint
    assert source.reload(NOW) is None


def test_a_bundle_without_certificates_leaves_it_to_the_files(pki: Pki, tmp_path: Path) -> None:
    """A DaemonSet's: its Secret is mounted."""
    pki.deploy(tmp_path)
    source = CredentialSource(encode_bundle(Bundle({})), tmp_path)
    assert source.load(NOW).set.leaf.fingerprint == pki.client.certificate.fingerprint


def test_a_bundle_that_cannot_be_read_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        CredentialSource("c2VjcmV0", tmp_path)
    assert "c2VjcmV0" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_any_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoCertificatesError) as caught:
        CredentialSource("", tmp_path).load(NOW)
    assert "garrison console install-bundle --address HOST on the Console's host" in str(caught.value)
    assert "GET /api/v1/defenders/install-bundle?consoleaddr=HOST" in str(caught.value)
    assert caught.value.exit_code == 1


def test_every_fault_is_said(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    (tmp_path / "certificates" / "defender-client-key.pem").write_bytes(pki.server.key)
    (tmp_path / "certificates" / "defender-ca.pem").unlink()
    with pytest.raises(CertificateSetError) as caught:
        CredentialSource("", tmp_path).load(NOW)
    said = str(caught.value)
    assert "defender-client-key.pem" in said
    assert "defender-ca.pem" in said
    assert not isinstance(caught.value, ExpiredError)


def test_an_expired_set_is_told_from_a_bad_one(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    with pytest.raises(ExpiredError):
        CredentialSource("", tmp_path).load(NOW + 400 * DAY)
    with pytest.raises(ExpiredError):
        CredentialSource("", tmp_path).load(NOW - 400 * DAY)


def test_a_servers_certificate_is_no_defenders(tmp_path: Path) -> None:
    Pki.create(client_role=Role.DEFENDER_SERVER).deploy(tmp_path)
    with pytest.raises(CertificateSetError):
        CredentialSource("", tmp_path).load(NOW)


def test_an_exposed_key_is_warned_about(pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pki.deploy(tmp_path)
    (tmp_path / "certificates" / "defender-client-key.pem").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        CredentialSource("", tmp_path).load(NOW)
    assert "chmod 600" in caplog.text


def test_a_reload_sees_only_changes(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    assert source.reload(NOW) is None
    pki.deploy(tmp_path)
    assert source.reload(NOW) is None
    other = Pki.create(client_ends=timedelta(days=60))
    other.deploy(tmp_path)
    found = source.reload(NOW)
    assert isinstance(found, Credentials)
    assert found.set.leaf.fingerprint == other.client.certificate.fingerprint
    assert source.reload(NOW) is None


def test_a_reload_waits_for_a_whole_set_and_names_each_bad_one_once(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    key = tmp_path / "certificates" / "defender-client-key.pem"
    key.unlink()
    assert source.reload(NOW) is None
    key.write_bytes(b"half a key")
    found = source.reload(NOW)
    assert found is not None
    assert not isinstance(found, Credentials)
    assert any("defender-client-key.pem" in fault for fault in found)
    assert source.reload(NOW) is None


def test_what_is_not_valid_yet_is_said_once_and_taken_once_it_is(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    other = Pki.create()
    other.deploy(tmp_path)
    early = NOW - 400 * DAY
    found = source.reload(early)
    assert isinstance(found, list)
    assert any("valid" in fault for fault in found)
    assert source.reload(early) is None
    later = source.reload(NOW)
    assert isinstance(later, Credentials)
    assert later.set.leaf.fingerprint == other.client.certificate.fingerprint


def test_what_the_host_was_too_short_of_something_for_is_tried_again(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    pki.reissued().deploy(tmp_path)
    with monkeypatch.context() as short:

        def refuse(*_: object, **__: object) -> Credentials:
            raise CertificateSetError("the set", ["too many open files"])

        short.setattr(Credentials, "of", refuse)
        assert source.reload(NOW) == ["too many open files"]
        assert source.reload(NOW) is None
    assert isinstance(source.reload(NOW), Credentials)


def test_what_was_mended_and_is_spoiled_again_is_named_again(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    key = tmp_path / "certificates" / "defender-client-key.pem"
    for _ in range(2):
        key.write_bytes(b"half a key")
        assert isinstance(source.reload(NOW), list)
        pki.deploy(tmp_path)
        assert source.reload(NOW) is None


def test_openssl_is_asked_too(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki.deploy(tmp_path)
    source = CredentialSource("", tmp_path)
    source.load(NOW)
    fault = Fault("defender-client-cert.pem", FaultKind.UNTRUSTED, "OpenSSL refuses it", "issue it again")
    monkeypatch.setattr(loader, "confirmed", lambda _: Judgement(None, (fault,)))
    with pytest.raises(CertificateSetError, match="OpenSSL refuses it"):
        source.load(NOW)
    pki.reissued().deploy(tmp_path)
    assert source.reload(NOW) == [str(fault)]
