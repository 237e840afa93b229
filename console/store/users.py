"""Who may log in."""

from dataclasses import fields
from datetime import datetime

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from console.store import models
from console.store.database import Database
from console.store.records import UserRecord

FIRST_USER = "first-user"
"""The meta key that the first sign-up claims: of two at once, on any engine, one finds it taken."""


class Users:
    """The users of the Console."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self) -> int:
        """How many there are.

        Raises:
            StoreError: if the store can't be read.
        """
        ((count,),) = await self._database.rows(select(func.count(models.User.username)))
        return count

    async def get(self, username: str) -> UserRecord | None:
        """The user of exactly this name.

        Raises:
            StoreError: if the store can't be read.
        """
        columns = [getattr(models.User, field.name) for field in fields(UserRecord)]
        rows = await self._database.rows(select(*columns).where(models.User.username == username))
        return UserRecord(*rows[0]) if rows else None

    async def create_first(self, user: UserRecord) -> bool:
        """Add the user if there is none at all; False, and nothing changed, if there is (or ever was) one.

        Raises:
            StoreError: if the store can't be written.
        """

        async def claim(connection: AsyncConnection) -> None:
            await connection.execute(insert(models.Meta).values(key=FIRST_USER, value=user.username.encode()))
            await connection.execute(insert(models.User).values(_row(user)))

        try:
            await self._database.write(claim)
        except IntegrityError:
            return False
        return True

    async def update_password_hash(
        self, username: str, *, expected: str, replacement: str, now: datetime
    ) -> bool:
        """Replace a hash, unless somebody else has replaced it since it was read.

        Raises:
            StoreError: if the store can't be written.
        """
        statement = (
            update(models.User)
            .where(models.User.username == username, models.User.password_hash == expected)
            .values(password_hash=replacement, last_modified=now)
        )
        return await self._database.change(statement) == 1


def _row(user: UserRecord) -> dict[str, object]:
    return {field.name: getattr(user, field.name) for field in fields(user)}
