"""Times in the database."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Table, make_url
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

from console.store.models import Base, UTCDateTime

SQLITE = make_url("sqlite+aiosqlite://").get_dialect()()
POSTGRESQL = make_url("postgresql+asyncpg://").get_dialect()()
MOMENT = datetime(2026, 11, 21, 22, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL])
def test_a_time_goes_in_as_utc(dialect: Dialect) -> None:
    bound = UTCDateTime().process_bind_param(MOMENT, dialect)
    assert bound == MOMENT
    assert bound is not None
    assert bound.utcoffset() == timedelta(0)


def test_a_time_comes_out_aware_whether_the_engine_kept_its_zone_or_not() -> None:
    naive = datetime(2026, 11, 21, 20, 0)  # noqa: DTZ001 - as SQLite returns it
    for stored in (naive, MOMENT):
        found = UTCDateTime().process_result_value(stored, SQLITE)
        assert found == MOMENT
        assert found is not None
        assert found.tzinfo is UTC


def test_no_time_is_no_time() -> None:
    assert UTCDateTime().process_bind_param(None, SQLITE) is None
    assert UTCDateTime().process_result_value(None, SQLITE) is None


def test_a_naive_time_is_a_bug() -> None:
    with pytest.raises(ValueError, match="naive"):
        UTCDateTime().process_bind_param(datetime(2026, 11, 21), SQLITE)  # noqa: DTZ001


def test_every_constraint_has_a_name_that_a_migration_can_use() -> None:
    for table in Base.metadata.tables.values():
        assert all(constraint.name for constraint in table.constraints), table


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_table_is_one_that_postgresql_takes_too(table: Table) -> None:
    made = str(CreateTable(table).compile(dialect=POSTGRESQL))
    assert "DATETIME" not in made
    for column in table.columns:
        if isinstance(column.type, UTCDateTime):
            assert f"{column.name} TIMESTAMP WITH TIME ZONE" in made


def test_row_numbers_are_counted_by_either_engine() -> None:
    events = Base.metadata.tables["events"]
    assert "id INTEGER NOT NULL" in str(CreateTable(events).compile(dialect=SQLITE))
    assert "id BIGSERIAL NOT NULL" in str(CreateTable(events).compile(dialect=POSTGRESQL))
