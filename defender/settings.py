"""What an operator sets for a Defender, parsed once.

Names are the product's (product facts §2 and §7); our own start with `GARRISON_`. A file or environment may
be shared with a Console and with the product's installer: their names are let through and mean nothing here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from common.errors import SettingsError
from common.logging import LogFormat
from common.product import (
    CERTIFICATE_OPTIONS,
    COMMUNICATION_PORT,
    CUSTOM_CERTIFICATES,
    DEFENDER_TYPES,
    LOG_OPTIONS,
)
from common.settings import (
    Option,
    parse_choice,
    parse_path,
    parse_seconds,
    parse_text,
    read_config,
    read_settings,
)

_CONSOLES: Final = """
    CONSOLE_CN DEFENDER_CN CONSOLE_SAN MANAGEMENT_PORT_HTTP MANAGEMENT_PORT_HTTPS COMMUNICATION_PORT
    CONFIG_PATH DATA_RECOVERY_ENABLED DATA_RECOVERY_VOLUME HIGH_AVAILABILITY_ENABLED HIGH_AVAILABILITY_STATE
    HIGH_AVAILABILITY_PORT CLUSTERED_DB_ENABLED REGISTRY_SCANNERS DISABLE_CONSOLE_CGROUP_LIMITS
    GARRISON_MASTER_KEY_FILE GARRISON_LISTEN_ADDRESS GARRISON_HEARTBEAT_SECONDS
    GARRISON_DRAIN_DEADLINE
"""
_INSTALLERS: Final = """
    SYSTEMD_ENABLED DOCKER_SOCKET FIPS_ENABLED DEFENDER_LISTENER_TYPE DOCKER_CLIENT_ADDRESS
    DEFENDER_CLUSTER_ID DEFENDER_CLUSTER DEFENDER_CLUSTER_NAME_RESOLVING_METHOD MONITOR_SERVICE_ACCOUNTS
    MONITOR_ISTIO COLLECT_POD_LABELS HOST_CUSTOM_COMPLIANCE_ENABLED CLOUD_HOSTNAME_ENABLED DEFENDER_APP_ID
    FILESYSTEM_MONITORING
"""
FOREIGN: Final = frozenset((_CONSOLES + _INSTALLERS).split())
"""Options of the Console (facts §2 and our own), and those that the product's installer and
DaemonSet set for a Defender (facts §2, §7) and that mean nothing here."""

_NO_ADDRESS: Final = (
    "WS_ADDRESS is not set; give the Console's Defender channel, such as "
    "WS_ADDRESS=wss://console.example:8084 (the Console states it with the install bundle)"
)
_SIZE = re.compile(r"(\d+)\s*([kMG]?)i?B?")
_FACTORS: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SMALLEST_SPOOL: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where the Console's Defender channel is.

    Attributes:
        host: A DNS name or an IP address (without brackets): what the Console's certificate must name.
        port: Its TCP port.
    """

    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"wss://{self.authority}"


def parse_address(text: str) -> Address:
    """The address in a WS_ADDRESS such as `wss://console.example:8084`; the port is 8084 if left out.

    Raises:
        ValueError: with what is wrong with it.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise ValueError("is no address; write wss://HOST:PORT") from None
    if parts.scheme.lower() != "wss":
        raise ValueError("is no wss:// address; write wss://HOST:PORT (a Console speaks nothing else)")
    if "@" in parts.netloc:
        raise ValueError("holds a user name; leave it out: the certificate says who this Defender is")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("holds a path; write wss://HOST:PORT and nothing after it")
    if port == 0:
        raise ValueError("holds port 0; write the port that the Console listens on")
    # Late: the room of certificates brings `cryptography`, and `--help` needs neither.
    from common.certificates import parse_name

    try:
        names = parse_name(parts.hostname or "")
    except ValueError:
        raise ValueError(
            "holds no host; write wss://HOST:PORT with a DNS name or an IP address (without a zone)"
        ) from None
    host = str((*names.dns, *names.addresses)[0])
    if "*" in host:
        raise ValueError("holds a wildcard; name the one host to connect to")
    return Address(host, COMMUNICATION_PORT if port is None else port)


def parse_size(text: str) -> int:
    """A size in bytes, from a number with an optional unit (k, M, G: powers of 1024)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("is no size; write a number and one of k M G, such as 16M")
    return int(match[1]) * _FACTORS[match[2]]


def _spool_size(text: str) -> int:
    size = parse_size(text)
    if size < _SMALLEST_SPOOL:
        raise ValueError("is too small for a spool; give at least 64k")
    return size


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError("is no count; give a whole number from 1")
    return int(text)


def _period(text: str) -> float:
    seconds = parse_seconds(text)
    if not 0 < seconds <= 86400:
        raise ValueError("must be longer than nothing and at most a day")
    return seconds


