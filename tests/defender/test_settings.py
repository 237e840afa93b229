import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SettingsError, UsageError
from common.logging import LogFormat
from common.product import DEFENDER_TYPES
from defender.settings import FOREIGN, OPTIONS, Address, DefenderSettings, parse_address

WS = {"WS_ADDRESS": "wss://console.example:8084"}


def faults(environ: Mapping[str, str], config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        DefenderSettings.read(environ, config)
    return str(caught.value)


def test_defaults_are_the_products() -> None:
    settings = DefenderSettings.read(WS)
    assert settings.address == Address("console.example", 8084)
    assert settings.data_folder == Path("/var/lib/twistlock")
    assert settings.install_bundle == ""
    assert settings.defender_type == "serverLinux"
    assert settings.hostname is None
    assert settings.log_format is LogFormat.TEXT
    assert not settings.log_prod
    assert settings.tls_minimum == "1.3"
    assert settings.custom_certificates == Path("/var/lib/twistlock/custom-certificates")
    assert settings.custom_certificates_poll == 10.0
    assert settings.removed_trust_grace == 300.0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("wss://console:8084", Address("console", 8084)),
        ("wss://console", Address("console", 8084)),
        ("WSS://Console.Example./", Address("console.example", 8084)),
        ("wss://route.apps.example:443", Address("route.apps.example", 443)),
        ("wss://10.0.0.1:9000", Address("10.0.0.1", 9000)),
        ("wss://[::1]:8084", Address("::1", 8084)),
        ("wss://[2001:DB8::1]", Address("2001:db8::1", 8084)),
        (" wss://my_host:1 ", Address("my_host", 1)),
        ("wss://konsole.bücher.example", Address("konsole.xn--bcher-kva.example", 8084)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no wss:// address"),
        ("console:8084", "no wss:// address"),
        ("ws://console:8084", "no wss:// address"),
        ("https://console:8084", "no wss:// address"),
        ("wss://", "no host"),
        ("wss://:8084", "no host"),
        ("wss://user:secret@console:8084", "user name"),
        ("wss://console:8084/ws", "holds a path"),
        ("wss://console:8084?x=1", "holds a path"),
        ("wss://console:8084#x", "holds a path"),
        ("wss://console:0", "port 0"),
        ("wss://console:99999", "no address"),
        ("wss://console:x", "no address"),
        ("wss://[::1", "no address"),
        ("wss://con sole:8084", "no host"),
        ("wss://-console:8084", "no host"),
        ("wss://a..b", "no host"),
        ("wss://256.1.1.1", "no host"),
        ("wss://[fe80::1%eth0]:8084", "without a zone"),
        ("wss://*.example:8084", "wildcard"),
    ],
)
def test_a_wrong_address_is_refused_with_a_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_address(text)
    assert ";" in str(caught.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


def test_a_fault_of_another_option_does_not_show_the_bundle() -> None:
    assert "hunter2" not in faults(WS | {"DEFENDER_TYPE": "x", "INSTALL_BUNDLE": "hunter2"})


def test_the_bundle_is_a_secret() -> None:
    settings = DefenderSettings.read(WS | {"INSTALL_BUNDLE": " aHVudGVyMg== "})
    assert settings.install_bundle == "aHVudGVyMg=="
    assert "aHVudGVyMg" not in repr(settings)


def test_an_empty_bundle_is_none() -> None:
    assert DefenderSettings.read(WS | {"INSTALL_BUNDLE": ""}).install_bundle == ""


def test_without_an_address_the_remedy_is_said() -> None:
    said = faults({})
    assert "WS_ADDRESS is not set" in said
    assert "WS_ADDRESS=wss://console.example:8084" in said


def test_all_faults_are_said_together() -> None:
    said = faults(
        {
            "WS_ADDRESS": "http://x",
            "DEFENDER_TYPE": "toaster",
            "GARRISON_SPOOL_BYTES": "much",
            "GARRISON_SPOOL_EVENTS": "0",
            "GARRISON_CONNECT_TIMEOUT": "0s",
            "GARRISON_RECONNECT_CAP": "2d",
            "GARRISON_HOSTNAME": "a b",
            "GARRISON_HOSTNAM": "x",
            "GARRISON_LOG_FORMAT": "xml",
            "GARRISON_TLS_MINIMUM": "1.1",
            "DATA_FOLDER": "relative",
        }
    )
    assert len(said.splitlines()) == 11
    assert "GARRISON_HOSTNAM is not an option; did you mean GARRISON_HOSTNAME?" in said


def test_values_are_parsed() -> None:
    settings = DefenderSettings.read(
        WS
        | {
            "GARRISON_SPOOL_BYTES": "2M",
            "GARRISON_SPOOL_EVENTS": "7",
            "GARRISON_CONNECT_TIMEOUT": "500ms",
            "GARRISON_RECONNECT_CAP": "5m",
            "GARRISON_HOSTNAME": "edge-7",
            "GARRISON_LOG_FORMAT": "JSON",
            "GARRISON_TLS_MINIMUM": "1.2",
            "LOG_PROD": "true",
            "DEFENDER_TYPE": "appembedded",
        }
    )
    assert (settings.spool_bytes, settings.spool_events) == (2 << 20, 7)
    assert (settings.connect_timeout, settings.reconnect_cap) == (0.5, 300.0)
    assert (settings.hostname, settings.log_format, settings.tls_minimum) == ("edge-7", LogFormat.JSON, "1.2")
    assert settings.log_prod
    assert settings.defender_type == "appEmbedded"


def test_a_spool_too_small_for_an_event_is_refused() -> None:
    assert "at least 64k" in faults(WS | {"GARRISON_SPOOL_BYTES": "63k"})


@pytest.mark.parametrize("kind", DEFENDER_TYPES)
def test_every_type_of_the_product_is_taken(kind: str) -> None:
    assert DefenderSettings.read(WS | {"DEFENDER_TYPE": kind}).defender_type == kind


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "twistlock.cfg"
    config.write_text("WS_ADDRESS=wss://of.the.file\nDATA_FOLDER=/data\nMANAGEMENT_PORT_HTTPS=8083\n")
    settings = DefenderSettings.read(WS, config)
    assert settings.address.host == "console.example"
    assert settings.data_folder == Path("/data")


def test_a_misspelt_name_in_the_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "twistlock.cfg"
    config.write_text("WS_ADRESS=wss://x\n")
    assert "WS_ADRESS is not an option; did you mean WS_ADDRESS?" in faults(WS, config)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    config = tmp_path / "twistlock.cfg"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(UsageError, match=r"twistlock\.cfg"):
        DefenderSettings.read(WS, config)


def test_nothing_is_both_ours_and_foreign() -> None:
    assert not {option.name for option in OPTIONS} & FOREIGN


def test_settings_import_nothing_heavy() -> None:
    code = "import defender.settings, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"asyncio", "ssl", "cryptography", "websockets", "sqlite3", "rich"} & set(loaded.split())
