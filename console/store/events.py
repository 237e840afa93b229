"""Events of the Defenders: each applied once, in order, without gaps (D13)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Row, Select, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models, spools
from console.store.batching import Batcher
from console.store.database import Database
from console.store.records import Applied, EventBatch, EventLike, EventRecord, Outcome, SpoolRecord, storable
from console.store.sequence import step

_E: Final = models.Event
_S: Final = models.Spool
_D: Final = models.Defender
_APPLY_LIMIT: Final = 5000
"""Events for one transaction, roughly: with so many its commit costs little each, and others have to wait."""


_Item = tuple[datetime, str, str]
"""An event as its row will say it: time, type, fields in JSON."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Batches that wait for their transaction, with their items made ready."""

    batches: Sequence[tuple[EventBatch, Sequence[_Item]]]
    now: datetime


class _Work:
    """What one transaction does: decides batch by batch, then holds what is to be written."""

    def __init__(self, sessions: Mapping[str, int], rows: Mapping[spools.SpoolKey, spools.SpoolRow]) -> None:
        self._sessions = sessions
        self._rows = rows
        self.moved: dict[spools.SpoolKey, spools.SpoolRow] = {}
        self.events: list[tuple[spools.SpoolRow, int, _Item, datetime]] = []

    def take(self, batch: EventBatch, items: Sequence[_Item], now: datetime) -> Applied:
        answer = partial(Applied, batch.defender_id, batch.epoch)
        session = self._sessions.get(batch.defender_id)
        if session is None:
            return answer(Outcome.UNKNOWN, 0)
        key = (batch.defender_id, batch.epoch)
        row = self._rows[key]
        if batch.session != session:
            return answer(Outcome.FENCED, row.position.through)
        todo = step(row.position, first=batch.first, count=len(items), dropped=batch.dropped)
        if todo is None:
            return answer(Outcome.GAP, row.position.through)
        row.position = todo.position
        self.moved[key] = row
        numbered = enumerate(items[todo.skip :], batch.first + todo.skip)
        self.events += [(row, number, item, now) for number, item in numbered]
        return answer(Outcome.APPLIED, row.position.through, len(items) - todo.skip)


class Events:
    """What Defenders reported."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._applications = Batcher(self._apply, start=database.own, weigh=_weigh, limit=_APPLY_LIMIT)

    async def apply(self, batches: Sequence[EventBatch], now: datetime) -> tuple[Applied, ...]:
        """Apply batches, one answer each, in their order; what is answered is durable.

        All of them share a transaction, also with those of concurrent calls. What was applied before is
        passed over, so a batch may be sent again whenever its fate is unknown.

        Raises:
            StoreError: if the store can't be written; nothing of the batches was applied.
            ValueError: if an event's time is naive or beyond what a calendar holds, or its fields are not
                JSON; nothing of these batches was applied.
        """
        entry = _Entry([(batch, [_item(event) for event in batch.items]) for batch in batches], now)
        return await self._applications.submit(entry)

    async def list(
        self, defender_id: str, *, limit: int = 100, before: int | None = None
    ) -> tuple[EventRecord, ...]:
        """A Defender's events, newest first.

        Args:
            defender_id: Whose.
            limit: How many at most.
            before: Only those that were applied before the one with this `EventRecord.id`.

        Raises:
            StoreError: if the store can't be read.
        """

        async def fetch(connection: AsyncConnection) -> list[EventRecord]:
            return [
                _record(defender_id, epoch, row)
                for spool, epoch in (await connection.execute(_spools(defender_id))).all()
                for row in await connection.execute(_page(spool, limit, before))
            ]

        found = await self._database.read(fetch)
        # Nearly always there is one spool; where there are several, each gave as much as could be wanted.
        found.sort(key=lambda record: record.id, reverse=True)
        return tuple(found[:limit])

    async def spools(self, defender_id: str) -> tuple[SpoolRecord, ...]:
        """The epochs of a Defender's spool, newest first, and what of each was lost.

        Raises:
            StoreError: if the store can't be read.
        """
        statement = select(_S.epoch, _S.opened, _S.through, _S.missing, _S.dropped)
        own = statement.where(_S.defender_id == defender_id).order_by(_S.id.desc())
        return tuple(SpoolRecord(*row) for row in await self._database.rows(own))

    async def _apply(self, entries: Sequence[_Entry]) -> Sequence[tuple[Applied, ...]]:
        batches = [batch for entry in entries for batch, _ in entry.batches]

        async def write(connection: AsyncConnection) -> Sequence[tuple[Applied, ...]]:
            sessions = await _sessions(connection, {batch.defender_id for batch in batches})
            known = (batch for batch in batches if batch.defender_id in sessions)
            rows = await spools.load(connection, ((batch.defender_id, batch.epoch) for batch in known))
            work = _Work(sessions, rows)
            answers = [
                tuple(work.take(batch, items, entry.now) for batch, items in entry.batches)
                for entry in entries
            ]
            await spools.save(connection, work.moved, entries[-1].now)
            await _insert(connection, work)
            return answers

        return await self._database.write(write) if batches else [() for _ in entries]


def _item(event: EventLike) -> _Item:
    if event.time.tzinfo is None:
        raise ValueError("an event's time says no zone")
    try:
        time = event.time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("an event's time is beyond the calendar") from error
    return time, storable(event.type), msgspec.json.encode(event.fields).decode()


def _weigh(entry: _Entry) -> int:
    return sum(len(items) + 1 for _, items in entry.batches)


async def _sessions(connection: AsyncConnection, ids: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for portion in spools.chunks(ids):
        # Locked until the commit, so that on an engine with several writers no newer session slips in.
        statement = select(_D.id, _D.session).where(_D.id.in_(portion)).with_for_update()
        found.update((key, session) for key, session in await connection.execute(statement))
    return found


async def _insert(connection: AsyncConnection, work: _Work) -> None:
    for portion in spools.chunks(work.events):
        rows = [
            {
                "spool_id": row.id,
                "number": number,
                "time": time,
                "received": now,
                "type": kind,
                "fields": text,
            }
            for row, number, (time, kind, text), now in portion
        ]
        await connection.execute(insert(_E), rows)


def _spools(defender_id: str) -> Select[int, str]:
    return select(_S.id, _S.epoch).where(_S.defender_id == defender_id)


def _page(spool: int, limit: int, before: int | None) -> Select[int, int, datetime, datetime, str, str]:
    # Within a spool ids and numbers grow together, so the unique index gives the order of arrival.
    statement = select(_E.id, _E.number, _E.time, _E.received, _E.type, _E.fields).where(_E.spool_id == spool)
    if before is not None:
        statement = statement.where(_E.id < before)
    return statement.order_by(_E.number.desc()).limit(limit)


def _record(defender_id: str, epoch: str, row: Row[int, int, datetime, datetime, str, str]) -> EventRecord:
    ident, number, time, received, kind, text = row
    return EventRecord(ident, defender_id, epoch, number, time, received, kind, msgspec.json.decode(text))
