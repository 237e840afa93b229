import logging
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import Names, parse_san
from common.errors import SettingsError, UsageError
from common.logging import LogFormat
from common.version import VERSION
from console.settings import FOREIGN, OPTIONS, ConsoleSettings


def read(**environ: str) -> ConsoleSettings:
    return ConsoleSettings.read(environ)


def faults(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**environ)
    return str(caught.value)


def test_defaults_are_the_products() -> None:
    found = read()
    assert found == ConsoleSettings(
        data_folder=Path("/var/lib/twistlock"),
        https_port=8083,
        communication_port=8084,
        console_cn=None,
        defender_cn=None,
        console_san=Names(),
        is_prod=False,
        listen_address="",
        log_format=LogFormat.TEXT,
        master_key_file=None,
        tls_minimum=ssl.TLSVersion.TLSv1_3,
        heartbeat_seconds=30.0,
        custom_certificates_poll=10.0,
        removed_trust_grace=300.0,
        drain_deadline=60.0,
    )
    assert found.log_level == logging.DEBUG


def test_everything_set() -> None:
    found = read(
        DATA_FOLDER="/srv/console",
        MANAGEMENT_PORT_HTTPS="9443",
        COMMUNICATION_PORT="",
        CONSOLE_CN="console.example",
        DEFENDER_CN="defenders.example",
        CONSOLE_SAN="DNS:console.example, IP:192.0.2.1",
        LOG_PROD="true",
        MANAGEMENT_PORT_HTTP="",
        FIPS_ENABLED="false",
        GARRISON_LISTEN_ADDRESS="::1",
        GARRISON_LOG_FORMAT="JSON",
        GARRISON_MASTER_KEY_FILE="/etc/garrison/key",
        GARRISON_TLS_MINIMUM="1.2",
        GARRISON_HEARTBEAT_SECONDS="5",
        GARRISON_CUSTOM_CERTIFICATES_POLL="500ms",
        GARRISON_REMOVED_TRUST_GRACE="0",
        GARRISON_DRAIN_DEADLINE="10m",
    )
    assert found == ConsoleSettings(
        data_folder=Path("/srv/console"),
        https_port=9443,
        communication_port=None,
        console_cn="console.example",
        defender_cn="defenders.example",
        console_san=parse_san("DNS:console.example IP:192.0.2.1"),
        is_prod=True,
        listen_address="::1",
        log_format=LogFormat.JSON,
        master_key_file=Path("/etc/garrison/key"),
        tls_minimum=ssl.TLSVersion.TLSv1_2,
        heartbeat_seconds=5.0,
        custom_certificates_poll=0.5,
        removed_trust_grace=0.0,
        drain_deadline=600.0,
    )
    assert found.log_level == logging.INFO


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("MANAGEMENT_PORT_HTTP", "8081", "plain HTTP is not built yet"),
        ("MANAGEMENT_PORT_HTTPS", "65536", "is no port"),
        ("COMMUNICATION_PORT", "x", "is no port"),
        ("DATA_FOLDER", "relative", "is relative"),
        ("CONSOLE_CN", "x" * 65, "at most 64"),
        ("CONSOLE_CN", "", "is empty"),
        ("CONSOLE_SAN", "console.example", "write each as DNS:name or IP:address"),
        ("CONSOLE_SAN", "IP:console.example", "IP:console.example: write each as DNS:name or IP:address"),
        ("CONSOLE_SAN", "DNS:a..b", "DNS:a..b"),
        ("FIPS_ENABLED", "true", "cannot be turned on"),
        ("CLUSTERED_DB_ENABLED", "1", "cannot be turned on"),
        ("HIGH_AVAILABILITY_ENABLED", "yes", "cannot be turned on"),
        ("GARRISON_LISTEN_ADDRESS", "localhost", "is no IP address"),
        ("GARRISON_LOG_FORMAT", "xml", "is none of text, json"),
        ("GARRISON_TLS_MINIMUM", "1.1", "is none of 1.3, 1.2"),
        ("GARRISON_HEARTBEAT_SECONDS", "0", "is out of range"),
        ("GARRISON_HEARTBEAT_SECONDS", "2h", "is out of range"),
        ("GARRISON_MASTER_KEY_FILE", "key", "is relative"),
        ("GARRISON_LISTEN_ADRESS", "::1", "did you mean GARRISON_LISTEN_ADDRESS?"),
    ],
)
def test_refused(name: str, value: str, fault: str) -> None:
    said = faults(**{name: value})
    assert name in said
    assert fault in said


