"""Contexts, in real handshakes: what must work works, and each peer that must be refused is refused."""

import errno
import os
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.certificates import (
    CertificateSet,
    Fault,
    FaultKind,
    FileSet,
    Judgement,
    MintOptions,
    Role,
    Source,
    client_context,
    judge,
    mint,
    names_for,
    parse_san,
    resumed,
    server_context,
    tls,
)
from common.certificates.tls import VERIFY_FLAGS, confirmed
from common.errors import CertificateSetError
from common.openssl import send_no_root
from tests.common.certificates.handshakes import shake
from tests.common.certificates.pki import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Cert,
    files_for,
    issue,
    judged,
    key,
    make_ca,
    make_client,
    make_server,
    usage,
)

OPTIONS = MintOptions(
    "console.test", "defender.test", names_for("console.test", extra=parse_san("IP:127.0.0.1"))
)
MINTED = mint(NOW, OPTIONS)
STRANGER = mint(NOW, OPTIONS)


def minted(role: Role, material: object = None) -> CertificateSet:
    files = (MINTED if material is None else material).files  # type: ignore[attr-defined]
    found = judge(FileSet.from_bytes(role, files), now=NOW, source=Source.GENERATED)
    assert found.set is not None
    return found.set


SERVER_SET = minted(Role.DEFENDER_SERVER)
CLIENT_SET = minted(Role.DEFENDER_CLIENT)


