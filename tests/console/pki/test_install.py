"""What a Defender is deployed with."""

import json
from base64 import b64decode

import pytest

from common.bundle import decode_bundle
from common.certificates import Names, parse_name, parse_san
from common.product import DEFENDER_TYPES
from console.pki.install import SECRETS, InstallBundle, Refused, covers, install_bundle

FILES = {
    name: f"-----BEGIN {name}-----\n".encode()
    for name in (*SECRETS, "ca.pem", "console-cert.pem", "console-key.pem", "defender-server-key.pem")
}
NAMES = parse_san("DNS:console.example.com DNS:*.apps.example.com IP:192.0.2.7 IP:2001:db8::7")


def bundle(address: str, defender_type: str = "docker", port: int = 8084) -> InstallBundle | Refused:
    return install_bundle(FILES, NAMES, address=address, port=port, defender_type=defender_type)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("console.example.com", "wss://console.example.com:8084"),
        ("Console.Example.COM.", "wss://console.example.com:8084"),
        ("c1.apps.example.com", "wss://c1.apps.example.com:8084"),
        ("192.0.2.7", "wss://192.0.2.7:8084"),
        ("2001:db8::7", "wss://[2001:db8::7]:8084"),
        ("[2001:db8::7]", "wss://[2001:db8::7]:8084"),
        ("2001:0DB8:0:0::7", "wss://[2001:db8::7]:8084"),
    ],
)
def test_an_address_that_the_certificate_names(address: str, url: str) -> None:
    made = bundle(address)
    assert isinstance(made, InstallBundle)
    assert made.ws_address == url


def test_the_port_is_the_configured_one() -> None:
    made = bundle("192.0.2.7", port=18084)
    assert isinstance(made, InstallBundle)
    assert made.ws_address == "wss://192.0.2.7:18084"


def test_it_holds_the_daemonsets_secrets_and_no_key_of_the_console() -> None:
    made = bundle("192.0.2.7")
    assert isinstance(made, InstallBundle)
    held = decode_bundle(made.install_bundle)
    assert dict(held.secrets) == {name: FILES[name] for name in SECRETS}
    assert set(json.loads(b64decode(made.install_bundle))) == {
        "secrets",
        "globalProxyOpt",
        "microsegCompatible",
    }
    assert made.install_bundle not in repr(made)


@pytest.mark.parametrize(
    "address",
    ["other.example.com", "example.com", "a.b.apps.example.com", "apps.example.com", "192.0.2.8", "::1"],
)
def test_an_address_that_it_does_not_name_is_refused_with_those_that_it_does(address: str) -> None:
    refused = bundle(address)
    assert isinstance(refused, Refused)
    for part in (address, "DNS:console.example.com", "IP:192.0.2.7", "CONSOLE_SAN"):
        assert part in str(refused)


def test_the_remedy_can_be_copied() -> None:
    refused = bundle("::1")
    assert isinstance(refused, Refused)
    assert "add IP:::1 to CONSOLE_SAN" in refused.remedy
    assert parse_san("IP:::1") == parse_name("::1")


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "a b",
        "console.example.com:8084",
        "https://console.example.com",
        "*.apps.example.com",
        "fe80::1%eth0",
    ],
)
def test_what_cannot_be_dialled_is_refused(address: str) -> None:
    refused = bundle(address)
    assert isinstance(refused, Refused)
    assert "neither a host name nor an address" in str(refused)


@pytest.mark.parametrize("defender_type", DEFENDER_TYPES)
def test_every_type_of_the_product_is_taken(defender_type: str) -> None:
    assert isinstance(bundle("192.0.2.7", defender_type), InstallBundle)


@pytest.mark.parametrize("defender_type", ["", "Docker", "host", "docker "])
def test_any_other_type_is_refused_with_the_list(defender_type: str) -> None:
    refused = bundle("192.0.2.7", defender_type)
    assert isinstance(refused, Refused)
    assert "appEmbedded" in refused.remedy


def test_the_types_are_those_of_the_api() -> None:
    assert len(DEFENDER_TYPES) == len(set(DEFENDER_TYPES)) == 17


@pytest.mark.parametrize(
    ("wanted", "covered"),
    [
        ("a.example", True),
        ("A.EXAMPLE", True),
        ("x.w.example", True),
        ("w.example", False),
        ("x.y.w.example", False),
    ],
)
def test_names_match_as_in_rfc_6125(wanted: str, covered: bool) -> None:
    assert covers(Names(dns=("a.example", "*.w.example")), parse_name(wanted)) is covered


def test_an_address_is_no_name_and_a_name_no_address() -> None:
    assert not covers(Names(dns=("192.0.2.7",)), parse_name("192.0.2.7"))
    assert not covers(parse_san("IP:192.0.2.7"), parse_name("host"))
