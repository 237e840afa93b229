"""Names that the product's documents fix and that both sides use (D14)."""

from collections.abc import Callable
from typing import Final

from common.logging import LogFormat
from common.settings import Option, parse_choice, parse_flag, parse_seconds

DEFENDER_TYPES: Final = (
    "none", "docker", "dockerWindows", "containerdWindows", "swarm", "daemonset", "serverLinux",
    "serverWindows", "cri", "fargate", "appEmbedded", "tas", "tasWindows", "serverless", "ecs", "podman",
    "eksFargate",
)  # fmt: skip
"""`defender.Type` (product facts §7)."""

COMMUNICATION_PORT: Final = 8084
"""Where a Console takes Defenders by default (product facts §2)."""

CUSTOM_CERTIFICATES: Final = "custom-certificates"
"""The operator's directory, in the data folder (product facts §1)."""


def seconds_between(least: float, most: float) -> Callable[[str], float]:
    """A parser of durations within bounds, in seconds."""

    def parse(text: str) -> float:
        seconds = parse_seconds(text)
        if not least <= seconds <= most:
            raise ValueError(f"is out of range; give from {least:g}s to {most:g}s")
        return seconds

    return parse


CERTIFICATE_OPTIONS: Final = (
    Option(
        "GARRISON_CUSTOM_CERTIFICATES_POLL",
        seconds_between(0.1, 3600),
        10.0,
        "how often custom-certificates is read where no event tells of a change",
    ),
    Option(
        "GARRISON_REMOVED_TRUST_GRACE",
        seconds_between(0, 86400),
        300.0,
        "how long a connection lives on whose CA was removed from the bundle",
    ),
)
"""How either side follows the operator's certificates."""

LOG_OPTIONS: Final = (
    Option(
        "GARRISON_LOG_FORMAT",
        lambda text: LogFormat(parse_choice(*LogFormat)(text)),
        LogFormat.TEXT,
        "log lines as text or json",
    ),
    Option("LOG_PROD", parse_flag, False, "true leaves debug lines out of the log"),
)
"""How either side logs."""
