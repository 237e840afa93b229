"""Reading and writing spool positions, shared by those who admit and those who apply."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Select, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from console.store import models
from console.store.sequence import Position

T = TypeVar("T")

CHUNK: Final = 500
"""Rows for one statement: the event loop prepares their parameters, so this bounds how long it is held up;
both engines allow at least 32,766 parameters."""

SpoolKey = tuple[str, str]
"""A Defender's ID and an epoch."""

_S: Final = models.Spool


def chunks(items: Iterable[T]) -> Iterator[Sequence[T]]:
    """The items in portions of CHUNK."""
    everything = list(items)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]


@dataclass(slots=True)
class SpoolRow:
    """A spool's row while a transaction works on it; `id` is None until it is inserted."""

    id: int | None
    before: Position | None
    position: Position


async def load(connection: AsyncConnection, keys: Iterable[SpoolKey]) -> dict[SpoolKey, SpoolRow]:
    """The rows of those keys, a fresh one where there is none yet."""
    rows: dict[SpoolKey, SpoolRow] = {}
    for portion in chunks(dict.fromkeys(keys)):
        statement = _select(portion, _S.id, _S.defender_id, _S.epoch, _S.through, _S.missing, _S.dropped)
        for number, defender, epoch, *position in await connection.execute(statement.with_for_update()):
            known = Position(*position)
            rows[defender, epoch] = SpoolRow(number, known, known)
        for key in portion:
            rows.setdefault(key, SpoolRow(None, None, Position()))
    return rows


async def save(connection: AsyncConnection, rows: Mapping[SpoolKey, SpoolRow], now: datetime) -> None:
    """Insert the rows that are new and update those that changed."""
    changed = [row for row in rows.values() if row.id is not None and row.before != row.position]
    for portion in chunks(changed):
        moves = [{"key": row.id, **_values(row)} for row in portion]
        await connection.execute(update(_S).where(_S.id == bindparam("key")), moves)
        for row in portion:
            row.before = row.position
    for keys in chunks(key for key, row in rows.items() if row.id is None):
        values = [
            {"defender_id": key[0], "epoch": key[1], "opened": now, **_values(rows[key])} for key in keys
        ]
        await connection.execute(insert(_S), values)
        # Read back, since RETURNING in the order of many parameters makes a statement of each on SQLite.
        for number, *key in await connection.execute(_select(keys, _S.id, _S.defender_id, _S.epoch)):
            if (inserted := rows.get((key[0], key[1]))) is not None:
                inserted.id, inserted.before = number, inserted.position


def _select(keys: Collection[SpoolKey], *columns: InstrumentedAttribute[Any]) -> Select[*tuple[Any, ...]]:
    # May find a Defender's other epochs too, if they are another's: the caller picks by the whole key.
    ids, epochs = {key[0] for key in keys}, {key[1] for key in keys}
    return select(*columns).where(_S.defender_id.in_(ids), _S.epoch.in_(epochs))


def _values(row: SpoolRow) -> dict[str, int]:
    position = row.position
    return {"through": position.through, "missing": position.missing, "dropped": position.dropped}
