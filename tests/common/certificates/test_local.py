"""What the host calls itself, against what its own tools say."""

import json
import socket
import subprocess
from ipaddress import ip_address
from shutil import which

import pytest

from common.certificates import local as local_module
from common.certificates import local_addresses, local_fqdn


def test_loopback_comes_first_and_nothing_twice() -> None:
    found = local_addresses()
    assert found[:2] == (ip_address("127.0.0.1"), ip_address("::1"))
    assert len(set(found)) == len(found)
    assert not [one for one in found if one.is_link_local or one.is_multicast]


@pytest.mark.skipif(which("ip") is None, reason="ip (iproute2) is not installed")
def test_the_kernel_s_addresses_are_those_that_ip_shows() -> None:
    shown = json.loads(subprocess.check_output(["ip", "-j", "address"], timeout=10))
    expected = {
        ip_address(address["local"])
        for link in shown
        for address in link["addr_info"]
        if address["scope"] in ("global", "host") and not address.get("temporary")
    }
    assert set(local_addresses()) == expected | {ip_address("127.0.0.1"), ip_address("::1")}


def test_a_sandbox_without_netlink_has_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    assert local_addresses() == (ip_address("127.0.0.1"), ip_address("::1"))


def test_thousands_of_addresses_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [ip_address(f"10.0.{n // 250}.{n % 250 + 1}") for n in range(2000)]
    monkeypatch.setattr(local_module, "_kernel_addresses", lambda: iter(many))
    assert len(local_addresses()) == local_module.MAX_ADDRESSES


@pytest.mark.skipif(which("hostname") is None, reason="hostname is not installed")
def test_the_name_is_that_of_hostname_fqdn() -> None:
    result = subprocess.run(["hostname", "--fqdn"], capture_output=True, text=True, timeout=30, check=False)
    expected = result.stdout.strip() if result.returncode == 0 else socket.gethostname()
    assert local_fqdn() == expected


def test_a_host_that_does_not_resolve_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert local_fqdn() == socket.gethostname()


def test_damaged_netlink_messages_end() -> None:
    assert list(local_module._parts(b"\x00" * 64, "=IHHII")) == []
    assert list(local_module._parts(b"\x08\x00\x01\x00", "=HH")) == [(1, b"")]
