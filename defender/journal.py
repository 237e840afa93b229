"""The last lines of this process's log, kept in memory for the Console's command `fetchLogs`."""

import logging
from collections import deque
from typing import Final

MAX_LINES: Final = 500
MAX_BYTES: Final = 64 << 10
MAX_LINE: Final = 2 << 10


class Journal(logging.Handler):
    """A ring of formatted log lines, bounded by their number and their bytes.

    It holds what the log holds, so the rule is the log's: no secret goes into a line.

    Args:
        formatter: What makes a line of a record.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: deque[str] = deque()
        self._bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record's text."""
        line = self.format(record)[:MAX_LINE]
        self._lines.append(line)
        self._bytes += len(line)
        while len(self._lines) > MAX_LINES or self._bytes > MAX_BYTES:
            self._bytes -= len(self._lines.popleft())

    def tail(self, *, lines: int = MAX_LINES, size: int = MAX_BYTES) -> list[str]:
        """The last lines, oldest first: at most so many, and of at most so many characters together."""
        taken: list[str] = []
        for line in reversed(self._lines):
            size -= len(line)
            if size < 0 or len(taken) >= lines:
                break
            taken.append(line)
        return taken[::-1]
