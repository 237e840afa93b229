"""Single values about the store itself."""

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models
from console.store.database import Database


class Meta:
    """Named values; who wrote one first can be told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> bytes | None:
        """The value, or None.

        Raises:
            StoreError: if the store can't be read.
        """
        rows = await self._database.rows(select(models.Meta.value).where(models.Meta.key == key))
        return rows[0][0] if rows else None

    async def put_new(self, key: str, value: bytes) -> bool:
        """Set a value that isn't set yet; False, and nothing changed, if it is.

        Raises:
            StoreError: if the store can't be written.
        """
        try:
            await self._database.change(insert(models.Meta).values(key=key, value=value))
        except IntegrityError:
            return False
        return True

    async def put(self, key: str, value: bytes) -> None:
        """Set a value, whatever it was.

        Raises:
            StoreError: if the store can't be written.
        """

        async def replace(connection: AsyncConnection) -> None:
            await connection.execute(delete(models.Meta).where(models.Meta.key == key))
            await connection.execute(insert(models.Meta).values(key=key, value=value))

        await self._database.write(replace)
