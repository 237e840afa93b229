"""The generated certificate sets, sealed: this room never sees what is in them."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models
from console.store.database import Database
from console.store.records import GenerationRecord, Kind

_G: Final = models.Generation
_S: Final = models.Secret


class Generations:
    """Sealed material by kind and number. What belongs together is written in one transaction (D7)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, kind: Kind) -> tuple[GenerationRecord, ...]:
        """All of a kind, newest first.

        Raises:
            StoreError: if the store can't be read.
        """
        # One query for both: two would see two moments.
        statement = (
            select(_G.number, _G.created, _G.not_after, _S.name, _S.sealed)
            .outerjoin(_S, (_S.kind == _G.kind) & (_S.number == _G.number))
            .where(_G.kind == kind)
            .order_by(_G.number.desc(), _S.name)
        )
        found: dict[int, GenerationRecord] = {}
        secrets: dict[int, dict[str, bytes]] = {}
        for number, created, not_after, name, sealed in await self._database.rows(statement):
            held = secrets.setdefault(number, {})
            found.setdefault(number, GenerationRecord(kind, number, created, not_after, held))
            if name is not None:
                held[name] = sealed
        return tuple(found.values())

    async def add(self, *generations: GenerationRecord) -> bool:
        """Add all of them, or none and False if one of them is there already.

        Raises:
            StoreError: if the store can't be written.
        """
        secrets = [
            {"kind": generation.kind, "number": generation.number, "name": name, "sealed": sealed}
            for generation in generations
            for name, sealed in generation.secrets.items()
        ]

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(insert(_G), [_row(generation) for generation in generations])
            await connection.execute(insert(_S), secrets)

        try:
            await self._database.write(write)
        except IntegrityError:
            return False
        return True

    async def replace(self, kind: Kind, number: int, secrets: Mapping[str, bytes]) -> bool:
        """Replace secrets of a generation by name, all of them, or none and False if one isn't there.

        Raises:
            StoreError: if the store can't be written.
        """

        async def write(connection: AsyncConnection) -> None:
            for name, sealed in secrets.items():
                row = (_S.kind == kind, _S.number == number, _S.name == name)
                if (await connection.execute(update(_S).where(*row).values(sealed=sealed))).rowcount != 1:
                    raise _MissingError

        try:
            await self._database.write(write)
        except _MissingError:
            return False
        return True

    async def delete(self, kind: Kind, number: int) -> bool:
        """Forget a generation; False if there is none.

        Raises:
            StoreError: if the store can't be written.
        """
        statement = delete(_G).where(_G.kind == kind, _G.number == number)
        return await self._database.change(statement) == 1

    async def any_sealed(self) -> bool:
        """Whether there is anything that a master key is needed for.

        Raises:
            StoreError: if the store can't be read.
        """
        return bool(await self._database.rows(select(_S.kind).limit(1)))


class _MissingError(Exception):
    """Leaves a transaction, so that it is rolled back."""


def _row(generation: GenerationRecord) -> dict[str, object]:
    return {
        "kind": generation.kind,
        "number": generation.number,
        "created": generation.created,
        "not_after": generation.not_after,
    }
