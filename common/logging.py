"""Log lines in the product's shape, or as JSON, to standard error.

The shape (product facts §16)::

    DEBU 2026-11-21T20:00:00.000 file.py:42 message
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

LEVELS = {
    logging.DEBUG: "DEBU",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERRO",
    logging.CRITICAL: "CRIT",
}


class LogFormat(StrEnum):
    """How a log line looks (GARRISON_LOG_FORMAT)."""

    TEXT = "text"
    JSON = "json"


def _level(record: logging.LogRecord) -> str:
    return LEVELS.get(record.levelno, record.levelname[:4])


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{record.msecs:03.0f}"
    )


def printable(text: str) -> str:
    """A peer's text for a log or a terminal: control characters are escaped, so it stays one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class TextFormatter(logging.Formatter):
    """`LEVL YYYY-MM-DDTHH:MM:SS.mmm file.py:line message`, UTC; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        place = f"{record.filename}:{record.lineno}"
        lines = [f"{_level(record)} {_time(record)} {place} {printable(record.getMessage())}"]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class JSONFormatter(logging.Formatter):
    """One object per line: level, time, file, line, logger, message and, if there is one, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        entry: dict[str, object] = {
            "level": _level(record),
            "time": _time(record) + "Z",
            "file": record.filename,
            "line": record.lineno,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logging(
    format_: LogFormat = LogFormat.TEXT, *, level: int = logging.DEBUG, stream: TextIO | None = None
) -> None:
    """Send the process's log to `stream` (standard error by default).

    Our own rooms log from `level` on; libraries from WARNING on, since their debug output is for their
    authors and some of it shows message bodies.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if format_ is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for room in ("common", "console", "defender"):
        logging.getLogger(room).setLevel(level)
