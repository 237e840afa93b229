"""Every check of the loader: the good set passes, and each fault is told by name with file and remedy."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import FaultKind, FileSet, Judgement, Role, Severity, Source, inspect, judge
from common.certificates.contents import MAX_CHAIN
from common.certificates.pem import encode_block
from tests.common.certificates.pki import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Cert,
    files_for,
    issue,
    judge_files,
    judged,
    key,
    key_pem,
    make_ca,
    make_client,
    make_server,
    name,
    usage,
    with_old_hash,
)

CA = make_ca("ca")
OTHER_CA = make_ca("other ca")
SERVER_CERT = make_server(CA)
CLIENT_CERT = make_client(CA)
LEAVES = {
    Role.DEFENDER_SERVER: make_server,
    Role.DEFENDER_CLIENT: make_client,
    Role.ADMISSION_SERVER: make_server,
}


def kinds(judgement: Judgement) -> list[FaultKind]:
    return [fault.kind for fault in judgement.faults]


def refused(judgement: Judgement, file: str, kind: FaultKind, *words: str) -> None:
    """Exactly one error, of this kind, in this file, with a sentence that has these words."""
    assert judgement.set is None
    assert [(fault.file, fault.kind) for fault in judgement.errors] == [(file, kind)]
    sentence = str(judgement.errors[0])
    assert sentence.startswith(f"{file}: ")
    assert "; " in sentence
    for word in words:
        assert word in sentence


def warned(judgement: Judgement, file: str, kind: FaultKind) -> None:
    assert judgement.set is not None
    assert [(fault.file, fault.kind) for fault in judgement.warnings] == [(file, kind)]
    assert not judgement.errors


# --- what passes


@pytest.mark.parametrize("role", LEAVES)
@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519"])
def test_each_key_algorithm_passes(role: Role, kind: str) -> None:
    leaf = LEAVES[role](CA, key_=key(kind))
    judgement = judged(role, leaf, [CA])
    assert judgement.faults == ()
    assert judgement.set is not None
    assert judgement.set.leaf.der == leaf.der
    assert judgement.set.role is role
    assert judgement.set.source is Source.CUSTOM
    assert judgement.set.key.fingerprint == judgement.set.leaf.key_fingerprint


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "ed25519"])
def test_each_ca_algorithm_passes(kind: str) -> None:
    ca = make_ca("ca of a kind", key_=key(kind, 1))
    assert judged(Role.DEFENDER_SERVER, make_server(ca), [ca]).faults == ()


def test_a_ca_that_signs_with_pss_passes() -> None:
    ca = make_ca("pss", key_=key("rsa2048", 2), pss=True)
    assert judged(Role.DEFENDER_SERVER, make_server(ca, pss=True), [ca]).faults == ()


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("rsa2048", serialization.PrivateFormat.PKCS8),
        ("rsa2048", serialization.PrivateFormat.TraditionalOpenSSL),
        ("p256", serialization.PrivateFormat.PKCS8),
        ("p256", serialization.PrivateFormat.TraditionalOpenSSL),
        ("ed25519", serialization.PrivateFormat.PKCS8),
    ],
)
def test_each_key_form_passes_and_gives_the_same_set(kind: str, form: serialization.PrivateFormat) -> None:
    leaf = make_server(CA, key_=key(kind))
    files = files_for(Role.DEFENDER_SERVER, leaf, [CA])
    plain = judge_files(Role.DEFENDER_SERVER, files).set
    files["defender-server-key.pem"] = key_pem(leaf.key, form)
    again = judge_files(Role.DEFENDER_SERVER, files)
    assert again.faults == ()
    assert again.set == plain


INTER_1 = make_ca("inter 1", CA)
INTER_2 = make_ca("inter 2", INTER_1)
DEEP = make_server(INTER_2)


@pytest.mark.parametrize("order", list(itertools.permutations([DEEP, INTER_1, INTER_2])))
def test_a_chain_in_any_order_is_put_in_order(order: tuple[Cert, ...]) -> None:
    files = files_for(Role.DEFENDER_SERVER, DEEP, [CA])
    files["defender-server-cert.pem"] = b"".join(one.pem for one in order)
    judgement = judge_files(Role.DEFENDER_SERVER, files)
    assert judgement.faults == ()
    assert judgement.set is not None
    assert [one.der for one in judgement.set.chain] == [DEEP.der, INTER_2.der, INTER_1.der]
    assert [one.der for one in judgement.set.path] == [DEEP.der, INTER_2.der, INTER_1.der, CA.der]


def test_the_root_in_the_chain_file_is_no_fault() -> None:
    judgement = judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA], [CA])
    assert judgement.faults == ()
    assert judgement.set is not None
    assert len(judgement.set.chain) == 2


def test_a_bundle_with_several_cas_in_any_order_is_the_same_set() -> None:
    one = judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA, OTHER_CA])
    two = judged(Role.DEFENDER_SERVER, SERVER_CERT, [OTHER_CA, CA])
    assert one.set is not None
    assert two.set is not None
    assert len(one.set.anchors) == 2
    assert one.set.fingerprint == two.set.fingerprint
    alone = judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA]).set
    assert alone is not None
    assert alone.fingerprint != one.set.fingerprint


def test_a_bundle_with_only_the_issuing_ca_is_enough() -> None:
    judgement = judged(Role.DEFENDER_SERVER, DEEP, [INTER_2])
    assert judgement.faults == ()
    assert judgement.set is not None
    assert [one.subject for one in judgement.set.path] == ["CN=server", "CN=inter 2"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "around", [b"", b"Subject: CN=server, with a note\n", b"\xef\xbb\xbf# caf\xc3\xa9\n\n"]
)
@pytest.mark.parametrize("trailing", [b"", b"\n\n"])
def test_text_and_line_endings_do_not_matter(ending: bytes, around: bytes, trailing: bytes) -> None:
    files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA, OTHER_CA])
    changed = {
        file: (around + data.rstrip() + b"\n" + around + trailing).replace(b"\n", ending)
        for file, data in files.items()
    }
    judgement = judge_files(Role.DEFENDER_SERVER, changed)
    assert judgement.faults == ()
    assert judgement.set == judge_files(Role.DEFENDER_SERVER, files).set


def test_the_set_is_valid_as_long_as_all_of_its_path() -> None:
    ca = make_ca("short ca", begin=NOW - 3 * DAY, end=NOW + 5 * DAY)
    leaf = make_server(ca, begin=NOW - 2 * DAY, end=NOW + 9 * DAY)
    found = judged(Role.DEFENDER_SERVER, leaf, [ca]).set
    assert found is not None
    assert (found.not_before, found.not_after) == (NOW - 2 * DAY, NOW + 5 * DAY)


def test_a_leaf_without_extended_key_usage_serves_any_purpose() -> None:
    leaf = issue("plain", CA, names=["console.test"])
    assert judged(Role.DEFENDER_SERVER, leaf, [CA]).faults == ()


def test_names_are_compared_as_openssl_does() -> None:
    ca = make_ca("Our  Own CA")
    leaf = make_server(ca, issuer_name=name("our own ca"))
    assert judged(Role.DEFENDER_SERVER, leaf, [ca]).faults == ()


# --- https: no bundle


def test_https_takes_a_self_signed_leaf() -> None:
    judgement = judged(Role.HTTPS_SERVER, make_server(None))
    assert judgement.faults == ()
    assert judgement.set is not None
    assert judgement.set.anchors == ()


def test_https_warns_of_a_leaf_that_comes_without_its_issuer() -> None:
    """Only its clients know whether that is the root, and they would be the ones to refuse it."""
    judgement = judged(Role.HTTPS_SERVER, DEEP)
    assert judgement.set is not None
    (warning,) = judgement.warnings
    assert "comes without its issuer" in warning.what
    assert "add the intermediates" in warning.remedy
    assert not judged(Role.HTTPS_SERVER, make_server(None)).warnings  # its own issuer


def test_https_takes_a_leaf_of_a_private_ca_with_or_without_it() -> None:
    for chain in ([INTER_2], [INTER_1, INTER_2], [CA, INTER_1, INTER_2]):
        judgement = judged(Role.HTTPS_SERVER, DEEP, chain=chain)
        assert judgement.faults == ()
        assert judgement.set is not None
        assert len(judgement.set.chain) == 1 + len(chain)


def test_https_wants_a_consistent_chain() -> None:
    impostor = make_ca("inter 2", key_=key("p256", 500), identifiers=False)
    leaf = make_server(INTER_2, identifiers=False)
    refused(
        judged(Role.HTTPS_SERVER, leaf, chain=[impostor]),
        "console-cert.pem",
        FaultKind.BAD_SIGNATURE,
        "inter 2",
    )


def test_https_refuses_an_expired_intermediate() -> None:
    inter = make_ca("late", CA, end=NOW - timedelta(hours=1))
    leaf = make_server(inter)
    refused(judged(Role.HTTPS_SERVER, leaf, chain=[inter]), "console-cert.pem", FaultKind.EXPIRED, "late")


# --- the chain


def test_refuses_a_chain_that_does_not_reach_the_bundle() -> None:
    refused(
        judged(Role.DEFENDER_SERVER, SERVER_CERT, [OTHER_CA]),
        "defender-server-cert.pem",
        FaultKind.UNTRUSTED,
        "CN=ca",
        "defender-ca.pem",
    )
    refused(
        judged(Role.DEFENDER_SERVER, SERVER_CERT, [OTHER_CA], [CA]),
        "defender-server-cert.pem",
        FaultKind.UNTRUSTED,
        "ends the chain at CN=ca",
    )


def test_refuses_a_missing_intermediate() -> None:
    judgement = judged(Role.DEFENDER_SERVER, DEEP, [CA], [INTER_1])
    assert kinds(judgement) == [FaultKind.UNTRUSTED, FaultKind.UNRELATED]
    assert "CN=inter 2" in str(judgement.errors[0])


def test_refuses_a_ca_of_the_same_name_with_another_key() -> None:
    for identifiers in (True, False):
        twin = make_ca("ca", key_=key("p256", 501), identifiers=identifiers)
        leaf = make_server(CA, identifiers=identifiers)
        judgement = judged(Role.DEFENDER_SERVER, leaf, [twin])
        expected = FaultKind.UNTRUSTED if identifiers else FaultKind.BAD_SIGNATURE
        refused(judgement, "defender-server-cert.pem", expected)


def test_cas_of_one_name_are_told_apart_by_identifiers_only() -> None:
    twin = make_ca("ca", key_=key("p256", 501))
    assert judged(Role.DEFENDER_SERVER, SERVER_CERT, [twin, CA]).faults == ()
    nameless = [make_ca("ca", key_=key("p256", index), identifiers=False) for index in (501, 502)]
    leaf = make_server(nameless[0], identifiers=False)
    refused(judged(Role.DEFENDER_SERVER, leaf, nameless), "defender-ca.pem", FaultKind.AMBIGUOUS_ISSUER)


def test_a_renewed_ca_with_the_same_key_may_stand_beside_its_old_certificate() -> None:
    old = make_ca("ca", key_=CA.key, begin=NOW - 9 * DAY, end=NOW - DAY)
    judgement = judged(Role.DEFENDER_SERVER, SERVER_CERT, [old, CA])
    warned(judgement, "defender-ca.pem", FaultKind.EXPIRED)
    assert judgement.set is not None
    assert judgement.set.path[-1].der == CA.der


def test_an_unrelated_certificate_is_left_out_with_a_warning() -> None:
    judgement = judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA], [OTHER_CA])
    warned(judgement, "defender-server-cert.pem", FaultKind.UNRELATED)
    assert judgement.set is not None
    assert [one.der for one in judgement.set.chain] == [SERVER_CERT.der]


def test_a_cross_signed_intermediate_stays_in_the_chain() -> None:
    crossed = make_ca("inter 1", OTHER_CA, key_=INTER_1.key)
    leaf = make_server(INTER_1)
    judgement = judged(Role.DEFENDER_SERVER, leaf, [CA], [crossed, INTER_1])
    assert judgement.errors == ()
    assert judgement.set is not None
    assert {one.der for one in judgement.set.chain[1:]} == {crossed.der, INTER_1.der}


def test_a_ring_of_cross_signatures_ends() -> None:
    key_a, key_b = key("p256", 601), key("p256", 602)
    seed_a, seed_b = make_ca("a", key_=key_a), make_ca("b", key_=key_b)
    ring = [make_ca("a", seed_b, key_=key_a), make_ca("b", seed_a, key_=key_b)]
    judgement = judged(Role.DEFENDER_SERVER, make_server(ring[0]), [CA], ring)
    assert FaultKind.UNTRUSTED in kinds(judgement)


def test_refuses_a_path_that_is_too_long() -> None:
    short = make_ca("short", path_length=0)
    inter = make_ca("below short", short)
    refused(
        judged(Role.DEFENDER_SERVER, make_server(inter), [short], [inter]),
        "defender-ca.pem",
        FaultKind.PATH_TOO_LONG,
        "allows 0 CAs",
    )


def test_a_self_issued_ca_does_not_count_for_the_path_length() -> None:
    short = make_ca("short", path_length=0)
    rollover = make_ca("short", short, key_=key("p256", 503))
    leaf = make_server(rollover)
    assert judged(Role.DEFENDER_SERVER, leaf, [short], [rollover]).faults == ()


# --- the certificates


@pytest.mark.parametrize(
    ("role", "make", "purposes"),
    [
        (Role.DEFENDER_SERVER, make_server, [CLIENT]),
        (Role.DEFENDER_CLIENT, make_client, [SERVER]),
        (Role.ADMISSION_SERVER, make_server, [CLIENT]),
        (Role.HTTPS_SERVER, make_server, [CLIENT]),
        (Role.DEFENDER_SERVER, make_server, [x509.ObjectIdentifier("2.5.29.37.0")]),
    ],
)
def test_refuses_the_wrong_extended_key_usage(
    role: Role, make: Callable[..., Cert], purposes: list[x509.ObjectIdentifier]
) -> None:
    judgement = judged(role, make(CA, purposes=purposes), [CA])
    assert judgement.set is None
    assert [fault.kind for fault in judgement.errors] == [FaultKind.WRONG_PURPOSE]
    assert "clientAuth" in str(judgement.errors[0]) or "serverAuth" in str(judgement.errors[0])


def test_refuses_a_ca_whose_purpose_is_another() -> None:
    ca = make_ca("for servers", purposes=[SERVER])
    assert judged(Role.DEFENDER_SERVER, make_server(ca), [ca]).faults == ()
    refused(
        judged(Role.DEFENDER_CLIENT, make_client(ca), [ca]),
        "defender-ca.pem",
        FaultKind.WRONG_PURPOSE,
        "clientAuth",
    )


def test_refuses_a_key_usage_without_signatures() -> None:
    leaf = make_server(CA, key_usage=usage("key_encipherment"))
    refused(
        judged(Role.DEFENDER_SERVER, leaf, [CA]),
        "defender-server-cert.pem",
        FaultKind.WRONG_PURPOSE,
        "digitalSignature",
    )


@pytest.mark.parametrize(("bits", "server"), [(0x80, False), (0x40, True), (0xC0, True)])
def test_the_netscape_type_counts(bits: int, server: bool) -> None:
    old = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), bytes([3, 2, 0, bits]))
    judgement = judged(Role.DEFENDER_SERVER, make_server(CA, extra=[(old, False)]), [CA])
    assert (judgement.set is not None) is server
    assert kinds(judgement) == ([] if server else [FaultKind.WRONG_PURPOSE])


def test_refuses_a_ca_in_place_of_a_leaf() -> None:
    leaf = make_ca(
        "ca as leaf", CA, names=["console.test"], key_usage=usage("digital_signature", "key_cert_sign")
    )
    refused(
        judged(Role.DEFENDER_SERVER, leaf, [CA]),
        "defender-server-cert.pem",
        FaultKind.LEAF_IS_CA,
        "CN=ca as leaf",
    )


def test_refuses_a_leaf_in_place_of_a_ca() -> None:
    refused(
        judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA, CLIENT_CERT]),
        "defender-ca.pem",
        FaultKind.NOT_A_CA,
        "certificate 2 (CN=client)",
    )


def test_refuses_a_leaf_as_an_intermediate() -> None:
    middle = issue("middle", CA)
    judgement = judged(Role.DEFENDER_SERVER, make_server(middle), [CA], [middle])
    assert kinds(judgement) == [FaultKind.NOT_A_CA]


def test_refuses_a_ca_that_may_not_sign() -> None:
    ca = make_ca("mute", key_usage=usage("crl_sign"))
    judgement = judged(Role.DEFENDER_SERVER, make_server(ca), [ca])
    refused(judgement, "defender-ca.pem", FaultKind.CA_CANNOT_SIGN, "keyCertSign")


def test_refuses_a_self_signed_ca_whose_signature_is_not_its_own() -> None:
    forged = make_ca("ca", issue("ca", key_=key("p256", 777)), key_=CA.key, identifiers=False)
    refused(
        judged(Role.DEFENDER_SERVER, SERVER_CERT, [forged]),
        "defender-ca.pem",
        FaultKind.BAD_SIGNATURE,
        "its own",
    )
    rollover = make_ca("ca", CA, key_=key("p256", 778))
    assert judged(Role.DEFENDER_SERVER, make_server(rollover), [rollover, CA]).faults == ()


def test_a_ca_without_key_usage_may_sign() -> None:
    ca = make_ca("old", key_usage=None)
    assert judged(Role.DEFENDER_SERVER, make_server(ca), [ca]).faults == ()


@pytest.mark.parametrize("role", LEAVES)
def test_refuses_an_expired_leaf(role: Role) -> None:
    leaf = LEAVES[role](CA, end=NOW - timedelta(seconds=1))
    judgement = judged(role, leaf, [CA])
    assert kinds(judgement) == [FaultKind.EXPIRED]
    assert (NOW - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ") in str(judgement.errors[0])


@pytest.mark.parametrize("role", LEAVES)
def test_refuses_a_leaf_that_is_not_yet_valid(role: Role) -> None:
    leaf = LEAVES[role](CA, begin=NOW + timedelta(seconds=1))
    judgement = judged(role, leaf, [CA])
    assert kinds(judgement) == [FaultKind.NOT_YET_VALID]
    assert "clock" in str(judgement.errors[0])


def test_validity_ends_where_openssl_ends_it() -> None:
    leaf = make_server(CA, begin=NOW, end=NOW + DAY)
    assert judged(Role.DEFENDER_SERVER, leaf, [CA], now=NOW).set is not None
    assert judged(Role.DEFENDER_SERVER, leaf, [CA], now=NOW + DAY - timedelta(microseconds=1)).set is not None
    assert judged(Role.DEFENDER_SERVER, leaf, [CA], now=NOW + DAY).set is None
    assert judged(Role.DEFENDER_SERVER, leaf, [CA], now=NOW - timedelta(microseconds=1)).set is None


@pytest.mark.parametrize(
    ("begin", "end", "kind"),
    [(NOW - 2 * DAY, NOW - DAY, FaultKind.EXPIRED), (NOW + DAY, NOW + 2 * DAY, FaultKind.NOT_YET_VALID)],
)
def test_a_ca_outside_its_time_matters_only_where_it_is_needed(
    begin: object, end: object, kind: FaultKind
) -> None:
    ca = make_ca("elsewhen", begin=begin, end=end)
    refused(judged(Role.DEFENDER_SERVER, make_server(ca), [ca, CA]), "defender-ca.pem", kind, "elsewhen")
    warned(judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA, ca]), "defender-ca.pem", kind)


@pytest.mark.parametrize("kind", ["rsa1024", "secp256k1"])
def test_refuses_weak_keys(kind: str) -> None:
    leaf = make_server(CA, key_=key(kind))
    refused(judged(Role.DEFENDER_SERVER, leaf, [CA]), "defender-server-cert.pem", FaultKind.WEAK_KEY)
    ca = make_ca("weak ca", key_=key(kind))
    refused(judged(Role.DEFENDER_SERVER, make_server(ca), [ca]), "defender-ca.pem", FaultKind.WEAK_KEY)


@pytest.mark.parametrize("kind", ["ed448", "dsa"])
def test_refuses_kinds_of_key_that_are_not_supported(kind: str) -> None:
    judgement = judged(Role.DEFENDER_SERVER, make_server(CA, key_=key(kind)), [CA])
    assert [(fault.file, fault.kind) for fault in judgement.errors] == [
        ("defender-server-cert.pem", FaultKind.UNSUPPORTED_KEY),
        ("defender-server-key.pem", FaultKind.UNSUPPORTED_KEY),
    ]


RSA_CA = make_ca("rsa ca", key_=key("rsa2048", 3))


@pytest.mark.parametrize("hash_", [hashes.SHA1(), hashes.MD5()])
def test_refuses_weak_signatures_but_not_on_a_self_signed_ca(hash_: hashes.HashAlgorithm) -> None:
    leaf = with_old_hash(make_server(RSA_CA), RSA_CA, hash_)
    refused(
        judged(Role.DEFENDER_SERVER, leaf, [RSA_CA]),
        "defender-server-cert.pem",
        FaultKind.WEAK_SIGNATURE,
        hash_.name.upper(),
    )
    old_ca = with_old_hash(RSA_CA, RSA_CA, hash_)
    assert judged(Role.DEFENDER_SERVER, make_server(RSA_CA), [old_ca]).faults == ()
    inter = make_ca("old inter", RSA_CA)
    old_inter = with_old_hash(inter, RSA_CA, hash_)
    refused(
        judged(Role.DEFENDER_SERVER, make_server(inter), [old_inter]),
        "defender-ca.pem",
        FaultKind.WEAK_SIGNATURE,
    )


@pytest.mark.parametrize("role", [Role.DEFENDER_SERVER, Role.HTTPS_SERVER, Role.ADMISSION_SERVER])
def test_refuses_a_server_without_names(role: Role) -> None:
    judgement = judged(role, make_server(CA, "console.test", names=()), [CA])
    assert kinds(judgement) == [FaultKind.NO_NAME]


def test_refuses_a_critical_extension_that_nobody_knows() -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    assert judged(Role.DEFENDER_SERVER, make_server(CA, extra=[(strange, False)]), [CA]).faults == ()
    refused(
        judged(Role.DEFENDER_SERVER, make_server(CA, extra=[(strange, True)]), [CA]),
        "defender-server-cert.pem",
        FaultKind.UNKNOWN_EXTENSION,
        "1.2.3.4.5",
    )


def test_refuses_names_for_which_the_ca_may_not_vouch() -> None:
    only = x509.NameConstraints([x509.DNSName("example.com")], None)
    ca = make_ca("narrow", extra=[(only, True)])
    good = make_server(ca, names=["console.example.com"])
    assert judged(Role.DEFENDER_SERVER, good, [ca]).faults == ()
    refused(
        judged(Role.DEFENDER_SERVER, make_server(ca, names=["console.test"]), [ca]),
        "defender-server-cert.pem",
        FaultKind.NAME_CONSTRAINT,
        "console.test",
        "CN=narrow",
    )


def test_warns_of_a_client_certificate_that_can_serve() -> None:
    both = make_client(CA, purposes=[CLIENT, SERVER], names=["console.test"])
    warned(judged(Role.DEFENDER_CLIENT, both, [CA]), "defender-client-cert.pem", FaultKind.TWO_FACED)
    nameless = make_client(CA, purposes=[CLIENT, SERVER])
    assert judged(Role.DEFENDER_CLIENT, nameless, [CA]).faults == ()


# --- the key


def test_refuses_the_key_of_another_certificate() -> None:
    files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA]) | {
        "defender-server-key.pem": CLIENT_CERT.key_pem
    }
    refused(
        judge_files(Role.DEFENDER_SERVER, files),
        "defender-server-key.pem",
        FaultKind.KEY_MISMATCH,
        "defender-server-cert.pem",
    )


def test_refuses_a_key_of_another_kind() -> None:
    for kind in ("rsa2048", "ed25519", "p384"):
        files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA])
        files["defender-server-key.pem"] = key_pem(key(kind))
        refused(judge_files(Role.DEFENDER_SERVER, files), "defender-server-key.pem", FaultKind.KEY_MISMATCH)


def test_cert_and_key_swapped() -> None:
    files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA])
    names = ("defender-server-cert.pem", "defender-server-key.pem")
    files[names[0]], files[names[1]] = files[names[1]], files[names[0]]
    judgement = judge_files(Role.DEFENDER_SERVER, files)
    assert [(fault.file, fault.kind) for fault in judgement.errors] == [
        (name_, FaultKind.WRONG_BLOCK) for name_ in names
    ]


def test_a_renewed_leaf_beside_its_old_certificate_is_the_one_in_use() -> None:
    old = make_server(CA, key_=SERVER_CERT.key, end=NOW - DAY / 2)
    for order in ([old, SERVER_CERT], [SERVER_CERT, old]):
        files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA])
        files["defender-server-cert.pem"] = b"".join(one.pem for one in order)
        judgement = judge_files(Role.DEFENDER_SERVER, files)
        warned(judgement, "defender-server-cert.pem", FaultKind.UNRELATED)
        assert judgement.set is not None
        assert judgement.set.leaf.der == SERVER_CERT.der


# --- all at once


def test_all_faults_are_told_together_in_the_order_of_the_files() -> None:
    leaf = make_server(
        OTHER_CA,
        "bad",
        names=(),
        end=NOW - DAY / 2,
        purposes=[CLIENT],
        key_=key("rsa1024"),
        key_usage=usage("key_agreement"),
    )
    files = files_for(Role.DEFENDER_SERVER, leaf, [CA, CLIENT_CERT])
    files["defender-ca.pem"] += CA.pem
    files["defender-server-key.pem"] = key_pem(key("rsa2048"), password=b"secret")
    judgement = judge_files(Role.DEFENDER_SERVER, files)
    assert judgement.set is None
    assert [fault.file for fault in judgement.faults] == sorted(
        (fault.file for fault in judgement.faults),
        key=["defender-ca.pem", "defender-server-cert.pem", "defender-server-key.pem"].index,
    )
    assert set(kinds(judgement)) == {
        FaultKind.DUPLICATE,
        FaultKind.NOT_A_CA,
        FaultKind.NO_NAME,
        FaultKind.EXPIRED,
        FaultKind.WRONG_PURPOSE,
        FaultKind.WEAK_KEY,
        FaultKind.UNTRUSTED,
        FaultKind.ENCRYPTED_KEY,
    }


def test_faults_of_the_bundle_are_told_even_without_a_leaf() -> None:
    files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CLIENT_CERT]) | {"defender-server-cert.pem": b""}
    assert set(kinds(judge_files(Role.DEFENDER_SERVER, files))) == {FaultKind.NOT_A_CA, FaultKind.EMPTY}


def test_errors_and_warnings_are_apart() -> None:
    judgement = judged(Role.DEFENDER_SERVER, SERVER_CERT, [OTHER_CA], [INTER_1])
    assert {fault.severity for fault in judgement.errors} == {Severity.ERROR}
    assert {fault.severity for fault in judgement.warnings} == {Severity.WARNING}
    assert len(judgement.errors) + len(judgement.warnings) == len(judgement.faults)


def test_no_set_without_an_error_and_no_error_with_a_set() -> None:
    for judgement in (
        judged(Role.DEFENDER_SERVER, SERVER_CERT, [CA]),
        judge_files(Role.DEFENDER_SERVER, {}),
        judge_files(Role.DEFENDER_SERVER, {"defender-ca.pem": CA.pem}),
        judge_files(Role.HTTPS_SERVER, {}),
    ):
        assert (judgement.set is None) == bool(judgement.errors)


def test_no_key_shows_in_any_repr_or_sentence() -> None:
    files = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA])
    held = FileSet.from_bytes(Role.DEFENDER_SERVER, files)
    judgement = judge(held, now=NOW, source=Source.CUSTOM)
    secret = SERVER_CERT.key_pem.splitlines()[1].decode()
    assert judgement.set is not None
    for text in (repr(held), repr(judgement), repr(judgement.set.key), str(judgement.set)):
        assert secret not in text
        assert "PRIVATE KEY" not in text


def test_inspect_shows_what_can_be_read() -> None:
    files = files_for(Role.DEFENDER_SERVER, DEEP, [CA], [INTER_1]) | {"defender-server-key.pem": b"rubbish"}
    found = inspect(FileSet.from_bytes(Role.DEFENDER_SERVER, files))
    assert {file: [one.subject for one in held] for file, held in found.items()} == {
        "defender-ca.pem": ["CN=ca"],
        "defender-server-cert.pem": ["CN=server", "CN=inter 1"],
    }
    assert inspect(FileSet.from_bytes(Role.DEFENDER_SERVER, {})) == {}


# --- hostile input

GOOD = files_for(Role.DEFENDER_SERVER, SERVER_CERT, [CA])


@pytest.mark.parametrize("file", GOOD)
def test_a_file_cut_at_any_byte_is_refused_and_never_raises(file: str) -> None:
    whole = len(GOOD[file].rstrip())
    for length in range(whole):
        judgement = judge_files(Role.DEFENDER_SERVER, GOOD | {file: GOOD[file][:length]})
        assert judgement.set is None
        assert file in {fault.file for fault in judgement.errors}
    for length in range(whole, len(GOOD[file]) + 1):
        assert judge_files(Role.DEFENDER_SERVER, GOOD | {file: GOOD[file][:length]}).set is not None


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_flipped_bytes_never_raise_and_never_pass_unnoticed(file: str, data: st.DataObject) -> None:
    good = GOOD[file]
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    judgement = judge_files(Role.DEFENDER_SERVER, GOOD | {file: bytes(changed)})
    if judgement.set is not None:
        # What is accepted is what was meant: a change that doesn't matter, such as in a line ending. Of an
        # anchor nothing vouches for the issuer's name, and nothing depends on it.
        meant = judge_files(Role.DEFENDER_SERVER, GOOD).set
        assert meant is not None
        assert judgement.set.chain == meant.chain
        assert judgement.set.key == meant.key
        assert [(one.subject, one.key_fingerprint) for one in judgement.set.anchors] == [
            (one.subject, one.key_fingerprint) for one in meant.anchors
        ]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=2000))
def test_any_bytes_are_judged(file: str, data: bytes) -> None:
    assert judge_files(Role.DEFENDER_SERVER, GOOD | {file: data}).set is None


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_der_inside_good_pem_is_judged(data: st.DataObject) -> None:
    file, cert = data.draw(
        st.sampled_from([("defender-ca.pem", CA), ("defender-server-cert.pem", SERVER_CERT)])
    )
    der = bytearray(cert.der)
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    judgement = judge_files(Role.DEFENDER_SERVER, GOOD | {file: encode_block("CERTIFICATE", bytes(der))})
    if file == "defender-server-cert.pem":
        assert judgement.set is None


def test_too_many_certificates_are_not_looked_at() -> None:
    files = GOOD | {"defender-server-cert.pem": SERVER_CERT.pem * (MAX_CHAIN + 1)}
    refused(judge_files(Role.DEFENDER_SERVER, files), "defender-server-cert.pem", FaultKind.TOO_MANY, "17")


def test_a_subject_cannot_forge_log_lines() -> None:
    leaf = make_server(OTHER_CA, "evil\nCRIT all is well\x1b[2J", end=NOW - DAY / 2)
    judgement = judged(Role.DEFENDER_SERVER, leaf, [CA])
    for fault in judgement.faults:
        assert str(fault).isprintable()
