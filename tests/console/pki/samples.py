"""Options and generations for the tests: P-256 throughout, since RSA keys take their time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from common.certificates import KeyAlgorithm, MintOptions, Names, names_for, parse_san

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)


def names(extra: str = "") -> Names:
    return names_for(
        "console.test", "host.test", parse_san("IP:127.0.0.1 IP:::1").addresses, parse_san(extra)
    )


def options(**changed: Any) -> MintOptions:
    values: dict[str, Any] = {
        "console_cn": "console.test",
        "defender_cn": "defender.test",
        "names": names(),
        "algorithm": KeyAlgorithm.P256,
    }
    return MintOptions(**(values | changed))
