"""What an operator sets for a Console, parsed once.

Names are the product's (product facts §2); our own start with `GARRISON_`. The file may be one that the
product's installer wrote, or one that a Defender shares: what means nothing here is let through, and said
once in the log, so that nobody believes a switch to be on that isn't. Where ignoring a switch would leave
the operator without a protection, it is refused instead.
"""

import ipaddress
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.certificates import Names, parse_san
from common.errors import SettingsError
from common.logging import LogFormat
from common.product import (
    CERTIFICATE_OPTIONS,
    COMMUNICATION_PORT,
    CUSTOM_CERTIFICATES,
    LOG_OPTIONS,
    seconds_between,
)
from common.settings import (
    Option,
    parse_choice,
    parse_flag,
    parse_path,
    parse_port,
    parse_text,
    read_config,
    read_settings,
)
from common.version import VERSION

FOREIGN: Final = frozenset((
    # What the product's installer reads and we have no use for (facts §2).
    "DATA_RECOVERY_ENABLED", "DATA_RECOVERY_VOLUME", "HIGH_AVAILABILITY_STATE", "HIGH_AVAILABILITY_PORT",
    "SYSTEMD_ENABLED", "DOCKER_SOCKET", "REGISTRY_SCANNERS", "DISABLE_CONSOLE_CGROUP_LIMITS", "CONFIG_PATH",
    # The Defender's options (facts §7).
    "WS_ADDRESS", "DEFENDER_TYPE", "DEFENDER_LISTENER_TYPE", "DOCKER_CLIENT_ADDRESS", "DEFENDER_CLUSTER_ID",
    "DEFENDER_CLUSTER", "DEFENDER_CLUSTER_NAME_RESOLVING_METHOD", "MONITOR_SERVICE_ACCOUNTS",
    "MONITOR_ISTIO", "COLLECT_POD_LABELS", "INSTALL_BUNDLE", "HOST_CUSTOM_COMPLIANCE_ENABLED",
    "CLOUD_HOSTNAME_ENABLED", "DEFENDER_APP_ID", "FILESYSTEM_MONITORING",
    "GARRISON_HOSTNAME", "GARRISON_CONNECT_TIMEOUT", "GARRISON_RECONNECT_CAP", "GARRISON_SPOOL_BYTES",
    "GARRISON_SPOOL_EVENTS",
))  # fmt: skip
"""Names that a shared file or environment may hold and that mean nothing to a Console."""

_PORTS: Final = ("MANAGEMENT_PORT_HTTPS", "COMMUNICATION_PORT")


def _common_name(text: str) -> str:
    name = parse_text(text)
    # RFC 5280 A.1: ub-common-name is 64.
    if len(name) > 64 or not name.isprintable():
        raise ValueError("is no common name; give at most 64 printable characters")
    return name


def _address(text: str) -> str:
    if not text.strip():
        return ""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(
            "is no IP address; give one of this host's, or nothing to listen on all of them"
        ) from None


def _no_plain_http(text: str) -> None:
    if text.strip():
        raise ValueError(
            "cannot be served, plain HTTP is not built yet; leave it empty and use MANAGEMENT_PORT_HTTPS"
        )


def _not_supported(what: str) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if parse_flag(text):
            raise ValueError(f"cannot be turned on: {what} not built yet; remove it")
        return False

    return parse


_TLS: Final = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}

