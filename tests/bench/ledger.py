"""Whether every event that the load generator's Defenders posted is in the Console's store exactly once."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DATABASE: Final = "console.db"
_QUERY: Final = """
SELECT s.epoch, s.defender_id, s.missing + s.dropped, COUNT(e.id), COUNT(DISTINCT e.number), MAX(e.number)
FROM spools AS s LEFT JOIN events AS e ON e.spool_id = s.id GROUP BY s.id
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A Defender's events, as it created them and as the Console has them.

    Attributes:
        name: Its host name.
        created: Events that happened to it; their numbers are 1 to this.
        stored: Rows of them.
        numbers: Different numbers in these rows.
        highest: The highest of them.
        given_up: Events that the Console was told to do without.
    """

    name: str
    created: int
    stored: int
    numbers: int
    highest: int
    given_up: int

    @property
    def gap(self) -> int:
        """Events that the Console lacks."""
        return self.created - self.numbers

    @property
    def exact(self) -> bool:
        """Each is there, and once."""
        same = self.created == self.stored == self.numbers == self.highest
        return same and not self.given_up


def accounts(ledger: Path, data: Path) -> list[Account]:
    """Compare a ledger of the generator with the store of a Console that has stopped.

    Args:
        ledger: What `--ledger` wrote.
        data: The Console's data folder.
    """
    with sqlite3.connect(f"file:{data / DATABASE}?mode=ro", uri=True) as connection:
        rows = {(row[0], row[1]): row[2:] for row in connection.execute(_QUERY)}
    connection.close()
    found = []
    for each in json.loads(ledger.read_text(encoding="utf-8")):
        given_up, stored, numbers, highest = rows.get((each["epoch"], each["id"]), (0, 0, 0, 0))
        found.append(Account(each["name"], each["created"], stored, numbers, highest or 0, given_up))
    return found


def wrong(found: Sequence[Account]) -> list[Account]:
    """Those whose events are not all there once."""
    return [account for account in found if not account.exact]