def _hostname(text: str) -> str:
    name = parse_text(text)
    if len(name) > 253 or not name.isprintable() or " " in name:
        raise ValueError("is no host name; give at most 253 characters without spaces")
    return name


OPTIONS: Final = (
    *LOG_OPTIONS,
    Option("WS_ADDRESS", parse_address, None, "the Console's Defender channel: wss://HOST:8084"),
    Option(
        "DATA_FOLDER", parse_path, Path("/var/lib/twistlock"), "the folder of certificates, key and spool"
    ),
    # A DaemonSet's YAML has the variable even where the Secret brings the certificates: empty means none.
    Option("INSTALL_BUNDLE", str.strip, "", "certificates as one base64 text, from the Console", secret=True),
    Option("DEFENDER_TYPE", parse_choice(*DEFENDER_TYPES), "serverLinux", "what kind of Defender this is"),
    Option("GARRISON_HOSTNAME", _hostname, None, "the host name to report instead of this host's own"),
    Option(
        "GARRISON_TLS_MINIMUM",
        parse_choice("1.3", "1.2"),
        "1.3",
        "the oldest TLS version to speak to the Console",
    ),
    *CERTIFICATE_OPTIONS,
    Option("GARRISON_CONNECT_TIMEOUT", _period, 15.0, "how long one attempt to connect may take"),
    Option("GARRISON_RECONNECT_CAP", _period, 60.0, "the longest wait between two attempts"),
    Option("GARRISON_SPOOL_BYTES", _spool_size, 16 << 20, "how many bytes of unsent events are kept on disk"),
    Option("GARRISON_SPOOL_EVENTS", _count, 50_000, "how many unsent events are kept on disk"),
)


@dataclass(frozen=True, slots=True)
class DefenderSettings:
    """A Defender's options as values; see OPTIONS for their names and defaults.

    Attributes:
        address: The Console's Defender channel.
        data_folder: Where certificates, instance key and spool are.
        install_bundle: The certificates as one base64 text, or an empty one. A secret.
        defender_type: One of DEFENDER_TYPES.
        hostname: What to report instead of this host's name.
        log_format: How log lines look.
        log_prod: Whether debug lines are left out.
        tls_minimum: `1.3` or `1.2`.
        custom_certificates_poll: Seconds between two looks at `custom_certificates` without an event.
        removed_trust_grace: Seconds that a connection lives on whose CA was removed from the bundle.
        connect_timeout: Bound of one attempt, name look-up to Welcome, in seconds.
        reconnect_cap: The longest wait between two attempts, in seconds.
        spool_bytes: Bound of the unsent events, in bytes.
        spool_events: Bound of the unsent events, in number.
    """

    address: Address
    data_folder: Path
    install_bundle: str = field(repr=False)
    defender_type: str
    hostname: str | None
    log_format: LogFormat
    log_prod: bool
    tls_minimum: str
    custom_certificates_poll: float
    removed_trust_grace: float
    connect_timeout: float
    reconnect_cap: float
    spool_bytes: int
    spool_events: int

    @property
    def custom_certificates(self) -> Path:
        """The directory of the operator's own certificates (facts §1)."""
        return self.data_folder / CUSTOM_CERTIFICATES

    @classmethod
    def read(cls, environ: Mapping[str, str], config_path: Path | None = None) -> "DefenderSettings":
        """The settings of this process.

        Args:
            environ: Its environment, which wins over the file.
            config_path: A `twistlock.cfg`, if one was named.

        Raises:
            SettingsError: with everything that is unknown or malformed.
            UsageError: if the file cannot be read.
        """
        config = read_config(config_path)
        values = read_settings(
            OPTIONS, environ, config=config, config_path=config_path or "twistlock.cfg", foreign=FOREIGN
        )
        if values["WS_ADDRESS"] is None:
            raise SettingsError([_NO_ADDRESS])
        return cls(**{_FIELDS[name]: value for name, value in values.items()})


_FIELDS: Final[Mapping[str, Any]] = {
    "WS_ADDRESS": "address",
    "DATA_FOLDER": "data_folder",
    "INSTALL_BUNDLE": "install_bundle",
    "DEFENDER_TYPE": "defender_type",
    "GARRISON_HOSTNAME": "hostname",
    "GARRISON_LOG_FORMAT": "log_format",
    "LOG_PROD": "log_prod",
    "GARRISON_TLS_MINIMUM": "tls_minimum",
    "GARRISON_CUSTOM_CERTIFICATES_POLL": "custom_certificates_poll",
    "GARRISON_REMOVED_TRUST_GRACE": "removed_trust_grace",
    "GARRISON_CONNECT_TIMEOUT": "connect_timeout",
    "GARRISON_RECONNECT_CAP": "reconnect_cap",
    "GARRISON_SPOOL_BYTES": "spool_bytes",
    "GARRISON_SPOOL_EVENTS": "spool_events",
}
