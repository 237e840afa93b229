"""Names that the product's documents fix and that both sides use (D14)."""

from typing import Final

from common.logging import LogFormat
from common.settings import Option, parse_choice, parse_flag

DEFENDER_TYPES: Final = (
    "none", "docker", "dockerWindows", "containerdWindows", "swarm", "daemonset", "serverLinux",
    "serverWindows", "cri", "fargate", "appEmbedded", "tas", "tasWindows", "serverless", "ecs", "podman",
    "eksFargate",
)  # fmt: skip
"""`defender.Type` (product facts §7)."""

COMMUNICATION_PORT: Final = 8084
"""Where a Console takes Defenders by default (product facts §2)."""

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
