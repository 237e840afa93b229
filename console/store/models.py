"""The tables, as typed SQLAlchemy models. They describe; nothing outside this room sees a row of them.

A change here needs a migration in `migrations/versions/` and `schema.HEAD`; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

# Constraints need names of their own, so that a later migration can drop them on every engine.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite counts rows by an INTEGER primary key and by nothing else; PostgreSQL's integer would overflow.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware in, aware out, UTC in the database (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC; a naive time would be a guess."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given to the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To an aware time, whether the engine kept the zone or not."""
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(naming_convention=NAMING)


class Meta(Base):
    """Single values about the store itself, such as the wrapped data key."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)


class User(Base):
    """Who may log in."""

    __tablename__ = "users"

    username: Mapped[str] = mapped_column(Text, primary_key=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    auth_type: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UTCDateTime)
    last_modified: Mapped[datetime] = mapped_column(UTCDateTime)


class Defender(Base):
    """One instance key, and what the instance that holds it said last (D9a)."""

    __tablename__ = "defenders"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    hostname: Mapped[str] = mapped_column(Text)
    fqdn: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    os: Mapped[str] = mapped_column(Text)
    arch: Mapped[str] = mapped_column(Text)
    capabilities: Mapped[str] = mapped_column(Text)
    first_seen: Mapped[datetime] = mapped_column(UTCDateTime)
    last_modified: Mapped[datetime] = mapped_column(UTCDateTime)
    last_seen: Mapped[datetime] = mapped_column(UTCDateTime)
    connected: Mapped[bool]
    locked: Mapped[bool]
    session: Mapped[int] = mapped_column(BigInteger)
    certificate_fingerprint: Mapped[str] = mapped_column(Text)
    certificate_not_after: Mapped[datetime] = mapped_column(UTCDateTime)
    address: Mapped[str] = mapped_column(Text)


class Spool(Base):
    """One epoch of a Defender's spool: how far it is applied and what of it never will be (D13)."""

    __tablename__ = "spools"
    __table_args__ = (UniqueConstraint("defender_id", "epoch"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    defender_id: Mapped[str] = mapped_column(Text, ForeignKey("defenders.id", ondelete="CASCADE"))
    epoch: Mapped[str] = mapped_column(Text)
    opened: Mapped[datetime] = mapped_column(UTCDateTime)
    through: Mapped[int] = mapped_column(BigInteger)
    missing: Mapped[int] = mapped_column(BigInteger)
    dropped: Mapped[int] = mapped_column(BigInteger)


class Event(Base):
    """One applied event. Its number is unique within the spool, which is what "applied once" rests on."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("spool_id", "number"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    spool_id: Mapped[int] = mapped_column(RowNumber, ForeignKey("spools.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(BigInteger)
    time: Mapped[datetime] = mapped_column(UTCDateTime)
    received: Mapped[datetime] = mapped_column(UTCDateTime)
    type: Mapped[str] = mapped_column(Text)
    fields: Mapped[str] = mapped_column(Text)


class Generation(Base):
    """A generated set (D7): the Defender CA's n-th, or the Console CA's."""

    __tablename__ = "generations"

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created: Mapped[datetime] = mapped_column(UTCDateTime)
    not_after: Mapped[datetime] = mapped_column(UTCDateTime)


class Secret(Base):
    """A file of a generation, sealed (D11)."""

    __tablename__ = "secrets"
    __table_args__ = (
        ForeignKeyConstraint(
            ["kind", "number"], ["generations.kind", "generations.number"], ondelete="CASCADE"
        ),
    )

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
