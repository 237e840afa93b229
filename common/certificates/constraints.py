"""Name constraints (RFC 5280 §4.2.1.10), as OpenSSL applies them to the certificates below a CA."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from cryptography import x509

from common.certificates.names import parse_dns_name
from common.certificates.parsing import Parsed, name_key

_COMPARED: Final = (x509.DNSName, x509.IPAddress, x509.DirectoryName)


def violation(below: Parsed, constraints: x509.NameConstraints, *, leaf: bool) -> str | None:
    """The first name of `below` that its CA may not vouch for, or None.

    Args:
        below: A certificate under the CA.
        constraints: The CA's.
        leaf: Whether `below` is the leaf: if it has no DNS name, OpenSSL takes its common name for one.
    """
    for name in _names(below, leaf=leaf):
        permitted = _of_kind(constraints.permitted_subtrees, name)
        if permitted and not any(_within(name, base) for base in permitted):
            return _text(name)
        if any(_excluded(name, base) for base in _of_kind(constraints.excluded_subtrees, name)):
            return _text(name)
    return None


def _of_kind(bases: Iterable[x509.GeneralName] | None, name: x509.GeneralName) -> list[x509.GeneralName]:
    """Only constraints of the name's own kind speak about it."""
    return [base for base in bases or () if type(base) is type(name)]


def _excluded(name: x509.GeneralName, base: x509.GeneralName) -> bool:
    """What is of a kind that isn't compared here counts as excluded, so that nothing slips through."""
    return not isinstance(name, _COMPARED) or _within(name, base)


def _names(below: Parsed, *, leaf: bool) -> Iterator[x509.GeneralName]:
    subject = below.raw.subject
    if subject.rdns:
        yield x509.DirectoryName(subject)
    try:
        san = below.raw.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        san = None
    yield from san or ()
    if leaf and not below.certificate.names.dns:
        yield from _common_names(subject)


def _common_names(subject: x509.Name) -> Iterator[x509.DNSName]:
    for attribute in subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        try:
            name = parse_dns_name(str(attribute.value))
        except ValueError:
            continue
        if "." in name:  # a single label is not taken for a host's name (cn2dnsid)
            yield x509.DNSName(name)


def _within(name: x509.GeneralName, base: x509.GeneralName) -> bool:
    match name, base:
        case x509.DNSName(), x509.DNSName():
            return _dns_within(name.value.lower(), base.value.lower())
        case x509.IPAddress(), x509.IPAddress():
            return _address_within(name.value, base.value)
        case x509.DirectoryName(), x509.DirectoryName():
            prefix = name_key(base.value)
            return name_key(name.value)[: len(prefix)] == prefix
    return False


def _dns_within(name: str, base: str) -> bool:
    """Labels may be added on the left; a base that begins with a dot wants at least one (nc_dns)."""
    if not base or name == base:
        return True
    return name.endswith(base if base.startswith(".") else f".{base}")


def _address_within(address: object, network: object) -> bool:
    if isinstance(address, IPv4Address) and isinstance(network, IPv4Network):
        return address in network
    return isinstance(address, IPv6Address) and isinstance(network, IPv6Network) and address in network


def _text(name: x509.GeneralName) -> str:
    value = name.value
    return value.rfc4514_string() if isinstance(value, x509.Name) else str(value)
