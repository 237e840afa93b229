"""Whether a bundle still vouches for who is connected."""

from collections.abc import Sequence

from cryptography import x509

from common.certificates import FILES, CertificateSet, FileSet, Role, Source, judge, still_trusts
from tests.common.certificates.pki import DAY, NOW, Cert, key, make_ca, make_client, make_server

ROOT = make_ca("root")
OTHER = make_ca("other")
INTER = make_ca("inter", ROOT)


def bundle(*anchors: Cert) -> CertificateSet:
    """A server's set with these CAs; its own leaf is of the first."""
    files = FILES[Role.DEFENDER_SERVER]
    leaf = make_server(anchors[0])
    contents = {
        str(files.ca): b"".join(anchor.pem for anchor in anchors),
        files.certificate: leaf.pem,
        files.key: leaf.key_pem,
    }
    judgement = judge(FileSet.from_bytes(Role.DEFENDER_SERVER, contents), now=NOW, source=Source.CUSTOM)
    assert judgement.set is not None, judgement.faults
    return judgement.set


def trusted(set_: CertificateSet, *chain: Cert) -> bool:
    return still_trusts(set_, ders(chain), now=NOW)


def ders(chain: Sequence[Cert]) -> list[bytes]:
    return [one.der for one in chain]


def test_a_ca_that_stays_vouches_and_one_that_is_gone_does_not() -> None:
    mine, theirs = make_client(ROOT), make_client(OTHER)
    assert trusted(bundle(ROOT, OTHER), mine, ROOT)
    assert trusted(bundle(OTHER, ROOT), theirs, OTHER)
    assert not trusted(bundle(OTHER), mine, ROOT)
    assert not trusted(bundle(ROOT), theirs, OTHER)


def test_the_way_may_end_elsewhere_than_it_did() -> None:
    leaf = make_client(INTER)
    assert trusted(bundle(INTER), leaf, INTER, ROOT)
    assert trusted(bundle(ROOT), leaf, INTER)
    assert not trusted(bundle(OTHER), leaf, INTER, ROOT)


def test_a_ca_renewed_with_its_key_and_name_still_vouches() -> None:
    renewed = make_ca("root", end=NOW + 90 * DAY)
    assert renewed.der != ROOT.der
    assert trusted(bundle(renewed), make_client(ROOT), ROOT)


def test_a_ca_of_the_same_name_with_another_key_does_not() -> None:
    twin = make_ca("root", key_=key("p256", 901))
    assert not trusted(bundle(twin), make_client(ROOT), ROOT)
    nameless = make_ca("root", key_=key("p256", 902), identifiers=False)
    assert not trusted(bundle(nameless), make_client(ROOT, identifiers=False), ROOT)


def test_dates_do_not_count() -> None:
    assert trusted(bundle(ROOT), make_client(ROOT, begin=NOW - 9 * DAY, end=NOW - DAY), ROOT)


def test_what_cannot_be_read_is_not_trusted() -> None:
    set_ = bundle(ROOT)
    assert not still_trusts(set_, [], now=NOW)
    assert not still_trusts(set_, [b"junk"], now=NOW)
    assert not still_trusts(set_, [make_client(ROOT).der, b"junk"], now=NOW)


def test_a_way_that_ends_among_the_peer_s_own_certificates_is_none() -> None:
    """Two CAs of one name that no identifier tells apart end the climb wherever they stand."""
    twins = [make_ca("twin", key_=key("p256", 911 + turn), identifiers=False) for turn in range(2)]
    leaf = make_client(twins[0], identifiers=False)
    assert not trusted(bundle(OTHER), leaf, *twins)
    assert trusted(bundle(OTHER, twins[0]), leaf, *twins)


def test_an_anchor_that_signed_vouches_though_another_has_its_name() -> None:
    twins = [make_ca("twin", key_=key("p256", 911 + turn), identifiers=False) for turn in range(2)]
    leaf = make_client(twins[0], identifiers=False)
    assert trusted(bundle(OTHER, *twins), leaf, twins[0])
    assert not trusted(bundle(OTHER, twins[1]), leaf, twins[0])


def test_what_a_renewed_ca_forbids_is_the_next_handshake_s_affair() -> None:
    """Only a CA that is gone takes its trust away."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    forbids = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DirectoryName(name)])
    assert trusted(bundle(make_ca("root", extra=[(forbids, True)])), make_client(ROOT, "client"), ROOT)
