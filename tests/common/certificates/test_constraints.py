"""Name constraints, as OpenSSL reads them."""

from ipaddress import ip_network

import pytest
from cryptography import x509

from common.certificates.constraints import violation
from tests.common.certificates.pki import issue, make_ca, name

DNS, IP, DN, MAIL = x509.DNSName, x509.IPAddress, x509.DirectoryName, x509.RFC822Name
NETWORK = IP(ip_network("10.0.0.0/8"))


def first_violation(
    permitted: list[x509.GeneralName] | None,
    excluded: list[x509.GeneralName] | None,
    *names: str,
    subject: str | None = "leaf",
    extra: x509.SubjectAlternativeName | None = None,
    leaf: bool = True,
) -> str | None:
    below = issue(subject, make_ca("ca"), names=names, extra=[(extra, False)] if extra else [])
    return violation(below.parsed, x509.NameConstraints(permitted, excluded), leaf=leaf)


@pytest.mark.parametrize(
    ("base", "host", "within"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", True),
        ("example.com", "a.b.EXAMPLE.com", True),
        ("example.com", "badexample.com", False),
        ("example.com", "example.org", False),
        (".example.com", "a.example.com", True),
        (".example.com", "example.com", False),
        ("", "anything.test", True),
    ],
)
def test_dns(base: str, host: str, within: bool) -> None:
    permitted = first_violation([DNS(base)], None, host)
    excluded = first_violation(None, [DNS(base)], host)
    assert (permitted is None) is within
    assert (excluded is None) is not within
    assert (permitted or excluded) == host


@pytest.mark.parametrize(("address", "within"), [("10.1.2.3", True), ("11.0.0.1", False), ("fd00::1", False)])
def test_addresses(address: str, within: bool) -> None:
    assert (first_violation([NETWORK], None, address) is None) is within
    assert (first_violation(None, [NETWORK], address) is None) is not within


def test_a_constraint_speaks_of_its_own_kind_only() -> None:
    assert first_violation([NETWORK], None, "console.test") is None
    assert first_violation([DNS("test")], None, "10.0.0.1", subject=None) is None


def test_excluded_wins_over_permitted() -> None:
    assert first_violation([DNS("test")], [DNS("bad.test")], "a.test", "x.bad.test") == "x.bad.test"


def test_directory_names() -> None:
    own = DN(name("leaf"))
    assert first_violation([own], None, "a.test") is None
    assert first_violation([DN(name("LEAF"))], None, "a.test") is None
    assert first_violation([DN(name("other"))], None, "a.test") == "CN=leaf"
    assert first_violation(None, [own], "a.test") == "CN=leaf"
    assert first_violation([DN(name("other"))], None, "a.test", subject=None) is None


def test_without_a_dns_name_the_common_name_of_a_leaf_counts() -> None:
    assert first_violation([DNS("test")], None, subject="host.example") == "host.example"
    assert first_violation([DNS("test")], None, subject="host.example", leaf=False) is None
    assert first_violation([DNS("test")], None, subject="no host name") is None
    assert first_violation([DNS("test")], None, subject="label") is None
    assert first_violation([DNS("test")], None, "a.test", subject="host.example") is None


def test_what_is_not_compared_counts_against_the_certificate() -> None:
    mail = x509.SubjectAlternativeName([MAIL("a@example.com")])
    assert first_violation([MAIL("example.com")], None, extra=mail) == "a@example.com"
    assert first_violation(None, [MAIL("example.org")], extra=mail) == "a@example.com"
    assert first_violation([DNS("test")], None, extra=mail, subject=None) is None
