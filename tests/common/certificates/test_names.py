"""Names: what is one, where they come from, and what the admission webhook is called."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import Names, names_for, parse_name, parse_san, webhook_names
from common.certificates.names import parse_dns_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("console.example.com", "console.example.com"),
        ("Console.Example.COM.", "console.example.com"),
        ("*.example.com", "*.example.com"),
        ("twistlock-console", "twistlock-console"),
        ("my_host", "my_host"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a" * 63, "a" * 63),
        ("3com.example", "3com.example"),
    ],
)
def test_host_names(text: str, name: str) -> None:
    assert parse_dns_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "a..b",
        "-a.b",
        "a-.b",
        "a b",
        "a,b",
        "*",
        "a.*.b",
        "*a.b",
        "a" * 64,
        "1.2.3",
        "x." * 127 + "xx",
        "é" * 70,
        "a\nb",
    ],
)
def test_what_is_no_host_name(text: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        parse_dns_name(text)


def test_one_name_or_address() -> None:
    assert parse_name("h.example") == Names(dns=("h.example",))
    assert parse_name("10.0.0.1") == Names(addresses=(ip_address("10.0.0.1"),))
    assert parse_name("[::1]") == Names(addresses=(ip_address("::1"),))
    with pytest.raises(ValueError, match="host name"):
        parse_name("10.0.0.256")


@pytest.mark.parametrize(
    "text",
    [
        "DNS:a.example IP:10.0.0.1",
        "dns:A.example,ip:10.0.0.1",
        " DNS:a.example ,\n IP:10.0.0.1 DNS:a.example",
    ],
)
def test_the_list_of_console_san(text: str) -> None:
    assert parse_san(text) == Names(("a.example",), (ip_address("10.0.0.1"),))


def test_an_empty_list_has_no_names() -> None:
    assert not parse_san("")
    assert not parse_san(" , ")


def test_ipv6_in_the_list() -> None:
    assert parse_san("IP:fd00::1, IP:::1").addresses == (ip_address("fd00::1"), ip_address("::1"))


def test_every_bad_item_of_the_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"console\.example, IP:x, URI:y, IP:fe80::1%eth0: write each as"):
        parse_san("DNS:ok.example console.example IP:x URI:y IP:fe80::1%eth0")


def test_names_read_back() -> None:
    names = Names(("a.example", "*.b.example"), (ip_address("10.0.0.1"), ip_address("::1")))
    assert str(names) == "DNS:a.example, DNS:*.b.example, IP:10.0.0.1, IP:::1"
    assert list(names) == str(names).split(", ")
    assert parse_san(str(names)) == names


LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(LABELS, min_size=1, max_size=4).map(".".join), max_size=4),
    st.lists(st.ip_addresses(), max_size=4),
)
def test_any_names_read_back(dns: list[str], addresses: list[object]) -> None:
    names = Names() | Names(tuple(dns), tuple(addresses))  # type: ignore[arg-type]
    assert parse_san(str(names)) == names


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_any_text_is_names_or_a_value_error(text: str) -> None:
    try:
        names = parse_san(text)
    except ValueError:
        return
    assert parse_san(str(names)) == names


def test_the_console_s_names() -> None:
    names = names_for(
        "console.example.com",
        "host.internal",
        (ip_address("127.0.0.1"), ip_address("10.0.0.1")),
        parse_san("DNS:lb.example.com IP:10.0.0.1 DNS:localhost"),
    )
    assert names.dns == ("console.example.com", "host.internal", "localhost", "lb.example.com")
    assert names.addresses == (ip_address("127.0.0.1"), ip_address("10.0.0.1"))


def test_a_common_name_that_is_an_address_is_an_address() -> None:
    assert names_for("192.0.2.7") == Names(("localhost",), (ip_address("192.0.2.7"),))


def test_a_common_name_that_is_neither_stays_out() -> None:
    assert names_for("The Console") == Names(("localhost",))


def test_the_webhook_s_names_and_no_other() -> None:
    assert webhook_names("security") == Names(
        dns=(
            "defender",
            "defender.security",
            "defender.security.svc",
            "defender.security.svc.cluster.local",
        )
    )


@pytest.mark.parametrize("namespace", ["", "a.b", "*", "*.x", "a b"])
def test_what_is_no_namespace(namespace: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        webhook_names(namespace)