def plain_client(*anchors: bytes, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    """A client without a certificate that trusts these CAs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = minimum
    context.verify_flags = VERIFY_FLAGS
    for anchor in anchors:
        context.load_verify_locations(cadata=anchor.decode())
    return context


def loaded(context: ssl.SSLContext, tmp_path: Path, chain: bytes, key_pem: bytes) -> ssl.SSLContext:
    """A context with a pair that no loader has judged."""
    path = tmp_path / "pair.pem"
    path.write_bytes(chain + key_pem)
    context.load_cert_chain(path)
    return context


# --- what works


@pytest.mark.parametrize("hostname", ["console.test", "localhost", "127.0.0.1"])
def test_console_and_defender_meet(hostname: str) -> None:
    outcome = shake(server_context(SERVER_SET), client_context(CLIENT_SET), hostname=hostname)
    assert outcome.ok
    assert outcome.server.version == "TLSv1.3"
    assert outcome.server.peer == CLIENT_SET.leaf.der
    assert outcome.client.peer == SERVER_SET.leaf.der


def test_https_asks_for_no_certificate() -> None:
    context = server_context(minted(Role.HTTPS_SERVER))
    outcome = shake(context, plain_client(MINTED.files["ca.pem"]))
    assert outcome.ok
    assert outcome.server.peer is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_https_speaks_1_2_and_1_3(version: ssl.TLSVersion) -> None:
    client = plain_client(MINTED.files["ca.pem"])
    client.maximum_version = version
    outcome = shake(server_context(minted(Role.HTTPS_SERVER)), client)
    assert outcome.ok
    assert outcome.server.version == version.name.replace("TLSv1_", "TLSv1.")


def test_the_webhook_answers_by_its_own_names() -> None:
    context = server_context(minted(Role.ADMISSION_SERVER))
    client = plain_client(MINTED.files["defender-ca.pem"])
    assert shake(context, client, hostname="defender.twistlock.svc").ok


def test_1_2_where_it_is_allowed() -> None:
    server = server_context(SERVER_SET, minimum=ssl.TLSVersion.TLSv1_2)
    client = client_context(CLIENT_SET, minimum=ssl.TLSVersion.TLSv1_2)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome = shake(server, client)
    assert outcome.ok
    assert outcome.server.version == "TLSv1.2"


def test_only_aead_with_forward_secrecy_below_1_3() -> None:
    for context in (server_context(SERVER_SET), client_context(CLIENT_SET)):
        names = [one["name"] for one in context.get_ciphers() if one["protocol"] != "TLSv1.3"]
        assert names
        assert all(name.startswith("ECDHE-") and "GCM" in name for name in names)


def test_alpn_is_the_caller_s() -> None:
    server = server_context(SERVER_SET, alpn=["generation-2", "generation-1"])
    client = client_context(CLIENT_SET, alpn=["generation-1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="console.test")
    two = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for end in (one, two):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert one.selected_alpn_protocol() == two.selected_alpn_protocol() == "generation-1"


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "ed25519"])
def test_each_kind_of_key_shakes_hands(kind: str) -> None:
    ca = make_ca("ca", key_=key(kind, 9))
    server = judged(Role.DEFENDER_SERVER, make_server(ca, key_=key(kind, 10)), [ca]).set
    client = judged(Role.DEFENDER_CLIENT, make_client(ca, key_=key(kind, 11)), [ca]).set
    assert server is not None
    assert client is not None
    assert shake(server_context(server), client_context(client)).ok


# --- negative controls: the listener refuses


def refused_by_server(client: ssl.SSLContext, reason: str, *, server: CertificateSet = SERVER_SET) -> None:
    outcome = shake(server_context(server), client)
    assert not outcome.ok
    assert outcome.server.reason == reason
    assert outcome.server.received == b""
    assert outcome.client.received == b""


def test_refuses_a_client_without_a_certificate() -> None:
    refused_by_server(plain_client(MINTED.files["defender-ca.pem"]), "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_refuses_a_client_of_another_ca() -> None:
    foreign = minted(Role.DEFENDER_CLIENT, STRANGER)
    mixed = replace(foreign, anchors=SERVER_SET.anchors)  # it trusts us; we don't trust it
    with pytest.raises(CertificateSetError, match="OpenSSL refuses"):
        client_context(mixed)
    context = client_context(foreign)
    context.load_verify_locations(cadata=SERVER_SET.anchors[0].der)
    refused_by_server(context, "CERTIFICATE_VERIFY_FAILED")


def test_refuses_an_expired_client() -> None:
    authority = MINTED.defender.authority
    late = NOW - 10 * DAY
    issued = authority.issue(Role.DEFENDER_CLIENT, common_name="late", now=NOW, lifetime=-timedelta(hours=1))
    files = {**MINTED.files, "defender-client-cert.pem": issued.chain, "defender-client-key.pem": issued.key}
    held = FileSet.from_bytes(Role.DEFENDER_CLIENT, files)
    assert [one.kind for one in judge(held, now=NOW, source=Source.CUSTOM).errors] == [FaultKind.EXPIRED]
    found = judge(held, now=NOW - timedelta(hours=2), source=Source.CUSTOM).set
    assert found is not None
    assert late < found.not_after
    refused_by_server(client_context(found), "CERTIFICATE_VERIFY_FAILED")


def test_refuses_a_client_that_is_not_yet_valid() -> None:
    ca = make_ca("ca")
    server = judged(Role.DEFENDER_SERVER, make_server(ca), [ca]).set
    early = judged(Role.DEFENDER_CLIENT, make_client(ca, begin=NOW + DAY), [ca], now=NOW + 2 * DAY).set
    assert server is not None
    assert early is not None
    refused_by_server(client_context(early), "CERTIFICATE_VERIFY_FAILED", server=server)


def test_refuses_a_server_certificate_as_a_client(tmp_path: Path) -> None:
    client = plain_client(MINTED.files["defender-ca.pem"])
    files = MINTED.files
    loaded(client, tmp_path, files["defender-server-cert.pem"], files["defender-server-key.pem"])
    refused_by_server(client, "CERTIFICATE_VERIFY_FAILED")


def test_refuses_1_2_where_1_3_is_due() -> None:
    client = client_context(CLIENT_SET, minimum=ssl.TLSVersion.TLSv1_2)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome = shake(server_context(SERVER_SET), client)
    assert not outcome.ok
    assert outcome.server.reason == "UNSUPPORTED_PROTOCOL"
    assert outcome.client.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


# --- negative controls: the Defender refuses


def refused_by_client(server: ssl.SSLContext, message: str, *, hostname: str = "console.test") -> None:
    outcome = shake(server, client_context(CLIENT_SET), hostname=hostname)
    assert not outcome.ok
    assert outcome.client.reason == "CERTIFICATE_VERIFY_FAILED"
    assert message in getattr(outcome.client.error, "verify_message", "")
    assert outcome.server.received == b""


def test_refuses_a_console_of_another_ca() -> None:
    # The root is not sent where OpenSSL can be told so, and then it is not there to be called self-signed.
    told = send_no_root(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    message = "unable to get local issuer certificate" if told else "self-signed certificate"
    refused_by_client(server_context(minted(Role.DEFENDER_SERVER, STRANGER)), message)


@pytest.mark.parametrize("hostname", ["evil.test", "127.0.0.2", "sub.console.test"])
def test_refuses_a_console_of_another_name(hostname: str) -> None:
    refused_by_client(server_context(SERVER_SET), "mismatch", hostname=hostname)


def test_the_common_name_does_not_count() -> None:
    authority = MINTED.defender.authority
    issued = authority.issue(
        Role.DEFENDER_SERVER, common_name="console.test", names=parse_san("DNS:else.test"), now=NOW
    )
    files = {**MINTED.files, "defender-server-cert.pem": issued.chain, "defender-server-key.pem": issued.key}
    found = judge(FileSet.from_bytes(Role.DEFENDER_SERVER, files), now=NOW, source=Source.CUSTOM).set
    assert found is not None
    refused_by_client(server_context(found), "mismatch")


def one_way(chain: str, key_: str, tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return loaded(context, tmp_path, MINTED.files[chain], MINTED.files[key_])


def test_refuses_a_client_certificate_as_a_console(tmp_path: Path) -> None:
    context = one_way("defender-client-cert.pem", "defender-client-key.pem", tmp_path)
    refused_by_client(context, "unsuitable certificate purpose")


@pytest.mark.parametrize("hostname", ["console.test", "localhost", "127.0.0.1"])
def test_refuses_the_admission_leaf_as_a_console(hostname: str) -> None:
    """Every Defender holds this key, and its CA is the right one: the names alone keep it apart."""
    refused_by_client(server_context(minted(Role.ADMISSION_SERVER)), "mismatch", hostname=hostname)


def test_refuses_an_expired_console() -> None:
    authority = MINTED.defender.authority
    issued = authority.issue(
        Role.DEFENDER_SERVER,
        common_name="console.test",
        names=OPTIONS.names,
        now=NOW,
        lifetime=-timedelta(hours=1),
    )
    files = {**MINTED.files, "defender-server-cert.pem": issued.chain, "defender-server-key.pem": issued.key}
    held = FileSet.from_bytes(Role.DEFENDER_SERVER, files)
    found = judge(held, now=NOW - timedelta(hours=2), source=Source.CUSTOM).set
    assert found is not None
    refused_by_client(server_context(found), "expired")


# --- sessions


def test_no_tickets_on_a_mutual_channel() -> None:
    server = server_context(SERVER_SET)
    client = client_context(CLIENT_SET)
    first = shake(server, client)
    assert first.ok
    assert first.client.session is None or not first.client.session.has_ticket
    again = shake(server, client, session=first.client.session)
    assert again.ok
    assert not again.server.resumed


def test_tickets_would_have_been_seen(tmp_path: Path) -> None:
    """The control of the test above: a context as Python makes it issues them."""
    server = one_way("defender-server-cert.pem", "defender-server-key.pem", tmp_path)
    first = shake(server, client_context(CLIENT_SET))
    assert first.client.session is not None
    assert first.client.session.has_ticket


def test_a_session_of_1_2_is_seen_to_be_resumed() -> None:
    """Neither num_tickets nor OP_NO_TICKET prevents it; `resumed` is how a listener sees it."""
    server = server_context(SERVER_SET, minimum=ssl.TLSVersion.TLSv1_2)
    client = client_context(CLIENT_SET, minimum=ssl.TLSVersion.TLSv1_2)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    first = shake(server, client)
    assert first.ok
    assert not first.server.resumed
    again = shake(server, client, session=first.client.session)
    assert again.server.resumed
    # A new context, as every swap makes one, knows no session of the old.
    fresh = shake(
        server_context(SERVER_SET, minimum=ssl.TLSVersion.TLSv1_2), client, session=first.client.session
    )
    assert fresh.ok
    assert not fresh.server.resumed


def test_resumed_asks_the_connection() -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = client_context(CLIENT_SET).wrap_bio(to_client, to_server, server_hostname="console.test")
    assert not resumed(connection)


# --- how contexts are made


def test_contexts_are_explicit() -> None:
    server, client = server_context(SERVER_SET), client_context(CLIENT_SET)
    for context in (server, client):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags == VERIFY_FLAGS
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_TICKET
    assert server.num_tickets == 0
    assert client.check_hostname
    assert not client.hostname_checks_common_name
    assert server_context(minted(Role.HTTPS_SERVER)).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_role_on_the_wrong_side_is_a_bug() -> None:
    with pytest.raises(ValueError, match="is no server"):
        server_context(CLIENT_SET)
    with pytest.raises(ValueError, match="is no client"):
        client_context(SERVER_SET)


def test_files_are_not_read_again(tmp_path: Path) -> None:
    """What was judged is what is used, whatever becomes of the files."""
    from common.certificates import load

    for file, data in MINTED.files.items():
        (tmp_path / file).write_bytes(data)
        (tmp_path / file).chmod(0o600)
    found = load(tmp_path, Role.DEFENDER_SERVER, now=NOW, source=Source.CUSTOM).set
    for file in MINTED.files:
        (tmp_path / file).write_bytes(b"rubbish")
    assert found is not None
    assert shake(server_context(found), client_context(CLIENT_SET)).ok


def test_what_openssl_refuses_is_said() -> None:
    other = minted(Role.DEFENDER_SERVER, STRANGER)
    with pytest.raises(CertificateSetError) as caught:
        server_context(replace(SERVER_SET, key=other.key))
    assert "defender-server-cert.pem: OpenSSL refuses it (KEY_VALUES_MISMATCH)" in str(caught.value)
    with pytest.raises(CertificateSetError) as caught:
        server_context(replace(SERVER_SET, anchors=other.anchors))
    assert "defender-server-cert.pem: OpenSSL refuses it (" in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def test_our_own_sets_pass_even_the_strict_rules(tmp_path: Path) -> None:
    client = plain_client(MINTED.files["defender-ca.pem"])
    client.verify_flags = ssl.VerifyFlags.VERIFY_X509_STRICT
    assert shake(one_way("defender-server-cert.pem", "defender-server-key.pem", tmp_path), client).ok
    server = one_way("defender-server-cert.pem", "defender-server-key.pem", tmp_path)
    server.verify_flags = ssl.VerifyFlags.VERIFY_X509_STRICT
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=MINTED.files["defender-ca.pem"].decode())
    assert shake(server, client_context(CLIENT_SET)).ok


def test_why_the_strict_rules_are_off(tmp_path: Path) -> None:
    """A leaf as `openssl x509 -req -CA` of OpenSSL 3.0 makes it, without key identifiers, is not weak."""
    ca = make_ca("ca")
    leaf = make_server(ca, identifiers=False)
    found = judged(Role.DEFENDER_SERVER, leaf, [ca]).set
    assert found is not None
    client = plain_client(ca.pem)
    context = loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path, leaf.pem, leaf.key_pem)
    assert shake(context, client).ok
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    outcome = shake(context, client)
    assert "Missing Authority Key Identifier" in getattr(outcome.client.error, "verify_message", "")


def test_partial_chain_both_ways(tmp_path: Path) -> None:
    """docs/decisions/0003: a bundle with only the issuing CA is enough, and a plain context refuses it."""
    root = make_ca("root")
    issuing = make_ca("issuing", root)
    server = judged(Role.DEFENDER_SERVER, make_server(issuing), [issuing]).set
    client = judged(Role.DEFENDER_CLIENT, make_client(issuing), [issuing]).set
    assert server is not None
    assert client is not None
    assert shake(server_context(server), client_context(client)).ok
    plain = plain_client(issuing.pem)
    plain.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    leaf = make_server(issuing)
    context = loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path, leaf.pem, leaf.key_pem)
    outcome = shake(context, plain)
    assert "unable to get issuer certificate" in getattr(outcome.client.error, "verify_message", "")


def test_with_only_the_issuing_ca_a_sibling_of_it_is_refused() -> None:
    """What an operator gains by a bundle with only the issuing CA: the root's other CAs aren't trusted."""
    root = make_ca("root")
    issuing, sibling = make_ca("issuing", root), make_ca("sibling", root)
    server = judged(Role.DEFENDER_SERVER, make_server(issuing), [issuing]).set
    client = judged(Role.DEFENDER_CLIENT, make_client(sibling), [root], [sibling]).set
    assert server is not None
    assert client is not None
    outcome = shake(server_context(server), client_context(client))
    assert outcome.server.reason == "CERTIFICATE_VERIFY_FAILED"


# --- agreement with OpenSSL


def openssl_accepts(
    role: Role, leaf: Cert, anchors: Sequence[Cert], chain: Sequence[Cert], tmp: Path
) -> bool:
    """What OpenSSL says of the same files, without the loader: the certificates in the order of the set."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    pem = b"".join(one.pem for one in (leaf, *chain))
    verifier, shower = (client, server) if role.is_server else (server, client)
    for context in (server, client):
        context.set_ciphers("DEFAULT:@SECLEVEL=2")
    try:
        loaded(shower, tmp, pem, leaf.key_pem)
        if shower is client:
            fallback = make_server(None)
            loaded(server, tmp, fallback.pem, fallback.key_pem)
        verifier.verify_flags = VERIFY_FLAGS
        verifier.verify_mode = ssl.CERT_REQUIRED
        for anchor in anchors:
            verifier.load_verify_locations(cadata=anchor.der)
    except ssl.SSLError:
        return False
    return shake(server, client, hostname=None).ok


NAMES = ["A", "B", "C"]
WHEN = st.sampled_from([(-DAY, 30 * DAY)] * 8 + [(-9 * DAY, -DAY), (DAY, 9 * DAY)])


@st.composite
def pkis(draw: st.DrawFn) -> tuple[Role, Cert, list[Cert], list[Cert]]:
    """Small PKIs with everything that goes wrong: names that repeat, rings, wrong bits, wrong times."""
    role = draw(st.sampled_from([Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT]))
    cas: list[Cert] = []
    for _ in range(draw(st.integers(1, 4))):
        begin, end = draw(WHEN)
        # A CA's certificate may be issued before its issuer's in this list: by name and key, not by object.
        issuer = draw(st.none() | st.sampled_from(cas)) if cas else None
        cas.append(
            issue(
                draw(st.sampled_from(NAMES)),
                issuer,
                key_=key(
                    draw(st.sampled_from(["p256", "p256", "rsa2048", "ed25519"])), draw(st.integers(800, 801))
                ),
                ca=draw(st.sampled_from([True] * 30 + [False, None])),
                key_usage=draw(st.sampled_from([usage("key_cert_sign")] * 15 + [None, usage("crl_sign")])),
                purposes=draw(st.sampled_from([None] * 6 + [[SERVER], [CLIENT], [SERVER, CLIENT]])),
                begin=NOW + begin,
                end=NOW + end,
                identifiers=draw(st.booleans()),
                extra=draw(
                    st.sampled_from(
                        [[]] * 6
                        + [
                            [(x509.NameConstraints([x509.DNSName("test")], None), True)],
                            [(x509.NameConstraints(None, [x509.DNSName("test")]), True)],
                        ]
                    )
                ),
            )
        )
    begin, end = draw(WHEN)
    leaf = issue(
        "leaf",
        draw(st.sampled_from(cas)),
        ca=draw(st.sampled_from([False] * 15 + [None, True])),
        key_usage=draw(st.sampled_from([usage("digital_signature")] * 6 + [None, usage("key_encipherment")])),
        purposes=draw(st.sampled_from([None, [SERVER], [CLIENT], [SERVER, CLIENT], [SERVER, CLIENT]])),
        names=draw(st.sampled_from([["console.test"], ["console.test", "127.0.0.1"], []])),
        begin=NOW + begin,
        end=NOW + end,
        identifiers=draw(st.booleans()),
    )
    anchors = draw(st.lists(st.sampled_from(cas), min_size=1, max_size=3, unique_by=id))
    chain = draw(st.lists(st.sampled_from(cas), max_size=4, unique_by=id))
    return role, leaf, anchors, chain


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(pkis())
def test_what_the_loader_accepts_openssl_accepts(
    tmp_path_factory: pytest.TempPathFactory, pki: tuple[Role, Cert, list[Cert], list[Cert]]
) -> None:
    role, leaf, anchors, chain = pki
    files = FileSet.from_bytes(role, files_for(role, leaf, anchors, chain))
    found = confirmed(judge(files, now=NOW, source=Source.CUSTOM))
    if found.set is None:
        return
    by_der = {one.der: one for one in (leaf, *chain)}
    sent = [by_der[one.der] for one in found.set.chain[1:]]
    assert openssl_accepts(role, leaf, anchors, sent, tmp_path_factory.mktemp("pair"))
    (server_context if role.is_server else client_context)(found.set)


def test_openssl_is_asked_about_a_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap is on the loop's time; its loader has asked in a thread."""
    asked: list[CertificateSet] = []
    verify = tls._verify_by_handshake

    def counted(set_: CertificateSet, flags: ssl.VerifyFlags) -> None:
        asked.append(set_)
        verify(set_, flags)

    monkeypatch.setattr(tls, "_verify_by_handshake", counted)
    ca = make_ca("asked once")
    for _ in range(2):
        contents = files_for(Role.DEFENDER_SERVER, make_server(ca), [ca])
        files = FileSet.from_bytes(Role.DEFENDER_SERVER, contents)
        found = confirmed(judge(files, now=NOW, source=Source.CUSTOM)).set
        assert found is not None
        server_context(found)
        server_context(found)
    assert len(asked) == 2


def no_descriptor(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_host_without_descriptors_is_no_fault_of_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", no_descriptor)
    with pytest.raises(CertificateSetError) as caught:
        server_context(SERVER_SET)
    (fault,) = caught.value.faults
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.HOST
    assert str(fault) == (
        "defender-server-cert.pem: cannot be given to OpenSSL (Too many open files); raise what this host "
        "allows the process (ulimit -n, memory)"
    )
    judgement = confirmed(Judgement(SERVER_SET))
    assert judgement.set is None
    assert [one.kind for one in judgement.errors] == [FaultKind.HOST]


def test_openssl_confirms_a_set_without_a_bundle_too() -> None:
    mine, stranger = minted(Role.HTTPS_SERVER), minted(Role.HTTPS_SERVER, STRANGER)
    assert confirmed(Judgement(mine)).set is mine
    refused = confirmed(Judgement(replace(mine, key=stranger.key)))
    assert refused.set is None
    assert [fault.kind for fault in refused.errors] == [FaultKind.UNTRUSTED]
