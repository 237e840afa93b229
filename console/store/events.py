"""Events of the Defenders: each applied once, in order, without gaps (D13)."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models, spools
from console.store.batching import Batcher
from console.store.database import Database
from console.store.pen import Writing
from console.store.records import Applied, EventBatch, EventRecord, Outcome, SpoolRecord, storable
from console.store.sequence import step
from console.store.statements import ADD_EVENTS, FIND_SESSIONS

logger = logging.getLogger(__name__)

_E: Final = models.Event
_S: Final = models.Spool
_APPLY_LIMIT: Final = 5000
"""Events for one transaction, roughly: with so many its commit costs little each, and others have to wait."""

_Item = tuple[Any, str, str]
"""An event as its row will say it: time, type, fields in JSON."""

_Batch = tuple[EventBatch, datetime]
"""A batch and when it came."""

_Ready = tuple[EventBatch, "Sequence[_Item] | str", datetime]
"""The same with its items made ready, or with what is wrong with them."""


class _Work:
    """What one transaction does: decides batch by batch, then holds what is to be written."""

    def __init__(self, sessions: Mapping[str, int], rows: Mapping[spools.SpoolKey, spools.SpoolRow]) -> None:
        self._sessions = sessions
        self._rows = rows
        self.moved: dict[spools.SpoolKey, spools.SpoolRow] = {}
        self.events: list[tuple[spools.SpoolRow, int, _Item, datetime]] = []

    def take(self, batch: EventBatch, items: Sequence[_Item] | str, now: datetime) -> Applied:
        """The answer to a batch. In place of items: why they can't be kept."""
        answer = partial(Applied, batch.defender_id, batch.epoch)
        session = self._sessions.get(batch.defender_id)
        if session is None:
            return answer(Outcome.UNKNOWN, 0)
        key = (batch.defender_id, batch.epoch)
        row = self._rows[key]
        if batch.session != session:
            return answer(Outcome.FENCED, row.position.through)
        if isinstance(items, str):
            return answer(Outcome.REFUSED, row.position.through, fault=items)
        todo = step(row.position, first=batch.first, count=len(items), dropped=batch.dropped)
        if todo is None:
            return answer(Outcome.GAP, row.position.through)
        row.position = todo.position
        self.moved[key] = row
        numbered = enumerate(items[todo.skip :], batch.first + todo.skip)
        self.events += [(row, number, item, now) for number, item in numbered]
        return answer(Outcome.APPLIED, row.position.through, len(items) - todo.skip)


def apply(writing: Writing, batches: Sequence[_Batch]) -> list[Applied]:
    """Apply batches in their order. One whose events can't be kept is REFUSED, alone."""
    if not batches:
        return []
    ready = [(batch, _items(writing, batch), now) for batch, now in batches]
    return _apply(writing, ready)


def _apply(writing: Writing, batches: Sequence[_Ready]) -> list[Applied]:
    try:
        with writing.savepoint():
            return _together(writing, batches)
    except writing.row_faults as error:
        # What none of our checks foresaw: halve until the one is alone that the engine doesn't take.
        if len(batches) > 1:
            half = len(batches) // 2
            return _apply(writing, batches[:half]) + _apply(writing, batches[half:])
        ((batch, _, now),) = batches
        logger.exception("events of %s can't be kept", batch.defender_id)
        return _together(writing, [(batch, _fault(error), now)])


def _together(writing: Writing, batches: Sequence[_Ready]) -> list[Applied]:
    sessions = writing.ask(FIND_SESSIONS, ids=list({batch.defender_id for batch, _, _ in batches}))
    known = (batch for batch, _, _ in batches if batch.defender_id in sessions)
    rows = spools.load(writing, ((batch.defender_id, batch.epoch) for batch in known))
    work = _Work(sessions, rows)
    answers = [work.take(batch, items, now) for batch, items, now in batches]
    spools.save(writing, work.moved, batches[-1][2])
    if work.events:
        spools.identify(writing, work.moved)
        stamp = writing.stamp
        writing.run_rows(
            ADD_EVENTS,
            [
                (row.id, number, time, stamp(now), type_, fields)
                for row, number, (time, type_, fields), now in work.events
            ],
        )
    return answers


class Events:
    """What Defenders reported."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._applications = Batcher(self._apply, start=database.own, weigh=_weigh, limit=_APPLY_LIMIT)

    async def apply(self, batches: Sequence[EventBatch], now: datetime) -> tuple[Applied, ...]:
        """Apply batches, one answer each, in their order; what is answered is durable.

        All of them share a transaction, also with those of concurrent calls. What was applied before is
        passed over, so a batch may be sent again whenever its fate is unknown.

        A batch whose events can't be kept (a naive time, one beyond what a calendar holds, fields that are
        not JSON, whatever the engine refuses) is REFUSED as a whole and says why; the others are applied.

        Raises:
            StoreError: if the store can't be written; nothing of the batches was applied.
        """
        return await self._applications.submit([(batch, now) for batch in batches])

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

    async def _apply(self, calls: Sequence[Sequence[_Batch]]) -> Sequence[tuple[Applied, ...]]:
        batches = [batch for call in calls for batch in call]
        answers = iter(
            await self._database.jot(partial(apply, batches=batches), durable=True) if batches else ()
        )
        return [tuple(itertools.islice(answers, len(call))) for call in calls]


def _items(writing: Writing, batch: EventBatch) -> Sequence[_Item] | str:
    stamp = writing.stamp
    try:
        return [
            (stamp(event.time), storable(event.type), msgspec.json.encode(event.fields).decode())
            for event in batch.items
        ]
    except writing.row_faults as error:
        return _fault(error)


def _fault(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _weigh(call: Sequence[_Batch]) -> int:
    return sum(len(batch.items) + 1 for batch, _ in call)


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
