"""Reading and writing spool positions, shared by those who admit and those who apply."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from console.store.pen import Writing
from console.store.sequence import Position
from console.store.statements import ADD_SPOOLS, FIND_SPOOLS, MOVE_SPOOLS

SpoolKey = tuple[str, str]
"""A Defender's ID and an epoch."""

NOWHERE = Position()


@dataclass(slots=True)
class SpoolRow:
    """A spool's row while a transaction works on it; `id` is None until it is inserted and read back."""

    id: int | None
    before: Position | None
    position: Position


def load(writing: Writing, keys: Iterable[SpoolKey]) -> dict[SpoolKey, SpoolRow]:
    """The rows of those keys, a fresh one where there is none yet."""
    wanted = list(dict.fromkeys(keys))
    rows: dict[SpoolKey, SpoolRow] = {}
    for number, defender, epoch, through, missing, dropped in writing.ask(FIND_SPOOLS, keys=wanted):
        known = Position(through, missing, dropped)
        rows[defender, epoch] = SpoolRow(number, known, known)
    for key in wanted:
        if key not in rows:
            rows[key] = SpoolRow(None, None, NOWHERE)
    return rows


def save(writing: Writing, rows: Mapping[SpoolKey, SpoolRow], now: datetime) -> None:
    """Insert the rows that are new and update those that changed."""
    moved = {
        row.id: _values(row) for row in rows.values() if row.id is not None and row.before != row.position
    }
    if moved:
        writing.run(MOVE_SPOOLS, rows=moved)
    added = [[*key, *_values(row)] for key, row in rows.items() if row.id is None]
    if added:
        writing.run(ADD_SPOOLS, rows=added, now=writing.stamp(now))
    for row in rows.values():
        row.before = row.position


def identify(writing: Writing, rows: Mapping[SpoolKey, SpoolRow]) -> None:
    """Fill in the `id` of rows that were inserted."""
    unknown = [key for key, row in rows.items() if row.id is None]
    if unknown:
        for key, row in load(writing, unknown).items():
            rows[key].id = row.id


def _values(row: SpoolRow) -> tuple[int, int, int]:
    position = row.position
    return position.through, position.missing, position.dropped