OPTIONS: Final = (
    *LOG_OPTIONS,
    Option(
        "DATA_FOLDER", parse_path, Path("/var/lib/twistlock"), "the folder of store, certificates and keys"
    ),
    Option("MANAGEMENT_PORT_HTTPS", parse_port, 8083, "web UI and API; empty turns them off"),
    Option("COMMUNICATION_PORT", parse_port, COMMUNICATION_PORT, "where Defenders connect; empty: off"),
    Option("MANAGEMENT_PORT_HTTP", _no_plain_http, None, "plain HTTP: not built, so only an empty value"),
    Option(
        "CONSOLE_CN", _common_name, None, "common name of the web certificate; by default hostname --fqdn"
    ),
    Option("DEFENDER_CN", _common_name, None, "common name for Defenders; hostname --fqdn by default"),
    Option("CONSOLE_SAN", parse_san, Names(), "more names for both servers: DNS:name IP:address, …"),
    Option("FIPS_ENABLED", _not_supported("the FIPS cipher set is"), False, "not built, so only false"),
    Option(
        "CLUSTERED_DB_ENABLED", _not_supported("the clustered store is"), False, "not built, so only false"
    ),
    Option("HIGH_AVAILABILITY_ENABLED", _not_supported("the standby is"), False, "not built, so only false"),
    Option("GARRISON_LISTEN_ADDRESS", _address, "", "the one address to listen on; all of them by default"),
    Option("GARRISON_MASTER_KEY_FILE", parse_path, None, "the key that seals secrets in the store"),
    Option(
        "GARRISON_TLS_MINIMUM",
        lambda text: _TLS[parse_choice(*_TLS)(text)],
        ssl.TLSVersion.TLSv1_3,
        "the oldest TLS version that Defenders may speak: 1.3 or 1.2",
    ),
    Option(
        "GARRISON_HEARTBEAT_SECONDS",
        seconds_between(1, 3600),
        30.0,
        "how often a Defender shows that it is there",
    ),
    *CERTIFICATE_OPTIONS,
    Option(
        "GARRISON_DRAIN_DEADLINE",
        seconds_between(1, 3600),
        60.0,
        "how long after its turn a Defender may take to begin a move to new certificates",
    ),
)


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """A Console's options as values; see OPTIONS for their names and defaults.

    Attributes:
        data_folder: Where store, certificates and keys are.
        https_port: Of web UI and API; None turns them off, 0 lets the system choose.
        communication_port: Of the Defenders' WebSocket; likewise.
        console_cn: Common name of the web certificate; None: the host's FQDN.
        defender_cn: Common name for Defenders; None: the host's FQDN.
        console_san: More names for both servers.
        is_prod: Whether debug lines are left out of the log.
        listen_address: The one address to listen on, or an empty text for all.
        log_format: How log lines look.
        master_key_file: The key that seals secrets; None: where the store's room puts it.
        tls_minimum: The oldest version spoken on the Defender channel.
        heartbeat_seconds: Interval of a Defender's heartbeats.
        custom_certificates_poll: Seconds between two looks at `custom_certificates` without an event.
        removed_trust_grace: Seconds that a connection lives on whose CA was removed from the bundle.
        drain_deadline: Seconds that a Defender may take, from its slot on, to try to reconnect.
        foreign: Names of the file that mean nothing to a Console, sorted.
    """

    data_folder: Path
    https_port: int | None
    communication_port: int | None
    console_cn: str | None
    defender_cn: str | None
    console_san: Names
    is_prod: bool
    listen_address: str
    log_format: LogFormat
    master_key_file: Path | None
    tls_minimum: ssl.TLSVersion
    heartbeat_seconds: float
    custom_certificates_poll: float
    removed_trust_grace: float
    drain_deadline: float
    foreign: tuple[str, ...] = ()

    @classmethod
    def read(cls, environ: Mapping[str, str], config_path: Path | None = None) -> "ConsoleSettings":
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
        _refuse_shared_ports(values)
        return cls(
            **{field: values[name] for name, field in _FIELDS.items()},
            foreign=tuple(sorted(FOREIGN.intersection(config))),
        )

    @property
    def log_level(self) -> int:
        """The level that our own rooms log from."""
        return logging.INFO if self.is_prod else logging.DEBUG

    @property
    def custom_certificates(self) -> Path:
        """The directory of the operator's own certificates (facts §1)."""
        return self.data_folder / CUSTOM_CERTIFICATES

    def foreign_line(self) -> str | None:
        """What to log about options of the file that mean nothing here; None if there are none."""
        if not self.foreign:
            return None
        return f"Ignored options, which mean nothing to this Console: {', '.join(self.foreign)}"

    def start_line(self, *, console_cn: str, console_san: Sequence[str]) -> str:
        """The effective values, in the product's words (facts §2, "Startup log of Console lists").

        Args:
            console_cn: The common name in use.
            console_san: The names in use, as `DNS:name` and `IP:address`.
        """
        shown = {
            "ConsoleCN": console_cn,
            "ConsoleSAN": f"[{' '.join(console_san)}]",
            "IsProd": _word(self.is_prod),
            "DataRecoveryEnabled": _word(False),
            "DefenderPort": _port(self.communication_port),
            "MgmtPortHTTPS": _port(self.https_port),
            "Version": VERSION,
            "FIPSEnabled": _word(False),
        }
        return ", ".join(f"{name}: {value}" for name, value in shown.items())


_FIELDS: Final[Mapping[str, Any]] = {
    "DATA_FOLDER": "data_folder",
    "MANAGEMENT_PORT_HTTPS": "https_port",
    "COMMUNICATION_PORT": "communication_port",
    "CONSOLE_CN": "console_cn",
    "DEFENDER_CN": "defender_cn",
    "CONSOLE_SAN": "console_san",
    "LOG_PROD": "is_prod",
    "GARRISON_LISTEN_ADDRESS": "listen_address",
    "GARRISON_LOG_FORMAT": "log_format",
    "GARRISON_MASTER_KEY_FILE": "master_key_file",
    "GARRISON_TLS_MINIMUM": "tls_minimum",
    "GARRISON_HEARTBEAT_SECONDS": "heartbeat_seconds",
    "GARRISON_CUSTOM_CERTIFICATES_POLL": "custom_certificates_poll",
    "GARRISON_REMOVED_TRUST_GRACE": "removed_trust_grace",
    "GARRISON_DRAIN_DEADLINE": "drain_deadline",
}


def _refuse_shared_ports(values: Mapping[str, Any]) -> None:
    # Facts §2: each port must be unique. Port 0 is a different one each time.
    first, second = (values[name] for name in _PORTS)
    if first is None and second is None:
        raise SettingsError([f"{' and '.join(_PORTS)} are both empty; give at least one of them a port"])
    if first and first == second:
        raise SettingsError([f"{' and '.join(_PORTS)} are both {first}; give each a port of its own"])


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _port(port: int | None) -> str:
    return "off" if port is None else str(port)