def test_ports_must_differ() -> None:
    assert "are both 9000" in faults(MANAGEMENT_PORT_HTTPS="9000", COMMUNICATION_PORT="9000")
    assert "are both 8084" in faults(MANAGEMENT_PORT_HTTPS="8084")


def test_ports_that_the_system_chooses_and_listeners_that_are_off_do_not_clash() -> None:
    assert read(MANAGEMENT_PORT_HTTPS="0", COMMUNICATION_PORT="0").https_port == 0
    assert read(MANAGEMENT_PORT_HTTPS="").https_port is None
    assert read(COMMUNICATION_PORT="").communication_port is None


def test_the_products_own_file_is_taken(tmp_path: Path) -> None:
    config = tmp_path / "twistlock.cfg"
    config.write_text(
        "# as installed\nDATA_RECOVERY_ENABLED=true\nSYSTEMD_ENABLED=\n"
        "CONSOLE_CN='c.example'\nFIPS_ENABLED=false\n"
    )
    found = ConsoleSettings.read({"CONSOLE_CN": "environment.example"}, config)
    assert found.console_cn == "environment.example"
    assert found.foreign == ("DATA_RECOVERY_ENABLED", "SYSTEMD_ENABLED")
    assert (
        found.foreign_line()
        == "Ignored options, which mean nothing to this Console: DATA_RECOVERY_ENABLED, SYSTEMD_ENABLED"
    )
    assert read().foreign_line() is None


def test_unknown_names_in_the_file_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "twistlock.cfg"
    config.write_text("MANAGEMENT_PORT_HTTPZ=1\nWHATEVER=2\n")
    with pytest.raises(SettingsError) as caught:
        ConsoleSettings.read({}, config)
    assert len(caught.value.faults) == 2


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        ConsoleSettings.read({}, tmp_path / "none.cfg")
    (tmp_path / "binary.cfg").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        ConsoleSettings.read({}, tmp_path / "binary.cfg")


def test_start_line_says_what_the_product_says() -> None:
    found = read(COMMUNICATION_PORT="", LOG_PROD="1")
    assert found.start_line(console_cn="c.example", console_san=["DNS:c.example", "IP:192.0.2.1"]) == (
        "ConsoleCN: c.example, ConsoleSAN: [DNS:c.example IP:192.0.2.1], IsProd: true, "
        "DataRecoveryEnabled: false, DefenderPort: off, MgmtPortHTTPS: 8083, "
        f"Version: {VERSION}, FIPSEnabled: false"
    )


def test_no_option_is_foreign_and_each_has_a_help() -> None:
    assert not FOREIGN.intersection(option.name for option in OPTIONS)
    assert all(option.help for option in OPTIONS)


def test_a_shared_environment_suits_both_sides() -> None:
    from defender.settings import OPTIONS as THEIRS

    ours = {option.name for option in OPTIONS}
    assert {option.name for option in THEIRS if option.name.startswith("GARRISON_")} <= ours | FOREIGN


names = st.from_regex(r"[A-Z_]{1,30}", fullmatch=True)


@given(st.dictionaries(names, st.text(max_size=40), max_size=5))
@settings(deadline=None, max_examples=100)
def test_any_environment_gives_settings_or_faults(environ: dict[str, str]) -> None:
    known = {f"GARRISON_{name}": value for name, value in environ.items()} | environ
    try:
        found = ConsoleSettings.read(known)
    except SettingsError:
        return
    assert found == read()


@given(st.integers(0, 70_000), st.integers(0, 70_000))
@settings(deadline=None, max_examples=100)
def test_ports_are_in_range_and_differ(https: int, communication: int) -> None:
    try:
        found = read(MANAGEMENT_PORT_HTTPS=str(https), COMMUNICATION_PORT=str(communication))
    except SettingsError:
        assert max(https, communication) > 65535 or (https == communication and https)
    else:
        assert (found.https_port, found.communication_port) == (https, communication)
        assert https != communication or not https


@given(st.lists(st.ip_addresses(), max_size=6), st.sampled_from([" ", ",", ", ", " ,, "]))
@settings(deadline=None, max_examples=50)
def test_names_survive_any_separator(addresses: list[object], separator: str) -> None:
    text = separator.join(f"IP:{address}" for address in addresses)
    assert list(read(CONSOLE_SAN=text).console_san) == [f"IP:{a}" for a in dict.fromkeys(addresses)]


def test_both_ports_off_leave_nothing_to_serve() -> None:
    with pytest.raises(SettingsError, match="are both empty; give at least one of them a port"):
        read(MANAGEMENT_PORT_HTTPS="", COMMUNICATION_PORT="")
